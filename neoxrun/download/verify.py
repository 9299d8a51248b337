"""A folder that was downloaded at some time: which of its files are still right, and fetching those that are not."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from neoxrun.download import hub, manifest, proof
from neoxrun.download.catalog import Catalog
from neoxrun.download.fetch import fetch
from neoxrun.download.http import Options
from neoxrun.download.manifest import Entry, Manifest
from neoxrun.download.order import checker, write_texts
from neoxrun.download.remote import CORRUPT, RemoteFile, shown_url
from neoxrun.errors import CheckpointError, DataError, Interrupted, NeoxrunError
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted


@dataclass(frozen=True)
class Verdict:
    """What became of checking a folder.

    Attributes:
        folder: it.
        right: files that are what they should be, with their size and SHA-256.
        wrong: files that are not, and why.
        unrecorded: files that are whole as far as they themselves tell; no checksum of them is known.
    """

    folder: Path
    right: Mapping[str, Entry]
    wrong: Mapping[str, str]
    unrecorded: tuple[str, ...]


class _Stop(Exception):
    """The check was told to stop."""


def verify(folder: Path, known: Manifest | None, *, jobs: int, show: bool) -> Verdict:
    """Check every file that the manifest or an index of shards names, and every other weights file in the folder.

    Args:
        folder: what to check.
        known: the files that should be there; None where that is not known.
        jobs: files at a time.
        show: keep a bar on stderr.

    Raises:
        DataError: there is no such folder, or nothing to check in it.
        Interrupted: Ctrl-C.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", code="missing_file", where=str(folder))
    expected = {} if known is None else dict(known.files)
    names = sorted({*expected, *_checkable(folder), *proof.missing_shards(folder)})
    if not names:
        raise DataError(
            f"there is nothing to check in {folder}: no {manifest.NAME}, no weights",
            code="missing_file",
            where=str(folder),
            hint="name the folder that a model was downloaded into",
        )
    work = sum(_bytes_to_read(folder / name) for name in names)
    stop = threading.Event()
    right: dict[str, Entry] = {}
    wrong: dict[str, str] = {}
    with Bar("checking", work, show=show) as bar, ThreadPoolExecutor(jobs) as pool:
        lock = threading.Lock()

        def tick(count: int) -> None:
            if stop.is_set():
                raise _Stop
            with lock:
                bar.update(count)

        # The largest first: at the end no thread is left alone with one.
        queue = sorted(names, key=lambda name: -_bytes_to_read(folder / name))
        futures = {pool.submit(_check, folder / name, name, expected.get(name), tick): name for name in queue}
        try:
            for future in as_completed(futures):
                name, found = futures[future], future.result()
                if isinstance(found, Entry):
                    right[name] = found
                else:
                    wrong[name] = found
        except KeyboardInterrupt:
            raise Interrupted("interrupted while checking; nothing was changed") from None
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    unrecorded = tuple(sorted(right.keys() - expected.keys()))
    return Verdict(folder, dict(sorted(right.items())), dict(sorted(wrong.items())), unrecorded)


def _checkable(folder: Path) -> set[str]:
    """The weights and JSON files in a folder, less what downloads leave there."""
    found = set()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            ours = name.startswith(".") or name.endswith(CORRUPT) or name == manifest.NAME
            # DeepSpeed's optimizer states hold objects of its own; no loader of weights ever opens them.
            training = name.endswith("optim_states.pt")
            if not ours and not training and Path(name).suffix.lower() in (*proof.WEIGHTS, ".json"):
                found.add((Path(parent) / name).relative_to(folder).as_posix())
    return found


def _bytes_to_read(path: Path) -> int:
    with suppress(OSError):
        size = path.stat().st_size
        return size * (2 if path.suffix.lower() in proof.ARCHIVES else 1)
    return 0


def _check(path: Path, name: str, expected: Entry | None, tick: proof.Progress) -> Entry | str:
    """What a file is, or what is wrong with it."""
    if not path.exists():
        return "it is missing"
    if not path.is_file():
        return "it is not a file"
    size = path.stat().st_size
    if expected is not None and expected.size not in (None, size):
        return f"it has {size:,} bytes instead of {expected.size:,}"
    try:
        proof.prove(path, name, tick)
        sha256 = proof.sha256_of(path, tick)
    except CheckpointError as error:
        return error.message
    if expected is not None and sha256 != expected.sha256:
        return f"its SHA-256 is {sha256} instead of {expected.sha256}"
    return Entry(size, sha256, None if expected is None else expected.url)


