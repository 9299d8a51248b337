"""What people should know of a run's documents before it begins. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from neoxrun.config.training import DataConfig
from neoxrun.terminal.words import counted
from neoxrun.training.data.corpus import Corpus
from neoxrun.training.data.prepare import PreparedData
from neoxrun.training.data.repeated import count_repeated


def notices(data: DataConfig, prepared: PreparedData, *, evaluated: bool) -> list[str]:
    """Documents that are evaluated and trained on, for which all are read, and those that are cut or left out.

    Args:
        data: as for ``prepare_data``.
        prepared: what that found.
        evaluated: there are evaluations.
    """
    valid = prepared.valid if evaluated else ()
    found = []
    if repeated := count_repeated(prepared.train, valid) if valid else 0:
        of = sum(len(corpus.documents) for corpus in valid)
        found.append(
            f"evaluation documents that are also in the training data: {repeated} of {of}; the evaluation loss will be "
            "too low"
        )
    if not data.packed:
        for corpora, noun in ((prepared.train, "document"), (valid, "evaluation document")):
            found += _shortened(corpora, data.seq_length + 1, noun)
    return found


def _shortened(corpora: Sequence[Corpus], longest: int, noun: str) -> list[str]:
    """What happens to documents that make a row each."""
    cut = sum(int((corpus.own_sizes > longest).sum()) for corpus in corpora)
    left_out = sum(len(corpus.documents) - len(corpus.alone(longest)) for corpus in corpora)
    found = []
    if cut:
        found.append(f"{counted(cut, noun)} cut to {longest} tokens (seq_length, and one to predict)")
    if left_out:
        found.append(f"{counted(left_out, noun)} left out: nothing is learned in {longest} tokens")
    return found
