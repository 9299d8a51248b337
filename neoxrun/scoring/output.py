"""The files of records: what an earlier run has left in them, and Parquet, into which JSON lines are turned at the end.

A Parquet file cannot grow by one record after the other, so until all are there they are in ``FILE.unfinished.jsonl``.
No torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from neoxrun.errors import DataError
from neoxrun.generation.lines import OTHER_OUTPUT, refuse_other_lines, unwritable
from neoxrun.scoring.documents import Document, DocumentSource, read_documents
from neoxrun.scoring.measures import Totals
from neoxrun.terminal.words import printable

_ROWS: Final = 256  # of a row group: a record of a long document has megabytes
_LISTS: Final = ("word_texts", "word_logprobs", "token_ids", "token_texts", "token_starts", "token_logprobs")
_WHOLE_ID: Final = re.compile(rb'\{"id": (-?\d{1,19}),')
_INT64: Final = range(-(2**63), 2**63)
_NESTED: Final = ("top_ids", "top_texts", "top_logprobs")


def is_parquet(output: Path | None) -> bool:
    """Whether the records are wanted as Parquet."""
    return output is not None and output.suffix.lower() == ".parquet"


def lines_file(output: Path | None) -> Path | None:
    """Where records are written as they come: the output itself, or a file next to one of Parquet."""
    if output is None or not is_parquet(output):
        return output
    return output.with_name(f"{output.name}.unfinished.jsonl")


def refuse_other_file(output: Path) -> None:
    """Refuse to replace a file that no earlier run has written.

    Raises:
        DataError: it holds something else than records of scores.
    """
    if not is_parquet(output):
        refuse_other_lines(output)
    elif output.is_file() and output.stat().st_size:
        next(_rows(output), None)


@dataclass
class Scan:
    """What an input has, and which of it an earlier run has scored.

    Attributes:
        documents: how many there are.
        size: bytes of their texts.
        finished: how many of them, from the first, have a record.
        keep: bytes of these records.
        totals: their sums.
        run: what they have as ``run``, and where the first is; None without records.
        checksum: SHA-256 of the ids and texts.
    """

    documents: int = 0
    size: int = 0
    finished: int = 0
    keep: int = 0
    totals: Totals = field(default_factory=Totals)
    run: tuple[str, str] | None = None
    checksum: hashlib._Hash = field(default_factory=hashlib.sha256)

    def check_run(self, run: str) -> None:
        """Refuse to continue records that something else made.

        Raises:
            DataError: their ``run`` is another.
        """
        if self.run is not None and self.run[0] != run:
            raise _foreign(
                "this record was made with another model, number format or other options",
                self.run[1],
                "--resume needs the same model, --dtype, --context, --stride, --top and --level. ",
            )


def scan_input(source: DocumentSource, earlier: Path | None) -> Scan:
    """Read the whole input once, so that what is wrong with it is found before anything is loaded.

    Args:
        source: the input.
        earlier: the output to continue; None: none.

    Raises:
        DataError: a document cannot be read, there are none, or a record is not one of these documents'.
    """
    scan = Scan()
    records = iter(()) if earlier is None else _records(earlier)
    for document in read_documents(source):
        scan.documents += 1
        data = document.text.encode()
        scan.size += len(data)
        scan.checksum.update(f"{document.id!r} {len(data)} ".encode() + data)
        for record, end, where in islice(records, 1):
            _check_record(record, document, where)
            scan.run = scan.run or (str(record["run"]), where)
            scan.check_run(record["run"])
            scan.finished, scan.keep = scan.documents, end
            scan.totals.add(record)
    if not scan.documents:
        raise DataError(
            f"there are no documents in {source.name}",
            code="no_documents",
            hint="A text file needs more than white space; the other formats need a row.",
        )
    for _, _, where in records:
        raise _foreign(f"there are more records than the {scan.documents} documents", where)
    if 0 < scan.finished < scan.documents and not scan.keep:
        raise _foreign(f"{earlier} is complete, with {scan.finished} of the {scan.documents} documents", str(earlier))
    return scan


def _records(output: Path) -> Iterator[tuple[dict[str, Any], int, str]]:
    """The records of an output, where each ends in the file of lines, and where it is."""
    lines = lines_file(output)
    assert lines is not None
    if lines.exists():
        return _whole_lines(lines)
    return _rows(output) if output.exists() else iter(())


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int, str]]:
    """All but a half-written last one."""
    end = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start = b'{"id": '
                if not line.endswith(b"\n") and start.startswith(line[: len(start)]):
                    return
                end += len(line)
                where = f"{path}:{number}"
                try:
                    record = json.loads(line)
                    Totals().add(record)
                    _ = record["id"], record["text"], record["run"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise _foreign("this line is not a record of scores", where) from None
                yield record, end, where
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", code="unreadable_file", hint=OTHER_OUTPUT) from None


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Those of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    names = ["id", "text", "tokens", "words", "bytes", "logprob", "run"]
    try:
        with parquet.ParquetFile(path) as file:
            if not set(names) <= set(file.schema_arrow.names):
                raise _foreign(f"{path} has no records of scores", str(path))
            for batch in file.iter_batches(_ROWS, columns=names):
                for record in batch.to_pylist():
                    yield record, 0, str(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _foreign(f"{path} is not a complete Parquet file: {printable(str(error))}", str(path)) from None


def _check_record(record: dict[str, Any], document: Document, where: str) -> None:
    # As texts: in a Parquet file all ids are texts if one of them is no 64-bit number.
    if (str(record["id"]), record["text"]) != (str(document.id), document.text):
        raise _foreign(f"this record is not of {document.where}", where, "--resume needs the same input. ")


def _foreign(message: str, where: str, hint: str = "") -> DataError:
    return DataError(message, code="foreign_record", where=where, hint=f"{hint}{OTHER_OUTPUT}")


def finish_output(output: Path) -> None:
    """Turn the records into the Parquet file that was asked for; nothing to do for JSON lines.

    Raises:
        DataError: it cannot be written.
    """
    lines = lines_file(output)
    if lines is None or lines == output or not lines.exists():
        return
    import pyarrow

    target = output.resolve()  # a link still names the file afterwards; it may be on another file system
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with lines.open("rb") as file:
            _write_parquet(file, unfinished)
        unfinished.replace(target)
        lines.unlink()
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise unwritable(output, error) from None
    except (pyarrow.ArrowException, OverflowError) as error:
        unfinished.unlink(missing_ok=True)
        raise DataError(
            f"the records cannot be turned into {output}: {printable(str(error))}",
            code="unwritable_file",
            where=str(lines),
            hint="They are complete, as JSON lines, in the file named above.",
        ) from None


def _write_parquet(lines: IO[bytes], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    first = json.loads(lines.readline())
    lines.seek(0)
    whole = all((found := _WHOLE_ID.match(line)) and int(found[1]) in _INT64 for line in lines)
    lines.seek(0)
    integer, real, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    plain = dict.fromkeys(("tokens", "words", "bytes"), integer) | dict.fromkeys(("text", "run", "weights"), text)
    plain["id"] = integer if whole else text
    ends = {"texts": text, "ids": integer, "starts": integer}
    columns = []
    for name in first:
        kind = plain.get(name) or ends.get(name.rpartition("_")[2], real)
        for _ in range((name in _LISTS) + 2 * (name in _NESTED)):
            kind = pyarrow.list_(kind)
        columns.append((name, kind))
    schema = pyarrow.schema(columns)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := [json.loads(line) for line in islice(lines, _ROWS)]:
            if not whole:
                rows = [row | {"id": str(row["id"])} for row in rows]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
