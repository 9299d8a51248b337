"""Two replicas in two threads, around one store: rank 0 gets every answer once, whoever computed it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter

import pytest
from torch.distributed import HashStore

from neoxrun.config.reader import load_settings
from neoxrun.engine.replica import Replica
from neoxrun.engine.scoring import Row, Scored, ScoreRequest
from neoxrun.engine.session import Session
from neoxrun.evaluation.replicas import GenerateRequest, Replicas
from neoxrun.parallel.mesh import single_rank_mesh
from support.tiny_models import CPU, demo_tokenizer, random_replica

TOKENIZER = demo_tokenizer()
CONTEXT = 48
SCORED = [ScoreRequest(tuple(range(1, 3 + n % 7)), (5 + n, 9)) for n in range(60)]
WRITTEN = [
    GenerateRequest(tuple(range(n, n + 1 + n % 5)), (("maximum_tokens", 3 + n % 9), ("stop", ["e", ""]), ("seed", n)))
    for n in range(24)
]


@pytest.fixture(scope="module")
def model() -> Replica:
    return random_replica(TOKENIZER.vocab_size, CONTEXT)


def session(replica: Replica, store: HashStore | None, number: int, replicas: int) -> Session:
    mesh = replace(single_rank_mesh(CPU), replicas=replicas, replica=number, store=store)
    return Session(load_settings(["demo"]), mesh, replica, TOKENIZER, None, CONTEXT, most_scored=64)


def lone(model: Replica, batch_size: int | None = None) -> Replicas:
    return Replicas(session(model, None, 0, 1), batch_size)


def by_number(results: Iterator[list[tuple[int, object]]]) -> list[object]:
    """Answers in the order of their requests, each of them given once."""
    found = [one for some in results for one in some]
    assert sorted(number for number, _ in found) == list(range(len(found)))
    return [tuple(answer) if isinstance(answer, list) else answer for _, answer in sorted(found, key=itemgetter(0))]


def test_what_two_replicas_score_and_write_is_what_one_does(model: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = by_number(lone(model).score(SCORED))
    texts = by_number(lone(model).generate(WRITTEN))
    assert len(scores) == len(SCORED)
    assert len(texts) == len(WRITTEN)

    store, second = HashStore(), random_replica(TOKENIZER.vocab_size, CONTEXT)
    serving = threading.Thread(target=Replicas(session(second, store, 1, 2), batch_size=5).serve, daemon=True)
    helped = threading.Event()

    def score_and_tell(rows: list[Row], top: int | None) -> list[Scored]:
        helped.set()
        return Replica.score(second, rows, top)

    def score_second(rows: list[Row], top: int | None) -> list[Scored]:
        assert helped.wait(30), "the other replica had no work"
        return Replica.score(model, rows, top)

    monkeypatch.setattr(second, "score", score_and_tell)
    monkeypatch.setattr(model, "score", score_second)
    serving.start()
    first = Replicas(session(model, store, 0, 2), batch_size=5)
    scored, written, again = (
        by_number(answers) for answers in (first.score(SCORED), first.generate(WRITTEN), first.score(SCORED[:7]))
    )
    first.release_ranks()
    serving.join(30)
    assert not serving.is_alive(), "the other leader was not released"
    for found, right in ((scored, scores), (again, scores[:7])):
        assert [greedy for _, greedy in found] == [greedy for _, greedy in right]
        assert [value for value, _ in found] == pytest.approx([value for value, _ in right])
    assert written == texts


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_texts_hold_all_tokens_up_to_the_stop_text(model: Replica, batch_size: int | None) -> None:
    """lm-eval cuts them itself."""
    for request, text in zip(WRITTEN, by_number(lone(model, batch_size).generate(WRITTEN)), strict=True):
        tokens = by_number(lone(model).generate([replace(request, sampling=(request.sampling[0],))]))[0]
        assert tokens.startswith(text)
        assert "e" in text or text == tokens


def test_scoring_has_its_memory_back_after_texts(model: Replica) -> None:
    replicas = lone(model)
    by_number(replicas.generate(WRITTEN[:3]))
    assert not model.holds_cache
