"""``--plot FILE``, and ``neoxrun plot``: what can be said of the file before anything is drawn."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Final

from neoxrun.errors import DataError, UsageError, writing_code

_FORMATS: Final = (".png", ".svg", ".pdf")
_MARK: Final = "neoxrun"


def check_plot(path: Path, option: str = "--plot", what: str | None = None) -> None:
    """Fail before the run rather than after it.

    Args:
        path: where the picture is to go.
        option: that names it.
        what: needs matplotlib; None: the option.

    Raises:
        UsageError: matplotlib is missing, or does not know the format.
        DataError: the folder cannot be written to, or the file exists and is not a plot of neoxrun.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            f"{what or option} needs matplotlib, which is not installed",
            code="missing_package",
            hint="Install it: pip install 'neoxrun[plot]'",
        )
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"{option} {path} does not end in {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}",
            code="invalid_value",
            hint="The end of the name decides the format.",
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        foreign = path.is_file() and _MARK.encode() not in path.read_bytes()
    except OSError as error:
        raise unwritable_plot(path, error, option) from None
    if foreign:
        raise DataError(
            f"{path} exists, and is not a plot of neoxrun",
            code="other_file",
            where=str(path),
            hint=f"Name another file with {option}, or remove this one.",
        )


def plot_mark(path: Path) -> dict[str, str]:
    """What a plot says of its origin, for ``check_plot``: the metadata to save it with."""
    return {"Software" if path.suffix.lower() == ".png" else "Creator": _MARK}


def unwritable_plot(path: Path, error: OSError, option: str = "--plot") -> DataError:
    """The error for a plot that the system does not write."""
    return DataError(
        f"the plot cannot be written to {path}: {error.strerror}",
        code=writing_code(error),
        where=str(path),
        hint=f"Name another file with {option}.",
    )
