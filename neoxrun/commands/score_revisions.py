"""``neoxrun score --revisions``: the same texts with several revisions of a repository, and one table of them all."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from neoxrun.commands import revision_args
from neoxrun.config.settings import Settings
from neoxrun.download.revisions import Revision
from neoxrun.evaluation.trajectory import Point, revisions_table
from neoxrun.evaluation.trajectory_plot import draw_revisions
from neoxrun.generation.output_lock import output_lock
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning.plan import Plan
from neoxrun.scoring.measures import Totals
from neoxrun.scoring.output import Scan
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted

_SHOWN = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")

MakePlan = Callable[[Settings], Plan]
"""From a revision's settings to how it runs."""

MakeJob = Callable[[Settings, Plan, Path, str], tuple[Job, Scan]]
"""From a revision's settings, plan, file of records and what tells it from others: the job, and what is done of it."""


def score_each(args: argparse.Namespace, output: Path, make_plan: MakePlan, make_job: MakeJob) -> int:
    """Score with every revision whose records are not complete, print the table, and return the exit code.

    Args:
        args: the command line.
        output: the file of records; a revision's has its name in front of the ending.
        make_plan: makes the plan for a revision.
        make_job: makes the job for a revision.

    Raises:
        NeoxrunError: see ``revision_args.choose`` and ``fetch_in_turn``.
        DataError: another run writes to one of the files.
    """
    chosen = revision_args.choose(args)
    settings = chosen.settings()
    plan = make_plan(settings)
    tokenizer = None if args.tokenizer is None else _digest(settings.tokenizer.vocab_file)

    def job_of(revision: Revision, settings: Settings, plan: Plan) -> tuple[Job, Scan]:
        network = [repr(settings.model), settings.merge, tokenizer]
        parts = [chosen.repository, revision.name, revision.contents, *network]
        identity = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return make_job(settings, plan, _file_of(output, revision.name), identity)

    scans = {revision.name: job_of(revision, settings, plan)[1] for revision in chosen.revisions}
    wanted = [revision for revision in chosen.revisions if not _complete(scans[revision.name])]
    if len(wanted) < len(scans):
        log.info(f"{counted(len(scans) - len(wanted), 'revision')} with all records, {len(wanted)} still to be run")

    def score_one(revision: Revision, settings: Settings) -> int:
        plan = make_plan(settings)
        code = launcher.run_child(job_of(revision, settings, plan)[0])
        if code == 0:
            scans[revision.name] = job_of(revision, settings, plan)[1]
        return code

    with ExitStack() as held:
        for revision in wanted:
            held.enter_context(output_lock(_file_of(output, revision.name)))
        code = chosen.run_each(wanted, score_one)
    if code == 0:
        _report(args, chosen, {name: scan.totals for name, scan in scans.items()})
    return code


def _file_of(output: Path, revision: str) -> Path:
    """``texts.step1000.jsonl``; the slash in the name of a branch becomes ``%2F``, so that no two share a file."""
    return output.with_name(f"{output.stem}.{quote(revision, safe='')}{output.suffix}")


def _complete(scan: Scan) -> bool:
    return scan.finished == scan.documents


def _report(args: argparse.Namespace, chosen: revision_args.ChosenRevisions, totals: dict[str, Totals]) -> None:
    summaries = {name: sums.to_dict() for name, sums in totals.items()}
    if args.json:
        sys.stdout.write(json.dumps(summaries, ensure_ascii=False) + "\n")
    name = Path(args.input).name
    points = []
    for revision in chosen.revisions:
        values = summaries[revision.name]
        results = {f"{measure},none": values[measure] for measure in _SHOWN}
        points.append(Point(revision.name, revision.step, {"results": {name: results}}))
    if not args.json:
        sys.stdout.write(revisions_table(points))
    sys.stdout.flush()
    if args.plot is not None:
        draw_revisions(points, f"{chosen.repository}, {name}", args.plot)
        log.info(f"plot: {args.plot}")


def _digest(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
