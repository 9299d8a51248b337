"""``neoxrun score``: how likely the model finds the texts of a file."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from neoxrun.commands import common, input_args, jobs, output_args, revision_args
from neoxrun.commands.sampling_args import unescape
from neoxrun.commands.score_revisions import score_each
from neoxrun.config.settings import Settings
from neoxrun.errors import ConfigError, UsageError
from neoxrun.generation import lines
from neoxrun.generation.output_lock import lock_file, output_lock
from neoxrun.generation.provenance import Provenance
from neoxrun.input.source import open_source
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning.plan import Plan
from neoxrun.planning.request import TYPICAL_TEXTS, Work
from neoxrun.scoring import output
from neoxrun.scoring.documents import DocumentSource
from neoxrun.scoring.options import ScoreOptions
from neoxrun.scoring.output import Scan
from neoxrun.scoring.summary import write_summary
from neoxrun.terminal import streams
from neoxrun.terminal.log import log
from neoxrun.terminal.words import check_unicode, counted

_TOKEN_BYTES = 4  # of English, about
_MOST_ALTERNATIVES = 1000


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked, and hand the job to the ranks.

    Returns only if there is nothing to do, and after ``--revisions``, of which each has a job in a child process.

    Raises:
        NeoxrunError: the command line, the configuration, the input or the output are wrong.
    """
    with ExitStack() as held:
        return _run(args, held)


def _run(args: argparse.Namespace, held: ExitStack) -> int:
    """As ``run``; ``held`` gets the lock of the output."""
    if args.top > _MOST_ALTERNATIVES:
        raise UsageError(f"--top {args.top} is more than {_MOST_ALTERNATIVES}", code="invalid_value")
    revision_args.check_companions(args)
    misplaced = input_args.misplaced_input(args.config)
    if args.input is None:
        args.input = input_args.piped_input() if common.is_alone(args) else None
    if args.input is None:
        hint = misplaced or "Name it with -i FILE; -i - is standard input."
        raise UsageError("no input is named", code="missing_option", hint=hint)
    if args.revisions is not None:
        if args.overwrite:
            raise UsageError(
                "--overwrite and --revisions cannot be combined",
                code="conflicting_options",
                hint="Remove the files of the revisions that are to be scored again.",
            )
        return _run_revisions(args)
    try:
        settings = common.settings_from_args(args)
    except ConfigError as error:
        error.hint = misplaced or error.hint
        raise
    model_context = settings.model.max_context
    _check_window(args, model_context, f"the model's context is {model_context} tokens")
    leading = common.is_first(args)
    work, source, written, scan = TYPICAL_TEXTS, None, None, None
    if leading:
        source = _source(args)
        written = _output(args, held)
        scan = output.scan_input(source, written if args.resume else None)
        if common.is_alone(args):
            work = _texts_in(scan)
    plan = _plan(args, settings, work)
    common.check_files(settings, random_weights=args.random_weights)
    options = None
    if source is not None and scan is not None:
        identity = jobs.describe_weights(args, settings, plan)["fingerprint"]
        made = None
        if written is not None:
            made = _provenance(args, settings, plan, scan)
            working = output.lines_file(written)
            made = output_args.check_work(args, written, made, args.input, scan.documents, working)
        options = replace(_options(args, identity, plan, source, written, scan), made=made)
        if options.finished == options.documents and written is not None and common.is_alone(args):
            return _nothing_to_do(options, written)
        jobs.log_plan(plan)
    launcher.run_job(_job(args, settings, plan, options, lock=True))


def _run_revisions(args: argparse.Namespace) -> int:
    source = _source(args)
    written = _output(args, None)
    if written is None or args.input == "-":
        raise UsageError(
            "--revisions reads the input and writes a file of records for each revision",
            code="conflicting_options",
            hint="Name both files, with -i FILE and -o FILE.",
        )

    work = _texts_in(output.scan_input(source, None))

    def make_plan(settings: Settings) -> Plan:
        context = settings.model.max_context
        _check_window(args, context, f"the model's context is {context} tokens")
        return _plan(args, settings, work)

    def make_job(settings: Settings, plan: Plan, output_file: Path, identity: str) -> tuple[Job, Scan]:
        scan = output.scan_input(source, output_file)
        options = _options(args, f"{identity} {plan.dtype}", plan, source, output_file, scan)
        made = _provenance(args, settings, plan, scan, identity[:16])
        return _job(args, settings, plan, replace(options, summary=False, made=made)), scan

    return score_each(args, written, make_plan, make_job)


