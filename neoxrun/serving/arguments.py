"""The arguments of ``LLM`` as people write them, checked, and under our own names."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any, Final, cast, get_args

from neoxrun.config.precisions import DTYPE_NAMES, QUANTISED, DeviceKind, is_quantised
from neoxrun.config.settings import Merge, Precision
from neoxrun.errors import UsageError
from neoxrun.serving.argument_names import EXPLAINED_ARGUMENTS, FOREIGN_ARGUMENTS
from neoxrun.serving.local import ModelArguments
from neoxrun.terminal.words import did_you_mean, printable
from neoxrun.tokenizer.ids import is_whole

_NUMBERED: Final = re.compile(r"(?:cuda|gpu):(\d+)")

DEFAULTS: Final[Mapping[str, Any]] = {
    **{one.name: one.default for one in fields(ModelArguments) if one.name not in ("sources", "show_progress")},
    "batch_size": None,
    "quiet": True,
}
"""What holds for arguments that nobody gives."""


def model_arguments(
    configuration: object,
    given: Mapping[str, Any],
    foreign: Mapping[str, Any],
    defaults: Mapping[str, Any] = DEFAULTS,
    owner: str = "LLM",
) -> tuple[ModelArguments, int | None]:
    """Which model an ``LLM`` is, how it is held, and the most texts at a time (None: what fits).

    Args:
        configuration: the first argument; None where it is left out.
        given: the others that ``LLM`` names, as far as they are not ``defaults``.
        foreign: those that it does not name.
        defaults: of those that ``LLM`` names.
        owner: what has the arguments, for messages.

    Raises:
        UsageError: a name is unknown, an argument is given under two names, or a value is not possible.
    """
    given = {"configuration": configuration, **defaults, **given}
    for name, value in foreign.items():
        ours = FOREIGN_ARGUMENTS.get(name)
        if ours is None:
            raise _unknown(name, given, owner)
        if given[ours] != defaults.get(ours):
            raise UsageError(
                f"{name} is another name of {ours}, which is given too",
                code="conflicting_options",
                hint="Leave one of them out.",
            )
        given[ours] = value
    if given["configuration"] is None:
        raise UsageError("LLM needs to know which model", code="missing_option", hint='For example LLM("20B").')
    device, gpus = _device(given["device"], given["gpus"])
    arguments = ModelArguments(
        sources=_texts("configuration", given["configuration"]),
        overrides=_texts("overrides", given["overrides"]),
        checkpoint=_path("checkpoint", given["checkpoint"]),
        tokenizer=_path("tokenizer", given["tokenizer"]),
        adapter=_path("adapter", given["adapter"]),
        tp=whole("tp", given["tp"]),
        pp=whole("pp", given["pp"]),
        device=device,
        gpus=gpus,
        dtype=_dtype(given["dtype"]),
        random_weights=_truth("random_weights", given["random_weights"]),
        merge=cast(Merge, _choice("merge", given["merge"], get_args(Merge))),
        eager=_truth("eager", given["eager"]),
        stall_timeout=_seconds("stall_timeout", given["stall_timeout"]),
        show_progress=not _truth("quiet", given["quiet"]),
    )
    batch_size = given["batch_size"]
    return arguments, None if batch_size is None else whole("batch_size", batch_size)


def whole(name: str, value: Any, least: int = 1) -> int:
    """A number of things.

    Raises:
        UsageError: it is not a whole number of ``least`` or more.
    """
    if is_whole(value) and value >= least:
        return int(value)
    raise UsageError(f"{name} must be a whole number of {least} or more, not {value!r}", code="invalid_value")


def _truth(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise UsageError(f"{name} must be True or False, not {value!r}", code="invalid_value")


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = math.nan if type(value) is bool or not isinstance(value, Real) else float(value)
    if 0 < seconds < math.inf:
        return seconds
    raise UsageError(f"{name} must be a number of seconds above 0 or None, not {value!r}", code="invalid_value")


def _unknown(name: str, known: Collection[str], owner: str) -> UsageError:
    hint = (
        EXPLAINED_ARGUMENTS.get(name)
        or did_you_mean(name, [*known, *FOREIGN_ARGUMENTS], 1)
        or f"The arguments are: {', '.join(sorted(known))}."
    )
    return UsageError(f"{owner} has no argument {printable(name)}", code="unknown_option", hint=hint)


def _choice(name: str, value: object, choices: Sequence[str], near: Iterable[str] = ()) -> str:
    if isinstance(value, str) and value in choices:
        return value
    hint = did_you_mean(value, [*choices, *near], 1) if isinstance(value, str) else None
    if name == "dtype" and is_quantised(str(value)):
        hint = QUANTISED
    raise UsageError(
        f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}",
        code="invalid_value",
        hint=hint or None,
    )


def _dtype(value: object) -> Precision | None:
    """A number format by our name or another tool's, or of torch."""
    name = value if isinstance(value, str) or value is None else str(value).removeprefix("torch.")
    if name is None or name == "auto":
        return None
    return cast(Precision, _choice("dtype", DTYPE_NAMES.get(name.lower(), name), get_args(Precision), DTYPE_NAMES))


def _device(value: object, gpus: object) -> tuple[DeviceKind | None, tuple[int, ...] | None]:
    """The kind of device, and which GPUs; a text, or of torch."""
    name = None if value is None else str(value).lower()
    chosen = None
    if gpus is not None:
        if isinstance(gpus, str) or not isinstance(gpus, Iterable):
            raise UsageError(
                f"gpus must be numbers of GPUs, not {gpus!r}", code="invalid_value", hint="For example gpus=(0, 1)."
            )
        chosen = tuple(whole("a number of gpus", one, 0) for one in gpus)
        if not chosen or len(set(chosen)) < len(chosen):
            raise UsageError(f"gpus must name each GPU once, not {gpus!r}", code="invalid_value")
    if name in (None, "auto"):
        return None if chosen is None else "cuda", chosen
    if numbered := _NUMBERED.fullmatch(name or ""):
        name, numbers = "cuda", (int(numbered[1]),)
        if chosen not in (None, numbers):
            raise UsageError(
                f"device {value} and gpus {chosen} cannot be combined",
                code="conflicting_options",
                hint="Both choose GPUs: leave one of them out.",
            )
        chosen = numbers
    kind = cast(DeviceKind, _choice("device", {"gpu": "cuda"}.get(str(name), name), ("cuda", "cpu"), ("gpu",)))
    if kind == "cpu" and chosen is not None:
        raise UsageError(
            "gpus and device cpu cannot be combined", code="conflicting_options", hint="Leave one of them out."
        )
    return kind, chosen


def _texts(name: str, value: object) -> tuple[str, ...]:
    several = value if isinstance(value, list | tuple) else (value,)
    return tuple(_path(name, one) or "" for one in several)


def _path(name: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        return os.fspath(cast("str | os.PathLike[str]", value))
    raise UsageError(f"{name} must be a text or a path, not {value!r}", code="invalid_value")
