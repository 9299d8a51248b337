"""Scaled rotary positions, as config.json describes them and as transformers reads it for GPT-NeoX models. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from neoxrun.config.settings import RopeScaling
from neoxrun.errors import ConfigError

_POSITIONS = 2048  # max_position_embeddings where config.json has none


def read_rope_scaling(
    content: Mapping[str, Any], where: str | None = None, name: str | None = None
) -> RopeScaling | None:
    """How the rotary angles are scaled; None where they are not.

    Args:
        content: of config.json. ``rope_scaling`` wins over ``rope_parameters``, in which transformers 5 writes it.
        where: the file, for messages.
        name: what the file calls it; None: the name in ``content``.

    Raises:
        ConfigError: a kind of scaling that is not implemented, or a value that is missing or impossible.
    """
    rope = content.get("rope_scaling") or content.get("rope_parameters") or {}
    name = name or ("rope_scaling" if content.get("rope_scaling") else "rope_parameters")
    if not isinstance(rope, Mapping):
        raise _refused(f"{name} must be a mapping, not {rope!r}", where)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "dynamic":
        raise ConfigError(
            f"{name}: dynamic is not supported, since its angles change with the longest text so far: in "
            "transformers an answer depends on the prompts before it and next to it",
            code="unsupported_option",
            where=where,
            hint="It changes nothing for texts of at most max_position_embeddings tokens: "
            "to stay within them, give --set rope_scaling=null.",
        )
    if kind not in ("linear", "yarn"):
        raise ConfigError(
            f"{name}: {kind} is not supported",
            code="unsupported_option",
            where=where,
            hint="Supported: linear and yarn. Options that change the result are never ignored.",
        )
    number = partial(_number, scaling=name, where=where)
    positions = number(content, "max_position_embeddings", _POSITIONS)
    if kind == "linear":
        return RopeScaling("linear", number(rope, "factor"), int(positions))
    inside = number(rope, "original_max_position_embeddings", positions)
    original = number(content, "original_max_position_embeddings", inside)
    factor = number(rope, "factor", positions / original if "factor" in rope else None)
    return RopeScaling(
        "yarn",
        factor,
        int(original),
        beta_fast=number(rope, "beta_fast", 32.0),
        beta_slow=number(rope, "beta_slow", 1.0),
        attention_factor=number(rope, "attention_factor", _attention_factor(rope, factor, number)),
        truncate=bool(rope.get("truncate", True)),
    )


def write_rope_scaling(scaling: RopeScaling) -> dict[str, object]:
    """What ``read_rope_scaling`` reads, in a config.json or as the option ``rope_scaling``."""
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    values = asdict(scaling)
    return {"rope_type": values.pop("kind"), **values}


def describe_rope_scaling(scaling: RopeScaling | None) -> str:
    """``yarn by 4 from 2048 positions``, for messages."""
    if scaling is None:
        return "not scaled"
    return f"{scaling.kind} by {scaling.factor:g} from {scaling.original_max_position_embeddings} positions"


def _attention_factor(rope: Mapping[str, Any], factor: float, number: Callable[..., float]) -> float:
    """What YaRN (Peng et al., 2023) multiplies cosines and sines by, unless the configuration says."""
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        scale, all_dims = (number(rope, name) for name in ("mscale", "mscale_all_dim"))
        return _magnitude(factor, scale) / _magnitude(factor, all_dims)
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _number(
    content: Mapping[str, Any], name: str, default: float | None = None, *, scaling: str, where: str | None
) -> float:
    """A finite number greater than 0; null is the same as none."""
    value = content.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _refused(f"{scaling}: {name} must be a number greater than 0, not {value!r}", where)
    return float(value)


def _refused(message: str, where: str | None) -> ConfigError:
    return ConfigError(message, code="invalid_value", where=where)
