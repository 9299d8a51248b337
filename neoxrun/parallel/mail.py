"""Objects from one rank to another, whose sender does not wait until they are received."""

from __future__ import annotations

import pickle
from collections import deque
from typing import Any

import torch
import torch.distributed as dist


class Mail:
    """Messages among the ranks of a group, between processes of the same program.

    Args:
        group: the ranks.
        tag: tells these messages from others of the group.
        most: messages that may be on their way; a further one waits until the oldest has been received.
    """

    def __init__(self, group: dist.ProcessGroup, tag: int, most: int) -> None:
        self._group, self._tag, self._most = group, tag, most
        self._on_their_way: deque[list[tuple[dist.Work, torch.Tensor]]] = deque()

    def send(self, value: Any, ranks: list[int]) -> None:
        """Send an object to each of these global ranks."""
        content = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        parts = (torch.tensor([len(content)]), content)
        sent = []
        for rank in ranks:
            for part in parts:
                work = dist.isend(part, rank, group=self._group, tag=self._tag)
                assert work is not None, "this rank is in the group"
                sent.append((work, part))  # the tensor must live until it is sent
        self._on_their_way.append(sent)
        while len(self._on_their_way) > self._most:
            self._wait_for_oldest()

    def receive(self, rank: int) -> Any:
        """Wait for the next object from this global rank."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.recv(length, rank, group=self._group, tag=self._tag)
        content = torch.empty(int(length.item()), dtype=torch.uint8)
        dist.recv(content, rank, group=self._group, tag=self._tag)
        return pickle.loads(content.numpy().tobytes())

    def flush(self) -> None:
        """Wait until all that was sent has been received."""
        while self._on_their_way:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        for work, _ in self._on_their_way.popleft():
            work.wait()
