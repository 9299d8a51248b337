"""Checks a folder that was downloaded earlier, and fetches the files that are missing or wrong."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.config.released import download_command
from neoxrun.download import hub, manifest, proof
from neoxrun.download.catalog import Catalog
from neoxrun.download.fetch import fetch_files
from neoxrun.download.http import HttpOptions
from neoxrun.download.hub_files import variants_of
from neoxrun.download.manifest import Manifest, ManifestEntry
from neoxrun.download.order import content_check, write_texts
from neoxrun.download.remote import CORRUPT, RemoteFile
from neoxrun.download.urls import shown_url
from neoxrun.errors import CheckpointError, DataError, Interrupted, NeoxrunError
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted


@dataclass(frozen=True)
class Verdict:
    """The result of checking a folder.

    Attributes:
        folder: the folder.
        right: the files that are correct, with their size and SHA-256.
        wrong: the files that are missing or wrong, and why.
        unrecorded: those of ``right`` that no recorded checksum covers: they are complete by their own contents.
    """

    folder: Path
    right: Mapping[str, ManifestEntry]
    wrong: Mapping[str, str]
    unrecorded: tuple[str, ...]


class _Stop(Exception):
    """The check was told to stop."""


def verify_folder(folder: Path, known: Manifest | None, *, jobs: int, show: bool) -> Verdict:
    """Check every file that the manifest or an index of shards names, and every other weights file in the folder.

    Args:
        folder: what to check.
        known: the files that the folder should hold; None if that is not known.
        jobs: files at a time.
        show: show a bar on stderr.

    Raises:
        DataError: there is no such folder, or it holds nothing to check.
        Interrupted: Ctrl-C.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", code="missing_file", where=str(folder))
    expected = {} if known is None else dict(known.files)
    names = sorted({*expected, *_checkable(folder), *proof.missing_shards(folder)})
    if not names:
        raise DataError(
            f"there is nothing to check in {folder}: no {MANIFEST_NAME} and no weights",
            code="missing_file",
            where=str(folder),
            hint="Name the folder that a model was downloaded into.",
        )
    work = sum(_bytes_to_read(folder / name) for name in names)
    stop = threading.Event()
    right: dict[str, ManifestEntry] = {}
    wrong: dict[str, str] = {}
    with Bar("checking", work, show=show) as bar, ThreadPoolExecutor(jobs) as pool:
        lock = threading.Lock()

        def tick(count: int) -> None:
            if stop.is_set():
                raise _Stop
            with lock:
                bar.update(count)

        # The largest first, so that no large file is left for one thread at the end.
        queue = sorted(names, key=lambda name: -_bytes_to_read(folder / name))
        futures = {pool.submit(_check, folder / name, name, expected.get(name), tick): name for name in queue}
        try:
            for future in as_completed(futures):
                name, found = futures[future], future.result()
                if isinstance(found, ManifestEntry):
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
    """The weights and JSON files in a folder, without the files that downloads themselves leave."""
    found = set()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            internal = name.startswith(".") or name.endswith(CORRUPT) or name == MANIFEST_NAME
            # DeepSpeed's optimizer states hold its own objects, and no loader of weights opens them.
            training = name.endswith("optim_states.pt")
            if not internal and not training and Path(name).suffix.lower() in (*proof.WEIGHTS, ".json"):
                found.add((Path(parent) / name).relative_to(folder).as_posix())
    return found


def _bytes_to_read(path: Path) -> int:
    with suppress(OSError):
        size = path.stat().st_size
        return size * (2 if path.suffix.lower() in proof.ARCHIVES else 1)
    return 0


def _check(path: Path, name: str, expected: ManifestEntry | None, tick: proof.Progress) -> ManifestEntry | str:
    """A file's size and SHA-256, or what is wrong with it."""
    if not path.exists():
        return "it is missing"
    if not path.is_file():
        return "it is not a file"
    size = path.stat().st_size
    if expected is not None and expected.size not in (None, size):
        return f"it has {size:,} bytes instead of {expected.size:,}"
    try:
        proof.prove_file(path, name, tick)
        sha256 = proof.sha256_of(path, tick)
    except CheckpointError as error:
        return error.message
    if expected is not None and sha256 != expected.sha256:
        return f"its SHA-256 is {sha256} instead of {expected.sha256}"
    return ManifestEntry(size, sha256, None if expected is None else expected.url)


@dataclass(frozen=True)
class RepairSource:
    """Where the files of a folder can be fetched again.

    Attributes:
        known: the folder's manifest.
        catalog: for files that are not in it.
        mirrors: from the user; tried first.
        options: how to fetch.
    """

    known: Manifest
    catalog: Catalog
    mirrors: Sequence[str]
    options: HttpOptions


