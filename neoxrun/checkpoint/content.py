"""Checks of a weights file's content, without torch and without opening its pickle.

The loader and the downloader refuse the same files for the same reasons: files that are not weights, archives that
lack some of their bytes, and pickles that name more than weights need.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

from neoxrun.errors import CheckpointError

AGAIN: Final = "Copy or download the file again."
"""The hint for a damaged file."""

NOT_TORCH: Final = "is not a file written by torch.save"

ARCHIVE: Final = b"PK\x03\x04"
"""What a file of torch.save begins with."""

LEGACY: Final = b"\x80"
"""The same before torch 1.6."""

NUMPY_GLOBALS: Final = frozenset(
    {
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray._reconstruct",  # its name before numpy 2
        "numpy.ndarray",
        "numpy.dtype",
    }
)
"""The names in numpy's random state in GPT-NeoX's mp_rank files: they build arrays and nothing else."""

_TYPES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_DTYPES = ("bfloat16", "float16", "float32", "float64", "complex64", "complex128", "bool")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8")

ALLOWED_GLOBALS: Final = NUMPY_GLOBALS | {
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.Size",
    "torch.Tensor",
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    "torch.ComplexDoubleStorage",
    "torch.ComplexFloatStorage",
    *(f"torch.{prefix}{name}Storage" for name in _TYPES for prefix in ("", "cuda.")),
    *(f"torch.{name}" for name in (*_DTYPES, *_INTEGERS)),
}
"""Every name that a pickle of weights may hold. torch's ``weights_only`` accepts them too."""

# The opcodes other than GLOBAL with which a pickle can name a global. torch writes none of them, and refuses them.
_OTHER_WAYS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}

# What pickletools raises for arbitrary bytes, which may claim a length beyond any memory.
_NO_PICKLE = (ValueError, EOFError, OverflowError, MemoryError)

_LARGEST_PICKLE = 1 << 30
_LARGEST_HEADER = 100_000_000  # of a safetensors file, as in its own library
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file: its type, its shape, and where in the file its bytes begin and end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def damaged_file(path: Path, what: str) -> CheckpointError:
    """The error for a file that is not whole, or not what it should be: its name, and ``what`` is the matter."""
    return CheckpointError(f"{path.name} {what}", code="damaged_file", where=str(path), hint=AGAIN)


def refuse_other_content(path: Path, start: bytes) -> None:
    """Refuse a file that a failed download has left under the name of a weights file.

    Args:
        path: the file.
        start: its first 64 bytes or more; all of them if it is shorter.

    Raises:
        CheckpointError: it is empty, a web page or a pointer to the weights.
    """
    text = start.lstrip().lower()
    if not start:
        what = "is empty (0 bytes)"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        what = "is not a weights file: it looks like a web page, so the download failed"
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the weights (`git lfs pull` fetches them)"
    else:
        return
    raise damaged_file(path, what)


def check_archive(path: Path) -> Counter[int]:
    """Prove that the file holds every byte of every record that the archive's directory names.

    Returns:
        The sizes of the records that hold tensor data.

    Raises:
        CheckpointError: bytes are missing.
    """
    damaged = damaged_file(path, "is damaged or was cut short")
    sizes: Counter[int] = Counter()
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            # From the back: each record must end where the next one begins, the last one at the directory.
            following = min(archive.start_dir, end)
            for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
                file.seek(info.header_offset)
                signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
                first = info.header_offset + 30 + name + extra
                if signature != ARCHIVE or info.compress_type != zipfile.ZIP_STORED:
                    raise damaged
                if first + info.file_size > following:
                    raise damaged
                following = info.header_offset
                if "/data/" in info.filename:
                    sizes[info.file_size] += 1
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise damaged from error
    return sizes


def unreadable_file(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the system does not let us read."""
    return CheckpointError(f"cannot read {path.name}: {error.strerror}", code="unreadable_checkpoint", where=str(path))


def unsafe_pickle(path: Path, names: list[str]) -> CheckpointError:
    """The error for a pickle that names more than weights need."""
    return CheckpointError(
        f"{path.name} asks to run {', '.join(names)} when it is opened: refused, nothing was executed",
        code="unsafe_file",
        where=str(path),
        hint="Weights need no code. Do not use this file unless you know who wrote it.",
    )


def check_archive_pickle(path: Path) -> None:
    """Check the names in the pickle of an archive that torch.save wrote. Nothing is executed.

    Raises:
        CheckpointError: there is no pickle, it cannot be read, or it names more than weights need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > _LARGEST_PICKLE:
                raise damaged_file(path, NOT_TORCH)
            with archive.open(pickles[0]) as file:
                _refuse_names(path, _globals(file))
    except (zipfile.BadZipFile, OSError, *_NO_PICKLE, NotImplementedError) as error:
        raise damaged_file(path, f"is damaged: {error}") from error


def check_legacy_pickles(path: Path) -> None:
    """The same for a file of torch before 1.6: five pickles, followed by the tensors' bytes.

    Raises:
        CheckpointError: as ``check_archive_pickle``.
    """
    try:
        with path.open("rb") as file:
            magic = [argument for opcode, argument, _ in pickletools.genops(file) if opcode.name == "LONG1"]
            if magic != [_LEGACY_MAGIC]:
                raise damaged_file(path, NOT_TORCH)
            for _ in range(4):
                _refuse_names(path, _globals(file))
    except (OSError, *_NO_PICKLE) as error:
        raise damaged_file(path, "is damaged or was cut short") from error


def _refuse_names(path: Path, names: Iterator[str]) -> None:
    foreign = sorted(set(names) - ALLOWED_GLOBALS)
    if foreign:
        raise unsafe_pickle(path, foreign[:5])


def _globals(file: IO[bytes]) -> Iterator[str]:
    """The globals that the next pickle in ``file`` would look up.

    Raises:
        ValueError: it is not a pickle.
    """
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif opcode.name in _OTHER_WAYS:
            yield f"something by {opcode.name}"


def read_safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; they fill it without gaps.

    Raises:
        CheckpointError: it is cut short or damaged, or its header contradicts itself.
        OSError: it cannot be read.
    """

    def damaged(why: str) -> CheckpointError:
        return damaged_file(path, f"is not a complete safetensors file: {why}")

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
        if length > _LARGEST_HEADER:
            raise damaged("it has no header")
        if 8 + length > size:
            raise damaged("it ends within its header")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {name: _stored_tensor(name, entry, 8 + length) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise damaged(f"its header cannot be read ({error})") from error
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin != end:
            raise damaged(f"the bytes of {name} do not begin where those of the tensor before end")
        end = tensor.end
    if end != size:
        raise damaged(f"its tensors need {end:,} bytes, and it has {size:,}")
    return tensors


def _stored_tensor(name: str, entry: dict[str, object], start: int) -> StoredTensor:
    """What a header says of a tensor; ``start`` is where the header ends.

    Raises:
        ValueError, TypeError, KeyError: the entry contradicts itself.
    """
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"{name} has no shape or no data offsets")
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in [*shape, *offsets]):
        raise ValueError(f"{name} has a size or an offset that is not a number")
    first, last = offsets
    # For a type newer than this table only the offsets can be checked.
    bits = _BITS.get(str(dtype))
    if last < first or (bits is not None and (last - first) * 8 != math.prod(shape) * bits):
        raise ValueError(f"{name} has {last - first} bytes, which does not match its shape and type")
    return StoredTensor(str(dtype), tuple(shape), start + first, start + last)


def is_file_name(name: object) -> bool:
    """Whether what an index of weights names is a file in its own folder, and not a path to another."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name
