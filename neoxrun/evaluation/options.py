"""The options of ``neoxrun evaluate``, as the command passes them to the ranks. No torch, no lm-eval."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from neoxrun.config.sampling import sampling_value
from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.find import FoundTasks
from neoxrun.evaluation.references import ReferenceResults
from neoxrun.terminal.words import did_you_mean

MAX_GENERATED: Final = 256
"""The most tokens of an answer if neither the task nor --gen-kwargs limits it (lm-eval's default)."""

_LENGTHS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING: Final = ("top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
_WITHOUT_EFFECT: Final[Mapping[str, Any]] = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}


@dataclass(frozen=True)
class EvaluateOptions:
    """The work of one run.

    Attributes:
        found: the tasks and their data.
        limit: most documents of a task (a whole number), or a fraction of them (below 1); None: all.
        seed: of everything random; None: lm-eval's own seeds.
        gen_kwargs: generation options that replace those of the tasks.
        batch_size: most sequences at a time; None: as many as fit.
        max_context: most tokens of a sequence, as planned.
        output: folder for the results; None writes no files.
        log_samples: also write every document with its answers.
        cache: file of answers; None keeps none.
        model: the model's name, as the user gave it.
        name: what tells the model and its checkpoint from others: the name in the results, and of their folder.
        checkpoint: the model's description by ``fingerprint.describe_checkpoint``.
        references: results to compare with.
        wandb: Weights & Biases project to log to; None logs nothing.
        revision: for a run of `--revisions`: ``repository``, ``revision``, ``commit`` and ``work``; else empty.
    """

    found: FoundTasks
    limit: float | None
    seed: int | None
    gen_kwargs: Mapping[str, Any]
    batch_size: int | None
    max_context: int
    output: Path | None
    log_samples: bool
    cache: Path | None
    model: str
    name: str
    checkpoint: Mapping[str, Any]
    references: tuple[ReferenceResults, ...]
    wandb: str | None
    revision: Mapping[str, str] = field(default_factory=dict)


def check_gen_kwargs(gen_kwargs: Mapping[str, Any]) -> None:
    """Check the user's own generation options, as far as that needs no task.

    Raises:
        UsageError: a value is wrong, or an option is not supported.
    """
    # A task may have the temperature that makes sampling possible.
    whole = {"temperature": 1.0, **gen_kwargs} if gen_kwargs.get("do_sample") is True else gen_kwargs
    sampling_of(whole, sys.maxsize, given=gen_kwargs)


def sampling_of(
    kwargs: Mapping[str, Any], max_context: int, where: str | None = None, given: Collection[str] = ()
) -> dict[str, Any]:
    """A task's generation options, which have Hugging Face's names as in lm-eval, as fields of SamplingParams.

    Args:
        kwargs: the options; ``until`` becomes ``stop``.
        max_context: most tokens of prompt and answer together.
        where: the task whose options they are, for the message.
        given: those of them that come from ``--gen-kwargs``.

    Raises:
        DataError: a value is wrong, or an option would change the answers and is not supported.
        UsageError: the same of an option in ``given``.
    """
    left = dict(kwargs)
    lengths = [name for name in _LENGTHS if left.get(name) is not None]
    length = lengths[0] if lengths else "max_gen_toks"
    most = left.get(length, MAX_GENERATED)
    for name in _LENGTHS:
        left.pop(name, None)
    until = left.pop("until", None) or []
    stop = (until,) if isinstance(until, str) else until
    if not (isinstance(stop, list | tuple) and all(isinstance(one, str) for one in stop)):
        raise _refused("until", f"must be a string or a list of strings, not {until!r}", where, given)
    temperature = left.pop("temperature", None) or 0.0
    sample = left.pop("do_sample", None)
    values: dict[str, tuple[str, Any]] = {name: (name, left.pop(name)) for name in _SAMPLING if name in left}
    odd = next((name for name, value in left.items() if _WITHOUT_EFFECT.get(name) != value), None)
    if odd is not None:
        known = ("until", "do_sample", "temperature", *_SAMPLING, *_LENGTHS)
        hint = did_you_mean(odd, known, 1) or f"Supported options: {', '.join(known)}."
        raise _refused(odd, f"{left[odd]!r} is not supported", where, given, hint)
    if not isinstance(sample, bool | None):
        raise _refused("do_sample", f"must be true or false, not {sample!r}", where, given)
    if sample and not temperature:
        hint = "For example --gen-kwargs do_sample=true temperature=0.8."
        raise _refused("do_sample", "needs a temperature above 0", where, given, hint)
    values["temperature"] = ("temperature", 0.0 if sample is False else temperature)
    values["maximum_tokens"] = (length, most)
    checked = {}
    for field_name, (name, value) in values.items():
        try:
            checked[field_name] = sampling_value(field_name, value)
        except UsageError as error:
            raise _refused(name, error.message.removeprefix(f"{field_name} "), where, given) from error
    if checked["maximum_tokens"] >= max_context:
        text = f"{checked['maximum_tokens']} leaves no room for a prompt: the context is {max_context} tokens"
        raise _refused(length, text, where, given, "Shorten the answers: --gen-kwargs max_gen_toks=N.")
    return {**checked, "stop": tuple(stop)}


def _refused(
    name: str, what: str, where: str | None, given: Collection[str], hint: str | None = None
) -> DataError | UsageError:
    """The error for an option, under the name that it was given."""
    if name in given:
        return UsageError(f"--gen-kwargs {name}: {what}", code="invalid_value", hint=hint)
    return DataError(f"the generation option {name}: {what}", code="bad_task", where=where, hint=hint)
