"""The work of ``neoxrun evaluate`` on the ranks: only rank 0 drives lm-eval, the others compute."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shlex
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from lm_eval.evaluator import evaluate
from lm_eval.utils import handle_non_serializable, sanitize_model_name

from neoxrun.engine.session import Session
from neoxrun.errors import DataError, Interrupted
from neoxrun.evaluation import report
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.cache import AnswerCache
from neoxrun.evaluation.checks import build_requests, check_task
from neoxrun.evaluation.compare import compare_results, not_measured, not_run
from neoxrun.evaluation.data import PreparedTasks, load_tasks
from neoxrun.evaluation.document import add_facts_of_the_run, added_results, describe_environment
from neoxrun.evaluation.faster import faster_lm_eval
from neoxrun.evaluation.named_errors import named_errors
from neoxrun.evaluation.options import EvaluateOptions, sampling_of
from neoxrun.evaluation.replicas import Replicas
from neoxrun.parallel import mesh as meshes
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted, listing

# lm-eval's default seeds: Python's, NumPy's, torch's, and that of the few-shot examples.
_SEEDS = (0, 1234, 1234, 1234)

# Draws for standard errors that have no formula (perplexity). lm-eval's 100,000 take a minute for each metric; these
# determine the standard error to within 1 part in 140.
BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class PreparedRun:
    """A run whose tasks are loaded and checked.

    Attributes:
        options: what to do.
        tasks: lm-eval's tasks.
        seeds: Python's, NumPy's, torch's, and that of the few-shot examples.
        start: when the run began, in seconds since 1970.
        environment: by ``describe_environment``; empty if no file of results is written.
    """

    options: EvaluateOptions
    tasks: PreparedTasks
    seeds: tuple[int, int, int, int]
    start: float
    environment: Mapping[str, Any]


def prepare_run(options: EvaluateOptions) -> PreparedRun:
    """On rank 0, while the weights are loaded: load the tasks, check them, and build their requests.

    Raises:
        DataError: a task cannot be built, or its documents are wrong.
        UsageError: a task is not for a text model, or runs code that the model writes.
    """
    start = time.time()
    _quieten()
    seeds = _SEEDS if options.seed is None else (options.seed,) * 4
    random.seed(seeds[0])
    np.random.seed(seeds[1] % 2**32)
    torch.manual_seed(seeds[2])
    with faster_lm_eval():
        tasks = load_tasks(options.found)
        _prepare_requests(tasks.task_dict["tasks"], options, seeds[3])
    environment = {} if options.output is None else describe_environment()
    return PreparedRun(options, tasks, seeds, start, environment)


def _prepare_requests(tasks: Mapping[str, Any], options: EvaluateOptions, fewshot_seed: int) -> None:
    """Check all tasks, then build the requests of each; with the random numbers that lm-eval would use."""
    files = _files(options)
    states = random.getstate(), np.random.get_state()
    for name, task in tasks.items():
        if task.get_config("output_type") == "generate_until":
            if options.gen_kwargs:
                task.set_config(key="generation_kwargs", value=dict(options.gen_kwargs), update=True)
            kwargs = task.get_config("generation_kwargs")
            sampling_of(kwargs, options.max_context, where=name, given=options.gen_kwargs)
        check_task(name, task, options.limit, files.get(name))
    kinds = {task.get_config("output_type") for task in tasks.values()}
    if options.gen_kwargs and "generate_until" not in kinds:
        log.warning("--gen-kwargs has no effect: none of the tasks generates text")
    random.setstate(states[0])
    np.random.set_state(states[1])
    for name, task in tasks.items():
        task.set_fewshot_seed(seed=fewshot_seed)
        build_requests(name, task, options.limit, files.get(name))


def _files(options: EvaluateOptions) -> dict[str, Path | None]:
    """The files of the tasks, as far as they have their own."""
    return {name: entry.path for name, entry in options.found.known.items()}


def run_evaluation(
    session: Session,
    ready: PreparedRun,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Evaluate, on rank 0; the other ranks run ``replicas.take_part``.

    Args:
        session: rank 0's part of the model.
        ready: the work.
        stdout: where the table goes.
        show_progress: show a bar on stderr.
        announce: called at the start, to report that this rank now handles Ctrl-C.

    Raises:
        Interrupted: Ctrl-C; the answers so far are in the cache, if there is one.
        DataError: the cache or the results cannot be read or written.
        BrokenPipeError: stdout has no reader any more.
    """
    replicas = Replicas(session, meshes.share_from_first(ready.options.batch_size))
    cache = ready.options.cache
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the cache is closed on the way out
        announce()
        with contextlib.ExitStack() as stack:
            kept = None
            if cache is not None:
                kept = stack.enter_context(AnswerCache(cache, str(ready.options.checkpoint["fingerprint"])))
            document, samples = _evaluate(session, replicas, ready, kept, show_progress)
    except KeyboardInterrupt:
        hint = f"Answers so far are in {cache}; the same command continues from there." if cache else None
        if ready.options.revision:
            hint = "Results of earlier revisions are kept; the same command continues from there."
        raise Interrupted("interrupted", hint=hint) from None
    replicas.release_ranks()
    _report(document, samples, ready.options, stdout)


