"""The document of a run's results: every key of lm-eval's own file, and the part that neoxrun adds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lm_eval.loggers.utils import get_commit_from_path
from lm_eval.utils import hash_string, sanitize_model_name
from torch.utils.collect_env import get_pretty_env_info

from neoxrun.engine.session import Session
from neoxrun.evaluation import report
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.options import EvaluateOptions
from neoxrun.planning.memory import model_parameters
from neoxrun.version import __version__

_GIT_SECONDS = 5


def describe_environment() -> dict[str, Any]:
    """What lm-eval writes about the machine and the working folder, under its names; it takes about a second."""
    return {
        "git_hash": _git_hash(),
        "pretty_env_info": _environment(),
        "transformers_version": _version("transformers"),
        "upper_git_hash": get_commit_from_path(Path.cwd() / ".."),
    }


def _environment() -> str:
    """torch's description of the machine; as in lm-eval, the reason where it fails."""
    try:
        return str(get_pretty_env_info())  # type: ignore[no-untyped-call]
    except Exception as error:  # from the many programs that it runs
        return str(error)


def _git_hash() -> str | None:
    """The commit of the working folder, as lm-eval has it; None outside of a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always"], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        commit: str | None = get_commit_from_path(Path.cwd())
        return commit
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "N/A"


def add_facts_of_the_run(
    results: dict[str, Any],
    samples: report.Samples,
    *,
    options: EvaluateOptions,
    session: Session,
    lm: NeoxLM,
    seeds: Sequence[int],
    draws: int,
    start: float,
    environment: Mapping[str, Any],
) -> None:
    """Add to lm-eval's results what its command line adds to them, under the same keys.

    Args:
        results: by ``lm_eval.evaluator.evaluate``.
        samples: the logged documents.
        options, session, lm: the run.
        seeds: Python's, NumPy's, torch's, and that of the few-shot examples.
        draws: for standard errors that have no formula.
        start: when the run began, in seconds since 1970.
        environment: by ``describe_environment``.
    """
    end, named = time.time(), lm.tokenizer
    stage = session.replica.stage
    results["config"] = {
        "model": "neoxrun",
        "model_args": {"config": options.model, **options.checkpoint, **options.revision},
        "model_num_parameters": model_parameters(session.settings.model, stage.vocab_size),
        "model_dtype": str(stage.weights_dtype),
        "model_revision": options.revision.get("revision"),
        "model_sha": options.revision.get("commit", options.checkpoint.get("commit", "")),
        "batch_size": options.batch_size,
        "batch_sizes": [],
        "device": session.mesh.device.type,
        "use_cache": None if options.cache is None else str(options.cache),
        "limit": options.limit,
        "bootstrap_iters": draws,
        "gen_kwargs": dict(options.gen_kwargs),
        **dict(zip(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), seeds, strict=True)),
    }
    results |= {
        **environment,
        "date": start,
        "lm_eval_version": version("lm_eval"),
        "tokenizer_pad_token": [named.pad_token, str(named.pad_token_id)],
        "tokenizer_eos_token": [named.eos_token, str(named.eos_token_id)],
        "tokenizer_bos_token": [named.bos_token, str(named.bos_token_id)],
        "eot_token_id": lm.eot_token_id,
        "max_length": lm.max_length,
        "task_hashes": {
            task: hash_string("".join(one[f"{part}_hash"] for one in documents for part in ("doc", "prompt", "target")))
            for task, documents in samples.items()
        },
        "model_source": "neoxrun",
        "model_name": options.name,
        "model_name_sanitized": sanitize_model_name(options.name),
        # There are no options for these: every prompt is the task's own text.
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "start_time": start,
        "end_time": end,
        "total_evaluation_time_seconds": str(end - start),
    }


def added_results(
    results: Mapping[str, Any],
    *,
    options: EvaluateOptions,
    session: Session,
    lm: NeoxLM,
    tasks: Mapping[str, Any],
    sources: Mapping[str, Any],
    start: float,
) -> dict[str, Any]:
    """The part that neoxrun adds, under the key of its name.

    Args:
        results: see ``add_facts_of_the_run``.
        options, session, lm, start: the run.
        tasks: lm-eval's.
        sources: where their documents came from.
    """
    mesh = session.mesh
    return {
        "version": __version__,
        "torch_version": torch.__version__,
        "checkpoint": dict(options.checkpoint),
        "weights": session.weights or "checkpoint",
        "split": {"tp": mesh.tp, "pp": mesh.pp, "replicas": mesh.replicas},
        "device": mesh.device.type,
        "dtype": str(session.replica.stage.weights_dtype).removeprefix("torch."),
        "seconds": {"total": time.time() - start, "computing": lm.answers.counts.seconds},
        "requests": lm.answers.counts.asked,
        "requests_from_cache": lm.answers.counts.cached,
        "data": sources,
        "dataset_splits": {
            name: task.config.test_split if task.has_test_docs() else task.config.validation_split
            for name, task in tasks.items()
        },
        "documents": {
            name: {"scored": count["effective"], "total": count["original"]}
            for name, count in results["n-samples"].items()
        },
        "limited": report.limited_tasks(results),
        **({"revision": dict(options.revision)} if options.revision else {}),
    }
