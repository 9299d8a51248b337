"""What can be downloaded, and from where: the shipped ``models.yml`` and the user's own file of the same form."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from neoxrun.config import yaml_source
from neoxrun.download.remote import SHA256, RemoteFile, safe_name, shown_url
from neoxrun.errors import ConfigError, NetworkError, UsageError

DEFAULT_MODEL = "20B"

SHIPPED = Path(__file__).with_name("models.yml")

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_MOST_FILES = 100_000  # a slip in a {range} is not worth the machine's memory

_MODEL_KEYS = frozenset(
    {"about", "licence", "size", "folder", "config", "tokenizer", "mirrors", "files", "texts", "hub", "revision"}
    | {"revisions"}
)
_TASK_KEYS = frozenset(["about", "files"])


@dataclass(frozen=True)
class Known:
    """What is known of a file before any server is asked."""

    name: str
    size: int | None = None
    sha256: str | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A model that can be downloaded: from a tree of files (``mirrors``), or from a hub repository (``hub``).

    Attributes:
        name: what the user calls it.
        folder: where it goes.
        about, licence, size, revisions: for people; the size is bytes in all, about.
        config: the configuration that runs it, if there is one.
        tokenizer: the name of its tokenizer file.
        hub: repository on the Hugging Face hub.
        revision: of that repository.
        mirrors: URLs of folders, in the order to try; each ends with a slash.
        files: what is in those folders; empty where their listing says it.
        texts: small files to write beside the others.
    """

    name: str
    folder: str
    about: str = ""
    licence: str | None = None
    size: int | None = None
    config: str | None = None
    tokenizer: str = "tokenizer.json"
    hub: str | None = None
    revision: str = "main"
    revisions: str = "main"
    mirrors: tuple[str, ...] = ()
    files: tuple[Known, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def remote_files(self, known: Iterable[Known] | None = None) -> list[RemoteFile]:
        """The files of a tree, each at every mirror."""
        return [
            RemoteFile(file.name, tuple(mirror + quote(file.name) for mirror in self.mirrors), file.size, file.sha256)
            for file in (self.files if known is None else known)
        ]


@dataclass(frozen=True)
class Task:
    """The data of a task.

    Attributes:
        name: what the user calls it.
        files: their names are paths below evaluate's data folder.
    """

    name: str
    files: tuple[RemoteFile, ...]
    about: str = ""


@dataclass(frozen=True)
class Catalog:
    """Everything that can be downloaded by name."""

    models: Mapping[str, Model]
    tasks: Mapping[str, Task]

    def model(self, name: str) -> Model:
        """A model by its name, by its repository on the hub, or any other repository there.

        Raises:
            UsageError: nothing has that name.
        """
        wanted = name.casefold()
        for model in self.models.values():
            if wanted == model.name.casefold() or (model.hub and wanted == model.hub.casefold()):
                return model
        if _REPOSITORY.fullmatch(name):
            return Model(name=name, folder=name.partition("/")[2], hub=name)
        raise UsageError(
            f"there is no model {name!r} to download{_nearest(name, self.models)}",
            code="unknown_download",
            hint="`neoxrun download --list` shows all; a repository of the Hugging Face hub is given as OWNER/NAME",
        )

    def task(self, name: str) -> Task:
        """The data of a task.

        Raises:
            UsageError: no task of that name is known.
        """
        if name in self.tasks:
            return self.tasks[name]
        raise UsageError(
            f"there is no data of a task {name!r} to download{_nearest(name, self.tasks)}",
            code="unknown_download",
            hint=f"known tasks: {', '.join(sorted(self.tasks))}",
        )


def user_file() -> Path:
    """Where the user's own sources are, if there are any."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "neoxrun" / "models.yml"


def load() -> Catalog:
    """The shipped catalog, and over it the user's.

    Raises:
        ConfigError: the user's file cannot be used.
    """
    models: dict[str, Model] = {}
    tasks: dict[str, Task] = {}
    for path in [SHIPPED, *filter(Path.is_file, [user_file()])]:
        for key, entry in yaml_source.read_file(path).items():
            if key not in ("models", "tasks"):
                raise ConfigError(
                    f"{key} is not known here: there are `models` and `tasks`", code="unknown_option", where=entry.where
                )
            reader = _Reader(entry.where)
            for name, value in reader.mapping(entry.value, key).items():
                if key == "models":
                    models[name] = reader.model(name, value)
                else:
                    tasks[name] = reader.task(name, value)
    return Catalog(models, tasks)


def mirror(url: str) -> str:
    """The URL of a folder, with a slash at its end.

    Raises:
        UsageError: it is not an http or https URL.
    """
    problem = url_problem(url)
    if problem:
        raise UsageError(
            f"{shown_url(url)!r} is not a mirror: {problem}",
            code="invalid_value",
            hint="for example https://host/folder/",
        )
    return url.rstrip("/") + "/"


def url_problem(url: str) -> str | None:
    """What is wrong with a URL to download from; None if nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not host:
        return "it does not begin with https:// or http:// and a host"
    if parts.query or parts.fragment or any(letter.isspace() for letter in url):
        return "it has a query, a fragment or a space"
    return None


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for: ``{00,02..04}`` is each of 00, 02, 03 and 04.

    Raises:
        ValueError: the pattern stands for nothing or for too much.
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


def _nearest(name: str, names: Iterable[str]) -> str:
    known = {candidate.casefold(): candidate for candidate in names}
    close = difflib.get_close_matches(name.casefold(), known, 3, cutoff=0.5)
    return f"; did you mean {' or '.join(known[match] for match in close)}?" if close else ""


class _Reader:
    """Values of a YAML file; whatever is wrong is said with its place."""

    def __init__(self, where: str) -> None:
        self._where = where

    def refuse(self, what: str, says: str) -> ConfigError:
        return ConfigError(f"{what} should be {says}", code="invalid_value", where=self._where)

    def mapping(self, value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value):
            raise self.refuse(what, "`name: value` pairs")
        return value

    def text(self, value: object, what: str) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self.refuse(what, "a text")
        return value

    def texts(self, value: object, what: str) -> list[str]:
        if not isinstance(value, list):
            raise self.refuse(what, "a list of texts")
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
            close = _nearest(min(unknown), known)
            raise ConfigError(
                f"{what} has an unknown key {min(unknown)}{close}", code="unknown_option", where=self._where
            )
        return fields

    def name(self, value: object, what: str) -> str:
        try:
            return safe_name(self.text(value, what))
        except NetworkError as error:
            raise ConfigError(f"{what}: {error.message}", code="invalid_value", where=self._where) from error

    def model(self, name: str, value: object) -> Model:
        fields = self.keys(value, name, _MODEL_KEYS)
        if ("hub" in fields) == ("mirrors" in fields):
            raise self.refuse(name, "given either `hub` or `mirrors`")
        hub = self.text(fields["hub"], f"{name}: hub") if "hub" in fields else None
        if hub is not None and not _REPOSITORY.fullmatch(hub):
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
            raise self.refuse(f"{name}: files", "`name: {urls: [...], size: ..., sha256: ...}`")
        return Task(
            name=self.text(name, "a task's name"),
            files=tuple(RemoteFile(file.name, file.urls, file.size, file.sha256) for file in known),
            about=self.text(fields.get("about", name), f"{name}: about"),
        )

    def files(self, value: object, what: str) -> list[Known]:
        """A list of names and patterns, or names with what is known of each."""
        if isinstance(value, list):
            try:
                names = [name for pattern in self.texts(value, what) for name in expand(pattern)]
            except ValueError as error:
                raise ConfigError(f"{what}: {error}", code="invalid_value", where=self._where) from error
            return [Known(self.name(name, what)) for name in names]
        return [self._file(name, facts, what) for name, facts in self.mapping(value, what).items()]

    def _file(self, name: str, value: object, what: str) -> Known:
        facts = self.keys(value or {}, f"{what}: {name}", frozenset({"urls", "size", "sha256"}))
        sha256 = facts.get("sha256")
        if sha256 is not None and not SHA256.fullmatch(str(sha256)):
            raise self.refuse(f"{name}: sha256", "64 hexadecimal digits")
        return Known(
            name=self.name(name, what),
            size=self.size(facts["size"], f"{name}: size") if "size" in facts else None,
            sha256=None if sha256 is None else str(sha256).lower(),
            urls=tuple(self.url(url, f"{name}: urls") for url in facts.get("urls") or []),
        )
