"""Files of texts, encoded once: packed data as GPT-NeoX writes them, in a folder of the run. No torch.

A cache is named by what is in the file and by the tokenizer, so a change of either makes another one. It is written
under temporary names, and its .idx appears last: a cache with a .idx is complete. One that is damaged is written again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neoxrun.config.huggingface import CONFIG_JSON
from neoxrun.config.settings import TokenizerConfig
from neoxrun.config.tokenizer_names import CHAT_TEMPLATE, MERGES, SIBLINGS, VOCABULARY
from neoxrun.errors import DataError, writing_code
from neoxrun.input.source import Source, open_source
from neoxrun.terminal.log import log, waiting
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted
from neoxrun.tokenizer import END_OF_DOCUMENT, Tokenizer
from neoxrun.tokenizer.chat import ChatTemplate
from neoxrun.training.data.documents import TrainingDocument, read_training_documents
from neoxrun.training.data.encoding import LONGEST, encode_documents
from neoxrun.training.data.indexed import read_index, token_type, with_ending, write_index

LEARNED: Final = ".learned"
"""The ending of a file with one byte a token, 1 where it is learned; empty where all are."""

_LOCK: Final = "lock"
_DIGESTS: Final = "digests.json"
_VERSION: Final = 2  # of what the functions here make of a file
_BATCH: Final = 1000
_MOST_TOKENS: Final = int(np.iinfo(np.int32).max)
"""Of a document: an index has 32 bits for its size."""


@dataclass(frozen=True)
class Encoder:
    """What turns texts into tokens.

    Attributes:
        tokenizer: the model's.
        eod: the id that ends a document.
        chat: the model's chat template; None: it has none.
        files: where the tokenizer is.
        vocab_size: rows of the model's vocabulary.
    """

    tokenizer: Tokenizer
    eod: int
    chat: ChatTemplate | None
    files: TokenizerConfig
    vocab_size: int


def end_of_document(tokenizer: Tokenizer) -> int:
    """The id that ends a document: that of ``<|endoftext|>``, as in GPT-NeoX, or else of the tokenizer's end of text.

    Raises:
        DataError: it has neither.
    """
    found = tokenizer.eos if tokenizer.eod is None else tokenizer.eod
    if found is None:
        raise DataError(
            f"the tokenizer has neither {END_OF_DOCUMENT} nor an end-of-text token, which ends each document",
            code="bad_tokenizer",
            hint="Name its `eos_token` in tokenizer_config.json.",
        )
    return found


def cached(path: Path, column: str, end: str, encoder: Encoder, folder: Path, *, show: bool) -> Path:
    """The prefix of the packed data that hold a file of texts; encodes it where that has not been done.

    One process does so; others that ask for it wait.

    Args:
        path: the file.
        column: the key that holds a text.
        end: what ends a document of a plain text; empty: the whole file is one.
        encoder: what turns it into tokens.
        folder: of the caches; made where it is missing.
        show: whether to show progress.

    Raises:
        DataError: the file cannot be read or used, or the cache cannot be written.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file", code="unreadable_file", where=str(path), hint="Name files of texts.")
    source = open_source(str(path), end=end)
    try:
        with _alone(folder, str(path)):
            key = [_VERSION, column, end, source.format, encoder.eod, encoder.vocab_size, _digest(path, folder)]
            digest = hashlib.sha256(json.dumps([*key, _tokenizer_digest(encoder.files)]).encode()).hexdigest()
            prefix = folder / f"{path.name.split('.')[0]}-{digest[:16]}"
            if not _is_whole(prefix):
                _encode(source, column, encoder, prefix, show=show)
            return prefix
    except OSError as error:
        raise DataError(
            f"the tokens of {path} cannot be written: {error.strerror}",
            code=writing_code(error),
            where=str(error.filename or folder),
            hint=f"They go to {folder}: name another folder of the run with --output DIR, or make room.",
        ) from None


def missing_folders(folder: Path) -> list[Path]:
    """The folders that have to be made for a folder of caches, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_unused(folders: Sequence[Path]) -> None:
    """Remove folders that were made for caches where no tokens have been written in the end.

    Args:
        folders: what ``missing_folders`` found before.
    """
    if not folders or not folders[0].is_dir():
        return
    cache = folders[0]
    with suppress(OSError), (cache / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or another process writes some
        if any(path.stat().st_size for path in cache.glob("*.bin")):
            return
        for pattern in ("*.bin", f"*{LEARNED}", "*.idx", _DIGESTS, _LOCK):
            for path in cache.glob(pattern):
                path.unlink()
        for path in folders:
            path.rmdir()


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """While no other process is in here for the same folder, which is made where it is missing."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            with waiting(f"waiting for another process to encode {name}", log.info):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_nlink:  # or it was removed meanwhile, with the folder
                yield
                return


