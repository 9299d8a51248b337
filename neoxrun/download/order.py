"""One download from beginning to end: first decide what to fetch, then fetch, check and record it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download import hub, hub_cache, listing, manifest, proof
from neoxrun.download.catalog import KnownFile, Model
from neoxrun.download.fetch import fetch_files, folder_lock, make_folder
from neoxrun.download.http import HttpOptions
from neoxrun.download.hub_files import Repository
from neoxrun.download.manifest import Manifest
from neoxrun.download.remote import Arrival, RemoteFile
from neoxrun.download.transfer import ContentCheck
from neoxrun.download.urls import shown_url
from neoxrun.errors import CheckpointError, ConfigError, DataError, NetworkError, UsageError
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted, printable


@dataclass(frozen=True)
class Order:
    """What is to be fetched.

    Attributes:
        name: what the user calls it.
        folder: the target folder.
        files: each with what is known of it.
        source: a manifest without files that says where they come from.
        options: how to fetch.
        texts: small files to write next to the others.
        repository: the hub's repository, if the files come from one.
        size: approximate total in bytes, if the sizes of the files are not known.
    """

    name: str
    folder: Path
    files: tuple[RemoteFile, ...]
    source: Manifest
    options: HttpOptions
    texts: Mapping[str, str] = field(default_factory=dict)
    repository: Repository | None = None
    size: int | None = None


@dataclass(frozen=True)
class Downloaded:
    """The result of a download.

    Attributes:
        arrivals: every file, whether fetched or already present.
        manifest: the file that records them.
        seconds: how long it took.
    """

    arrivals: tuple[Arrival, ...]
    manifest: Path
    seconds: float

    @property
    def fetched(self) -> list[Arrival]:
        """The files that were not present before."""
        return [arrival for arrival in self.arrivals if arrival.url is not None]


def default_folder(model: Model, revision: str | None) -> Path:
    """The folder for a model; each revision other than the default one gets a folder of its own."""
    if revision in (None, model.revision):
        return Path(model.folder).expanduser()
    return Path(f"{model.folder}-{quote(str(revision), safe='')}").expanduser()


def order_model(
    model: Model,
    folder: Path,
    options: HttpOptions,
    *,
    revision: str | None = None,
    variant: str | None = None,
    mirrors: Sequence[str] = (),
    given: Manifest | None = None,
) -> Order:
    """What to fetch for a model. Asks its server if the catalog does not list the files.

    Args:
        model: from the catalog.
        folder: the target folder.
        options: how to fetch.
        revision: of a hub repository.
        variant: of its weights.
        mirrors: to try before the catalog's; for a hub repository the one hub to ask.
        given: checksums from the user.

    Raises:
        UsageError: a revision or a variant of a model that has none.
        NetworkError: the server does not list its files.
        DataError: the folder's own manifest cannot be used.
    """
    if model.hub is not None:
        endpoint = mirrors[0].rstrip("/") if mirrors else None
        repository = hub.look_up_repository(
            model.hub,
            revision or model.revision,
            variant=variant,
            endpoint=endpoint,
            ca_bundle=options.ca_bundle,
        )
        return order_repository(model, repository, folder, options, given=given)
    if revision is not None or variant is not None:
        what = "variant" if revision is None else "revision"
        raise UsageError(
            f"{model.name} has no {what}s: it comes from a web folder, not from the Hugging Face hub",
            code="conflicting_options",
            hint=f"Leave out --{what}.",
        )
    model = replace(model, mirrors=tuple(dict.fromkeys((*mirrors, *model.mirrors))))
    files = _tree(model, options, given)
    source = Manifest(model=model.name, mirrors=tuple(shown_url(url) for url in model.mirrors))
    files = with_checksums(files, source, folder, given)
    return Order(model.name, folder, tuple(files), source, options, model.texts, size=model.size)


def order_repository(
    model: Model, repository: Repository, folder: Path, options: HttpOptions, *, given: Manifest | None = None
) -> Order:
    """What to fetch for a model from a version of its repository; the other arguments are those of ``order_model``.

    Raises:
        DataError: the folder's own manifest cannot be used.
    """
    options = replace(options, credentials={**options.credentials, **repository.credentials})
    source = Manifest(
        model=model.name, hub=model.hub, endpoint=shown_url(repository.endpoint), revision=repository.commit
    )
    files = with_checksums(repository.files, source, folder, given)
    return Order(model.name, folder, tuple(files), source, options, model.texts, repository, model.size)


def _tree(model: Model, options: HttpOptions, given: Manifest | None) -> list[RemoteFile]:
    """The files of a tree: from the catalog, or the user's manifest, or the server's own listing."""
    if model.files:
        return model.remote_files()
    if given is not None:
        return model.remote_files(KnownFile(name) for name in given.files)
    for url in model.mirrors:
        try:
            found = listing.list_tree(url, options)
            if not any(file.name.lower().endswith(proof.WEIGHTS) for file in found):
                raise NetworkError(
                    f"the page of {model.name} lists no weights ({counted(len(found), 'file')})",
                    code="bad_answer",
                    where=shown_url(url),
                    hint="It may be the login page of the network: open it in a browser. If the server has no listing, "
                    "name the files under `files` in models.yml.",
                )
            return model.remote_files(KnownFile(file.name, file.size) for file in found)
        except NetworkError as error:
            if url == model.mirrors[-1]:
                raise
            log.info(f"{error.message}; trying the next mirror")
    raise ConfigError(
        f"{model.name} has neither mirrors nor files",
        code="incomplete_configuration",
        hint="Name a mirror with --mirror URL.",
    )


def with_checksums(
    files: Sequence[RemoteFile], source: Manifest, folder: Path, given: Manifest | None
) -> list[RemoteFile]:
    """The files with the best known checksums: the user's, else the published, else those of the first download.

    Raises:
        DataError: the user's manifest names other files, or the folder's own cannot be used.
    """
    before = manifest.read_folder_manifest(folder)
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
                "the given manifest names none of the files to download",
                code="bad_file",
                hint=f"It names {printable(next(iter(given.files), 'nothing'))}, and the first file is {unknown[0]}. "
                "Names must be paths below the folder: run `sha256sum` in that folder.",
            )
        if unknown:
            log.warning(f"the given manifest lacks {counted(len(unknown), 'file')}, for example {unknown[0]}")
    return result


def carry_out_order(order: Order, *, jobs: int, show: bool, stop: threading.Event | None = None) -> Downloaded:
    """Fetch what is missing, check everything, and record it, with the folder locked against other processes.

    Args:
        order: what to fetch.
        jobs, show, stop: see ``fetch_files``.

    Raises:
        Stopped: another thread has set ``stop``.
        DataError: another process has locked the folder; nothing was changed.
        NeoxrunError: as for ``fetch_files``; what has arrived is kept.
    """
    start = time.monotonic()
    make_folder(order.folder)
    with folder_lock(order.folder):
        arrivals = _carry_out(order, jobs, show, stop)
    return Downloaded(tuple(arrivals), order.folder / MANIFEST_NAME, time.monotonic() - start)


def _carry_out(order: Order, jobs: int, show: bool, stop: threading.Event | None) -> list[Arrival]:
    if order.repository is not None:
        cached = hub_cache.take_from_cache(order.repository, order.folder)
        if cached:
            log.info(f"{counted(len(cached), 'file')} taken from the hub's cache")
    before = manifest.read_folder_manifest(order.folder)
    # A folder may hold more than this order, as that of several tasks' data does.
    kept = before.files if before is not None and before.revision == order.source.revision else {}
    check = content_check({} if order.repository is None else order.repository.blobs)
    with manifest.Recorder(replace(order.source, files=kept), order.folder) as recorder:
        arrivals = fetch_files(
            order.files,
            order.folder,
            jobs=jobs,
            options=order.options,
            check=check,
            arrived=recorder.add,
            show=show,
            stop=stop,
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
            hint="The other files were kept. The weights are incomplete at their source: ask their owner, or name "
            "another source.",
        )
    return arrivals


def content_check(blobs: Mapping[str, str]) -> ContentCheck:
    """The check that ``fetch_files`` makes of each file before the file gets its name.

    Args:
        blobs: git's hashes of the contents of files that have no published SHA-256.
    """

    def check_content(file: RemoteFile, path: Path) -> None:
        proof.prove_file(path, file.name)
        blob = blobs.get(file.name)
        if blob is not None and proof.git_blob_name(path) != blob:
            raise CheckpointError(
                f"the contents of {file.name} are not those that the hub has under that name",
                code="wrong_checksum",
                where=str(path),
                hint="The file is not used. Try again later.",
            )

    return check_content


def write_texts(texts: Mapping[str, str], folder: Path) -> list[Arrival]:
    """Write a model's small text files; those with the right contents are left unchanged."""
    arrivals = []
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            manifest.write_atomically(path, text)
        arrivals.append(Arrival(name, path, len(text.encode()), proof.sha256_of(path), None, 0.0))
    return arrivals
