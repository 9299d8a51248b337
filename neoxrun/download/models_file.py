"""Reads the catalog: the shipped ``models.yml``, and the user's own file of the same form."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neoxrun.config.yaml_source import read_yaml_file
from neoxrun.download.catalog import REPOSITORY_NAME, Catalog, KnownFile, Model, Task
from neoxrun.download.remote import SHA256, RemoteFile, safe_name
from neoxrun.download.urls import shown_url, url_problem
from neoxrun.errors import ConfigError, NetworkError
from neoxrun.terminal.words import did_you_mean

SHIPPED = Path(__file__).with_name("models.yml")

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_FILES = 100_000  # a typing error in a {range} must not use up the memory

_MODEL_KEYS = frozenset(
    {"about", "licence", "size", "folder", "config", "tokenizer", "mirrors", "files", "texts", "hub", "revision"}
    | {"revisions"}
)
_TASK_KEYS = frozenset(["about", "files"])


def user_file() -> Path:
    """The path of the user's own ``models.yml``, which need not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "neoxrun" / "models.yml"


def load_catalog() -> Catalog:
    """The shipped catalog, with the entries of the user's file added or in place of shipped ones.

    Raises:
        ConfigError: the user's file cannot be used.
    """
    return read_catalog([SHIPPED, *filter(Path.is_file, [user_file()])])


def read_catalog(paths: Iterable[Path]) -> Catalog:
    """The entries of several files; those of a later file replace those of an earlier one.

    Raises:
        ConfigError: a file cannot be used.
    """
    models: dict[str, Model] = {}
    tasks: dict[str, Task] = {}
    for path in paths:
        for key, entry in read_yaml_file(path).items():
            if key not in ("models", "tasks"):
                raise ConfigError(
                    f"unknown key {key}: only `models` and `tasks` belong here",
                    code="unknown_option",
                    where=entry.where,
                )
            reader = _Reader(entry.where)
            for name, value in reader.mapping(entry.value, key).items():
                if key == "models":
                    models[name] = reader.model(name, value)
                else:
                    tasks[name] = reader.task(name, value)
    return Catalog(models, tasks)


