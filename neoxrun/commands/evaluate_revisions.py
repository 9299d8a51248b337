"""``neoxrun evaluate --revisions``: the same tasks on several revisions of a repository, and one table of them all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from neoxrun.commands import common, evaluate_values, revision_args
from neoxrun.config.settings import Settings
from neoxrun.download.revisions import Revision
from neoxrun.errors import UsageError
from neoxrun.evaluation import report, trajectory
from neoxrun.evaluation.find import FoundTasks
from neoxrun.evaluation.trajectory import Point
from neoxrun.evaluation.trajectory_plot import draw_revisions
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning.explain import explain_notes
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted

RESULTS = Path("results")
"""The folder of results, unless ``--output`` names another."""

# Options that do not change the results of a revision, or that the settings and the tasks already have. Every other
# one makes another work: an option that is new here costs a second run, and not a wrong table.
_ELSEWHERE = {
    "allow_duplicates",
    "batch_size",
    "cache",
    "checkpoint",
    "command",
    "compare",
    "config",
    "device",
    "dtype",
    "adapter",
    "eager",
    "gpus",
    "include_path",
    "keep_revisions",
    "nnodes",
    "node_rank",
    "num_fewshot",
    "output",
    "overrides",
    "plot",
    "pp",
    "quiet",
    "random_weights",
    "rdzv_endpoint",
    "replicas",
    "repo",
    "revisions",
    "revisions_dir",
    "tasks",
    "tokenizer",
    "tp",
    "verbose",
    "verbosity",
    "wandb",
}


def check_usage(args: argparse.Namespace) -> None:
    """Refuse options that do not go with ``--revisions``, which is given.

    Raises:
        UsageError: there is such an option.
    """
    if args.compare is not None:
        raise UsageError(
            "--compare and --revisions cannot be combined",
            code="conflicting_options",
            hint="Compare a single revision, or compare the files of results later.",
        )


def evaluate_each(args: argparse.Namespace, found: FoundTasks, make_job: Callable[[Settings], Job]) -> int:
    """Evaluate every revision that has no results yet, print the table, and return the exit code.

    Args:
        args: the command line.
        found: the tasks.
        make_job: makes the job for a revision's settings.

    Raises:
        NeoxrunError: see ``revision_args.choose`` and ``fetch_in_turn``.
    """
    chosen = revision_args.choose(args)
    settings = chosen.settings()
    texts = evaluate_values.texts_to_score(args.limit, len(found.tasks))
    plan = common.plan_from_args(args, settings, common.devices_from_args(args), texts, args.batch_size, exact=True)
    tokenizer = None if args.tokenizer is None else settings.tokenizer.vocab_file
    options = {name: value for name, value in vars(args).items() if name not in _ELSEWHERE and not callable(value)}
    described = trajectory.describe_work(settings, found, options, plan.dtype, tokenizer)
    works = {
        revision.name: trajectory.work_on(described, chosen.repository, revision.name, revision.contents)
        for revision in chosen.revisions
    }
    done = trajectory.saved_results(args.output, works.values())
    wanted = [revision for revision in chosen.revisions if works[revision.name] not in done]
    if done:
        log.info(f"{counted(len(done), 'revision')} with results in {args.output}, {len(wanted)} still to be run")

    def evaluate_one(revision: Revision, settings: Settings) -> int:
        work = works[revision.name]
        job = make_job(settings)
        for note in explain_notes(job.plan) if revision is wanted[0] else ():
            log.info(note)
        code = launcher.run_child(_with_revision(job, chosen.repository, revision, work))
        if code == 0:
            done.update(trajectory.saved_results(args.output, [work]))
            log.info(f"{revision.name}: {trajectory.result_line(done[work])}")
        return code

    code = chosen.run_each(wanted, evaluate_one)
    if code == 0:
        points = [Point(revision.name, revision.step, done[works[revision.name]]) for revision in chosen.revisions]
        _report(points, f"{chosen.repository}, {plan.dtype}", args.plot)
    return code


def _with_revision(job: Job, repository: str, revision: Revision, work: str) -> Job:
    """The job, whose results name the revision and are in a folder of its own."""
    facts = {
        "repository": repository,
        "revision": revision.name,
        "commit": revision.repository.commit,
        "work": work,
    }
    name = f"{repository}@{revision.name}"
    options = replace(job.options, model=name, name=name, revision=facts)
    kept = "Results of earlier revisions are kept; the same command continues."
    return replace(job, options=options, kept=kept, records=None)  # they are not in a cache of answers


def _report(points: list[Point], title: str, plot: Path | None) -> None:
    sys.stdout.write(trajectory.revisions_table(points))
    notes = dict.fromkeys(note for point in points for note in report.result_notes(point.document))
    sys.stdout.writelines(f"{note}\n" for note in notes)
    sys.stdout.flush()
    if plot is not None:
        draw_revisions(points, title, plot)
        log.info(f"plot: {plot}")
