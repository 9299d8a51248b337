"""One download from beginning to end: what is to be fetched is decided first, and then it is fetched and recorded."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from neoxrun.download import hub, listing, manifest, proof
from neoxrun.download.catalog import Known, Model
from neoxrun.download.fetch import fetch, folder_lock, make
from neoxrun.download.http import Options
from neoxrun.download.manifest import Manifest
from neoxrun.download.remote import Arrival, RemoteFile, shown_url
from neoxrun.download.transfer import Check
from neoxrun.errors import CheckpointError, ConfigError, DataError, NetworkError, UsageError
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted, printable


@dataclass(frozen=True)
class Order:
    """What is to be fetched.

    Attributes:
        name: what the user calls it.
        folder: where it goes.
        files: each with what is known of it.
        source: for the manifest: where it comes from; without files.
        options: how to fetch.
        texts: small files to write beside the others.
        repository: the hub's, where it comes from there.
        size: bytes in all, about, where the files' own sizes are not known.
    """

    name: str
    folder: Path
    files: tuple[RemoteFile, ...]
    source: Manifest
    options: Options
    texts: Mapping[str, str] = field(default_factory=dict)
    repository: hub.Repository | None = None
    size: int | None = None


@dataclass(frozen=True)
class Done:
    """What a download has brought.

    Attributes:
        arrivals: every file, whether fetched or there already.
        manifest: the file that records them.
        seconds: it took.
    """

    arrivals: tuple[Arrival, ...]
    manifest: Path
    seconds: float

    @property
    def fetched(self) -> list[Arrival]:
        """The files that were not there before."""
        return [arrival for arrival in self.arrivals if arrival.url is not None]


def default_folder(model: Model, revision: str | None) -> Path:
    """Where a model goes; another revision than the usual one gets a folder of its own."""
    if revision in (None, model.revision):
        return Path(model.folder).expanduser()
    return Path(f"{model.folder}-{re.sub(r'[^A-Za-z0-9._-]', '-', str(revision))}").expanduser()


def of_model(
    model: Model,
    folder: Path,
    options: Options,
    *,
    revision: str | None = None,
    mirrors: Sequence[str] = (),
    given: Manifest | None = None,
) -> Order:
    """What a model consists of. Asks its server where the catalog does not say it.

    Args:
        model: from the catalog.
        folder: where it goes.
        options: how to fetch.
        revision: of a hub repository.
        mirrors: to try before the catalog's; of a hub repository the one hub to ask.
        given: the checksums that the user has.

    Raises:
        UsageError: a revision of what has none.
        NetworkError: the server does not say what there is.
        DataError: the folder's own manifest cannot be used.
    """
    repository = None
    if model.hub is not None:
        endpoint = mirrors[0].rstrip("/") if mirrors else None
        repository = hub.look_up(model.hub, revision or model.revision, endpoint=endpoint, ca_bundle=options.ca_bundle)
        files = list(repository.files)
        options = replace(options, credentials={**options.credentials, **repository.credentials})
        source = Manifest(
            model=model.name, hub=model.hub, endpoint=shown_url(repository.endpoint), revision=repository.commit
        )
    else:
        if revision is not None:
            raise UsageError(
                f"{model.name} has no revisions: it is a folder of files, not a hub repository",
                code="conflicting_options",
            )
        model = replace(model, mirrors=tuple(dict.fromkeys((*mirrors, *model.mirrors))))
        files = _tree(model, options, given)
        source = Manifest(model=model.name, mirrors=tuple(shown_url(url) for url in model.mirrors))
    files = with_checksums(files, source, folder, given)
    return Order(model.name, folder, tuple(files), source, options, model.texts, repository, model.size)


def _tree(model: Model, options: Options, given: Manifest | None) -> list[RemoteFile]:
    """The files of a tree: as the catalog says, or the user's manifest, or the server's own listing."""
    if model.files:
        return model.remote_files()
    if given is not None:
        return model.remote_files(Known(name) for name in given.files)
    for url in model.mirrors:
        try:
            found = listing.list_tree(url, options)
            if not any(file.name.lower().endswith(proof.WEIGHTS) for file in found):
                raise NetworkError(
                    f"the page of {model.name} lists no weights ({counted(len(found), 'file')})",
                    code="bad_answer",
                    where=shown_url(url),
                    hint="It may be the login page of the network: open it in a browser. `files` in models.yml names "
                    "what a server without a listing has.",
                )
            return model.remote_files(Known(file.name, file.size) for file in found)
        except NetworkError as error:
            if url == model.mirrors[-1]:
                raise
            log.info(f"{error.message}; on to the next mirror")
    raise ConfigError(
        f"{model.name} has neither mirrors nor files", code="incomplete_configuration", hint="give one with --mirror"
    )


def with_checksums(
    files: Sequence[RemoteFile], source: Manifest, folder: Path, given: Manifest | None
) -> list[RemoteFile]:
    """The files with the best that is known: the user's manifest, what is published, what the first arrival had.

    Raises:
        DataError: the user's manifest is of other files, or the folder's own cannot be used.
    """
    before = manifest.of_folder(folder)
    # The checksums of another model or version say nothing about this one.
    same = before is not None and (before.model, before.revision) == (source.model, source.revision)
    recorded = before if same else None
    result = []
    for file in files:
        entry = None if given is None else given.files.get(file.name)
        if entry is None and file.sha256 is None and recorded is not None:
            entry = recorded.files.get(file.name)
        if entry is not None:
            # The size belongs to the checksum.
            file = replace(file, size=file.size if entry.size is None else entry.size, sha256=entry.sha256)
        result.append(file)
    if given is not None:
        unknown = [file.name for file in files if file.name not in given.files]
        if unknown and len(unknown) == len(files):
            raise DataError(
                "the manifest that was given names none of the files to download",
                code="bad_file",
                hint=f"it names {printable(next(iter(given.files), 'nothing'))}, and the first file is {unknown[0]}: "
                "names are paths below the folder, as `sha256sum` writes them there",
            )
        if unknown:
            log.warning(f"not in the manifest that was given: {counted(len(unknown), 'file')}, {unknown[0]} among them")
    return result


def carry_out(order: Order, *, jobs: int, show: bool) -> Done:
    """Fetch what is missing, prove everything, and record it, with the folder held against every other process.

    Raises:
        DataError: another process holds the folder; nothing was changed.
        NeoxrunError: as ``fetch``; what has arrived is kept.
    """
    start = time.monotonic()
    make(order.folder)
    with folder_lock(order.folder):
        arrivals = _carry_out(order, jobs, show)
    return Done(tuple(arrivals), order.folder / manifest.NAME, time.monotonic() - start)


def _carry_out(order: Order, jobs: int, show: bool) -> list[Arrival]:
    if order.repository is not None:
        cached = hub.from_cache(order.repository, order.folder)
        if cached:
            log.info(f"{len(cached)} files are in the hub's cache already and are taken from there")
    before = manifest.of_folder(order.folder)
    # A folder may hold more than this order: the data of several tasks does.
    kept = before.files if before is not None and before.revision == order.source.revision else {}
    check = checker({} if order.repository is None else order.repository.blobs)
    with manifest.Recorder(replace(order.source, files=kept), order.folder) as recorder:
        arrivals = fetch(
            order.files,
            order.folder,
            jobs=jobs,
            options=order.options,
            check=check,
            arrived=recorder.add,
            show=show,
        )
        for text in write_texts(order.texts, order.folder):
            recorder.add(text)
    missing = proof.missing_shards(order.folder)
    if missing:
        raise CheckpointError(
            f"the index of the weights names {counted(len(missing), 'file')} that {order.name} does not have: "
            + ", ".join(missing[:5]),
            code="missing_shard",
            where=str(order.folder),
            hint="What is there was kept. The weights are not complete where they come from: ask their owner, or "
            "name another source.",
        )
    return arrivals


def checker(blobs: Mapping[str, str]) -> Check:
    """What ``fetch`` asks of each file before it gets its name.

    Args:
        blobs: git's names of the contents of files that have no published SHA-256.
    """

    def check(file: RemoteFile, path: Path) -> None:
        proof.prove(path, file.name)
        blob = blobs.get(file.name)
        if blob is not None and proof.git_blob(path) != blob:
            raise CheckpointError(
                f"the contents of {file.name} are not what the hub has under that name",
                code="wrong_checksum",
                where=str(path),
                hint="What arrived is not used. Try again later.",
            )

    return check


def write_texts(texts: Mapping[str, str], folder: Path) -> list[Arrival]:
    """Write a model's small texts; the same ones are left alone."""
    arrivals = []
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            manifest.write_whole(path, text)
        arrivals.append(Arrival(name, path, len(text.encode()), proof.sha256_of(path), None, 0.0))
    return arrivals