def _texts_in(scan: Scan) -> Work:
    """The documents in numbers; how many tokens they have is guessed, as the ranks encode them."""
    return Work(scan.documents, max(1, scan.size // (_TOKEN_BYTES * scan.documents)), 0, 0)


def _plan(args: argparse.Namespace, settings: Settings, work: Work) -> Plan:
    """How the model runs, with enough memory for the windows."""
    plan = common.plan_from_args(args, settings, common.devices_from_args(args), work, args.batch_size, exact=True)
    _check_window(args, plan.max_context, f"the memory is enough for {plan.max_context} tokens")
    return plan


def _provenance(
    args: argparse.Namespace, settings: Settings, plan: Plan, scan: Scan, model: str | None = None
) -> Provenance:
    """What makes the records; ``model`` tells it from others where its files do not."""
    context = args.context or plan.max_context
    how = {"context": context, "stride": args.stride or context, "top": args.top, "level": args.level}
    return output_args.work_of(args, "score", settings, plan, scan.checksum.hexdigest()[:16], how, model)


def _source(args: argparse.Namespace) -> DocumentSource:
    check_unicode(args.column)
    return DocumentSource(
        open_source(args.input, end=unescape(args.document_end), wanted=args.input_format), args.column
    )


def _job(
    args: argparse.Namespace, settings: Settings, plan: Plan, options: ScoreOptions | None, *, lock: bool = False
) -> Job:
    """Everything for the ranks; with ``lock`` they remove that of the output at the end."""
    output_file = None if options is None else options.output
    records = output.lines_file(output_file)
    return jobs.job_for(
        args,
        "score",
        settings,
        plan,
        options,
        kept=lines.AGAIN if records is None else lines.KEPT,
        records=records,
        lock=lock_file(output_file) if lock and output_file is not None else None,
        replaces=not args.resume,
    )


def _check_window(args: argparse.Namespace, most: int, why: str) -> None:
    """Refuse windows that are longer than ``most``, or that would leave out tokens.

    Raises:
        UsageError: they are.
    """
    context = args.context or most
    if context > most:
        raise UsageError(
            f"--context {context} is too long: {why}", code="invalid_value", hint=f"It can be at most {most}."
        )
    if args.stride is not None and args.stride > context:
        raise UsageError(
            f"--stride {args.stride} is more than the context of {context} tokens, so that tokens would be left out",
            code="invalid_value",
            hint="Lower --stride, or raise --context.",
        )


def _output(args: argparse.Namespace, held: ExitStack | None) -> Path | None:
    """The file of records, whose lock ``held`` gets; None is stdout.

    Raises:
        UsageError: it has no name, or other options contradict it.
        DataError: it cannot be written, or another run writes to it.
    """
    if args.output == "":
        raise UsageError(
            "-o needs the name of a file", code="invalid_value", hint="Is a shell variable empty? Use - for stdout."
        )
    if args.output is None and (args.input == "-" or not Path(args.input).is_file()):
        raise UsageError(
            f"{args.input} is a stream, so the output file has no default name",
            code="missing_option",
            hint="Name the output with -o FILE; -o - is stdout.",
        )
    named = args.output or f"{args.input}.scores.jsonl"
    streams.check_stdout()  # for the summary, at least
    written = lines.output_of(named)
    if written is None:
        for option in ("resume", "json"):
            if getattr(args, option):
                raise UsageError(
                    f"--{option} needs a file for the records",
                    code="missing_option",
                    hint="Name it with -o FILE.",
                )
        return None
    if held is not None:
        held.enter_context(output_lock(written))
    lines.check_output(written, args.input, "--resume" if args.resume else "Parquet" * output.is_parquet(written))
    if not (args.resume or args.overwrite) and args.revisions is None:
        output.refuse_other_file(written)
    return written


def _options(
    args: argparse.Namespace, identity: str, plan: Plan, source: DocumentSource, written: Path | None, scan: Scan
) -> ScoreOptions:
    """The work, of which what an earlier run has done is taken off.

    Args:
        args: the command line.
        identity: tells the model and its number format from all others.
        plan: how it runs.
        source, written: the input and the output.
        scan: of both.

    Raises:
        DataError: the earlier run was another.
    """
    context = args.context or plan.max_context
    stride = args.stride or context
    how = [identity, context, stride, args.top, args.level]
    run = hashlib.sha256(json.dumps(how).encode()).hexdigest()[:16]
    scan.check_run(run)
    return ScoreOptions(
        source=source,
        documents=scan.documents,
        context=context,
        stride=stride,
        top=args.top,
        level=args.level,
        run=run,
        output=written,
        finished=scan.finished,
        keep=scan.keep,
        totals=scan.totals,
        as_json=args.json,
        batch_size=args.batch_size,
    )


def _nothing_to_do(options: ScoreOptions, written: Path) -> int:
    """Finish the output of an earlier run that has scored everything."""
    working = output.lines_file(written)
    if working is not None and working.exists():
        lines.LineWriter(working, sys.stdout, options.keep).close()  # drops a half-written line
        output.finish_output(written)
    log.info(f"nothing to do: {written} already has {counted(options.finished, 'record')}")
    write_summary(options, sys.stdout)
    return 0
