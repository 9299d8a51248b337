"""Reading one weights file without trusting it.

Nothing in a file is executed (``weights_only``), and tensors are views of the mapped file, not copies. Before anything
touches the mapping, the file is checked to hold all the bytes that its directory promises: a read beyond the end of a
mapped file would kill the process.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from neoxrun.checkpoint.content import (
    AGAIN,
    ARCHIVE,
    LEGACY,
    NOT_TORCH,
    NUMPY_GLOBALS,
    check_archive,
    damaged_file,
    read_safetensors_header,
    refuse_other_content,
    unreadable_file,
    unsafe_pickle,
)
from neoxrun.errors import CheckpointError


def _allowed_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """The objects that ``content.NUMPY_GLOBALS`` names, in torch's form, and the dtype of numpy's random state."""
    values: dict[str, Callable[..., Any]] = {
        "_reconstruct": np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }
    return [*((values[name.rpartition(".")[2]], name) for name in sorted(NUMPY_GLOBALS)), type(np.dtype(np.uint32))]


class StandIn:
    """In place of an object of a program's own class: it keeps what that would have been made of, and runs nothing.

    Attributes:
        arguments: what it would have been called with. What it would have been given later are attributes, too.
    """

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments


def read_pickle(path: Path, stand_ins: Sequence[str] = ()) -> Mapping[str, Any]:
    """The dictionary that ``torch.save`` wrote to ``path``; its tensors are views of the mapped file.

    Files of torch before 1.6 cannot be mapped: their tensors are in memory.

    Args:
        path: the file.
        stand_ins: full names of classes in it that are neither imported nor called: ``StandIn`` takes their part.

    Raises:
        CheckpointError: the file is damaged, is not such a file, or asks to run code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise unreadable_file(path, error) from error
    refuse_other_content(path, start)
    if not start.startswith((ARCHIVE, LEGACY)):
        raise damaged_file(path, NOT_TORCH)
    mapped = start.startswith(ARCHIVE)
    records = check_archive(path) if mapped else None
    # torch warns about other protocols and continues; what it cannot read or does not allow is refused below. The
    # filter stays: warnings.catch_warnings in a thread that loads would undo what other threads set meanwhile.
    warnings.filterwarnings("ignore", message="Detected pickle protocol")
    try:
        with torch.serialization.safe_globals([*_allowed_globals(), *((StandIn, name) for name in stand_ins)]):
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        # On arbitrary bytes torch.load may raise anything; to the user it all means the same.
        raise _unreadable(path, error, stand_ins) from error
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{path.name} holds a {type(value).__name__}, not named tensors",
            code="unsupported_checkpoint",
            where=str(path),
        )
    if records is not None:
        _check_storages(path, value, records)
    return value


def _check_storages(path: Path, value: Mapping[str, Any], records: Counter[int]) -> None:
    """Prove that each storage is exactly one record: a longer one would read its neighbour's bytes."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors_in(value)
        if tensor.layout is torch.strided and tensor.numel()
    }
    if Counter(storages.values()) - records:
        raise damaged_file(path, "is damaged: the sizes of its tensors are not those of its data")


def _tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors in a value, however deep; each container once, since it may contain itself."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Mapping | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values() if isinstance(part, Mapping) else part


def _unreadable(path: Path, error: Exception, stand_ins: Sequence[str]) -> CheckpointError:
    names: list[str] = []
    if zipfile.is_zipfile(path):
        try:
            with torch.serialization.safe_globals(_allowed_globals()):
                unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            names = sorted(set(unsafe) - set(stand_ins))
        except Exception:
            names = []  # the pickle cannot even be listed: the first error is reported
    if not names:
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    if names:
        return unsafe_pickle(path, names)
    if operation := re.search(r"Unsupported operand \d+", str(error)):
        return CheckpointError(
            f"{path.name} is not a pickle as torch.save writes it ({operation[0].lower()}): refused, "
            "nothing was executed",
            code="unsafe_file",
            where=str(path),
            hint=f"{AGAIN} Do not use this one unless you know who wrote it.",
        )
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return damaged_file(path, f"cannot be read: {first_line}")


def read_safetensors(path: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file (all, or those in ``names``), as views of the mapped file.

    Raises:
        CheckpointError: the file is damaged or is not a safetensors file.
    """
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}


def safetensors_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file.

    Raises:
        CheckpointError: the file is damaged or is not a safetensors file.
    """
    with _open_safetensors(path) as file:
        return list(file.keys())


def safetensors_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says next to its tensors.

    Raises:
        CheckpointError: the file is damaged or is not a safetensors file.
    """
    with _open_safetensors(path) as file:
        return file.metadata() or {}


def _open_safetensors(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(64)
        refuse_other_content(path, start)
        return safetensors.safe_open(path, framework="pt", device="cpu")
    except CheckpointError:
        raise
    except OSError as error:
        raise unreadable_file(path, error) from error
    except Exception as error:
        read_safetensors_header(path)  # says better what is wrong
        raise damaged_file(path, f"is not a complete safetensors file: {error}") from error
