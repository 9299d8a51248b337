"""The data of tasks: files in the folder where ``neoxrun evaluate`` looks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from neoxrun.download import hub
from neoxrun.download.catalog import Task
from neoxrun.download.http import Options
from neoxrun.download.manifest import Manifest
from neoxrun.download.order import Order
from neoxrun.download.remote import RemoteFile


def of_tasks(tasks: Iterable[Task], folder: Path, options: Options, mirrors: Iterable[str] = ()) -> Order:
    """The files that tasks read.

    Args:
        tasks: from the catalog.
        folder: the data folder.
        options: how to fetch.
        mirrors: folders that hold the files under the names that they have in the data folder; tried first.
    """
    mirrors = list(mirrors)
    wanted = {task.name: task for task in tasks}
    files: dict[str, RemoteFile] = {}
    for task in wanted.values():
        for file in task.files:
            urls = (*(mirror + file.name for mirror in mirrors), *map(hub.localized, file.urls))
            files[file.name] = replace(file, urls=tuple(dict.fromkeys(urls)))
    return Order(", ".join(wanted), folder, tuple(files.values()), Manifest(), options)
