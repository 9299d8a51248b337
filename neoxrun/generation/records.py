"""The output file: one JSON object a line, written as soon as its request ends."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final

from neoxrun.errors import DataError
from neoxrun.generation.lines import OTHER_OUTPUT, LineWriter, unwritable
from neoxrun.generation.prompts import Prompt
from neoxrun.input.columns import count_parquet
from neoxrun.terminal.log import log
from neoxrun.terminal.streams import output_stream
from neoxrun.terminal.words import counted

RecordKey = tuple[str | int, int | None]

RECORD_CODES: Final[Mapping[str, str]] = {
    "prompt_too_long": "The prompt leaves no room for an answer in the context; `--truncate` would cut it.",
    "prompt_cut": "The prompt was too long for the context and was cut, as `--truncate` asks.",
    "no_end_of_document_token": "An empty prompt needs an end-of-document token, which the tokenizer does not have.",
    "bad_token_id": "The tokenizer produced an id that the model does not have: it probably belongs to another model.",
    "bad_logit_bias": "The prompt's `logit_bias` names an id that the model does not have.",
    "unknown_token": "The model generated an id that the tokenizer does not have; the text leaves it out.",
}
"""What the `code` of a record may be, each with its meaning. Programs rely on them: add some, change none."""


@dataclass(frozen=True)
class Notice:
    """A notice about one prompt or its answer.

    Attributes:
        code: one of ``RECORD_CODES``.
        message: the notice in words, with this prompt's own numbers.
    """

    code: str
    message: str

    def __post_init__(self) -> None:
        assert self.code in RECORD_CODES, self.code


@dataclass(frozen=True)
class Record:
    """One answer. GPT-NeoX's fields, and more.

    Attributes:
        id: the prompt's id.
        sample: which of several answers to the prompt, from 0; left out of the file if only one was asked for.
        context: the prompt's text.
        text: the continuation; None where there is none.
        length: tokens generated, the end-of-document token not counted.
        finished: the model ended the answer itself (end of document or a stop string).
        finish_reason: ``stop``, ``length`` (maximum_tokens reached), ``context`` (context full), ``aborted`` or
            ``error`` (see ``message``).
        message: what went wrong or needs attention, or None.
        code: the stable name of what ``message`` says, one of ``RECORD_CODES``; None without a message.
        duration_seconds: from the request's start to its end.
        tokens: ids of the generated tokens, where log-probabilities were asked for.
        logprobs: per token ``{"token", "logprob", "top": [[id, logprob], ...]}``, where asked for; see ``with_texts``.
        weights: ``random`` when no checkpoint was loaded; left out otherwise.
        extra: the prompt's own keys, which follow these; one that has the name of a field gets ``input_`` before it.
    """

    id: str | int
    sample: int | None
    context: str
    text: str | None
    length: int
    finished: bool
    finish_reason: str
    message: str | None
    code: str | None
    duration_seconds: float
    tokens: list[int] | None = None
    logprobs: list[dict[str, Any]] | None = None
    weights: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as a line, without the newline."""
        return record_line(asdict(self), ("sample", "tokens", "logprobs", "weights"))


def record_line(values: dict[str, Any], optional: Iterable[str]) -> str:
    """The fields of a record as a line, less those of the ``optional`` ones that are None."""
    extra, taken = values.pop("extra"), set(values)
    for name in optional:
        if values[name] is None:
            del values[name]
    for key, value in extra.items():
        name = key
        while name in taken:
            name = f"input_{name}"
        taken.add(name)
        values[name] = value
    return json.dumps(values, ensure_ascii=False)


def with_texts(record: Record, spell: Callable[[int], str]) -> Record:
    """A record whose log-probabilities also have the ``text`` of each token, and the ``top_texts``.

    Args:
        record: a record.
        spell: gives the text of a token.
    """
    if record.logprobs is None:
        return record
    return replace(record, logprobs=[step_with_texts(step, spell) for step in record.logprobs])


def step_with_texts(step: Mapping[str, Any], spell: Callable[[int], str]) -> dict[str, Any]:
    """What ``with_texts`` makes of the log-probabilities at one position."""
    return {
        "token": step["token"],
        "text": spell(step["token"]),
        "logprob": step["logprob"],
        "top": step["top"],
        "top_texts": [spell(token) for token, _ in step["top"]],
    }


