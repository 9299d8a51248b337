"""Rows of a step and of a pass: GPT-NeoX's sizes, solved for any number of replicas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.config.training_batch import Batch, BatchRequest
from neoxrun.errors import ConfigError

SOLVED = {
    # rows, micro, accumulation, replicas: rows, micro, rows of each replica
    "nothing": ((None, None, None, 1), (8, None, 8)),
    "nothing, many replicas": ((None, None, None, 6), (12, None, 2)),
    "nothing, more replicas than rows": ((None, None, None, 16), (16, None, 1)),
    "accumulation": ((None, None, 3, 2), (12, 2, 6)),
    "micro": ((None, 4, None, 2), (8, 4, 4)),
    "micro and accumulation": ((None, 4, 3, 2), (24, 4, 12)),
    "rows": ((32, None, None, 2), (32, None, 16)),
    "rows and accumulation": ((32, None, 4, 2), (32, 4, 16)),
    "rows and micro": ((32, 4, None, 2), (32, 4, 16)),
    "all three": ((32, 4, 4, 2), (32, 4, 16)),
}


@pytest.mark.parametrize("case", SOLVED)
def test_solved(case: str) -> None:
    (rows, micro, accumulation, replicas), solved = SOLVED[case]
    assert BatchRequest(rows, micro, accumulation).solve(replicas) == Batch(*solved)


def test_a_micro_batch_of_the_command_line_leaves_the_step_as_it_is() -> None:
    """In a configuration that has nothing else it is the step, as in GPT-NeoX."""
    assert BatchRequest(None, 2, None).solve(2).rows == 4
    assert BatchRequest(None, 2, None, micro_fixed=True).solve(2) == Batch(8, 2, 4)
    assert BatchRequest(None, 3, None, micro_fixed=True).solve(2) == Batch(12, 3, 6)


def test_passes_follow_where_the_replicas_are_others() -> None:
    """tp1/config.yml, with 4 rows in one pass on one replica: the rows of a step stay."""
    request = BatchRequest(4, 4, 1)
    assert request.solve(1).note is None
    halved = request.solve(2)
    assert halved[:3] == (4, 2, 2)
    assert halved.note == "train_micro_batch_size_per_gpu: 4 -> 2, for 2 rows of a step on each replica"
    more = BatchRequest(4, 1, 1, micro_fixed=True).solve(2)
    assert more[:3] == (4, 1, 2)
    assert more.note == "gradient_accumulation_steps: 1 -> 2, as 2 x 1 rows are computed at a time"


@pytest.mark.parametrize(
    ("request_", "replicas", "words"),
    [
        (BatchRequest(4, where="a.yml:3"), 3, "4 cannot be shared equally by 3 replicas"),
        (
            BatchRequest(8, 3, micro_fixed=True),
            2,
            "the 4 rows of a step on each of 2 replicas cannot be divided into passes of 3",
        ),
        (BatchRequest(7, 2, micro_fixed=True), 1, "the 7 rows of a step cannot be divided into passes of 2"),
        (BatchRequest(8, None, 3), 2, "cannot be divided into 3 equal passes"),
    ],
)
def test_refused(request_: BatchRequest, replicas: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        request_.solve(replicas)
    assert (caught.value.code, caught.value.where) == ("invalid_value", request_.where)
    assert request_.fits(replicas) == (request_.rows != 4)


SIZES = st.none() | st.integers(1, 24)


@given(SIZES, SIZES, SIZES, st.integers(1, 6))
def test_the_parts_are_the_whole(rows: int | None, micro: int | None, passes: int | None, replicas: int) -> None:
    try:
        found = BatchRequest(rows, micro, passes).solve(replicas)
    except ConfigError:
        assert rows is not None
        return
    assert found.rows == found.share * replicas
    assert rows in (None, found.rows)
    assert found.micro is None or found.share % found.micro == 0
    if found.note is None:
        assert micro in (None, found.micro)
        assert passes is None or found.micro is None or found.share == found.micro * passes


def test_a_step_has_a_bound() -> None:
    with pytest.raises(ConfigError, match="2000000 rows of a step are too many: the most are 1000000"):
        BatchRequest(None, 1000, 1000).solve(2)
    assert BatchRequest(None, 1000, 1000).solve(1).rows == 1_000_000
