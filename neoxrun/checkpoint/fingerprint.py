"""Fingerprints that identify a model, and are cheap even for a checkpoint of 40 GB.

Files of torch.save are zip archives whose directory has a checksum of every tensor, which is enough. Other files
(safetensors, files of an old torch) are read completely, once, and their checksums are kept in the user's cache folder;
or, where it is enough to tell models apart, only their headers and some blocks are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from neoxrun.checkpoint.adapter_layout import find_adapter
from neoxrun.checkpoint.content import ARCHIVE, unreadable_file
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.config import tokenizer_names
from neoxrun.config.precisions import DeviceKind
from neoxrun.config.settings import Precision, Settings
from neoxrun.terminal.log import log, waiting

_READERS: Final = 4
_REMEMBERED: Final = re.compile(r"(.+)\n([0-9a-f]{64})\n")
# A file that is written twice within one tick of the file system's clock looks unchanged, so the checksums of younger
# files are not kept.
_SETTLED_SECONDS: Final = 2.0
# What is read of a file that has no checksums, to tell it from others: its beginning, with the names and shapes of
# tensors, and blocks at equal distances. Training changes nearly all numbers, so some blocks differ.
_HEAD_BYTES, _BLOCKS, _BLOCK_BYTES = 2**16, 64, 2**12


def describe_checkpoint(
    settings: Settings, found: Checkpoint | None, *, tp: int, pp: int, device_kind: DeviceKind, dtype: Precision
) -> dict[str, Any]:
    """The description of the model in the results; ``fingerprint`` is the SHA-256 of all that its answers depend on.

    These are the weights, the tokenizer, the network and the number format, but not the number of ranks, with one
    exception: norms that differ between the checkpoint's tensor-parallel ranks are folded or averaged at another
    tensor-parallel size, so it counts whether the checkpoint's own size is used, and which of the two. Random weights
    are drawn on each rank, so they differ between splits and kinds of device.

    ``weights_fingerprint`` covers the files of the weights alone, and those of the adapter that is merged into them.

    Args:
        settings: the configuration.
        found: its checkpoint; None: the weights are random.
        tp, pp, device_kind: how the model runs.
        dtype: the number format that it runs in.

    Raises:
        CheckpointError: a file cannot be read.
    """
    whole = hashlib.sha256()
    facts: dict[str, Any] = {}
    if found is None:
        facts["weights"] = random_name(settings, tp=tp, pp=pp, device_kind=device_kind)
    else:
        facts["folder"], facts["tag"] = str(found.folder), found.tag
        if found.source_tp > 1:
            merged = {"fold": "folded", "average": "averaged"}[settings.merge]
            facts["ranks"] = "as saved" if tp == found.source_tp and settings.adapter is None else merged
        if settings.adapter is not None:
            facts["adapter"] = str(settings.adapter)
        text = f"reading {found.total_bytes / 1e9:.1f} GB of weights for their fingerprint, which is kept for later"
        with waiting(text, log.info), ThreadPoolExecutor(_READERS) as pool:
            files = [*found.files, *_adapter_files(settings)]
            for path, digest in zip(files, pool.map(_digest, files), strict=True):
                whole.update(f"{path.name} {digest}\n".encode())
        facts["weights_fingerprint"] = whole.hexdigest()
    _add_tokenizer(whole, settings)
    how = {key: facts.get(key) for key in ("weights", "ranks")}
    whole.update(
        json.dumps([_network(settings), how, dtype, settings.tokenizer.tokenizer_type], sort_keys=True).encode()
    )
    return {**facts, "fingerprint": whole.hexdigest()}


def tell_apart(settings: Settings, *, random_weights: bool) -> str:
    """A short fingerprint of weights, tokenizer, end ids and network: only blocks of large files are read for it.

    It does not depend on how the model runs: the number format, the split and the merge rule do not count.

    Args:
        settings: the configuration.
        random_weights: no checkpoint is loaded.

    Raises:
        CheckpointError: a file cannot be read.
    """
    whole = hashlib.sha256()
    if not random_weights:
        files = [*find_configured_checkpoint(settings).files, *_adapter_files(settings)]
        with ThreadPoolExecutor(_READERS) as pool:
            for path, digest in zip(files, pool.map(_sampled_digest, files), strict=True):
                whole.update(f"{path.name} {digest}\n".encode())
    _add_tokenizer(whole, settings)
    rest = [_network(settings), settings.tokenizer.tokenizer_type, sorted(settings.end_ids)]
    whole.update(json.dumps(rest, sort_keys=True).encode())
    return whole.hexdigest()[:16]


def random_name(settings: Settings, *, tp: int, pp: int, device_kind: DeviceKind) -> str:
    """What tells random weights apart: they are drawn on each rank."""
    return f"random, seed {settings.seed}, tp {tp}, pp {pp}, {device_kind}"


def _adapter_files(settings: Settings) -> tuple[Path, ...]:
    return () if settings.adapter is None else find_adapter(settings.adapter).paths


def _add_tokenizer(whole: hashlib._Hash, settings: Settings) -> None:
    for named in (settings.tokenizer.vocab_file, settings.tokenizer.merge_file):
        if named is not None:
            # For HFGPT2Tokenizer it is the folder of both files.
            files = [named / tokenizer_names.VOCABULARY, named / tokenizer_names.MERGES] if named.is_dir() else [named]
            next_to_it = (files[0].parent / name for name in tokenizer_names.SIBLINGS)
            for path in (*files, *(path for path in next_to_it if path.is_file())):
                whole.update(hashlib.sha256(path.read_bytes()).digest())


def _network(settings: Settings) -> dict[str, Any]:
    return {
        key: value
        for key, value in asdict(settings.model).items()
        # A field that is None was not there when older fingerprints were made.
        if key not in ("model_parallel_size", "pipe_parallel_size") and value is not None
    }


def name_of_model(title: str, checkpoint: Mapping[str, Any]) -> str:
    """A name that tells a model's checkpoints apart: ``pythia-160m@step1000-0123abcd``.

    After the ``@`` are the step, or what the name of the weights' folder adds to the title, and the first digits of the
    weights' fingerprint.

    Args:
        title: the model's name.
        checkpoint: by ``describe_checkpoint``.
    """
    if "folder" not in checkpoint:
        return f"{title}@random"
    label = checkpoint["tag"] or Path(checkpoint["folder"]).name.removeprefix(title).lstrip("-_.@")
    digits = checkpoint["weights_fingerprint"][:8]
    return f"{title}@{label}-{digits}" if label else f"{title}@{digits}"


def _digest(path: Path) -> str:
    """A checksum that identifies the contents of a weights file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return _archive_digest(path) or _file_digest(path)
    except OSError as error:
        raise unreadable_file(path, error) from error


