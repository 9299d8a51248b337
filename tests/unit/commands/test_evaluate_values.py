"""What the values of `neoxrun evaluate`'s options mean."""

from __future__ import annotations

import pytest

from neoxrun.commands.evaluate_values import texts_to_score
from neoxrun.planning.request import TYPICAL_TEXTS


@pytest.mark.parametrize(
    ("limit", "tasks", "texts"),
    [(None, 3, 50_000), (10, 2, 80), (0.1, 2, 5000), (0.00001, 1, 1), (100_000, 60, 50_000)],
)
def test_a_limit_is_less_to_plan_for(limit: float | None, tasks: int, texts: int) -> None:
    work = texts_to_score(limit, tasks)
    assert (work.prompts, work.prompt_tokens, work.new_tokens) == (texts, TYPICAL_TEXTS.prompt_tokens, 0)