@dataclass(frozen=True)
class Source:
    """Where the files of a folder can be had again.

    Attributes:
        known: the folder's manifest.
        catalog: for what is not in it.
        mirrors: the user's own; tried first.
        options: how to fetch.
    """

    known: Manifest
    catalog: Catalog
    mirrors: Sequence[str]
    options: Options


def repair(verdict: Verdict, source: Source, *, jobs: int, show: bool) -> list[str]:
    """Fetch the files that are wrong, and those alone. The caller holds ``fetch.folder_lock``.

    Returns:
        What was repaired. The other wrong files were not touched: nothing says that they came from anywhere.

    Raises:
        NeoxrunError: as ``fetch``.
    """
    known, folder = source.known, verdict.folder
    model = source.catalog.models.get(known.model or "")
    texts = {} if model is None else {name: text for name, text in model.texts.items() if name in verdict.wrong}
    names = [name for name in verdict.wrong if name not in texts]
    files, blobs, options = [], {}, source.options
    if known.hub is not None and known.revision is not None and names:
        repository = hub.look_up(
            known.hub,
            known.revision,
            endpoint=_other_hub(source),
            ca_bundle=options.ca_bundle,
        )
        there = {file.name: file for file in repository.files}
        files = [there[name] for name in names if name in there]
        blobs = dict(repository.blobs)
        options = replace(options, credentials={**options.credentials, **repository.credentials})
    else:
        files = [file for name in names if (file := _elsewhere(name, source)).urls]
    if not files and not texts:
        return []
    with manifest.Recorder(known, folder) as recorder:
        if files:
            check = checker(blobs)
            fetch(files, folder, jobs=jobs, options=options, check=check, arrived=recorder.add, show=show)
        for text in write_texts(texts, folder):
            recorder.add(text)
    return sorted([*texts, *(file.name for file in files)])


def _other_hub(source: Source) -> str | None:
    """The hub that the files came from, unless it is the user's usual one."""
    if source.mirrors:
        return source.mirrors[0].rstrip("/")
    endpoint = source.known.endpoint
    return None if endpoint in (None, shown_url(hub.default_endpoint())) else endpoint


def _elsewhere(name: str, source: Source) -> RemoteFile:
    """A file at every place that is known for it; nowhere if it may be the user's own."""
    entry = source.known.files.get(name)
    model = source.catalog.models.get(source.known.model or "")
    listed = model is not None and any(file.name == name for file in model.files)
    places = []
    # Where nothing at all is recorded, the user's mirrors are for whatever is wrong.
    if entry is not None or listed or not source.known.files:
        places = [mirror + quote(name) for mirror in (*source.mirrors, *source.known.mirrors)]
    if entry is not None and entry.url is not None:
        places.append(entry.url)
    places += [
        url for task in source.catalog.tasks.values() for file in task.files if file.name == name for url in file.urls
    ]
    urls = tuple(dict.fromkeys(places))
    return RemoteFile(name, urls, None if entry is None else entry.size, None if entry is None else entry.sha256)


def refusal(verdict: Verdict) -> NeoxrunError:
    """The error for a folder with files that are not right."""
    return CheckpointError(
        f"{_are(verdict.wrong)} not right: {_some(verdict.wrong)}",
        code="verification_failed",
        where=str(verdict.folder),
        hint=f"`neoxrun download --repair {verdict.folder}` fetches just what is not right",
    )


def left_alone(names: Sequence[str], folder: Path) -> NeoxrunError:
    """The error for files that are not right and that ``repair`` did not touch."""
    return CheckpointError(
        f"{_are(names)} not right and left alone, since nothing says where from: {_some(names)}",
        code="verification_failed",
        where=str(folder),
        hint="move away what is your own; for what is the model's, `neoxrun download MODEL --to "
        f"{folder}` fetches only what is not right",
    )


def _are(names: Collection[str]) -> str:
    return f"{counted(len(names), 'file')} {'is' if len(names) == 1 else 'are'}"


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:5]) + (" and others" if len(names) > 5 else "")
