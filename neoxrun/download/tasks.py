"""The data of tasks: files for the folder where ``neoxrun evaluate`` looks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from neoxrun.download import hub
from neoxrun.download.catalog import Task
from neoxrun.download.http import HttpOptions
from neoxrun.download.manifest import Manifest
from neoxrun.download.order import Order
from neoxrun.download.remote import RemoteFile


def order_tasks(tasks: Iterable[Task], folder: Path, options: HttpOptions, mirrors: Iterable[str] = ()) -> Order:
    """What to fetch for the data of tasks.

    Args:
        tasks: from the catalog.
        folder: the data folder.
        options: how to fetch.
        mirrors: web folders to try first, with the same names as in the data folder.
    """
    mirrors = list(mirrors)
    wanted = {task.name: task for task in tasks}
    files: dict[str, RemoteFile] = {}
    for task in wanted.values():
        for file in task.files:
            urls = (*(mirror + file.name for mirror in mirrors), *map(hub.localized_url, file.urls))
            files[file.name] = replace(file, urls=tuple(dict.fromkeys(urls)))
    return Order(", ".join(wanted), folder, tuple(files.values()), Manifest(), options)
