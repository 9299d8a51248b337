"""One queue of work that all replicas pull from, and how their results come back to rank 0."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from neoxrun.parallel.mesh import Mesh


class WorkQueue:
    """Numbers 0 .. ``count - 1``, each claimed by one replica.

    Used by the leaders of the replicas. Without other replicas all of it is local. Results are JSON: the store that
    carries them listens on the network and knows no passwords.

    Args:
        mesh: this rank among the others.
        count: how many numbers there are.
        name: tells the queues of one run apart.

    Attributes:
        interrupted: whether another replica has given up before its work was done (on rank 0).
    """

    def __init__(self, mesh: Mesh, count: int, name: str) -> None:
        self._mesh, self._count, self._name = mesh, count, name
        self._store = mesh.store if mesh.replicas > 1 else None
        self._claimed = 0
        self._published = 0
        self._collected = [0] * mesh.replicas
        self._open = set(range(1, mesh.replicas))
        self.interrupted = False

    def claim_all(self) -> Iterator[int]:
        """The numbers that this replica is to work on: each is claimed when it is asked for, until all are."""
        while (number := self._claim_next()) < self._count:
            yield number

    @property
    def claimed(self) -> int:
        """How many numbers have been claimed so far, from 0 on; once all are, it may be more than there are."""
        return self._claimed if self._store is None else int(self._store.add(f"{self._name}/claimed", 0))

    def publish(self, result: Any) -> None:
        """Send a result, made of JSON values, to rank 0 (from another replica)."""
        self._send({"result": result})

    def close(self, *, interrupted: bool) -> None:
        """Say that this replica has no more results, and whether it gave up before its end (from another replica)."""
        self._send({"closed": True, "interrupted": interrupted})

    def collect(self) -> list[Any]:
        """The results that other replicas have published since the last call (on rank 0)."""
        results = []
        for replica in sorted(self._open):
            while self._store is not None and self._store.check([self._key(replica, self._collected[replica])]):
                key = self._key(replica, self._collected[replica])
                message = json.loads(self._store.get(key))
                self._store.delete_key(key)
                self._collected[replica] += 1
                if "closed" in message:
                    self._open.discard(replica)
                    self.interrupted |= message["interrupted"]
                    break
                results.append(message["result"])
        return results

    @property
    def others_working(self) -> bool:
        """Whether other replicas may still publish results (on rank 0)."""
        return bool(self._open)

    def _claim_next(self) -> int:
        if self._store is not None:
            return int(self._store.add(f"{self._name}/claimed", 1)) - 1
        self._claimed += 1
        return self._claimed - 1

    def _send(self, message: dict[str, Any]) -> None:
        assert self._store is not None, "a lone replica keeps its results"
        self._store.set(self._key(self._mesh.replica, self._published), json.dumps(message))
        self._published += 1

    def _key(self, replica: int, number: int) -> str:
        return f"{self._name}/{replica}/{number}"
