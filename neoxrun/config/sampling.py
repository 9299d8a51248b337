"""Sampling parameters and their allowed values: one table for configurations, flags and JSONL prompts."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from numbers import Integral, Real
from typing import Any, Final, TypeVar

from neoxrun.config.sampling_names import own_names, unknown_parameter
from neoxrun.errors import UsageError

_Class = TypeVar("_Class")


def _with_foreign_names(params: type[_Class]) -> type[_Class]:
    """Let a dataclass be made as other tools make theirs: with their names of its fields, and None for a default.

    Another name is a ``UsageError``.
    """
    plain = params.__init__
    known = frozenset(one.name for one in fields(params))  # type: ignore[arg-type]

    @wraps(plain)
    def init(self: _Class, *args: Any, **given: Any) -> None:
        named = given if given.keys() <= known else own_names(given, known)
        plain(self, *args, **{name: value for name, value in named.items() if value is not None})

    setattr(params, "__init__", init)  # noqa: B010
    return params


@_with_foreign_names
@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. Names and defaults are GPT-NeoX's where it has the parameter.

    In a call, the names of other tools stand for those of the attributes, such as ``max_tokens``, and None for what is
    left out.

    Attributes:
        maximum_tokens: most tokens to generate.
        temperature: 0 is greedy decoding, whatever the other fields say.
        top_k: keep the ``top_k`` most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches ``top_p``; 0 and 1 keep all.
        min_p: drop tokens less likely than ``min_p`` times the most likely one; 0 keeps all.
        repetition_penalty: divide (multiply, when negative) the logits of tokens seen in prompt or output; 1 is off.
        frequency_penalty: subtract this times a token's count in the output.
        presence_penalty: subtract this from tokens that are in the output.
        logit_bias: token id -> value added to its logit.
        logprobs: report the log-probability of each chosen token and of this many most likely ones; None is off.
        seed: seed of the request's random stream.
        stop: texts that end the answer; ``generation`` looks for them, not the engine.
        ignore_eos: continue past the end-of-document token (for benchmarks).
    """

    maximum_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    seed: int = 1234
    stop: Sequence[str] = ()
    ignore_eos: bool = False


SAMPLING_NAMES: Final = tuple(one.name for one in fields(SamplingParams))
_INT_LIMIT: Final = 2**31 - 1


@dataclass(frozen=True)
class _Number:
    """The numbers that a parameter may be, and how an error describes them."""

    kind: type[int] | type[float]
    must_be: str
    low: float = -math.inf
    high: float = math.inf
    exclusive: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one of them, NumPy's too. A whole number may stand for a float; True is not a number."""
        return (
            self._is_of_kind(value)
            and (self.low < value if self.exclusive else self.low <= value)
            and value <= self.high
        )

    def _is_of_kind(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real if self.kind is float else Integral):
            return False
        return isinstance(value, Integral) or math.isfinite(value)


_NUMBERS: Final[Mapping[str, _Number]] = {
    "maximum_tokens": _Number(int, "a whole number from 1 to 2**31 - 1", 1, _INT_LIMIT),
    "temperature": _Number(float, "a number from 0 to 1000000", 0, 1e6),
    "top_k": _Number(int, "a whole number from 0 to 2**31 - 1", 0, _INT_LIMIT),
    "top_p": _Number(float, "a number from 0 to 1", 0, 1),
    "min_p": _Number(float, "a number from 0 to 1", 0, 1),
    "repetition_penalty": _Number(float, "a number greater than 0 and at most 1000000", 0, 1e6, exclusive=True),
    "frequency_penalty": _Number(float, "a number from -1000000 to 1000000", -1e6, 1e6),
    "presence_penalty": _Number(float, "a number from -1000000 to 1000000", -1e6, 1e6),
    "seed": _Number(int, "a whole number from 0 to 2**63 - 1", 0, 2**63 - 1),
    "logprobs": _Number(int, "a whole number from 0 to 2**31 - 1, or null", 0, _INT_LIMIT),
}


def sampling_value(name: str, value: Any) -> Any:
    """``value`` as the field ``name`` of SamplingParams holds it.

    Args:
        name: a field of SamplingParams.
        value: what the user wrote, as read by YAML, JSON or argparse.

    Raises:
        UsageError: the parameter cannot have this value; the message names both.
    """
    if name == "stop":
        return _stop(value)
    if name == "logit_bias":
        return _logit_bias(value)
    if name == "ignore_eos":
        if not isinstance(value, bool):
            raise _refusal(name, value, "true or false")
        return value
    if name == "logprobs" and value is None:
        return None
    number = _NUMBERS[name]
    if not number.accepts(value):
        raise _refusal(name, value, number.must_be)
    return number.kind(value)


def update_sampling(base: SamplingParams, changes: Mapping[str, object]) -> SamplingParams:
    """``base`` with the named parameters replaced by checked values.

    Raises:
        UsageError: a name is unknown, or a parameter cannot have its value.
    """
    for name in changes:
        if name not in SAMPLING_NAMES:
            raise unknown_parameter(name, SAMPLING_NAMES)
    return replace(base, **{name: sampling_value(name, value) for name, value in changes.items()})


def _stop(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list | tuple) and all(isinstance(text, str) and text for text in texts):
        return tuple(texts)
    raise _refusal("stop", value, "a text, or a list of texts, none of them empty")


def _logit_bias(value: object) -> dict[int, float]:
    must_be = "a mapping from token ids to finite numbers"
    if not isinstance(value, Mapping):
        raise _refusal("logit_bias", value, must_be)
    bias: dict[int, float] = {}
    for token, amount in value.items():
        # JSON has no integer keys: {"50256": -100} is how they are written there.
        if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10:
            token = int(token)
        if not _NUMBERS["top_k"].accepts(token) or not _NUMBERS["presence_penalty"].accepts(amount):
            raise _refusal("logit_bias", value, must_be)
        bias[int(token)] = float(amount)
    return bias


def _refusal(name: str, value: object, must_be: str) -> UsageError:
    return UsageError(f"{name} must be {must_be}, not {reprlib.repr(value)}", code="invalid_value")
