"""Token ids as programs hold them: in a list, a tuple, an array or a tensor."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def plain(value: Any) -> Any:
    """The list of an array, or of a tensor; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_whole(value: object) -> bool:
    """Whether ``value`` is a whole number, NumPy's too."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def ids_of(value: object) -> list[int] | None:
    """The token ids of a list, a tuple, a range, an array or a tensor; None where it is something else, or holds it."""
    value = plain(value)
    return list(map(int, value)) if isinstance(value, list | tuple | range) and all(map(is_whole, value)) else None
