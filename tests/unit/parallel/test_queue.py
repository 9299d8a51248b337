"""The queue of work: threads stand for the leaders of the replicas, each with a connection of its own to the store."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
import torch
from torch.distributed import HashStore, TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from neoxrun.parallel.mesh import single
from neoxrun.parallel.queue import WorkQueue

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
    lone = single(torch.device("cpu"))
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
    claimed = at_once(lambda queue: list(queue.claims()), queues(stores, 1000))
    assert sorted(number for numbers in claimed for number in numbers) == list(range(1000))
    assert all(numbers == sorted(numbers) for numbers in claimed)


def test_numbers_that_some_leave_are_claimed_by_others(stores: Stores) -> None:
    """A replica that is interrupted claims no more, and one that is late finds what is left."""
    first, second, third, late = queues(stores, 10)
    assert [*islice(first.claims(), 2), *islice(second.claims(), 3)] == [0, 1, 2, 3, 4]
    assert list(third.claims()) == [5, 6, 7, 8, 9]
    assert list(late.claims()) == []


def test_no_work(stores: Stores) -> None:
    assert at_once(lambda queue: list(queue.claims()), queues(stores, 0)) == [[]] * REPLICAS


def test_results_arrive_whole_and_in_each_replicas_order(stores: Stores) -> None:
    first, *others = queues(stores, 300)

    def finished(number: int) -> dict[str, Any]:
        return {"number": number, "text": f"{number} ﬁ\u2028", "scores": [0.1 * number, None, True]}

    def work(queue: WorkQueue) -> None:
        for number in queue.claims():
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


def test_collecting_keeps_the_order_of_publication(stores: Stores) -> None:
    first, second, third, fourth = queues(stores, 0)
    for at in range(3):
        third.publish(["third", at])
        second.publish(["second", at])
    settle(stores)
    assert first.collect() == [*(["second", at] for at in range(3)), *(["third", at] for at in range(3))]
    assert first.collect() == []
    fourth.publish("late")
    second.publish("more")
    settle(stores)
    assert first.collect() == ["more", "late"]
    assert first.others_working


def test_a_replica_that_has_closed_is_waited_for_no_longer(stores: Stores) -> None:
    first, *others = queues(stores, 0)
    for queue in others:
        queue.publish("last")
        queue.close(interrupted=False)
        settle(stores)
        assert first.others_working, "what it has sent has not been collected yet"
        assert first.collect() == ["last"]
    assert not first.others_working
    assert not first.interrupted


@pytest.mark.parametrize("interrupted", [1, 2, 3])
def test_one_interrupted_replica_is_enough(stores: Stores, interrupted: int) -> None:
    first, *others = queues(stores, 0)
    for replica, queue in enumerate(others, 1):
        queue.publish(replica)
        queue.close(interrupted=replica == interrupted)
    settle(stores)
    assert first.collect() == [1, 2, 3], "what it had finished before still counts"
    assert first.interrupted
    assert not first.others_working


def test_queues_of_two_names_do_not_mix(stores: Stores) -> None:
    old, new = queues(stores, 5, "round 1"), queues(stores, 5, "round 2")
    assert list(old[1].claims()) == list(new[2].claims()) == list(range(5))
    old[1].publish("old")
    new[1].publish("new")
    settle(stores)
    assert new[0].collect() == ["new"]
    assert old[0].collect() == ["old"]


def test_nothing_is_left_in_the_store_but_the_counter(stores: Stores) -> None:
    """An evaluation makes thousands of rounds; what is collected is deleted."""
    first, *others = queues(stores, 3)
    before = stores[0].num_keys()
    for queue in others:
        next(queue.claims())
        queue.publish("x" * 1000)
        queue.close(interrupted=False)
    settle(stores)
    assert stores[0].num_keys() == before + 1 + 2 * len(others)
    assert len(first.collect()) == len(others)
    assert stores[0].num_keys() == before + 1


def test_a_lone_replica_asks_nobody() -> None:
    queue = WorkQueue(single(torch.device("cpu")), 3, "work")
    assert list(queue.claims()) == [0, 1, 2]
    assert list(queue.claims()) == []
    assert not queue.others_working
    assert queue.collect() == []
    assert not queue.interrupted
