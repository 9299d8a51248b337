"""The work of ``neoxrun evaluate`` on the ranks: rank 0 alone drives lm-eval, the others compute."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, Any

import numpy as np
import torch
from lm_eval.evaluator import evaluate
from lm_eval.utils import handle_non_serializable, hash_string, sanitize_model_name

from neoxrun.engine.session import Session
from neoxrun.errors import DataError, Interrupted
from neoxrun.evaluation import report
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.cache import AnswerCache
from neoxrun.evaluation.checks import check
from neoxrun.evaluation.compare import compare, not_measured
from neoxrun.evaluation.data import PreparedTasks, load
from neoxrun.evaluation.options import EvaluateOptions, sampling_of
from neoxrun.evaluation.replicas import Replicas
from neoxrun.parallel import mesh as meshes
from neoxrun.terminal.log import log
from neoxrun.terminal.words import listing
from neoxrun.version import __version__

# lm-eval's own defaults: Python's, NumPy's, torch's, and that of the examples before a question.
_SEEDS = (0, 1234, 1234, 1234)

# Draws for standard errors that have no formula (perplexity). lm-eval's 100,000 take a minute for each figure; these
# give the standard error to 1 in 140.
BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class Ready:
    """A run whose tasks are loaded."""

    options: EvaluateOptions
    tasks: PreparedTasks
    seeds: tuple[int, int, int, int]
    start: float


def prepare(options: EvaluateOptions) -> Ready:
    """On rank 0, before the weights: load the tasks, and build the first request of each.

    Raises:
        DataError: a task cannot be built, or its documents are wrong.
        UsageError: a task is not for a text model, or runs what the model writes.
    """
    start = time.time()
    _quieten()
    seeds = _SEEDS if options.seed is None else (options.seed,) * 4
    random.seed(seeds[0])
    np.random.seed(seeds[1] % 2**32)
    torch.manual_seed(seeds[2])
    tasks = load(options.found)
    states = random.getstate(), np.random.get_state()
    for name, task in tasks.task_dict["tasks"].items():
        if task.get_config("output_type") == "generate_until":
            if options.gen_kwargs:
                task.set_config(key="generation_kwargs", value=dict(options.gen_kwargs), update=True)
            sampling_of(task.get_config("generation_kwargs"), options.max_context, where=name)
        task.set_fewshot_seed(seed=seeds[3])
        check(name, task, options.limit)
        task.set_fewshot_seed(seed=seeds[3])  # the check has drawn examples
    kinds = {task.get_config("output_type") for task in tasks.task_dict["tasks"].values()}
    if options.gen_kwargs and "generate_until" not in kinds:
        log.warning("--gen-kwargs changes nothing: none of the tasks lets the model write")
    random.setstate(states[0])
    np.random.set_state(states[1])
    return Ready(options, tasks, seeds, start)


def run(
    session: Session,
    ready: Ready,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Evaluate, on rank 0; the other ranks run ``replicas.take_part``.

    Args:
        session: rank 0's part of the model.
        ready: the work.
        stdout: where the table goes.
        show_progress: keep a bar on stderr.
        announce: called at once: this rank answers Ctrl-C.

    Raises:
        Interrupted: Ctrl-C; the answers so far are in the cache, if there is one.
        DataError: the cache or the results cannot be read or written.
        BrokenPipeError: nobody reads stdout any more.
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
        raise Interrupted("interrupted", hint=hint) from None
    replicas.release_ranks()
    _report(document, samples, ready.options, stdout)


def _evaluate(
    session: Session, replicas: Replicas, ready: Ready, cache: AnswerCache | None, show_progress: bool
) -> tuple[dict[str, Any], report.Samples]:
    options, seeds = ready.options, ready.seeds
    lm = NeoxLM(session, replicas, cache=cache, seed=seeds[3], show_progress=show_progress)
    try:
        results = evaluate(
            lm=lm,
            task_dict=ready.tasks.task_dict,
            limit=options.limit,
            bootstrap_iters=BOOTSTRAP_DRAWS,
            log_samples=options.log_samples,
        )
    except Exception as error:
        if _passed_through_us(error):
            raise
        names = listing(list(ready.tasks.task_dict["tasks"]))
        raise DataError(
            f"lm-eval cannot work with {names}: {type(error).__name__}: {error}",
            hint="Check the task's file (metric_list, filter_list, repeats) and its documents. "
            "Answers that were kept with --cache are not computed again.",
        ) from error
    samples = results.pop("samples", {})
    results["config"] = {
        "model": "neoxrun",
        "model_args": {"config": options.model, **options.checkpoint},
        "batch_size": options.batch_size,
        "device": session.mesh.device.type,
        "limit": options.limit,
        "bootstrap_iters": BOOTSTRAP_DRAWS,
        "gen_kwargs": dict(options.gen_kwargs),
        **dict(zip(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), seeds, strict=True)),
    }
    results |= {
        "date": ready.start,
        "lm_eval_version": version("lm_eval"),
        "eot_token_id": lm.eot_token_id,
        "max_length": lm.max_length,
        "task_hashes": {
            task: hash_string("".join(one[f"{part}_hash"] for one in documents for part in ("doc", "prompt", "target")))
            for task, documents in samples.items()
        },
        "model_source": "neoxrun",
        "model_name": options.model,
        "model_name_sanitized": sanitize_model_name(options.model),
        "total_evaluation_time_seconds": str(time.time() - ready.start),
    }
    results["neoxrun"] = _ours(session, ready, lm, results)
    return results, samples


def _passed_through_us(error: Exception) -> bool:
    """Whether an error of lm-eval's ``evaluate`` comes from what it calls: the model, not a task."""
    assert error.__traceback__ is not None
    frames = traceback.walk_tb(error.__traceback__.tb_next)
    return any(frame.f_globals.get("__name__", "").startswith("neoxrun.") for frame, _ in frames)


