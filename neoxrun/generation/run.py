"""The work of ``neoxrun generate`` on the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from neoxrun.engine.session import Session
from neoxrun.errors import DataError, Interrupted
from neoxrun.generation.dialogue import converse
from neoxrun.generation.generator import prompt_encoder, start_generator
from neoxrun.generation.interrupt import StopFlag
from neoxrun.generation.options import GenerateOptions
from neoxrun.generation.records import Record, RecordWriter
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.queue import WorkQueue
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted

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
    steps = texts.run(encoded[number] for number in queue.claim_all())
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
    texts.close()
    session.replica.release_followers()
    if (stop.raised or queue.interrupted) and session.mesh.replica == 0:
        hint = "Finished records are kept; continue with --resume." if options.output else None
        raise Interrupted("interrupted", hint=hint)
    if failed:
        count = len({prompt.id for prompt in prompts})
        hint = "The warnings above and the records say why; --resume tries these prompts again."
        raise DataError(
            f"{len(failed)} of {counted(count, 'prompt')} could not be answered",
            code="unanswered_prompts",
            hint=hint if options.output else None,
        )


def _how_fast(bar: Bar, output: Path | None) -> str:
    rate = bar.amount / bar.seconds
    where = "" if output is None else f", in {output}"
    done = f"{counted(bar.count, 'answer')}, {counted(bar.amount, 'token')}"
    return f"{done} in {bar.seconds:.1f} s ({rate:.1f} tokens/s){where}"


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
