"""What torch.save wrote next to the tensors, read without torch and without trust: GPT-NeoX's options, for example.

Such a file is a zip archive with one pickle. The pickle is not opened by Python's unpickler: the operations that
torch writes are carried out here, in time and memory in proportion to the file, and every name that they look up
becomes an inert stand-in. Nothing is imported and nothing of the file is executed.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neoxrun.errors import CheckpointError

_LARGEST: Final = 1 << 26  # bytes of a pickle; a tensor takes some 200
_MOST_OPERATIONS: Final = 1 << 21  # a tensor takes fewer than 50
_MOST_VALUES: Final = 100_000  # in `args`; GPT-NeoX has some 300
_DEEPEST: Final = 32

# The operations that push a constant, and those that push what is written in them.
_CONSTANTS: Final[Mapping[str, object]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_WRITTEN: Final = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ORDERED: Final = ("collections", "OrderedDict")
_OTHER_KEYS: Final = "(keys that are not texts)"


@dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """In place of every name in a pickle, and of every object that it builds.

    Attributes:
        arguments: what the object would have been made of.
        name: the module and the name in it, for a name.
    """

    arguments: tuple[object, ...] = ()
    name: tuple[object, object] | None = None


def read_without_tensors(path: Path) -> Mapping[str, Any]:
    """The mapping that torch.save wrote to ``path``, with stand-ins for everything but plain values and mappings.

    Empty for a file of torch before 1.6, which is not an archive, and for one that holds something else.

    Raises:
        CheckpointError: the file cannot be read, or is damaged.
    """
    with _damage_reported(path):
        return _read(path)


def read_saved_args(path: Path) -> dict[str, Any]:
    """The plain values in ``args`` of an mp_rank file, by GPT-NeoX's option; empty if it has none.

    Raises:
        CheckpointError: as ``read_without_tensors``.
    """
    with _damage_reported(path):
        args = _read(path).get("args")
        if not isinstance(args, dict):
            return {}
        left = iter(range(_MOST_VALUES))
        return {key: value for key, value in args.items() if _is_plain(value, left)}


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # arbitrary bytes can lead to anything
        raise CheckpointError(
            f"{path.name} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}",
            code="damaged_file",
            where=str(path),
            hint="Copy or download the file again.",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    content: object = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickles = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) == 1 and pickles[0].file_size <= _LARGEST:
                content = _build(archive.read(pickles[0]))
    return content if isinstance(content, dict) else {}


def _build(content: bytes) -> object:
    """The value that a pickle of protocol 2 to 5 describes, with stand-ins.

    Raises:
        Exception: of any kind, for what is not such a pickle.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if count == _MOST_OPERATIONS:
            raise ValueError(f"its pickle has more than {_MOST_OPERATIONS:,} operations")
        name = operation.name
        if name in _WRITTEN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            if not name.endswith("S"):
                marks.append(len(stack) - (2 if name == "SETITEM" else 1))
            _put_into(since_mark(), stack[-1], name)
        elif name == "GLOBAL":
            stack.append(Inert(name=tuple(argument.split(" ", 1))))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [Inert(name=(stack[-2], stack[-1]))]
        elif name == "BINPERSID":
            stack[-1] = Inert((stack[-1],))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = _made(stack[-1], arguments)
        elif name in ("BUILD", "POP"):  # BUILD gives the object before it attributes, which nobody asks for
            if name == "POP" and marks and marks[-1] == len(stack):
                marks.pop()
            else:
                stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle has the operation {name}, which torch.save does not write")
    return stack[-1]


def _made(function: object, arguments: object) -> object:
    if not isinstance(arguments, tuple):
        raise TypeError("its pickle has a call without arguments")
    if isinstance(function, Inert) and function.name == _ORDERED:
        return {}
    return Inert(arguments)


def _put_into(items: list[Any], target: object, name: str) -> None:
    """Append items to a list, or set them, key by key, in a mapping; a stand-in keeps nothing.

    Only texts are keys: whoever writes a file can make other keys that take forever to hash or to tell apart.
    """
    if isinstance(target, list) and name.startswith("APPEND"):
        target += items
    elif isinstance(target, dict) and name.startswith("SETITEM"):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str):
                target[key] = value
            else:
                target[_OTHER_KEYS] = Inert()
    elif not isinstance(target, Inert):
        raise TypeError("its pickle puts items into what holds none")


def _is_plain(value: object, left: Iterator[int], depth: int = 0) -> bool:
    """Whether a value is one that YAML could hold; parts of it that it holds twice count twice.

    Raises:
        ValueError: that was more than is ``left``.
    """
    if next(left, None) is None:
        raise ValueError(f"its args hold more than {_MOST_VALUES:,} values")
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return depth < _DEEPEST and all(_is_plain(part, left, depth + 1) for part in parts)
    return value is None or isinstance(value, bool | int | float | str)