def repair_folder(verdict: Verdict, source: RepairSource, *, jobs: int, show: bool) -> list[str]:
    """Fetch the files that are missing or wrong, and no others. The caller holds ``fetch.folder_lock``.

    Returns:
        The names of the repaired files. The other wrong files were not changed: no source of them is known.

    Raises:
        NeoxrunError: as for ``fetch_files``.
    """
    known, folder = source.known, verdict.folder
    model = source.catalog.models.get(known.model or "")
    texts = {} if model is None else {name: text for name, text in model.texts.items() if name in verdict.wrong}
    names = [name for name in verdict.wrong if name not in texts]
    files, blobs, options = [], {}, source.options
    if known.hub is not None and known.revision is not None and names:
        repository = hub.look_up_repository(
            known.hub,
            known.revision,
            variant=next(iter(variants_of(known.files)), None),
            endpoint=_other_hub(source),
            ca_bundle=options.ca_bundle,
        )
        published = {file.name: file for file in repository.files}
        files = [published[name] for name in names if name in published]
        blobs = dict(repository.blobs)
        options = replace(options, credentials={**options.credentials, **repository.credentials})
    else:
        files = [file for name in names if (file := _with_addresses(name, source)).urls]
    if not files and not texts:
        return []
    with manifest.Recorder(known, folder) as recorder:
        if files:
            check = content_check(blobs)
            fetch_files(files, folder, jobs=jobs, options=options, check=check, arrived=recorder.add, show=show)
        for text in write_texts(texts, folder):
            recorder.add(text)
    return sorted([*texts, *(file.name for file in files)])


def _other_hub(source: RepairSource) -> str | None:
    """The hub that the files came from, unless it is the user's usual one."""
    if source.mirrors:
        return source.mirrors[0].rstrip("/")
    endpoint = source.known.endpoint
    return None if endpoint in (None, shown_url(hub.default_endpoint())) else endpoint


def _with_addresses(name: str, source: RepairSource) -> RemoteFile:
    """A file with every known address; without any if it may be the user's own file."""
    entry = source.known.files.get(name)
    model = source.catalog.models.get(source.known.model or "")
    listed = model is not None and any(file.name == name for file in model.files)
    urls = []
    # If nothing at all is recorded, the user's mirrors are meant for every wrong file.
    if entry is not None or listed or not source.known.files:
        urls = [mirror + quote(name) for mirror in (*source.mirrors, *source.known.mirrors)]
    if entry is not None and entry.url is not None:
        urls.append(entry.url)
    urls += [
        url for task in source.catalog.tasks.values() for file in task.files if file.name == name for url in file.urls
    ]
    size, sha256 = (None, None) if entry is None else (entry.size, entry.sha256)
    return RemoteFile(name, tuple(dict.fromkeys(urls)), size, sha256)


def wrong_files_error(verdict: Verdict, source: RepairSource) -> NeoxrunError:
    """The error for a folder with files that are missing or wrong, with the cure that works for most of them."""
    folder = shlex.quote(str(verdict.folder))
    on_the_hub = source.known.hub is not None and source.known.revision is not None
    if on_the_hub or any(_with_addresses(name, source).urls for name in verdict.wrong):
        hint = f"`neoxrun download --repair {folder}` fetches only these files."
    elif command := download_command(verdict.folder):
        hint = f"`{command}` fetches only these files: nothing here says where they came from."
    else:
        hint = (
            "Copy them again from where they came from, which nothing here says. If that is a repository of the hub, "
            f"`neoxrun download OWNER/NAME --to {folder}` fetches only what is missing or wrong."
        )
    return CheckpointError(
        f"{_are(verdict.wrong)} missing or wrong: {_some(verdict.wrong)}",
        code="verification_failed",
        where=str(verdict.folder),
        hint=hint,
    )


def left_alone_error(names: Sequence[str], folder: Path) -> NeoxrunError:
    """The error for files that are missing or wrong and that ``repair_folder`` did not change."""
    return CheckpointError(
        f"{_are(names)} missing or wrong and not repaired, because no source is recorded: {_some(names)}",
        code="verification_failed",
        where=str(folder),
        hint="Move your own files to another folder. If they are the model's, `neoxrun download MODEL --to "
        f"{folder}` fetches only what is missing or wrong.",
    )


def _are(names: Collection[str]) -> str:
    return f"{counted(len(names), 'file')} {'is' if len(names) == 1 else 'are'}"


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:5]) + (" and others" if len(names) > 5 else "")
