"""The options of ``neoxrun evaluate``, as the command passes them to the ranks. No torch, no lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from neoxrun.config.sampling import sampling_value
from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.find import FoundTasks
from neoxrun.evaluation.references import ReferenceResults

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


def sampling_of(kwargs: Mapping[str, Any], max_context: int, where: str | None = None) -> dict[str, Any]:
    """A task's generation options, which have Hugging Face's names as in lm-eval, as fields of SamplingParams.

    Args:
        kwargs: the options; ``until`` becomes ``stop``.
        max_context: most tokens of prompt and answer together.
        where: the task whose options they are, for the message.

    Raises:
        DataError: a value is wrong, or an option would change the answers and is not supported.
    """
    left = dict(kwargs)
    given = [value for name in _LENGTHS if (value := left.pop(name, None)) is not None]
    until = left.pop("until", None) or []
    stop = (until,) if isinstance(until, str) else until
    if not (isinstance(stop, list | tuple) and all(isinstance(one, str) for one in stop)):
        raise DataError(
            f"the generation option until={until!r} is neither a string nor a list of strings",
            code="bad_task",
            where=where,
        )
    temperature = left.pop("temperature", None) or 0.0
    sample = left.pop("do_sample", None)
    values: dict[str, Any] = {name: left.pop(name) for name in _SAMPLING if name in left}
    odd = next((name for name, value in left.items() if _WITHOUT_EFFECT.get(name) != value), None)
    if odd is not None:
        raise DataError(
            f"the generation option {odd}={left[odd]!r} is not supported",
            code="bad_task",
            where=where,
            hint=f"Supported options: until, do_sample, temperature, {', '.join((*_SAMPLING, *_LENGTHS[:1]))}.",
        )
    if sample and not temperature:
        raise DataError(
            "do_sample needs a temperature above 0",
            code="bad_task",
            where=where,
            hint="For example --gen-kwargs do_sample=true temperature=0.8.",
        )
    if not isinstance(sample, bool | None):
        raise DataError(f"do_sample must be true or false, not {sample!r}", code="bad_task", where=where)
    values["temperature"] = 0.0 if sample is False else temperature
    values["maximum_tokens"] = given[0] if given else MAX_GENERATED
    try:
        checked = {name: sampling_value(name, value) for name, value in values.items()}
    except UsageError as error:
        raise DataError(f"generation options: {error.message}", code="bad_task", where=where) from error
    most = checked["maximum_tokens"]
    if most >= max_context:
        raise DataError(
            f"answers of {most} tokens leave no room for a prompt: the context is {max_context} tokens",
            code="bad_task",
            where=where,
            hint="Shorten the answers: --gen-kwargs max_gen_toks=N.",
        )
    return {**checked, "stop": tuple(stop)}