def expand_pattern(pattern: str) -> list[str]:
    """The names that a pattern stands for: ``{00,02..04}`` is each of 00, 02, 03 and 04.

    Raises:
        ValueError: the pattern stands for no name or for too many.
    """
    pieces = _BRACES.split(pattern)
    choices = [_choices(piece) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if not 0 < count <= _MOST_FILES:
        raise ValueError(f"{pattern} stands for {count} files")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(text: str) -> list[str]:
    found = []
    for part in text.split(","):
        if match := _RANGE.fullmatch(part):
            first, last = int(match[1]), int(match[2])
            if last - first > _MOST_FILES:
                raise ValueError(f"{{{text}}} is too long")
            found += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
        else:
            found.append(part)
    return found


class _Reader:
    """Checks the values of a YAML file; every error names its line."""

    def __init__(self, where: str) -> None:
        self._where = where

    def refuse(self, what: str, expected: str) -> ConfigError:
        return ConfigError(f"{what} should be {expected}", code="invalid_value", where=self._where)

    def mapping(self, value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value):
            raise self.refuse(what, "`name: value` pairs")
        return value

    def text(self, value: object, what: str) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self.refuse(what, "a non-empty string")
        return value

    def texts(self, value: object, what: str) -> list[str]:
        if not isinstance(value, list):
            raise self.refuse(what, "a list of strings")
        return [self.text(item, what) for item in value]

    def size(self, value: object, what: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
            raise self.refuse(what, "a number of bytes")
        return int(value)

    def url(self, value: object, what: str) -> str:
        url = self.text(value, what)
        if problem := url_problem(url):
            raise self.refuse(f"{what} ({shown_url(url)})", f"a URL: {problem}")
        return url

    def keys(self, value: object, what: str, known: frozenset[str]) -> dict[str, Any]:
        fields = self.mapping(value, what)
        if unknown := fields.keys() - known:
            odd = min(unknown)
            hint = did_you_mean(odd, known) or f"The known keys are {', '.join(sorted(known))}."
            raise ConfigError(f"{what} has an unknown key {odd}", code="unknown_option", where=self._where, hint=hint)
        return fields

    def name(self, value: object, what: str) -> str:
        try:
            return safe_name(self.text(value, what))
        except NetworkError as error:
            raise ConfigError(f"{what}: {error.message}", code="invalid_value", where=self._where) from error

    def model(self, name: str, value: object) -> Model:
        fields = self.keys(value, name, _MODEL_KEYS)
        if ("hub" in fields) == ("mirrors" in fields):
            raise ConfigError(
                f"{name} needs either `hub` or `mirrors`, and not both", code="invalid_value", where=self._where
            )
        hub = self.text(fields["hub"], f"{name}: hub") if "hub" in fields else None
        if hub is not None and not REPOSITORY_NAME.fullmatch(hub):
            raise self.refuse(f"{name}: hub", "OWNER/NAME")
        words = {
            key: self.text(fields[key], f"{name}: {key}")
            for key in ("about", "licence", "config", "revision", "revisions")
            if key in fields
        }
        texts = self.mapping(fields.get("texts", {}), f"{name}: texts")
        return Model(
            name=self.text(name, "a model's name"),
            folder=self.text(fields.get("folder", name.rpartition("/")[2]), f"{name}: folder"),
            size=self.size(fields["size"], f"{name}: size") if "size" in fields else None,
            tokenizer=self.name(fields.get("tokenizer", "tokenizer.json"), f"{name}: tokenizer"),
            hub=hub,
            mirrors=tuple(self.url(url, f"{name}: mirrors").rstrip("/") + "/" for url in fields.get("mirrors") or []),
            files=tuple(self.files(fields.get("files") or [], f"{name}: files")),
            texts={self.name(key, f"{name}: texts"): self.text(text, f"{name}: texts") for key, text in texts.items()},
            **words,
        )

    def task(self, name: str, value: object) -> Task:
        fields = self.keys(value, name, _TASK_KEYS)
        known = self.files(fields.get("files"), f"{name}: files")
        if not known or not all(file.urls for file in known):
            raise self.refuse(f"{name}: files", "`name: {urls: [...], size: ..., sha256: ...}` for each file")
        return Task(
            name=self.text(name, "a task's name"),
            files=tuple(RemoteFile(file.name, file.urls, file.size, file.sha256) for file in known),
            about=self.text(fields.get("about", name), f"{name}: about"),
        )

    def files(self, value: object, what: str) -> list[KnownFile]:
        """A list of names and patterns, or a mapping from names to what is known of each."""
        if isinstance(value, list):
            try:
                names = [name for pattern in self.texts(value, what) for name in expand_pattern(pattern)]
            except ValueError as error:
                raise ConfigError(f"{what}: {error}", code="invalid_value", where=self._where) from error
            return [KnownFile(self.name(name, what)) for name in names]
        return [self._file(name, facts, what) for name, facts in self.mapping(value, what).items()]

    def _file(self, name: str, value: object, what: str) -> KnownFile:
        facts = self.keys(value or {}, f"{what}: {name}", frozenset({"urls", "size", "sha256"}))
        sha256 = facts.get("sha256")
        if sha256 is not None and not SHA256.fullmatch(str(sha256)):
            raise self.refuse(f"{name}: sha256", "64 hexadecimal digits")
        return KnownFile(
            name=self.name(name, what),
            size=self.size(facts["size"], f"{name}: size") if "size" in facts else None,
            sha256=None if sha256 is None else str(sha256).lower(),
            urls=tuple(self.url(url, f"{name}: urls") for url in facts.get("urls") or []),
        )