def _evaluate(
    session: Session, replicas: Replicas, ready: PreparedRun, cache: AnswerCache | None, show_progress: bool
) -> tuple[dict[str, Any], report.Samples]:
    options, seeds, tasks = ready.options, ready.seeds, ready.tasks.task_dict["tasks"]
    fingerprint = str(options.checkpoint["fingerprint"])
    lm = NeoxLM(session, replicas, cache=cache, fingerprint=fingerprint, seed=seeds[3], show_progress=show_progress)
    try:
        # Empty choices have been named: that lm-eval divides by their length says nothing more.
        with np.errstate(divide="ignore", invalid="ignore"), faster_lm_eval(), named_errors(tasks, _files(options)):
            results = evaluate(
                lm=lm,
                task_dict=ready.tasks.task_dict,
                limit=options.limit,
                bootstrap_iters=BOOTSTRAP_DRAWS,
                log_samples=options.log_samples,
            )
    except Exception as error:
        _keep_answers(lm, options)
        if _passed_through_neoxrun(error):
            raise
        raise DataError(
            f"lm-eval cannot evaluate {listing(list(tasks))}: {type(error).__name__}: {error}",
            code="bad_task",
            hint="Check the task's file (metric_list, filter_list, repeats) and its documents.",
        ) from error
    samples = results.pop("samples", {})
    add_facts_of_the_run(
        results,
        samples,
        options=options,
        session=session,
        lm=lm,
        seeds=seeds,
        draws=BOOTSTRAP_DRAWS,
        start=ready.start,
        environment=ready.environment,
    )
    results["neoxrun"] = added_results(
        results,
        options=options,
        session=session,
        lm=lm,
        tasks=tasks,
        sources=ready.tasks.sources,
        start=ready.start,
    )
    return results, samples


def _keep_answers(lm: NeoxLM, options: EvaluateOptions) -> None:
    """Say where the answers of a run are that fails, in a file made for them if there is no cache."""
    path = options.cache
    if path is None:
        if not lm.answers.has_remembered:
            return
        folder = Path() if options.output is None else options.output / sanitize_model_name(options.name)
        path = folder / f"answers_{report.time_for_names()}.db"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lm.answers.keep(path)
        except (DataError, OSError) as error:
            log.warning(f"the answers so far could not be kept: {error}")
            return
    log.warning(f"the answers so far are in {path}: the same command with --cache {shlex.quote(str(path))} reuses them")


def _passed_through_neoxrun(error: Exception) -> bool:
    """Whether an error in lm-eval's ``evaluate`` comes from the model that it calls, and not from a task."""
    assert error.__traceback__ is not None
    frames = traceback.walk_tb(error.__traceback__.tb_next)
    return any(frame.f_globals.get("__name__", "").startswith("neoxrun.") for frame, _ in frames)


def _report(document: dict[str, Any], samples: report.Samples, options: EvaluateOptions, stdout: IO[str]) -> None:
    comparisons = compare_results(document, options.references)
    document["neoxrun"]["compared"] = [one.to_dict() for one in comparisons]
    try:
        stdout.write(report.results_table(document))
        stdout.writelines(f"{note}\n" for note in report.result_notes(document))
        if options.references:
            stdout.write("\n" + report.comparison_table(comparisons))
            if missing := not_measured(document, options.references):
                stdout.write(f"not measured in this run: {', '.join(missing)}\n")
            if missing := not_run(document, options.references):
                stdout.write(f"not in this run, though the reference has them: {', '.join(missing)}\n")
        stdout.flush()
    finally:  # even if stdout has no reader any more
        _save(document, samples, options)


def _save(document: Mapping[str, Any], samples: report.Samples, options: EvaluateOptions) -> None:
    if options.output is not None:
        paths = report.save_results(
            options.output, document, samples if options.log_samples else None, handle_non_serializable
        )
        more = f", and {counted(len(paths) - 1, 'file')} of samples" if paths[1:] else ""
        log.info(f"results: {paths[0]}{more}")
    if options.wandb is not None:
        _log_to_wandb(document, options)


def _log_to_wandb(document: Mapping[str, Any], options: EvaluateOptions) -> None:
    values = {
        f"{task}/{metric.partition(',')[0] if metric.endswith(',none') else metric}": value
        for task, metrics in document["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, int | float)
    }
    try:
        import wandb

        with wandb.init(project=options.wandb, job_type="evaluate", config=dict(document["neoxrun"])) as run:
            run.summary.update(values)
    except Exception as error:  # from wandb and the libraries that it uses
        raise DataError(
            f"the results cannot be logged to Weights & Biases: {type(error).__name__}: {error}",
            code="failed_logging",
            hint="The table above has them. Check `wandb login` and the network; WANDB_MODE=offline logs to a folder.",
        ) from error


def _quieten() -> None:
    """Make lm-eval log only warnings, through neoxrun's log, and draw standard errors in this process.

    For those it would fork one process for each core, from a process with open connections and a GPU.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"
    logger = logging.getLogger("lm_eval")
    logger.handlers[:] = log.handlers
    logger.setLevel(log.level if log.level == logging.DEBUG else logging.WARNING)
    logger.propagate = False
