"""The Python API: a model, and texts from it.

    from neoxrun import LLM, SamplingParams

    with LLM("demo") as llm:
        for record in llm.generate(["import os"], SamplingParams(maximum_tokens=20)):
            print(record.text)

One process runs the whole model. Under torchrun, every process builds the same ``LLM`` with sizes whose product is
the number of processes, makes the same calls, and gets the same answers.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import TypeVar, get_args

import torch

from neoxrun.checkpoint.stored import use_stored
from neoxrun.config.precisions import DeviceKind, preferred_precisions
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams, update_sampling
from neoxrun.config.settings import Merge, Precision
from neoxrun.engine.scoring import Scored, ScoreRequest, scoring_passes
from neoxrun.engine.session import Session, open_session
from neoxrun.errors import DataError, UsageError
from neoxrun.generation.generator import prompt_encoder, start_generator
from neoxrun.generation.options import Truncate
from neoxrun.generation.prompts import expand_prompt
from neoxrun.generation.records import Record
from neoxrun.model.dtypes import device_kind
from neoxrun.parallel import mesh as meshes
from neoxrun.planning.devices import cpu_device
from neoxrun.terminal.log import log
from neoxrun.terminal.words import check_unicode

_T = TypeVar("_T")


def _check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise UsageError(f"{name} must be {', '.join(choices)} or None, not {value!r}", code="invalid_value")


def _check_sizes(tp: int, pp: int) -> None:
    """Refuse sizes whose product is not the number of processes, before any process waits for another."""
    for name, size in (("tp", tp), ("pp", pp)):
        if type(size) is not int or size < 1:
            raise UsageError(f"{name} must be a whole number of 1 or more, not {size!r}", code="invalid_value")
    started = _number_in_environment("WORLD_SIZE", 1)
    if tp * pp != started:
        raise UsageError(
            f"tp {tp} x pp {pp} is {tp * pp}, but the number of processes is {started}",
            code="wrong_number_of_ranks",
            hint="Choose sizes whose product is the number of processes, or start as many with torchrun.",
        )


def _choose_device(kind: str | None) -> torch.device:
    """A GPU where there is one and none other is asked for; under torchrun the one of this process."""
    has_gpu = torch.cuda.is_available()
    if kind == "cuda" and not has_gpu:
        raise UsageError("device is cuda, and no GPU is visible", code="no_gpu", hint="Leave device out, or use cpu.")
    if kind == "cpu" or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", _number_in_environment("LOCAL_RANK", 0))


def _number_in_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(
            f"the environment variable {name} is {text!r}, and a whole number is needed",
            code="bad_environment",
            hint="torchrun sets it. Without torchrun, unset it.",
        )
    return int(text)


class LLM:
    """A loaded model.

    Args:
        configuration: models' folders, GPT-NeoX YAML files, or names of shipped configurations; the later win.
        overrides: ``key=value`` texts, as for ``--set``.
        checkpoint: folder of the weights; the configuration's ``load`` otherwise.
        tokenizer: tokenizer file; the configuration's ``vocab_file`` otherwise.
        tp, pp: tensor-parallel size and pipeline stages; their product is the number of processes.
        device: ``cuda`` or ``cpu``; None uses a GPU if there is one.
        dtype: number format; None: the configuration's on a GPU. On the CPU, bf16 where the processor has instructions
            for it and the configuration does not say fp32, else fp32.
        random_weights: build the model without a checkpoint.
        merge: at another tensor-parallel size than the checkpoint's, ``fold`` norms that differ between its ranks into
            the weights that read them, or take their ``average``.

    Raises:
        NeoxrunError: see ``errors``: nothing is half-loaded afterwards. A ``UsageError`` if an argument has a value
            that is not possible, or ``tp * pp`` is not the number of processes.
    """

    def __init__(
        self,
        configuration: str | Sequence[str],
        *,
        overrides: Sequence[str] = (),
        checkpoint: str | None = None,
        tokenizer: str | None = None,
        tp: int = 1,
        pp: int = 1,
        device: str | None = None,
        dtype: Precision | None = None,
        random_weights: bool = False,
        merge: Merge = "fold",
    ) -> None:
        _check_choice("device", device, get_args(DeviceKind))
        _check_choice("dtype", dtype, get_args(Precision))
        _check_choice("merge", merge, get_args(Merge))
        _check_sizes(tp, pp)
        chosen = _choose_device(device)
        sources = [configuration] if isinstance(configuration, str) else configuration
        settings = use_stored(load_settings(sources, overrides, checkpoint=checkpoint, tokenizer=tokenizer))
        settings = replace(settings, merge=merge)
        mesh = meshes.connect_ranks(tp, pp, 1, chosen)
        # Rank 0's processor decides for all of them.
        native_bf16 = meshes.share_from_first(cpu_device().native_bf16)
        kind = device_kind(chosen)
        precisions = preferred_precisions(dtype, settings.precision, kind, native_bf16=native_bf16)[0]
        if dtype is None and precisions.compute == "bf16" != settings.precision and mesh.rank == 0:
            log.info(
                f"precision: {settings.precision} -> bf16, which this CPU computes natively; dtype='fp32' is exact"
            )
        self._session = open_session(settings, mesh, precisions, random_weights=random_weights, show_progress=False)
        for warning in self._session.warnings:
            log.warning(warning)

    @property
    def session(self) -> Session:
        """The session that holds the model, for programs that work with token ids."""
        return self._session

    def generate(
        self,
        prompts: str | Sequence[str],
        params: SamplingParams | None = None,
        *,
        batch_size: int | None = None,
        truncate: Truncate | None = None,
    ) -> list[Record]:
        """Continue each prompt.

        Args:
            prompts: a text, or several; an empty one is continued from nothing.
            params: how to sample, in place of all of the configuration's parameters; None: those. Prompt ``i`` has
                its own random stream, made of ``params.seed`` and ``i``.
            batch_size: most prompts at a time; None: what fits, at most 256 on a GPU and 64 on the CPU.
            truncate: side at which prompts too long for the context are cut; None makes them error records.

        Returns:
            One record for each prompt, in the order of the prompts.

        Raises:
            UsageError: a parameter has a value that is not allowed.
            DataError: a prompt is not valid Unicode.
        """
        session = self._session
        prompts = [prompts] if isinstance(prompts, str) else prompts
        params = params or session.settings.generation.sampling
        params = update_sampling(params, vars(params))
        for text in prompts:
            check_unicode(text)
        asked = [prompt for i, text in enumerate(prompts) for prompt in expand_prompt(i, i, text, params, 1)]

        def work() -> list[Record]:
            encoded = prompt_encoder(session, truncate).encode(asked)
            with closing(start_generator(session, encoded, batch_size)) as texts:
                return [record for records in texts.run(encoded) for record in records]

        records = self._on_leader(work) if asked else []
        return sorted(records, key=lambda record: int(record.id))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """How likely each text is after its context; a beginning that contexts share is computed once.

        Args:
            pairs: context and continuation. The two are tokenized together, so that a continuation usually begins with
                a space. An empty context stands for the beginning of a document.

        Returns:
            For each pair the natural logarithm of the continuation's probability, and whether greedy decoding gives
            it.

        Raises:
            DataError: a text is not valid Unicode, has no tokens of its own, or is too long for the context.
        """
        session = self._session
        requests = [self._score_request(context, continuation) for context, continuation in pairs]

        def work() -> dict[int, Scored]:
            found: dict[int, Scored] = {}
            for numbers, rows in scoring_passes(requests, session.scoring_budget()):
                found |= dict(zip(numbers, session.replica.score(rows), strict=True))
            return found

        found = self._on_leader(work)
        return [found[number] for number in range(len(requests))]

    def _on_leader(self, work: Callable[[], _T]) -> _T:
        """What ``work`` returns on the leader, on every process; the others follow meanwhile."""
        replica = self._session.replica
        result = None
        if self._session.mesh.leads:
            try:
                result = work()
            finally:
                replica.release_followers()
        else:
            replica.follow()
        shared: _T = meshes.share_from_first(result)
        return shared

    def _score_request(self, context: str, continuation: str) -> ScoreRequest:
        check_unicode(context + continuation)
        tokenizer, longest = self._session.tokenizer, self._session.max_context + 1
        before = tokenizer.encode(context)
        whole = tokenizer.encode(context + continuation)
        if not before and tokenizer.start is not None:
            before, whole = [tokenizer.start], [tokenizer.start, *whole]
        what = reprlib.repr(context + continuation)
        if not 0 < len(before) < len(whole):
            raise DataError(f"the context or the continuation has no tokens of its own: {what}", code="no_tokens")
        if len(whole) > longest:
            raise DataError(
                f"the text has {len(whole)} tokens, and at most {longest} can be scored: {what}",
                code="too_long",
            )
        return ScoreRequest(tuple(whole[: len(before)]), tuple(whole[len(before) :]))

    def close(self) -> None:
        """Give the cache's memory back, and leave the other processes, if there are any."""
        self._session.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