def warn_of_replacing(path: Path) -> None:
    """Warn that a file is about to be replaced, with the number of records that it has."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        count = count_parquet(file)
        if count is None:
            file.seek(0)
            count = sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    if count:
        log.warning(f"{path} is replaced; it had {counted(count, 'record')}")


def refuse_unfinished(path: Path, wanted: int) -> None:
    """Refuse to replace records that are a part of what is wanted: a run that was interrupted has left them.

    Args:
        path: the file of records, if it exists.
        wanted: how many records it has when all is done.

    Raises:
        DataError: it has fewer, and more than none.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:  # quotes within a text are escaped
        finished = sum(line.endswith(b"\n") and b'"finish_reason": "aborted"' not in line for line in file)
    if 0 < finished < wanted:
        raise DataError(
            f"{path} has {finished} of the {counted(wanted, 'record')}, which an earlier run has left",
            code="unfinished_output",
            where=str(path),
            hint="--resume continues with the missing records, and --overwrite starts over.",
        )


def finished_keys(path: Path, prompts: Iterable[Prompt]) -> set[RecordKey]:
    """The answers to ``prompts`` that an earlier run has left in ``path``.

    Neither a half-written last line nor an error counts, nor an answer that Ctrl-C has cut short: those prompts are
    answered again.

    Raises:
        DataError: a line is not a record, or a record belongs to another prompt.
    """
    if not path.exists():
        return set()
    _check_torn_line(path)
    contexts = {prompt.key: prompt.context for prompt in prompts}
    done: set[RecordKey] = set()
    for number, line in enumerate(_whole_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
            key, context = (record["id"], record.get("sample")), record["context"]
            expected = contexts.get(key)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(
                "this line is not an output record",
                code="foreign_record",
                where=where,
                hint=OTHER_OUTPUT,
            ) from None
        if expected is None or expected != context:
            raise DataError(
                f"the record {record['id']!r} does not belong to these prompts",
                code="foreign_record",
                where=where,
                hint="--resume needs the same input and the same --num-samples; give another file with -o for others.",
            )
        if _is_final(record):
            done.add(key)
    return done


class RecordWriter(LineWriter):
    """Appends records to a file, or to an open stream.

    Args:
        path: the file; None writes to ``stream``.
        stream: used where ``path`` is None.
        resume: keep the file's records of complete answers; otherwise it starts empty.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path | None, stream: IO[str], *, resume: bool) -> None:
        try:
            keep = _drop_unfinished(path) if resume and path is not None and path.exists() else 0
        except OSError as error:
            raise unwritable(path, error) from None
        super().__init__(path, stream, keep)

    def write(self, record: Record) -> None:
        """Write one record and hand it to the system, so that it outlives this process.

        Raises:
            DataError: the disk is full, for example; the records before this one are whole.
            BrokenPipeError: the reader of a pipe is gone.
        """
        self.write_line(record.to_json())


def _check_torn_line(path: Path) -> None:
    """Refuse a file whose last line has no end and does not begin as a record does: neoxrun did not write it."""
    start = b'{"id": '
    torn = path.read_bytes().rpartition(b"\n")[2][: len(start)]
    if not start.startswith(torn):
        raise DataError(
            "the last line is not an output record",
            code="foreign_record",
            where=str(path),
            hint=OTHER_OUTPUT,
        )


def _is_final(record: dict[str, Any]) -> bool:
    return record.get("finish_reason") not in ("error", "aborted")


def _drop_unfinished(path: Path) -> int:
    """Remove records that are not final from a file of records; returns how many bytes of whole records are left.

    The file is replaced as a whole, so that no record is lost if this is interrupted.
    """
    lines = _whole_lines(path)
    kept = [line for line in lines if _is_final(json.loads(line))]
    if len(kept) < len(lines):
        path = path.resolve()  # a link still names the file afterwards
        unfinished = path.with_name(f"{path.name}.unfinished")
        try:
            unfinished.write_bytes(b"".join(kept))
            shutil.copymode(path, unfinished)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
    return sum(map(len, kept))


def _whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def standard_output(verbose: bool) -> IO[str]:
    """This process's stdout under another number.

    Descriptor 1 goes to stderr from now on, or nowhere unless ``verbose``: what a library prints (gloo says who is
    connected) must not get between the records.
    """
    sys.stdout.flush()
    own = os.dup(1)
    elsewhere = 2 if verbose else os.open(os.devnull, os.O_WRONLY)
    os.dup2(elsewhere, 1)
    return output_stream(own)
