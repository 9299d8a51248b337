"""Every token is scored once, in lm-eval's windows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from neoxrun.scoring.windows import scoring_windows


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 12), st.integers(1, 12))
def test_windows_are_those_of_lm_eval(tokens: list[int], context: int, stride: int) -> None:
    stride = min(stride, context)
    windows = list(scoring_windows(tokens, 0, context, stride))
    assert [token for window in windows for token in window.continuation] == tokens
    rolling = get_rolling_token_windows(
        token_list=tokens, prefix_token=0, max_seq_len=context, context_len=context - stride + 1
    )
    expected = [make_disjoint_window(window) for window in rolling]
    assert [(list(window.context), list(window.continuation)) for window in windows] == expected
