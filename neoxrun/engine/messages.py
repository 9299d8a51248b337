"""What the leader of a replica tells its other ranks to do. Every rank carries out the same instructions in order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neoxrun.engine.scoring import Row
from neoxrun.engine.steps import Span, Step
from neoxrun.parallel.mail import Mail
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
    """Log-probabilities of given tokens. See ``scoring`` for what a row is, and ``Replica.score`` for ``top``."""

    rows: Sequence[Row]
    top: int | None = None


@dataclass(frozen=True)
class ReleaseFollowers:
    """No more instructions: ``follow`` returns."""


Instruction = Reserve | FreeCache | Step | Score | ReleaseFollowers

INSTRUCTIONS, TOKENS = 1, 2  # tags of mail
_INLINE = 64
_FIELDS = 6  # numbers of a span
_NONE = -1


class Channel:
    """Carries instructions from the leader of a replica to its other ranks.

    Between tensor-parallel ranks, which compute the same steps at the same time, a step of up to 64 single tokens
    travels as one small tensor, since it is sent once a token; the rest are pickled objects, between processes of the
    same program. With pipeline stages the leader does not wait until the later ones are free to receive.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._buffer = torch.zeros(1 + _FIELDS * _INLINE, dtype=torch.int64)
        self._mail: Mail | None = None
        if mesh.pp > 1:
            assert mesh.replica_group is not None
            self._mail = Mail(mesh.replica_group, INSTRUCTIONS, most=4 * mesh.pp)

    def send(self, instruction: Instruction) -> None:
        """Tell the other ranks; nothing to do where there are none."""
        if self._mesh.replica_group is None:
            return
        numbers: list[int] = []
        if isinstance(instruction, Step) and _is_small(instruction):
            numbers = [number for span in instruction.spans for number in _encode(span)]
        if self._mail is not None:
            self._mail.send(numbers or instruction, self._mesh.other_ranks)
            if isinstance(instruction, ReleaseFollowers):
                self._mail.flush()
            return
        self._buffer[0] = len(numbers) // _FIELDS
        self._buffer[1 : 1 + len(numbers)] = torch.tensor(numbers)
        self._mesh.broadcast(self._buffer)
        if not numbers:
            self._mesh.broadcast_object(instruction)

    def receive(self) -> Instruction:
        """Wait for the leader's next instruction."""
        if self._mail is not None:
            received: list[int] | Instruction = self._mail.receive(self._mesh.rank_at(0, 0))
            return _step_of(received) if isinstance(received, list) else received
        count, *numbers = self._mesh.broadcast(self._buffer).tolist()
        if count:
            return _step_of(numbers[: count * _FIELDS])
        instruction: Instruction = self._mesh.broadcast_object(None)
        return instruction


def _step_of(numbers: Sequence[int]) -> Step:
    return Step([_decode(numbers[at : at + _FIELDS]) for at in range(0, len(numbers), _FIELDS)])


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
