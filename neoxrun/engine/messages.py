"""What the leader of a replica tells its other ranks to do. Every rank carries out the same messages in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.scoring import Row
from neoxrun.parallel.mesh import Mesh


@dataclass(frozen=True)
class Reserve:
    """Allocate the cache: at most ``slots`` sequences of at most ``length`` positions."""

    slots: int
    length: int


@dataclass(frozen=True)
class Free:
    """Give the cache's memory back."""


@dataclass(frozen=True)
class Prefill:
    """Take new sequences into slots ``first_slot``, ``first_slot + 1``, ... and sample each one's first token."""

    first_slot: int
    prompts: Sequence[Sequence[int]]
    params: Sequence[SamplingParams]


@dataclass(frozen=True)
class Decode:
    """One more token for the sequences in slots 0, 1, ...: the last token of each and its position."""

    tokens: Sequence[int]
    positions: Sequence[int]


@dataclass(frozen=True)
class Move:
    """Copy the first ``length`` positions of slot ``source`` over slot ``target``."""

    source: int
    target: int
    length: int


@dataclass(frozen=True)
class Score:
    """Log-probabilities of given tokens; the cache stays as it is. See ``scoring`` for what a row is."""

    rows: Sequence[Row]


@dataclass(frozen=True)
class ReleaseFollowers:
    """The leader has no more messages for now: the other ranks return from ``Replica.follow``."""


Instruction = Reserve | Free | Prefill | Decode | Move | Score
"""What every rank of a replica carries out."""
Message = Instruction | ReleaseFollowers

_INLINE = 64


class Channel:
    """Carries messages from the leader of a replica to its other ranks.

    A decode step of up to 64 sequences travels as one small tensor, since it is sent once a token; the rest are
    pickled objects, between processes of the same program.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._buffer = torch.zeros(1 + 2 * _INLINE, dtype=torch.int64)

    def send(self, message: Message) -> None:
        """Tell the other ranks; nothing to do where there are none."""
        if self._mesh.replica_group is None:
            return
        if isinstance(message, Decode) and len(message.tokens) <= _INLINE:
            row = [len(message.tokens), *message.tokens, *message.positions]
            self._buffer[: len(row)] = torch.tensor(row)
            self._mesh.broadcast(self._buffer)
            return
        self._buffer[0] = 0
        self._mesh.broadcast(self._buffer)
        self._mesh.broadcast_object(message)

    def receive(self) -> Message:
        """Wait for the leader's next message."""
        row = self._mesh.broadcast(self._buffer).tolist()
        count = row[0]
        if count:
            return Decode(row[1 : 1 + count], row[1 + count : 1 + 2 * count])
        message: Message = self._mesh.broadcast_object(None)
        return message
