"""What torch.save wrote next to the tensors, read without torch and without trust: GPT-NeoX's options, for example.

Such a file is a zip archive with one pickle. Every name that the pickle looks up becomes an inert stand-in here,
whatever it is: nothing is imported and nothing of the file is executed.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from neoxrun.errors import CheckpointError

_LARGEST: Final = 1 << 28  # bytes of a pickle; that of a model with 100,000 tensors has 20 MB


class Inert:
    """In place of every object that the pickle builds; it takes whatever is done to it and does nothing.

    Attributes:
        arguments: what the object would have been made of.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        self.arguments = arguments

    def __call__(self, *arguments: object, **options: object) -> Inert:
        """What a call in the pickle results in."""
        return self

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""

    def __setitem__(self, key: object, value: object) -> None:
        """Keep nothing."""

    def append(self, value: object) -> None:
        """Keep nothing."""

    def extend(self, values: object) -> None:
        """Keep nothing."""


class _Mapping(dict[Any, Any]):
    """In place of Python's ordered mapping, which may have attributes."""


class _Unpickler(pickle.Unpickler):
    """Builds plain values, and stand-ins for the rest."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """A stand-in for any name; a mapping for the ordered one of Python."""
        return _Mapping if (module_name, global_name) == ("collections", "OrderedDict") else Inert

    def persistent_load(self, pid: object) -> Any:
        """A stand-in for a tensor's data, made of the words that name them."""
        return Inert(pid)


def read_without_tensors(path: Path) -> Mapping[Any, Any]:
    """The mapping that torch.save wrote to ``path``, with stand-ins for everything but plain values and mappings.

    Empty for a file of torch before 1.6, which is not an archive, and for one that holds something else.

    Raises:
        CheckpointError: the file cannot be read, or is damaged.
    """
    content: object = None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                pickles = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "data.pkl"]
                if len(pickles) == 1 and pickles[0].file_size <= _LARGEST:
                    with archive.open(pickles[0]) as file:
                        content = _Unpickler(file).load()
    except Exception as error:  # on arbitrary bytes the unpickler may raise anything
        raise CheckpointError(
            f"{path.name} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}",
            code="damaged_file",
            where=str(path),
            hint="Copy or download the file again.",
        ) from error
    return content if isinstance(content, Mapping) else {}


def read_saved_args(path: Path) -> dict[str, Any]:
    """The plain values in ``args`` of an mp_rank file, by GPT-NeoX's option; empty if it has none.

    Raises:
        CheckpointError: as ``read_without_tensors``.
    """
    args = read_without_tensors(path).get("args")
    if not isinstance(args, Mapping):
        return {}
    return {key: value for key, value in args.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: object) -> bool:
    """Whether a value is one that YAML could hold."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
