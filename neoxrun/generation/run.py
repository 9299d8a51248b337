"""The work of ``neoxrun generate`` on the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from neoxrun.engine.engine import Engine, follow
from neoxrun.engine.session import Session
from neoxrun.errors import DataError, Interrupted
from neoxrun.generation.answer import TextGenerator
from neoxrun.generation.dialogue import converse
from neoxrun.generation.interrupt import StopFlag
from neoxrun.generation.options import GenerateOptions, Truncate
from neoxrun.generation.prompts import Prompt
from neoxrun.generation.records import Record, RecordWriter
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.queue import WorkQueue
from neoxrun.planning.memory import MAX_BATCH
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted

_COLLECT_SECONDS = 0.05
_LAST_SECONDS = 3


def run(
    session: Session,
    options: GenerateOptions,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Generate, as one of the ranks.

    Args:
        session: this rank's part of the model.
        options: the work; rank 0's counts.
        stdout: where records go that go to no file.
        show_progress: keep a bar on stderr.
        announce: called when Ctrl-C is taken over, by the ranks that lead a copy.

    Raises:
        Interrupted: Ctrl-C; every record finished so far is written.
        DataError: the output cannot be written; or all is done, and prompts became error records (on rank 0).
        BrokenPipeError: nobody reads stdout any more.
    """
    options = meshes.share_from_first(options)
    if options.dialogue is None and not options.prompts:  # an earlier run has given all answers
        if session.mesh.rank == 0:
            RecordWriter(options.output, stdout, resume=options.resume).close()
    elif not session.mesh.leads:
        follow(session.runner)
    elif options.dialogue is not None:
        converse(session, options, options.dialogue, stdout, announce)
    else:
        _answer_all(session, options, stdout, show_progress, announce)


def text_generator(
    session: Session, prompts: list[Prompt], batch_size: int | None, truncate: Truncate | None
) -> tuple[Engine, TextGenerator]:
    """An engine just large enough for ``prompts``, and the text layer around it."""
    longest = max(len(session.tokenizer.encode(p.context)) + 1 + p.params.maximum_tokens for p in prompts)
    engine = Engine(
        session.runner,
        slots=min(batch_size or MAX_BATCH["cuda" if session.mesh.device.type == "cuda" else "cpu"], len(prompts)),
        length=min(longest, session.max_context),
        eos=session.tokenizer.eod,
    )
    vocab_size = session.runner.stage.vocab_size
    texts = TextGenerator(engine, session.tokenizer, vocab_size=vocab_size, truncate=truncate, weights=session.weights)
    return engine, texts


def _answer_all(
    session: Session,
    options: GenerateOptions,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    prompts = options.prompts
    queue = WorkQueue(session.mesh, len(prompts), "prompts")
    engine, texts = text_generator(session, prompts, options.batch_size, options.truncate)
    stop = StopFlag()
    stop.install()
    announce()
    steps = texts.run(prompts[number] for number in queue.claims())
    failed: set[str | int] = set()
    if session.mesh.replica == 0:
        bar = Bar(
            "answers",
            len(prompts) + options.finished,
            "answer",
            done=options.finished,
            amounts="tokens",
            show=show_progress,
            closing=lambda bar: _how_fast(bar, options.output),
        )
        with bar:
            failed = _collect_all(steps, queue, options, stop, stdout, bar)
    else:
        for records in steps:
            for record in records:
                queue.publish(asdict(record))
            if stop.raised:
                break
        queue.close(interrupted=stop.raised)
    engine.close()
    if (stop.raised or queue.interrupted) and session.mesh.replica == 0:
        hint = "Finished records are kept; go on with --resume." if options.output else None
        raise Interrupted("interrupted", hint=hint)
    if failed:
        count = len({prompt.id for prompt in prompts})
        hint = "The warnings above say why, and so do their records; --resume tries them again."
        raise DataError(
            f"{len(failed)} of {counted(count, 'prompt')} could not be answered",
            code="unanswered_prompts",
            hint=hint if options.output else None,
        )


def _how_fast(bar: Bar, output: Path | None) -> str:
    rate = bar.amount / bar.seconds
    where = "" if output is None else f", in {output}"
    return f"{counted(bar.count, 'answer')}, {bar.amount} tokens in {bar.seconds:.1f} s ({rate:.1f} tokens/s){where}"


def _collect_all(
    steps: Iterator[list[Record]],
    queue: WorkQueue,
    options: GenerateOptions,
    stop: StopFlag,
    stdout: IO[str],
    bar: Bar,
) -> set[str | int]:
    """Write the records of this replica's steps, and those that the others send.

    Returns:
        The ids of the prompts that could not be answered.
    """
    failed: set[str | int] = set()
    writer = RecordWriter(options.output, stdout, resume=options.resume, plain_text=options.plain_text)

    def write(records: Iterable[Record]) -> None:
        for record in records:
            if record.message is not None:
                bar.say(f"prompt {record.id}: {record.message}")
            if record.finish_reason == "error":
                failed.add(record.id)
            writer.write(record)
            bar.update(amount=record.length)

    collected = time.monotonic()
    for records in steps:
        write(records)
        if stop.raised:
            break
        if queue.others_working and time.monotonic() - collected > _COLLECT_SECONDS:
            write(Record(**values) for values in queue.collect())
            collected = time.monotonic()
    waited = 0.0
    while queue.others_working and waited < _LAST_SECONDS:
        write(Record(**values) for values in queue.collect())
        time.sleep(_COLLECT_SECONDS)
        if stop.raised:  # the others have been interrupted too, and send what they have finished
            waited += _COLLECT_SECONDS
    writer.close()
    return failed
