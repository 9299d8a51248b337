"""CUDA graphs of whole decode steps: hundreds of kernels launched at once, for a few sizes of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Sequences of the graphs; a step of any other number takes the next larger one."""


class DecodeGraphs:
    """The captured steps of one rank. All share one pool of memory.

    Args:
        forward: from the packed input of a step, on the device, to this rank's output. It is captured.
        width: numbers of each row of the input.
        most: most sequences of a step.
        device: the GPU.
    """

    def __init__(
        self, forward: Callable[[torch.Tensor], torch.Tensor], width: int, most: int, device: torch.device
    ) -> None:
        self._forward, self._width, self._device = forward, width, device
        self._sizes = [size for size, before in zip(SIZES, (0, *SIZES), strict=False) if before < most]
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def size_for(self, count: int) -> int | None:
        """Rows of the smallest graph that takes ``count`` sequences; None where there is none."""
        return next((size for size in self._sizes if size >= count), None)

    def capture(self, most: int, padding: Callable[[int], torch.Tensor]) -> None:
        """Capture those graphs for up to ``most`` sequences that are not there yet: a tenth of a second each.

        Args:
            most: as many sequences a step may have.
            padding: an input of so many rows, in pinned memory, from which nothing comes.
        """
        largest = self.size_for(most) or self._sizes[-1]
        for size in self._sizes:
            if size <= largest and size not in self._graphs:
                self._graphs[size] = self._capture(padding(size))

    def replay(self, packed: torch.Tensor) -> torch.Tensor:
        """The output for an input in pinned memory, of a size that ``size_for`` gave; valid until the next replay."""
        graph, place, output = self._graphs[len(packed)]
        place.copy_(packed, non_blocking=True)
        graph.replay()
        return output

    def _capture(self, packed: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        place = packed.to(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._forward(place)  # kernels are compiled and communicators made before the capture
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            output = self._forward(place)
        return graph, place, output