def _digest(path: Path, folder: Path) -> str:
    """SHA-256 of a file, remembered for as long as its size and time stay as they are: 100 GB take minutes."""
    memory = folder / _DIGESTS
    known = _read_digests(memory)
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
    name = str(path.resolve())
    entry = known.get(name)
    if not isinstance(entry, list) or entry[:-1] != stamp:
        with path.open("rb") as file:
            known[name] = entry = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
        _replace(memory, json.dumps(known).encode())
    return str(entry[-1])


def _read_digests(memory: Path) -> dict[str, Any]:
    """What is remembered: nothing, where the file is missing or damaged."""
    try:
        known = json.loads(memory.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(content)
    temporary.replace(path)


def _is_whole(prefix: Path) -> bool:
    """Whether a cache is complete: with as many tokens and marks as its .idx says."""
    if not with_ending(prefix, ".idx").is_file():
        return False
    try:
        index = read_index(prefix)
        tokens, marks = (with_ending(prefix, ending).stat().st_size for ending in (".bin", LEARNED))
    except (DataError, FileNotFoundError):
        return False
    count = int(index.sizes.sum())
    return tokens == count * index.item and marks in (0, count)


def _tokenizer_digest(config: TokenizerConfig) -> str:
    """SHA-256 of the tokenizer's files and of those next to it, which say how it is used."""
    digest = hashlib.sha256(config.tokenizer_type.encode())
    vocabulary = config.vocab_file
    if vocabulary is not None:
        folder = vocabulary if vocabulary.is_dir() else vocabulary.parent
        near = [folder / name for name in (*SIBLINGS, CONFIG_JSON, CHAT_TEMPLATE, VOCABULARY, MERGES)]
        for path in (vocabulary, config.merge_file, *near):
            content = path.read_bytes() if path is not None and path.is_file() else b""
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _encode(source: Source, column: str, encoder: Encoder, prefix: Path, *, show: bool) -> None:
    """Write the cache."""
    dtype = token_type(encoder.tokenizer.vocab_size)
    partial = {ending: with_ending(prefix, ending + ".partial") for ending in (".bin", LEARNED, ".idx")}
    sizes: list[int] = []
    empty = 0
    masked = False
    plain = source.format == "txt"  # where blank lines are what is around documents
    documents = read_training_documents(source, column, encoder.chat)
    try:
        with (
            Bar(f"encoding {source.name}", None, "document", amounts="characters", show=show) as bar,
            partial[".bin"].open("wb") as tokens,
            partial[LEARNED].open("wb") as marks,
        ):
            for batch in _batches(documents):
                given = [document for document in batch if document.text and not (plain and document.text.isspace())]
                empty += len(batch) - len(given)
                encoded = encode_documents(encoder.tokenizer, encoder.eod, given, lambda count: bar.update(0, count))
                for document, (ids, learned) in zip(given, encoded, strict=True):
                    _check(ids, encoder.vocab_size, document.where)
                    ids.astype(dtype).tofile(tokens)
                    (np.ones(len(ids), np.bool_) if learned is None else learned).tofile(marks)
                    masked = masked or learned is not None
                    sizes.append(len(ids))
                bar.update(len(batch))
            if not masked:
                marks.truncate(0)
            for file in (tokens, marks):
                file.flush()
                os.fsync(file.fileno())
        if empty and not plain:  # a text mostly ends with what separates documents
            log.info(f"{source.name}: {counted(empty, 'document')} without text left out")
        write_index(partial[".idx"], sizes, dtype)
        for ending in (".bin", LEARNED, ".idx"):
            partial[ending].replace(with_ending(prefix, ending))
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _batches(documents: Iterator[TrainingDocument]) -> Iterator[list[TrainingDocument]]:
    """Documents in groups that are encoded together: many, but not many more characters than are encoded at once."""
    batch: list[TrainingDocument] = []
    length = 0
    for document in documents:
        batch.append(document)
        length += sum(len(piece.text) for piece in document.pieces)
        if len(batch) == _BATCH or length >= LONGEST:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _check(ids: NDArray[np.int32], vocab_size: int, where: str) -> None:
    if len(ids) > _MOST_TOKENS:
        raise DataError(
            f"this document has {len(ids)} tokens, and packed data can hold {_MOST_TOKENS} of one",
            code="bad_document",
            where=where,
            hint="Divide it; --document-end says what separates the documents of a text.",
        )
    if ids.max() >= vocab_size:
        raise DataError(
            f"the tokenizer produced id {ids.max()}, but the model has only ids 0 to {vocab_size - 1}",
            code="foreign_tokens",
            where=where,
            hint="Name the model's tokenizer with --tokenizer FILE.",
        )
