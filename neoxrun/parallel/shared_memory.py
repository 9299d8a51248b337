"""GPU memory that the other processes of a host can map, by CUDA's driver: inter-process handles, with no torch.

torch has such memory, too, but its symmetric memory takes two seconds to start, and each of its shared tensors makes a
context on the other GPU, half a gigabyte.
"""

from __future__ import annotations

import ctypes
from functools import cache

_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_char * 64),)


def allocate_zeros(size: int) -> int:
    """The address of ``size`` new bytes of zeros on the current GPU, which last as long as the process.

    Raises:
        RuntimeError: there is no memory.
    """
    address = ctypes.c_uint64()
    _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
    _call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))
    _call("cuCtxSynchronize")
    return address.value


def handle_of(address: int) -> bytes:
    """What another process needs to ``map_handle`` the memory that ``allocate_zeros`` gave.

    Raises:
        RuntimeError: the driver does not allow it.
    """
    handle = _Handle()
    _call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(address))
    return bytes(handle)


def map_handle(handle: bytes) -> int:
    """The address on the current GPU of memory that another process has allocated on another GPU.

    Raises:
        RuntimeError: that GPU cannot be reached from this one.
    """
    address = ctypes.c_uint64()
    _call("cuIpcOpenMemHandle_v2", ctypes.byref(address), _Handle.from_buffer_copy(handle), ctypes.c_uint(_PEER_ACCESS))
    return address.value


def _call(name: str, *arguments: object) -> None:
    driver = _driver()
    if error := getattr(driver, name)(*arguments):
        text = ctypes.c_char_p()
        driver.cuGetErrorName(error, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()}")


@cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(f"the CUDA driver cannot be loaded: {error}") from error
