"""The work of ``neoxrun score`` on the ranks: rank 0 reads, encodes and writes, and the replicas compute."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import accumulate, islice
from typing import IO, Any

from neoxrun.config.precisions import nonfinite_hint
from neoxrun.engine.scoring import ScoreRequest
from neoxrun.engine.session import Session
from neoxrun.errors import DataError, Interrupted, RankError
from neoxrun.evaluation.replicas import Replicas, take_part
from neoxrun.generation.interrupt import StopFlag
from neoxrun.generation.lines import AGAIN, LineWriter
from neoxrun.generation.provenance import write_provenance
from neoxrun.parallel import mesh as meshes
from neoxrun.scoring.documents import Document, read_documents
from neoxrun.scoring.options import ScoreOptions
from neoxrun.scoring.output import finish_output, lines_file
from neoxrun.scoring.records import RecordMaker, TokenizedDocument
from neoxrun.scoring.summary import write_summary
from neoxrun.scoring.windows import scoring_windows
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted
from neoxrun.tokenizer import END_OF_DOCUMENT

_ENCODED_DOCUMENTS, _ENCODED_LETTERS = 256, 2**20  # that are encoded together
# Records are written after a few tokens of each replica at first, then after two or four times as many, and so on: the
# last pass of a batch is half empty on average. What an interrupted run loses should not take longer than this, though.
_FIRST_TOKENS, _MOST_PASSES = 1024, 32
_BATCH_SECONDS = 5
_MOST_TOKENS = 2**19  # of a batch: Python needs about 200 bytes for each


def run_scoring(
    session: Session,
    options: ScoreOptions | None,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Score, as one of the ranks.

    Args:
        session: this rank's part of the model.
        options: the work, on rank 0.
        stdout: for the summary, and for records that are not written to a file.
        show_progress: show a bar on stderr.
        announce: called when rank 0 has taken over Ctrl-C.

    Raises:
        Interrupted: Ctrl-C; the records of what is finished are written.
        DataError: the input cannot be read, or the output cannot be written.
        RankError: the model's output is not a number.
        BrokenPipeError: stdout was closed by its reader.
    """
    if session.mesh.rank:
        take_part(session, None, stdout, show_progress, announce)
        return
    assert options is not None
    replicas = Replicas(session, meshes.share_from_first(options.batch_size))
    stop = StopFlag()
    stop.install()
    announce()
    scorer = DocumentScorer(session, replicas, options)
    documents = islice(read_documents(options.source), options.finished, None)
    bar = Bar(
        "scores",
        options.documents,
        "document",
        done=options.finished,
        amounts="tokens",
        show=show_progress,
        closing=lambda bar: _how_fast(bar, options),
    )
    with closing(LineWriter(lines_file(options.output), stdout, options.keep)) as writer, bar:
        write_provenance(options.output, options.made)
        for record in scorer.records(documents, lambda: stop.raised):
            writer.write_line(json.dumps(record, ensure_ascii=False))
            options.totals.add(record)
            bar.update(amount=record["tokens"])
    if stop.raised:
        raise _interrupted(options.finished + bar.count, options)
    replicas.release_ranks()
    if options.output is not None:
        finish_output(options.output)
    write_summary(options, stdout)


def _interrupted(finished: int, options: ScoreOptions) -> Interrupted:
    """What is left of the work: the records of ``finished`` documents."""
    hint = None
    if options.output is not None:
        kept = f"Their records are in {lines_file(options.output)}; continue with --resume."
        hint = kept if finished else AGAIN
    return Interrupted(f"interrupted after {finished} of {counted(options.documents, 'document')}", hint=hint)


def _how_fast(bar: Bar, options: ScoreOptions) -> str:
    where = "" if options.output is None else f", in {options.output}"
    rate = bar.amount / bar.seconds
    done = f"{counted(bar.count, 'document')}, {counted(bar.amount, 'token')}"
    return f"{done} in {bar.seconds:.1f} s ({rate:.1f} tokens/s){where}"