def _sampled_digest(path: Path) -> str:
    """A checksum of an archive's directory, or else of the file's size, its beginning and blocks of it.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        if (digest := _archive_digest(path)) is not None:
            return digest
        size = path.stat().st_size
        sampled = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            sampled.update(file.read(_HEAD_BYTES))
            for number in range(1, _BLOCKS + 1):
                file.seek(max(0, size * number // _BLOCKS - _BLOCK_BYTES))
                sampled.update(file.read(_BLOCK_BYTES))
    except OSError as error:
        raise unreadable_file(path, error) from error
    return sampled.hexdigest()


def _archive_digest(path: Path) -> str | None:
    """SHA-256 of a zip archive's directory; None if it is not one, or lacks checksums (torch can leave them out)."""
    with path.open("rb") as file:
        if file.read(len(ARCHIVE)) != ARCHIVE:
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                members = [(one.filename, one.file_size, one.CRC) for one in archive.infolist()]
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return None
    if not members or any(size > 0 and crc == 0 for _, size, crc in members):
        return None
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """SHA-256 of the whole file, kept in the cache folder as long as the file does not change."""
    before = _state(path)
    note = _note(path)
    if note is not None:
        with suppress(OSError, ValueError):
            known = _REMEMBERED.fullmatch(note.read_text(encoding="utf-8"))
            if known is not None and known[1] == before:
                return known[2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if note is not None and _state(path) == before and time.time() - path.stat().st_ctime > _SETTLED_SECONDS:
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            unfinished = note.with_name(f"{note.name}.{os.getpid()}")
            try:
                unfinished.write_text(f"{before}\n{digest}\n", encoding="utf-8")
                unfinished.replace(note)
            finally:
                unfinished.unlink(missing_ok=True)
    return digest


def _state(path: Path) -> str:
    """Values that change with a file, among them the inode's change time, which nothing sets back as ``cp -p`` does."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_dev}"


def _note(path: Path) -> Path | None:
    """The file that keeps a file's checksum; None if the user has no home folder."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return home / "neoxrun" / "sha256" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
