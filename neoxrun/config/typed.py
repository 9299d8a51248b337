"""Typed access to the options of a configuration. Every error names the option, its value, the file and the line."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import ConfigError

_LARGEST: Final = 2**31 - 1
D = TypeVar("D")


class ConfigOptions:
    """The merged options of a configuration.

    Every method has the option's name and the value to return when the option is not given as arguments. ``null``
    counts as not given where GPT-NeoX's default is null (``default=None``), and is refused elsewhere.
    """

    def __init__(self, entries: Mapping[str, ConfigEntry]) -> None:
        self._entries = entries

    def over(self, entries: Mapping[str, ConfigEntry]) -> ConfigOptions:
        """These options, with others over them."""
        return ConfigOptions({**self._entries, **entries})

    def part(self, name: str) -> ConfigOptions:
        """The options in a mapping, as ``name.option``; none where the mapping is not given."""
        entry = self.get(name)
        if entry is None:
            return ConfigOptions({})
        if not isinstance(entry.value, dict):
            raise self.refusal(name, "a mapping")
        return ConfigOptions(
            {f"{name}.{key}": replace(entry, key=f"{name}.{key}", value=value) for key, value in entry.value.items()}
        )

    def without_nulls(self) -> ConfigOptions:
        """Those that are not null, where null means the same as leaving an option out."""
        return ConfigOptions({name: entry for name, entry in self._entries.items() if entry.value is not None})

    def names(self) -> list[str]:
        """Those that are given."""
        return list(self._entries)

    def get(self, name: str) -> ConfigEntry | None:
        """The option as it was written; None if it was not given or is null."""
        entry = self._entries.get(name)
        return None if entry is None or entry.value is None else entry

    def where(self, *names: str) -> str | None:
        """File and line of the first of these options that is given."""
        return next((entry.where for name in names if (entry := self.get(name)) is not None), None)

    def written(self, name: str) -> str:
        """What the file that gives the option calls it."""
        entry = self._entries.get(name)
        return name if entry is None or entry.written is None else entry.written

    def refusal(self, name: str, must_be: str, hint: str | None = None) -> ConfigError:
        """The error for an option's value that is not allowed."""
        entry = self._entries[name]
        return ConfigError(
            f"{self.written(name)} must be {must_be}, not {_show(entry.value)}",
            code="invalid_value",
            where=entry.where,
            hint=hint,
        )

    def unsupported(self, name: str, supported: str, value: object = None) -> ConfigError:
        """The error for a value that GPT-NeoX knows, that changes the result, and that is not implemented.

        Args:
            name: the option.
            supported: the values that are supported.
            value: the unsupported part of the option's value; None: all of it.
        """
        entry = self._entries[name]
        return ConfigError(
            f"{self.written(name)}: {_show(entry.value if value is None else value)} is not supported",
            code="unsupported_option",
            where=entry.where,
            hint=f"Supported: {supported}. Options that change the result are never ignored.",
        )

    def integer(self, name: str, default: D, *, low: int = 1, high: int = _LARGEST) -> int | D:
        """A whole number from ``low`` to ``high``."""
        if not self._given(name, default):
            return default
        value = _unquoted(self._entries[name].value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refusal(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: D, *, most: float = math.inf, zero: bool = False) -> float | D:
        """A finite number greater than 0, or with ``zero`` also 0, and at most ``most``."""
        if not self._given(name, default):
            return default
        value = _unquoted(self._entries[name].value)
        limit = min(most, 1e30)  # NaN and infinity are beyond it too
        must_be = "a number of 0 or more" if zero else "a number greater than 0"
        must_be += f" and at most {most:g}" if most < math.inf else ""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
            raise self.refusal(name, must_be)
        if value == 0 and not zero:
            raise self.refusal(name, must_be)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        if not self._given(name, default):
            return default
        value = self._entries[name].value
        if not isinstance(value, bool):
            raise self.refusal(name, "true or false")
        return value

    def text(self, name: str, default: D) -> str | D:
        """Text that is not empty."""
        if not self._given(name, default):
            return default
        value = self._entries[name].value
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.refusal(name, "a text")
        return value

    def choice(self, name: str, default: D, supported: Collection[str]) -> str | D:
        """One of a few words, in any case."""
        if not self._given(name, default):
            return default
        value = self.text(name, "").lower()
        if value not in supported:
            raise self.unsupported(name, ", ".join(supported))
        return value

    def path(self, name: str, accept: Callable[[Path], bool] = Path.exists) -> tuple[Path | None, tuple[Path, ...]]:
        """The file or folder that an option names, and every path at which it was looked for.

        A relative path is looked for in the folder of the configuration file that names it, so that a configuration
        stored with its checkpoint works from anywhere, and then in the working directory, as in GPT-NeoX. The first
        path that ``accept`` accepts wins, then the first that exists. If none exists, the result is the one in the
        working directory, and whoever opens it reports that it is missing.
        """
        value = self.text(name, None)
        return (None, ()) if value is None else self._found(name, value, accept)

    def paths(self, name: str, accept: Callable[[Path], bool] = Path.exists) -> tuple[Path, ...]:
        """The files or folders of a list, each found as that of ``path``; none where the option is not given."""
        return tuple(self._found(name, text, accept)[0] for text in self._texts(name))

    def _texts(self, name: str) -> list[str]:
        entry = self.get(name)
        if entry is None:
            return []
        values = entry.value if isinstance(entry.value, list) else [entry.value]
        texts = [value for value in values if isinstance(value, str) and value and "\0" not in value]
        if not texts or len(texts) < len(values):
            raise self.refusal(name, "a text or a list of texts")
        return texts

    def _found(self, name: str, value: str, accept: Callable[[Path], bool]) -> tuple[Path, tuple[Path, ...]]:
        folder = self._entries[name].folder
        try:
            relative = Path(value).expanduser()
            here = relative.absolute()
            paths = (here,) if folder is None else tuple(dict.fromkeys(((folder / relative).absolute(), here)))
            found = next(filter(accept, paths), None) or next(filter(Path.exists, paths), here)
        except (OSError, RuntimeError) as error:  # a name too long for the file system, an unknown ~user
            raise self.refusal(name, f"a usable path ({error})") from error
        return found, paths

    def _given(self, name: str, default: object) -> bool:
        """Whether the option has a value to check; null is one, unless it is GPT-NeoX's default."""
        entry = self._entries.get(name)
        return entry is not None and not (entry.value is None and default is None)


def _unquoted(value: object) -> object:
    """The number that a text is, as in ``hidden_size: "64"``; any other value as it is."""
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(value)
    return value


def _show(value: object) -> str:
    """A value for a message, written as in YAML where that is short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) and 0 < len(value) <= 40 and value.isprintable() else reprlib.repr(value)
