"""What the leader of a replica tells its other ranks to do. Every rank carries out the same instructions in order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neoxrun.engine.scoring import Row
from neoxrun.engine.steps import Span, Step
from neoxrun.parallel.mesh import Mesh


@dataclass(frozen=True)
class Reserve:
    """Allocate the cache, unless one is there that is large enough: ``rows`` sequences of at most ``length`` tokens."""

    rows: int
    length: int


@dataclass(frozen=True)
class FreeCache:
    """Give the cache's memory back, for larger passes of scoring."""


@dataclass(frozen=True)
class Score:
    """Log-probabilities of given tokens. See ``scoring`` for what a row is."""

    rows: Sequence[Row]


@dataclass(frozen=True)
class ReleaseFollowers:
    """No more instructions: ``follow`` returns."""


Instruction = Reserve | FreeCache | Step | Score | ReleaseFollowers

_INLINE = 64
_FIELDS = 6  # numbers of a span
_NONE = -1


class Channel:
    """Carries instructions from the leader of a replica to its other ranks.

    A step of up to 64 single tokens travels as one small tensor, since it is sent once a token; the rest are pickled
    objects, between processes of the same program.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._buffer = torch.zeros(1 + _FIELDS * _INLINE, dtype=torch.int64)

    def send(self, instruction: Instruction) -> None:
        """Tell the other ranks; nothing to do where there are none."""
        if self._mesh.replica_group is None:
            return
        if isinstance(instruction, Step) and _is_small(instruction):
            numbers = [number for span in instruction.spans for number in _encode(span)]
            self._buffer[0] = len(instruction.spans)
            self._buffer[1 : 1 + len(numbers)] = torch.tensor(numbers)
            self._mesh.broadcast(self._buffer)
            return
        self._buffer[0] = 0
        self._mesh.broadcast(self._buffer)
        self._mesh.broadcast_object(instruction)

    def receive(self) -> Instruction:
        """Wait for the leader's next instruction."""
        count, *numbers = self._mesh.broadcast(self._buffer).tolist()
        if count:
            return Step([_decode(numbers[_FIELDS * at : _FIELDS * (at + 1)]) for at in range(count)])
        instruction: Instruction = self._mesh.broadcast_object(None)
        return instruction


def _is_small(step: Step) -> bool:
    if step.admitted or len(step.spans) > _INLINE:
        return False
    return all(len(span.ids) < 2 and len(span.pages) < 2 for span in step.spans)


def _encode(span: Span) -> tuple[int, ...]:
    (draw,) = struct.unpack("<q", struct.pack("<d", span.draw))
    return span.row, span.start, *(span.ids or (_NONE,)), *(span.pages or (_NONE,)), int(span.sampled), draw


def _decode(numbers: Sequence[int]) -> Span:
    row, start, token, page, sampled, bits = numbers
    (draw,) = struct.unpack("<d", struct.pack("<q", bits))
    return Span(row, start, () if token == _NONE else (token,), () if page == _NONE else (page,), bool(sampled), draw)
