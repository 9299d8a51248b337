"""Kernels of our own, the choice among those of torch, and which of them a device gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch

from neoxrun.parallel.mesh import Mesh
from neoxrun.terminal.log import log

_withheld: set[torch.device] = set()


def triton_kernels(device: torch.device) -> ModuleType | None:
    """The fused kernels of a GPU; None on other devices, and where Triton cannot compile: torch's own serve then.

    Triton compiles when a kernel first runs, for which it needs a C compiler and Python's headers.
    """
    return None if device.type != "cuda" or device in _withheld else _compiled(device)


def agree_on_kernels(mesh: Mesh) -> bool:
    """Whether all ranks of a replica have the fused kernels; otherwise none uses them. All ranks call it.

    What they do together depends on it: graphs, and kernels that wait for each other.
    """
    own = triton_kernels(mesh.device) is not None
    if mesh.minimum(own):
        return True
    if own:
        log.warning("another rank cannot compile the GPU kernels, and slower ones are used here, too")
        _withheld.add(mesh.device)
    return False


@cache
def _compiled(device: torch.device) -> ModuleType | None:
    try:
        from neoxrun.model.kernels import fused

        fused.add_norms(torch.ones(1, 16, device=device), (), ((torch.ones(16, device=device), None),), 1e-5)
    except Exception as error:  # whatever is missing of a compiler's many parts
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning(f"the GPU kernels cannot be compiled, and slower ones are used instead: {first_line}")
        return None
    return fused


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def forked(device: torch.device) -> Iterator[Callable[[], None]]:
    """Let a GPU compute what is in the block at the same time as what follows it, up to the call of ``join``.

    Only while a graph is captured: launched one by one, the kernels do not come fast enough for two streams.
    """
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        yield lambda: None
        return
    main, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        yield lambda: main.wait_stream(side)
