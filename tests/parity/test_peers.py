"""The kernel that sums over GPUs, in Triton's interpreter: one rank's part, with what the others would have written."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from neoxrun.parallel.peers import PeerMemory

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("tests/gpu has this on several GPUs", allow_module_level=True)

from neoxrun.model.kernels import fused

ROWS, WIDTH = 4, 48


class Ranks:
    """The buffers of all ranks, as one of them sees them."""

    def __init__(self, count: int, own: int) -> None:
        self.count, self.own = count, own
        halves = 2 * count * ROWS * WIDTH * 4
        self._buffers = [torch.zeros(halves + 4 * count * ROWS, dtype=torch.uint8) for _ in range(count)]
        self._halves = halves
        addresses = torch.tensor([buffer.data_ptr() for buffer in self._buffers])
        uses = torch.zeros(ROWS, dtype=torch.int32)
        self.memory = PeerMemory(ROWS, addresses, uses, halves, own)
        self.uses = [0] * ROWS

    def data(self, rank: int) -> torch.Tensor:
        return self._buffers[rank][: self._halves].view(torch.float32).view(2, self.count, ROWS, WIDTH)

    def flags(self, rank: int) -> torch.Tensor:
        return self._buffers[rank][self._halves :].view(torch.int32).view(self.count, ROWS)

    @property
    def others(self) -> list[int]:
        return [rank for rank in range(self.count) if rank != self.own]


@pytest.mark.parametrize(("count", "own"), [(2, 0), (2, 1), (4, 0), (4, 2), (4, 3)])
def test_sums_and_what_the_others_get(count: int, own: int) -> None:
    ranks = Ranks(count, own)
    norm = (torch.ones(WIDTH), torch.zeros(WIDTH))
    for rows in (1, 4, 2, 4, 3, 1):
        x = torch.randn(rows, WIDTH)
        parts = [torch.randn(rows, WIDTH) for _ in range(count)]
        for row in range(rows):
            ranks.uses[row] += 1
            for other in ranks.others:
                ranks.data(own)[ranks.uses[row] & 1, other, row] = parts[other][row]
                ranks.flags(own)[other, row] = ranks.uses[row]
        total, _ = fused.add_norms(x, (parts[own],), (norm,), 1e-5, ranks.memory)
        torch.testing.assert_close(total, x + torch.stack(parts).sum(0))
        for other in ranks.others:
            for row in range(rows):
                assert torch.equal(ranks.data(other)[ranks.uses[row] & 1, own, row], parts[own][row])
                assert ranks.flags(other)[own, row] == ranks.uses[row]
