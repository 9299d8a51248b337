"""The queue of work: threads stand for the leaders of the replicas, each with a connection of its own to the store."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore, TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from neoxrun.parallel.mesh import single_rank_mesh
from neoxrun.parallel.queue import WorkQueue
from support.tiny_models import CPU

REPLICAS = 4
LIMIT = timedelta(seconds=20)

Stores = list[Store]


@pytest.fixture(scope="module", params=["TCPStore", "HashStore"])
def connections(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """A connection for each replica to one store."""
    if request.param == "HashStore":
        yield [HashStore()] * REPLICAS
    else:
        host = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=LIMIT)
        yield [
            TCPStore("127.0.0.1", host.port, is_master=False, wait_for_workers=False, timeout=LIMIT)
            for _ in range(REPLICAS)
        ]


@pytest.fixture
def stores(connections: Stores, request: pytest.FixtureRequest) -> Stores:
    """The same, without what other tests have left in it."""
    return [PrefixStore(request.node.name, store) for store in connections]


def queues(stores: Stores, count: int, name: str = "work") -> list[WorkQueue]:
    """What the leader of each replica holds of one queue."""
    lone = single_rank_mesh(CPU)
    return [
        WorkQueue(dataclasses.replace(lone, replicas=len(stores), replica=replica, store=store), count, name)
        for replica, store in enumerate(stores)
    ]


def settle(stores: Stores) -> None:
    """Wait until the server has all that was sent: a TCPStore does not wait for that itself when it sets a key."""
    for store in stores:
        store.check(["any key"])  # answered in the order of what the connection has sent


def at_once(work: Callable[[WorkQueue], Any], queues: list[WorkQueue]) -> list[Any]:
    """What ``work`` returns for each queue, all begun at the same moment."""
    together = threading.Barrier(len(queues))

    def begin(queue: WorkQueue) -> Any:
        together.wait(10)
        return work(queue)

    with ThreadPoolExecutor(len(queues)) as pool:
        return list(pool.map(begin, queues))


def test_every_number_is_claimed_exactly_once(stores: Stores) -> None:
    claimed = at_once(lambda queue: list(queue.claim_all()), queues(stores, 1000))
    assert sorted(number for numbers in claimed for number in numbers) == list(range(1000))
    assert all(numbers == sorted(numbers) for numbers in claimed)


def test_numbers_that_some_leave_are_claimed_by_others(stores: Stores) -> None:
    """A replica that is interrupted claims no more, and one that is late finds what is left."""
    first, second, third, late = queues(stores, 10)
    assert [*islice(first.claim_all(), 2), *islice(second.claim_all(), 3)] == [0, 1, 2, 3, 4]
    assert list(third.claim_all()) == [5, 6, 7, 8, 9]
    assert list(late.claim_all()) == []


def test_results_arrive_whole_and_in_each_replicas_order(stores: Stores) -> None:
    first, *others = queues(stores, 300)

    def finished(number: int) -> dict[str, Any]:
        return {"number": number, "text": f"{number} ﬁ\u2028", "scores": [0.1 * number, None, True]}

    def work(queue: WorkQueue) -> None:
        for number in queue.claim_all():
            queue.publish(finished(number))
        queue.close(interrupted=False)

    collected: list[Any] = []
    threads = [threading.Thread(target=work, args=(queue,)) for queue in others]
    for thread in threads:
        thread.start()
    while first.others_working:
        collected += first.collect()
    for thread in threads:
        thread.join()
    assert sorted(result["number"] for result in collected) == list(range(300))
    for result in collected:
        assert result == finished(result["number"])
    assert not first.interrupted
    assert first.collect() == []


def test_nothing_is_left_in_the_store_but_the_counter(stores: Stores) -> None:
    """An evaluation makes thousands of rounds; what is collected is deleted."""
    first, *others = queues(stores, 3)
    before = stores[0].num_keys()
    for queue in others:
        next(queue.claim_all())
        queue.publish("x" * 1000)
        queue.close(interrupted=False)
    settle(stores)
    assert stores[0].num_keys() == before + 1 + 2 * len(others)
    assert len(first.collect()) == len(others)
    assert stores[0].num_keys() == before + 1


@given(count=st.integers(0, 12), replicas=st.integers(1, 4), order=st.lists(st.integers(0, 3), max_size=30))
def test_each_number_is_claimed_once_and_in_order(count: int, replicas: int, order: list[int]) -> None:
    """``order``: whose turn it is; at the end everybody claims what is left."""
    claims = [queue.claim_all() for queue in queues([HashStore()] * replicas, count)]
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
    first, *others = queues([HashStore()] * 4, 0)
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
    stores: Stores = [HashStore()] * 2
    (first, second), (other, another) = queues(stores, 2, "one"), queues(stores, 2, "two")
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
