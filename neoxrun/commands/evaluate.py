"""``neoxrun evaluate``: measure the model on standard tasks."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from neoxrun.checkpoint import fingerprint
from neoxrun.commands import common, evaluate_output, evaluate_revisions, evaluate_values, jobs, revision_flags
from neoxrun.config.reader import shipped_names
from neoxrun.config.settings import Settings
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun evaluate``."""
    common.add_model_arguments(parser)
    what = parser.add_argument_group("tasks")
    what.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        required=True,
        help="Evaluate these tasks, groups or tags of lm-eval; globs are allowed, as in `lambada piqa 'arc_*'`. `list` "
        "prints all names. Default: none; name at least one.",
    )
    what.add_argument(
        "--limit",
        type=evaluate_values.limit,
        metavar="N",
        help="Score only the first N documents of each task, or a fraction of them (below 1). Only for trying out, as "
        "the output will say. Default: all.",
    )
    what.add_argument(
        "--num-fewshot",
        type=common.natural,
        metavar="N",
        help="Show N solved examples before each question. Default: as many as each task says, mostly 0.",
    )
    what.add_argument(
        "--gen-kwargs",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="Replace generation options of the tasks, for example with max_gen_toks=64 or do_sample=true "
        "temperature=0.8. Default: each task's own options.",
    )
    what.add_argument(
        "--seed",
        type=common.natural,
        metavar="N",
        help="Use this seed for few-shot examples and sampling. Default: lm-eval's own seeds (1234, and 0 for "
        "Python's).",
    )
    what.add_argument(
        "--include-path",
        type=common.path,
        metavar="DIR",
        help="Also use the task files (YAML) in this folder, which replace lm-eval's of the same names. Default: none.",
    )
    what.add_argument(
        "--data-dir",
        type=common.path,
        metavar="DIR",
        help="Read documents from this folder if it has them, otherwise from the Hugging Face hub: the published files "
        "in lambada/ and piqa/, or <data set>/<split>.jsonl. Default: neoxrun/data in the user's data folder "
        "(~/.local/share).",
    )
    out = parser.add_argument_group("output")
    out.add_argument(
        "--output",
        type=common.path,
        metavar="DIR",
        help="Write the results to this folder in lm-eval's layout: DIR/MODEL@CHECKPOINT/results_TIME.json. Default: "
        "no files, but ./results with --revisions; the table is always printed to stdout.",
    )
    out.add_argument(
        "--log-samples", action="store_true", help="Also write every document with its answers; needs --output."
    )
    out.add_argument(
        "--cache",
        type=common.path,
        metavar="FILE",
        help="Store each answer in this file as soon as it is computed, and do not compute the answers in it again. An "
        "interrupted run can resume from it, on any number of GPUs. Default: none.",
    )
    out.add_argument(
        "--compare",
        nargs="?",
        const=evaluate_output.PUBLISHED,
        metavar="paper|FILE",
        help="Compare the results with the published results of the model (paper), or with those in a JSON file: the "
        'results of an earlier run, or {"results": {"piqa": {"acc": 0.7742}}}. Default: off; paper if no value is '
        "given.",
    )
    out.add_argument(
        "--wandb",
        nargs="?",
        const="neoxrun",
        metavar="PROJECT",
        help="Log the results to this Weights & Biases project. Default: off; neoxrun if no value is given.",
    )
    how = parser.add_argument_group("running")
    how.add_argument(
        "--batch-size",
        type=common.positive,
        metavar="N",
        help="Process at most N sequences at a time in each replica. Default: as many as fit.",
    )
    common.add_random_weights(how)
    common.add_eager(how)
    jobs.add_stall_timeout(how)
    revision_flags.add_revision_arguments(parser)


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
    revision_flags.check_companions(args)
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
