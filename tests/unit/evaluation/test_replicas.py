"""Two replicas in two threads, around one store: rank 0 gets every answer once, whoever computed it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import astuple, replace
from operator import itemgetter

import pytest
from torch.distributed import HashStore

from neoxrun.config.reader import load_settings
from neoxrun.engine.replica import Replica
from neoxrun.engine.scoring import Row, Scored, ScoreRequest, pack_rows
from neoxrun.engine.session import Session
from neoxrun.evaluation import replicas as replicas_module
from neoxrun.evaluation.replicas import GenerateRequest, Replicas
from neoxrun.parallel.mesh import single_rank_mesh
from support.command import wait_for
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


class CountedStore:
    """A store that knows how many bytes of work are in it at most."""

    def __init__(self) -> None:
        self._store = HashStore()
        self.sizes: dict[str, int] = {}
        self.most = 0

    def set(self, key: str, value: str) -> None:
        self._store.set(key, value)
        if "/item/" in key:
            self.sizes[key] = len(value)
            self.most = max(self.most, sum(self.sizes.values()))

    def delete_key(self, key: str) -> bool:
        self.sizes.pop(key, None)
        return self._store.delete_key(key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_work_is_handed_out_as_it_is_needed(model: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 waits in its first pass until the other replica has done most of the work; the store stays small."""
    monkeypatch.setattr(replicas_module, "_AHEAD_BYTES", 500)
    store, second = CountedStore(), random_replica(TOKENIZER.vocab_size, CONTEXT)
    done: list[int] = []

    def score_and_count(rows: list[Row], top: int | None) -> list[Scored]:
        done.append(len(rows))
        return Replica.score(second, rows, top)

    def score_late(rows: list[Row], top: int | None) -> list[Scored]:
        wait_for(lambda: len(done) >= 2, 30, lambda: "the other replica had no work")
        return Replica.score(model, rows, top)

    monkeypatch.setattr(second, "score", score_and_count)
    monkeypatch.setattr(model, "score", score_late)
    serving = threading.Thread(target=Replicas(session(second, store, 1, 2), batch_size=1).serve, daemon=True)
    serving.start()
    first = Replicas(session(model, store, 0, 2), batch_size=1)
    found = by_number(first.score(SCORED))
    first.release_ranks()
    serving.join(30)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in by_number(lone(model).score(SCORED))])
    whole = sum(len(json.dumps([[0], [astuple(row)]])) for row, _ in pack_rows(SCORED, 64, 1))
    assert 0 < store.most < whole / 3
    assert not store.sizes, "items are left in the store"


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
