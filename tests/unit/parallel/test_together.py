"""What fails on one rank fails on all; with a single rank here, with several in the tests of commands."""

from __future__ import annotations

import pytest

from neoxrun.errors import DataError
from neoxrun.parallel.together import attempt, together


def refuse() -> None:
    raise DataError("there is no such file", code="missing_file")


def test_the_result_is_that_of_the_work() -> None:
    assert together(lambda: [3], rank=0) == [3]


def test_an_error_is_every_ranks() -> None:
    with pytest.raises(DataError) as caught:
        together(refuse, rank=0)
    assert caught.value.shared


def test_running_out_of_memory_is_told_to_the_others() -> None:
    def exhaust() -> None:
        raise MemoryError

    result, failure = attempt(exhaust, rank=1)
    assert result is None
    assert failure is not None
    assert failure.code == "out_of_memory"


def test_a_defect_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0, rank=0)
