"""Which tokens are computed together, and that no request sees more or less than its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neoxrun.engine.scoring import Row, ScoreRequest, pack_rows, padded_width, scoring_passes

IDS = st.integers(0, 2)  # few, so that sequences begin alike
TEXTS = st.lists(IDS, min_size=1, max_size=8).map(tuple)
REQUESTS = st.lists(st.builds(ScoreRequest, TEXTS, TEXTS), max_size=12)


def seen_from(row: Row, index: int) -> list[int]:
    """The indices of the tokens that a token attends to."""
    return [other for other in range(index + 1) if index < row.ends[other]]


@given(REQUESTS, st.integers(1, 40))
def test_each_request_sees_its_own_tokens_only(requests: list[ScoreRequest], budget: int) -> None:
    answered = []
    for row, numbers in pack_rows(requests, budget):
        assert len(row.asked) == len(numbers)
        for number, (indices, targets) in zip(numbers, row.asked, strict=True):
            request = requests[number]
            assert tuple(targets) == request.continuation
            before = len(request.context)
            whole = request.context + request.continuation
            for count, index in enumerate(indices):
                seen = seen_from(row, index)
                assert tuple(row.tokens[at] for at in seen) == whole[: before + count]
                assert [row.positions[at] for at in seen] == list(range(before + count))
        answered += numbers
    assert sorted(answered) == list(range(len(requests)))


@given(REQUESTS, st.integers(1, 40), st.integers(1, 4))
def test_passes_keep_to_their_limits(requests: list[ScoreRequest], budget: int, most: int) -> None:
    answered = []
    for numbers, rows in scoring_passes(requests, budget, most):
        assert len(numbers) <= most
        assert len(numbers) == sum(len(row.asked) for row in rows)
        if len(rows) > 1:
            assert sum(len(row.tokens) for row in rows) <= budget
            assert padded_width(rows) * len(rows) <= 1.25 * budget
        for number, (_, targets) in zip(numbers, (asked for row in rows for asked in row.asked), strict=True):
            assert tuple(targets) == requests[number].continuation
        answered += numbers
    assert sorted(answered) == list(range(len(requests)))


def test_what_is_shared_is_computed_once() -> None:
    question = tuple(range(10))
    answers = [(20, 21, 22), (20, 21, 23), (30,)]
    [(row, numbers)] = pack_rows([ScoreRequest(question, answer) for answer in answers], 100)
    assert row.tokens == [*question, 20, 21]  # last tokens are only asked for
    assert sorted(numbers) == [0, 1, 2]


def test_sequences_that_hardly_share_are_kept_apart() -> None:
    rows = pack_rows([ScoreRequest((1, *[n] * 9), (0,)) for n in (2, 3)], 100)
    assert [len(row.tokens) for row, _ in rows] == [10, 10]