class DocumentScorer:
    """Scores documents, on rank 0.

    Args:
        session: rank 0's part of the model.
        replicas: all replicas of it; the caller releases them.
        options: how to score.

    Raises:
        DataError: the tokenizer has no token that begins or ends a text.
    """

    def __init__(self, session: Session, replicas: Replicas, options: ScoreOptions) -> None:
        beginning = session.tokenizer.start
        if beginning is None:
            raise self._wrong_tokenizer(
                session, f"the tokenizer has no {END_OF_DOCUMENT}, which every text begins with"
            )
        self._session, self._replicas, self._options = session, replicas, options
        self._beginning = beginning
        self._maker = RecordMaker(
            session.tokenizer.spell,
            level=options.level,
            top=options.top > 0,
            run=options.run,
            weights=session.weights,
        )
        self._batch_tokens = _FIRST_TOKENS * session.mesh.replicas

    def records(self, documents: Iterable[Document], stopped: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """The records of documents in their order, a batch after the other.

        Args:
            documents: the documents.
            stopped: asked between passes; once it is true, only the records of documents that are complete follow.
        """
        for batch in self._batches(documents):
            start = time.perf_counter()
            complete = self._score(batch, stopped)
            seconds = time.perf_counter() - start
            if seconds < _BATCH_SECONDS:
                self._batch_tokens *= 4 if seconds < _BATCH_SECONDS / 4 else 2
            for document in batch[:complete]:
                yield self._maker.record(document)
            if complete < len(batch) or stopped():
                return

    def _batches(self, documents: Iterable[Document]) -> Iterator[list[TokenizedDocument]]:
        """Documents of about as many tokens as are scored before records are written, at least one."""
        batch: list[TokenizedDocument] = []
        tokens = 0
        passes = _MOST_PASSES * self._session.scoring_budget() * self._session.mesh.replicas
        most = min(passes, _MOST_TOKENS // (1 + self._options.top))
        for document in self._encoded(documents):
            batch.append(document)
            tokens += len(document.ids)
            if tokens >= min(self._batch_tokens, most):
                yield batch
                batch, tokens = [], 0
        if batch:
            yield batch

    def _encoded(self, documents: Iterable[Document]) -> Iterator[TokenizedDocument]:
        waiting: list[Document] = []
        letters = 0
        for document in documents:
            waiting.append(document)
            letters += len(document.text)
            if len(waiting) == _ENCODED_DOCUMENTS or letters >= _ENCODED_LETTERS:
                yield from self._encode(waiting)
                waiting, letters = [], 0
        yield from self._encode(waiting)

    def _encode(self, documents: list[Document]) -> Iterator[TokenizedDocument]:
        rows = self._session.replica.stage.vocab_size
        encoded = self._session.tokenizer.encode_with_starts([document.text for document in documents])
        for document, (ids, starts) in zip(documents, encoded, strict=True):
            if not document.text:
                ids, starts = [], []
            elif not ids:
                raise DataError("this text has no tokens", code="no_tokens", where=document.where)
            elif max(ids) >= rows:
                raise self._wrong_tokenizer(
                    self._session,
                    f"the tokenizer produced id {max(ids)} for {document.where}, but the model has only ids 0 to "
                    f"{rows - 1}",
                )
            # A token that is added at the end belongs to the last word.
            yield TokenizedDocument(document, ids, list(accumulate(starts, max)))

    def _score(self, batch: list[TokenizedDocument], stopped: Callable[[], bool]) -> int:
        """Fill in the scores of a batch; how many of its documents, from the first, are complete."""
        requests: list[ScoreRequest] = []
        for document in batch:
            requests += scoring_windows(document.ids, self._beginning, self._options.context, self._options.stride)
        found: list[Any] = [None] * len(requests)
        if requests:
            for results in self._replicas.score(requests, self._options.top):
                for number, scores in results:
                    found[number] = scores
                if stopped():
                    break
        windows = zip(requests, found, strict=True)
        for complete, document in enumerate(batch):
            while len(document.logprobs) < len(document.ids):
                _, scores = next(windows)
                if scores is None:
                    return complete
                logprobs, top_ids, top_logprobs = scores
                document.logprobs += logprobs
                document.top_ids += top_ids
                document.top_logprobs += top_logprobs
            if not all(map(math.isfinite, document.logprobs)):
                raise RankError(
                    f"the model's output for {document.document.where} is not a number",
                    code="nonfinite_output",
                    hint=nonfinite_hint(self._session.replica.stage.precisions.compute),
                )
        return len(batch)

    @staticmethod
    def _wrong_tokenizer(session: Session, message: str) -> DataError:
        return DataError(
            message,
            code="bad_tokenizer",
            where=str(session.settings.tokenizer.vocab_file),
            hint="Give the tokenizer that the model was trained with (--tokenizer FILE).",
        )
