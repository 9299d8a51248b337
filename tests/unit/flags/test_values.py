"""Values of options, from their texts: what they become, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from neoxrun.flags import values

GIVEN = [
    (values.positive, "1", 1),
    (values.natural, "0", 0),
    (values.path, "a/b", Path("a/b")),
    (values.gpu_list, "0, 2", (0, 2)),
    (values.limit, "5", 5),
    (values.limit, "0.25", 0.25),
]


@pytest.mark.parametrize(("read", "text", "value"), GIVEN)
def test_a_value(read: Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == value


REFUSED = [
    (values.positive, "0", "whole number of 1 or more"),
    (values.natural, "-1", "whole number of 0 or more"),
    (values.natural, "1.5", "whole number of 0 or more"),
    (values.path, "", "the name is empty"),
    (values.gpu_list, "1,1", "names a GPU twice"),
    (values.limit, "1.5", "fraction between 0 and 1"),
    (values.limit, "half", "fraction between 0 and 1"),
]


@pytest.mark.parametrize(("read", "text", "message"), REFUSED)
def test_a_value_that_is_refused(read: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read(text)
