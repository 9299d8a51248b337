"""What a session lends: an engine of the right size, and how much may be scored in one pass."""

from __future__ import annotations

from typing import Any

import pytest

from neoxrun.config.limits import PREFILL_TOKENS
from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.engine import session as sessions
from neoxrun.engine.runner import Runner
from neoxrun.engine.session import Session, open_session
from neoxrun.parallel.mesh import single_rank_mesh
from neoxrun.planning.memory import MAX_BATCH
from support.tiny_models import CPU, demo_tokenizer, random_replica

TOKENIZER = demo_tokenizer()
CONTEXT = 16


def session(most_scored: int = 8 * PREFILL_TOKENS) -> Session:
    replica = random_replica(TOKENIZER.vocab_size, CONTEXT)
    return Session(load_settings(["demo"]), single_rank_mesh(CPU), replica, TOKENIZER, None, CONTEXT, most_scored)


@pytest.mark.parametrize(
    ("requests", "batch_size", "slots"),
    [(3, None, 3), (3, 2, 2), (3, 9, 3), (999, None, MAX_BATCH["cpu"]), (99, 80, 80)],
)
def test_an_engine_is_as_large_as_its_work(requests: int, batch_size: int | None, slots: int) -> None:
    opened = session()
    assert opened.start_engine(requests=requests, length=8, batch_size=batch_size).free_slots == slots


@pytest.mark.parametrize(("length", "reserved"), [(8, 8), (CONTEXT, CONTEXT), (CONTEXT + 1, CONTEXT)])
def test_no_sequence_is_longer_than_the_context(length: int, reserved: int) -> None:
    opened = session()
    opened.start_engine(requests=1, length=length)
    cache = opened.replica.runner.cache
    assert cache is not None
    assert cache.page_size == reserved


@pytest.mark.parametrize(("most", "with_cache"), [(8 * PREFILL_TOKENS, PREFILL_TOKENS), (1024, 1024)])
def test_scoring_has_less_memory_while_there_is_a_cache(most: int, with_cache: int) -> None:
    opened = session(most)
    assert opened.scoring_budget() == most
    engine = opened.start_engine(requests=1, length=8)
    assert opened.scoring_budget() == with_cache
    engine.close()
    assert opened.scoring_budget() == with_cache
    opened.replica.free_cache()
    assert opened.scoring_budget() == most


@pytest.mark.parametrize("eager", [False, True])
def test_the_runner_is_told_whether_to_capture_graphs(eager: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def make(*arguments: Any, **named: Any) -> Runner:
        told.append(named["eager"])
        return Runner(*arguments, **named)

    monkeypatch.setattr(sessions, "Runner", make)
    opened = open_session(
        load_settings(["demo"]),
        single_rank_mesh(CPU),
        precisions_for("fp32", "cpu"),
        random_weights=True,
        show_progress=False,
        eager=eager,
    )
    assert told == [eager]
    assert 0 < opened.loading_seconds < 60