def _ours(session: Session, ready: Ready, lm: NeoxLM, results: Mapping[str, Any]) -> dict[str, Any]:
    """What we add to lm-eval's results."""
    mesh = session.mesh
    return {
        "version": __version__,
        "torch_version": torch.__version__,
        "checkpoint": dict(ready.options.checkpoint),
        "weights": session.weights or "checkpoint",
        "split": {"tp": mesh.tp, "pp": mesh.pp, "replicas": mesh.replicas},
        "device": mesh.device.type,
        "dtype": str(session.replica.stage.dtype).removeprefix("torch."),
        "seconds": {"total": time.time() - ready.start, "computing": lm.counts.seconds},
        "requests": lm.counts.asked,
        "requests_from_cache": lm.counts.cached,
        "data": ready.tasks.sources,
        "dataset_splits": {
            name: task.config.test_split if task.has_test_docs() else task.config.validation_split
            for name, task in ready.tasks.task_dict["tasks"].items()
        },
        "documents": {
            name: {"scored": count["effective"], "total": count["original"]}
            for name, count in results["n-samples"].items()
        },
        "limited": report.limited(results),
    }


def _report(document: dict[str, Any], samples: report.Samples, options: EvaluateOptions, stdout: IO[str]) -> None:
    comparisons = compare(document, options.figures)
    document["neoxrun"]["compared"] = [one.to_dict() for one in comparisons]
    try:
        stdout.write(report.table(document))
        stdout.writelines(f"{note}\n" for note in report.notes(document))
        if options.figures:
            stdout.write("\n" + report.comparison_table(comparisons))
            if missing := not_measured(document, options.figures):
                stdout.write(f"not measured here: {', '.join(missing)}\n")
        stdout.flush()
    finally:  # also where nobody reads stdout any more
        _keep(document, samples, options)


def _keep(document: Mapping[str, Any], samples: report.Samples, options: EvaluateOptions) -> None:
    if options.output is not None:
        paths = report.save(options.output, document, samples if options.log_samples else None, handle_non_serializable)
        log.info(f"results: {paths[0]}" + (f", and {len(paths) - 1} files of samples" if paths[1:] else ""))
    if options.wandb is not None:
        _log_to_wandb(document, options)


def _log_to_wandb(document: Mapping[str, Any], options: EvaluateOptions) -> None:
    figures = {
        f"{task}/{metric.partition(',')[0] if metric.endswith(',none') else metric}": value
        for task, metrics in document["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, int | float)
    }
    try:
        import wandb

        with wandb.init(project=options.wandb, job_type="evaluate", config=dict(document["neoxrun"])) as run:
            run.summary.update(figures)
    except Exception as error:  # of wandb and of what it uses
        raise DataError(
            f"the figures cannot be logged to Weights & Biases: {type(error).__name__}: {error}",
            hint="The table above has them. Check `wandb login` and the network; WANDB_MODE=offline logs to a folder.",
        ) from error


def _quieten() -> None:
    """Let lm-eval say warnings only, through our log, and draw standard errors in this process.

    It would fork one process a core for that, of a process that has connections and a GPU open.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"
    theirs = logging.getLogger("lm_eval")
    theirs.handlers[:] = log.handlers
    theirs.setLevel(log.level if log.level == logging.DEBUG else logging.WARNING)
    theirs.propagate = False
