"""The number formats in which a model is kept and computed, decided only here. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from neoxrun.config.settings import Precision

DeviceKind = Literal["cuda", "cpu"]

DTYPE_BYTES: Final[dict[Precision, int]] = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes of one number."""

DTYPE_NAMES: Final[dict[str, str]] = {
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float": "fp32",
    "auto": "",
    "16-true": "fp16",
    "bf16-true": "bf16",
    "32-true": "fp32",
}
"""What other tools call the number formats; an empty text leaves the choice to neoxrun."""

QUANTISED: Final = "Quantised weights are not supported; fp16 and bf16 take 2 bytes a parameter."
"""The hint for those who ask for fewer bytes."""

_QUANTISED: Final = re.compile(
    r"[su]?int\d+|i\d|(fp|float|nf|nvfp|mxfp)_?[468](_?e\dm\d.*)?|[248]-?bit|i?q\d\w*|awq|gptq|bitsandbytes|bnb.*"
)


def is_quantised(name: str) -> bool:
    """Whether a name of a number format is one of quantised weights, which neoxrun does not have."""
    return _QUANTISED.fullmatch(name.lower()) is not None


_DAMAGED: Final = "the weights may be damaged: `neoxrun download --verify FOLDER` checks their files."


def nonfinite_hint(precision: Precision) -> str:
    """What to do about numbers that became NaN or infinite in this format."""
    if precision == "fp16":
        return f"fp16 overflows in some models: try --dtype bf16 or --dtype fp32. If that changes nothing, {_DAMAGED}"
    return f"{precision} hardly ever overflows, so that {_DAMAGED}"


@dataclass(frozen=True)
class Precisions:
    """The three number formats of a run. Sizes, storage and tables each name the one that they depend on.

    Attributes:
        weights: of the parameters on a device.
        compute: of activations, and of what travels from stage to stage.
        cache: of keys and values in the cache, and of the product of queries and keys where nothing is cached.
    """

    weights: Precision
    compute: Precision
    cache: Precision


def precisions_for(precision: Precision, kind: DeviceKind) -> Precisions:
    """The formats of a model that is kept and computed in ``precision`` on a ``kind`` of device.

    On the CPU the cache is fp32 whatever the weights are: torch's one-query attention is 5 to 50 times slower there
    in fp16 and bf16, which costs more than reading twice the bytes.
    """
    return Precisions(weights=precision, compute=precision, cache="fp32" if kind == "cpu" else precision)


def preferred_precisions(
    requested: Precision | None, configured: Precision, kind: DeviceKind, *, native_bf16: bool = False
) -> tuple[Precisions, ...]:
    """The formats in which a model may run, the best first; each of the others is for when those before it do not fit.

    A request decides. Otherwise a GPU uses what the configuration says. A CPU with instructions for bf16 uses bf16 for
    a model in 16 bits: it is three to four times as fast as fp32. Any other model, and any other CPU, uses fp32, or
    bf16 for half the bytes.

    Args:
        requested: by a flag or an argument; None: neither is given.
        configured: what the configuration says.
        kind: the kind of device.
        native_bf16: a CPU has instructions for bf16, and results need not be exact.
    """
    if requested is not None:
        return (precisions_for(requested, kind),)
    choices: tuple[Precision, ...] = ("fp32", "bf16")
    if kind == "cuda":
        choices = (configured,)
    elif native_bf16 and configured != "fp32":
        choices = ("bf16",)
    return tuple(precisions_for(precision, kind) for precision in choices)
