"""What can be downloaded by name: models and the data of tasks. ``models_file`` reads them from ``models.yml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from neoxrun.download.remote import RemoteFile
from neoxrun.errors import UsageError
from neoxrun.terminal.words import did_you_mean

DEFAULT_MODEL = "20B"

REPOSITORY_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
"""``owner/name`` on the Hugging Face hub."""


@dataclass(frozen=True)
class KnownFile:
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
        folder: the target folder.
        about, licence, size, revisions: for people; the size is the approximate total in bytes.
        config: the configuration that runs it, if there is one.
        tokenizer: the name of its tokenizer file.
        hub: repository on the Hugging Face hub.
        revision: of that repository.
        mirrors: URLs of folders, in the order to try; each ends with a slash.
        files: what is in those folders; empty if their own listing is to be read.
        texts: small files to write next to the others.
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
    files: tuple[KnownFile, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def remote_files(self, known: Iterable[KnownFile] | None = None) -> list[RemoteFile]:
        """The files of a tree, each with its address at every mirror."""
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
            UsageError: there is no model of that name.
        """
        wanted = name.casefold()
        for model in self.models.values():
            if wanted == model.name.casefold() or (model.hub and wanted == model.hub.casefold()):
                return model
        if REPOSITORY_NAME.fullmatch(name):
            return Model(name=name, folder=name.partition("/")[2], hub=name)
        every = "`neoxrun download --list` shows all models. Name a repository of the Hugging Face hub as OWNER/NAME."
        raise UsageError(
            f"there is no model {name!r} to download",
            code="unknown_download",
            hint=f"{did_you_mean(name, self.models)} {every}".lstrip(),
        )

    def task(self, name: str) -> Task:
        """The data of a task.

        Raises:
            UsageError: no task of that name is known.
        """
        if name in self.tasks:
            return self.tasks[name]
        every = f"The tasks with data to download are {', '.join(sorted(self.tasks))}."
        raise UsageError(
            f"there is no task {name!r} with data to download",
            code="unknown_download",
            hint=f"{did_you_mean(name, self.tasks)} {every}".lstrip(),
        )
