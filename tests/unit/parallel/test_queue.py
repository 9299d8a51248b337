"""The queue of work: each number is claimed once, and rank 0 gets every result in its replica's order."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from neoxrun.parallel.mesh import single_rank_mesh
from neoxrun.parallel.queue import WorkQueue
from support.tiny_models import CPU


def queues(replicas: int, count: int, name: str = "work", store: HashStore | None = None) -> list[WorkQueue]:
    """One for each replica, on the same store."""
    store = store or HashStore()
    lone = single_rank_mesh(CPU)
    return [WorkQueue(replace(lone, replicas=replicas, replica=n, store=store), count, name) for n in range(replicas)]


@given(count=st.integers(0, 12), replicas=st.integers(1, 4), order=st.lists(st.integers(0, 3), max_size=30))
def test_each_number_is_claimed_once_and_in_order(count: int, replicas: int, order: list[int]) -> None:
    """``order``: whose turn it is; at the end everybody claims what is left."""
    claims = [queue.claim_all() for queue in queues(replicas, count)]
    claimed: list[list[int]] = [[] for _ in claims]
    for replica in chain(order, *([n] * (count + 1) for n in range(replicas))):
        if replica < replicas:
            claimed[replica] += [number for number in [next(claims[replica], None)] if number is not None]
    assert sorted(chain(*claimed)) == list(range(count))
    assert all(own == sorted(own) for own in claimed)
    assert all(next(claim, None) is None for claim in claims)


def test_a_lone_replica_claims_everything_without_a_store() -> None:
    queue = WorkQueue(single_rank_mesh(CPU), 5, "work")
    assert not queue.others_working
    assert list(queue.claim_all()) == [0, 1, 2, 3, 4]
    assert queue.collect() == []
    assert not queue.interrupted


EVENTS = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["publish", "collect", "close", "interrupt"])), max_size=40
)


@given(EVENTS)
def test_results_come_back_once_and_in_each_replicas_order(events: list[tuple[int, str]]) -> None:
    first, *others = queues(4, 0)
    sent: dict[int, list[int]] = {1: [], 2: [], 3: []}
    closed: set[int] = set()
    interrupted = False
    found: list[dict[str, int]] = []
    for replica, event in [*events, *((n, "close") for n in (1, 2, 3)), (1, "collect")]:
        if event == "collect":
            found += first.collect()
            assert first.others_working == (len(closed) < 3)
            assert first.interrupted == interrupted
        elif replica not in closed and event == "publish":
            number = len(sent[replica])
            others[replica - 1].publish({"replica": replica, "number": number})
            sent[replica].append(number)
        elif replica not in closed:
            others[replica - 1].close(interrupted=event == "interrupt")
            closed.add(replica)
            interrupted |= event == "interrupt"
    for replica, numbers in sent.items():
        assert [one["number"] for one in found if one["replica"] == replica] == numbers
    assert first.collect() == []
    assert not first.others_working


def test_queues_of_one_run_are_told_apart_by_their_names() -> None:
    store = HashStore()
    (first, second), (other, another) = queues(2, 2, "one", store), queues(2, 2, "two", store)
    assert next(first.claim_all()) == next(other.claim_all()) == 0
    second.publish("of one")
    assert other.collect() == []
    assert first.collect() == ["of one"]
    another.close(interrupted=True)
    assert first.others_working
    other.collect()
    assert (other.others_working, other.interrupted, first.interrupted) == (False, True, False)


def test_a_lone_replica_has_nobody_to_send_to() -> None:
    with pytest.raises(AssertionError, match="a lone replica keeps its results"):
        WorkQueue(single_rank_mesh(CPU), 1, "work").publish(0)
