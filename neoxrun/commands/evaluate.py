"""``neoxrun evaluate``: measure the model on standard tasks."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from neoxrun.checkpoint import fingerprint
from neoxrun.commands import common, evaluate_output, evaluate_revisions, evaluate_values, jobs, revision_args
from neoxrun.config.settings import Settings
from neoxrun.config.shipped import shipped_names
from neoxrun.errors import UsageError
from neoxrun.evaluation import compare, data
from neoxrun.evaluation.catalog import TaskCatalog
from neoxrun.evaluation.find import FoundTasks
from neoxrun.evaluation.options import EvaluateOptions, check_gen_kwargs
from neoxrun.evaluation.references import ReferenceResults
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning.plan import Plan
from neoxrun.terminal import streams


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked, and hand the job to the ranks.

    Returns only after ``--tasks list``, and after ``--revisions``, of which each has a job in a child process.

    Raises:
        NeoxrunError: the command line, the configuration, the tasks, their data or the output are wrong.
    """
    if args.tasks == ["list"]:
        sys.stdout.writelines(f"{name}\n" for name in data.task_names(args.include_path))
        return 0
    misplaced = next((name for name in args.tasks if name in shipped_names() or name.endswith(".yml")), None)
    if misplaced is not None:
        raise UsageError(
            f"{misplaced} is a configuration, not a task",
            code="invalid_value",
            hint="Name configurations before --tasks.",
        )
    revision_args.check_companions(args)
    gen_kwargs = evaluate_values.gen_kwargs(args.gen_kwargs)
    check_gen_kwargs(gen_kwargs)
    # No bars of libraries (many for each task) next to the bar of the run. tqdm reads this when it is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if args.revisions is not None:
        return _run_revisions(args, gen_kwargs)
    settings = common.settings_from_args(args)
    leading = common.is_first(args)
    wanted: tuple[ReferenceResults, ...] = ()
    if leading:
        streams.check_stdout()
        evaluate_output.check_output(args)
        wanted = evaluate_output.references_from_args(args, settings)
    common.check_files(settings, random_weights=args.random_weights)
    found = _find_tasks(args) if leading else None
    plan = _plan(args, settings, found)
    options = None
    if found is not None:
        if wanted:
            rows = [name for name, entry in found.known.items() if entry.kind != "tag"]
            compare.check_overlap(wanted, rows + [task.task for task in found.tasks if task.task not in rows])
        jobs.log_plan(plan)
        options = _options(args, settings, plan, found, gen_kwargs, wanted)
    launcher.run_job(_job(args, settings, plan, options))


def _run_revisions(args: argparse.Namespace, gen_kwargs: dict[str, Any]) -> int:
    evaluate_revisions.check_usage(args)
    args.output = args.output or evaluate_revisions.RESULTS
    streams.check_stdout()
    evaluate_output.check_output(args)
    found = _find_tasks(args)

    def make_job(settings: Settings) -> Job:
        common.check_files(settings, random_weights=args.random_weights)
        plan = _plan(args, settings, found)
        return _job(args, settings, plan, _options(args, settings, plan, found, gen_kwargs, wanted=()))

    return evaluate_revisions.evaluate_each(args, found, make_job)


def _find_tasks(args: argparse.Namespace) -> FoundTasks:
    return data.find_tasks(
        args.tasks,
        args.data_dir or data.default_data_dir(),
        include_path=args.include_path,
        num_fewshot=args.num_fewshot,
    )


def _plan(args: argparse.Namespace, settings: Settings, found: FoundTasks | None) -> Plan:
    """How the model runs; without tasks in a process that is not the first, which only counts them."""
    if args.limit is None:
        tasks = 0
    else:
        tasks = len(found.tasks) if found else TaskCatalog(args.include_path).count(args.tasks)
    work = evaluate_values.texts_to_score(args.limit, tasks)
    return common.plan_from_args(args, settings, common.devices_from_args(args), work, args.batch_size, exact=True)


def _options(
    args: argparse.Namespace,
    settings: Settings,
    plan: Plan,
    found: FoundTasks,
    gen_kwargs: dict[str, Any],
    wanted: tuple[ReferenceResults, ...],
) -> EvaluateOptions:
    """The work for rank 0."""
    checkpoint = jobs.describe_weights(args, settings, plan)
    return EvaluateOptions(
        found=found,
        limit=args.limit,
        seed=args.seed,
        gen_kwargs=gen_kwargs,
        batch_size=args.batch_size,
        max_context=plan.max_context,
        output=args.output,
        log_samples=args.log_samples,
        cache=args.cache,
        model=settings.title,
        name=fingerprint.name_of_model(settings.title, checkpoint),
        checkpoint=checkpoint,
        references=wanted,
        wandb=args.wandb,
    )


def _job(args: argparse.Namespace, settings: Settings, plan: Plan, options: EvaluateOptions | None) -> Job:
    """Everything for the ranks; without options in a process that is not the first."""
    return jobs.job_for(
        args,
        "evaluate",
        settings,
        plan,
        options,
        kept=f"The answers so far are in {args.cache}; run the same command again to resume."
        if args.cache
        else "With --cache FILE a run can resume where it stopped.",
        records=args.cache,
    )
