"""The work of ``neoxrun generate`` on the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import IO

from neoxrun.engine.session import Session
from neoxrun.errors import DataError, Interrupted
from neoxrun.generation.dialogue import converse
from neoxrun.generation.encoding import EncodedPrompt
from neoxrun.generation.generator import TextGenerator, prompt_encoder, start_generator
from neoxrun.generation.interrupt import StopFlag
from neoxrun.generation.lines import KEPT, kept_hint
from neoxrun.generation.options import GenerateOptions
from neoxrun.generation.plain_text import TextWriter
from neoxrun.generation.provenance import write_provenance
from neoxrun.generation.records import Record, RecordWriter, with_texts
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.queue import WorkQueue
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted
from neoxrun.tokenizer import Tokenizer

_COLLECT_SECONDS = 0.05
_LAST_SECONDS = 3


def run_generation(
    session: Session,
    options: GenerateOptions,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Generate, as one of the ranks.

    Args:
        session: this rank's part of the model.
        options: the work; that of rank 0 is used.
        stdout: for records that are not written to a file.
        show_progress: show a bar on stderr.
        announce: called when Ctrl-C is taken over, by the ranks that lead a replica.

    Raises:
        Interrupted: Ctrl-C; every record finished so far is written.
        DataError: the output cannot be written; or all is done, and some prompts could not be answered (on rank 0).
        BrokenPipeError: stdout was closed by its reader.
    """
    options = meshes.share_from_first(options)
    if options.dialogue is None and not options.prompts:  # an earlier run has given all answers
        if session.mesh.rank == 0:
            RecordWriter(options.output, stdout, resume=options.resume).close()
    elif not session.mesh.leads:
        session.replica.follow()
    elif options.dialogue is not None:
        converse(session, options, options.dialogue, stdout, announce)
    else:
        _answer_all(session, options, stdout, show_progress, announce)


def _answer_all(
    session: Session,
    options: GenerateOptions,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    prompts = options.prompts
    queue = WorkQueue(session.mesh, len(prompts), "prompts")
    encoded = prompt_encoder(session, options.truncate).encode(prompts)
    texts = start_generator(session, encoded, options.batch_size)
    stop = StopFlag()
    stop.install()
    announce()
    mine = (encoded[number] for number in queue.claim_all())
    failed: set[str | int] = set()
    written = options.finished
    if session.mesh.replica == 0:
        with (
            _bar(options, stdout, show_progress, _most(session, encoded)) as bar,
            closing(_writer(options, stdout)) as writer,
        ):
            write_provenance(options.output, options.made)
            failed = _collect_all(texts, mine, queue, options, stop, writer, session.tokenizer, bar)
        written += bar.count
    else:
        for records in _until_stopped(texts, mine, options, stop, None):
            for record in records:
                queue.publish(asdict(record))
        queue.close(interrupted=stop.raised)
    texts.close()
    session.replica.release_followers()
    if (stop.raised or queue.interrupted) and session.mesh.replica == 0:
        raise Interrupted("interrupted", hint=_hint(options) if written else None)
    if failed:
        count = len({prompt.id for prompt in prompts})
        hint = "The warnings above and the records say why; --resume tries these prompts again."
        raise DataError(
            f"{len(failed)} of {counted(count, 'prompt')} could not be answered",
            code="unanswered_prompts",
            hint=hint if options.output else None,
        )


def _hint(options: GenerateOptions) -> str | None:
    """What is left after Ctrl-C."""
    if options.output is None:
        return None
    partial = "The answer so far is kept; --resume starts it from the beginning."
    return kept_hint(partial if options.keep_partial else KEPT, options.output)


def _most(session: Session, prompts: Iterable[EncodedPrompt]) -> int:
    """The most tokens that all answers together can have."""
    return sum(min(one.prompt.params.maximum_tokens, session.max_context - len(one.ids)) for one in prompts if one.ids)


def _bar(options: GenerateOptions, stdout: IO[str], show_progress: bool, most: int) -> Bar:
    return Bar(
        "answers",
        len(options.prompts) + options.finished,
        "answer",
        done=options.finished,
        amounts="tokens",
        most=most,
        show=show_progress,
        # Answers that come out at the same terminal, or piece by piece, show themselves how far they are.
        moving=options.output is not None or not (options.plain_text or stdout.isatty()),
        closing=lambda bar: _how_fast(bar, options.output),
    )


def _how_fast(bar: Bar, output: Path | None) -> str:
    rate = bar.amount / bar.seconds
    where = "" if output is None or not bar.count else f", in {output}"
    done = f"{counted(bar.count, 'answer')}, {counted(bar.amount, 'token')}"
    return f"{done} in {bar.seconds:.1f} s ({rate:.1f} tokens/s){where}"


def _writer(options: GenerateOptions, stdout: IO[str]) -> RecordWriter | TextWriter:
    if options.plain_text:
        return TextWriter(stdout, len(options.prompts))
    return RecordWriter(options.output, stdout, resume=options.resume)


def _until_stopped(
    texts: TextGenerator,
    prompts: Iterator[EncodedPrompt],
    options: GenerateOptions,
    stop: StopFlag,
    on_text: Callable[[str], None] | None,
) -> Iterator[list[Record]]:
    """The records of this replica, step by step; after Ctrl-C those of answers in progress, where they are wanted."""
    for records in texts.run(prompts, on_text):
        yield records
        if stop.raised:
            if options.keep_partial:
                yield texts.abort(on_text)
            return


def _collect_all(
    texts: TextGenerator,
    prompts: Iterator[EncodedPrompt],
    queue: WorkQueue,
    options: GenerateOptions,
    stop: StopFlag,
    writer: RecordWriter | TextWriter,
    tokenizer: Tokenizer,
    bar: Bar,
) -> set[str | int]:
    """Write the records of this replica's steps, and those that the others send.

    Returns:
        The ids of the prompts that could not be answered.
    """
    failed: set[str | int] = set()

    def write(records: Iterable[Record]) -> None:
        for record in records:
            writer.write(with_texts(record, tokenizer.spell))
            if record.message is not None:
                bar.say(f"prompt {record.id}: {record.message}")
            if record.finish_reason == "error":
                failed.add(record.id)
            bar.update()

    def write_others() -> None:
        for values in queue.collect():
            record = Record(**values)
            write([record])
            bar.update(0, record.length)

    on_text = writer.show if isinstance(writer, TextWriter) and writer.streams else None
    collected = time.monotonic()
    tokens = 0
    for records in _until_stopped(texts, prompts, options, stop, on_text):
        write(records)
        bar.update(0, texts.tokens - tokens)
        tokens = texts.tokens
        if queue.others_working and time.monotonic() - collected > _COLLECT_SECONDS:
            write_others()
            collected = time.monotonic()
    waited = 0.0
    while queue.others_working and waited < _LAST_SECONDS:
        write_others()
        time.sleep(_COLLECT_SECONDS)
        if stop.raised:  # the others have been interrupted too, and send what they have finished
            waited += _COLLECT_SECONDS
    return failed
