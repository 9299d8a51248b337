"""Results over the revisions of a model: which of them are on disk already, and one table of them all. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neoxrun.config.settings import Precision, Settings
from neoxrun.evaluation.cache import SCORING_VERSION
from neoxrun.evaluation.find import FoundTasks
from neoxrun.evaluation.metrics import metric_label
from neoxrun.evaluation.report import metric_number, ordered_tasks
from neoxrun.terminal.words import aligned_columns


@dataclass(frozen=True)
class Point:
    """The results of one revision.

    Attributes:
        name: of the revision.
        step: of its training; None if it is not known.
        document: the results, as their file has them.
    """

    name: str
    step: int | None
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One metric of one task over the revisions.

    Attributes:
        task, metric: for people: ``piqa``, ``acc_norm``.
        values, errors: one for each revision, and its standard error; None where there is none.
    """

    task: str
    metric: str
    values: tuple[float | None, ...]
    errors: tuple[float | None, ...]


def describe_work(
    settings: Settings, found: FoundTasks, options: Mapping[str, Any], dtype: Precision, tokenizer: Path | None
) -> str:
    """What is measured, as a text; ``work_on`` adds on what.

    It covers the network, the number format, the tasks with their files, the options and the version of lm-eval, but
    not the documents and not how the model is split.

    Args:
        settings: the configuration.
        found: the tasks.
        options: of the command line: those that may change the results or what is written of them.
        dtype: the number format of the weights.
        tokenizer: the user's own tokenizer file; None for the repository's.
    """
    files = sorted({entry.path for entry in found.known.values() if entry.path is not None})
    parts = [
        asdict(settings.model),
        settings.tokenizer.tokenizer_type,
        None if tokenizer is None else _digest(tokenizer),
        found.names,
        found.num_fewshot,
        [_digest(path) for path in files],
        dict(options),
        [dtype, SCORING_VERSION, version("lm_eval")],
    ]
    return json.dumps(parts, sort_keys=True, default=str)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def work_on(work: str, repository: str, revision: str, contents: str) -> str:
    """The SHA-256 that identifies the results of this work on a revision.

    Args:
        work: by ``describe_work``.
        repository, revision: names.
        contents: the checksum of the revision's files.
    """
    return hashlib.sha256(json.dumps([work, repository, revision, contents]).encode()).hexdigest()


def saved_results(folder: Path, works: Collection[str]) -> dict[str, dict[str, Any]]:
    """The newest results of each of these works that are in a results folder, by work."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/results_*.json"), key=lambda path: path.name):
        try:
            text = path.read_text(encoding="utf-8")
            if not any(work in text for work in works):
                continue
            document = json.loads(text)
            work = document["neoxrun"]["revision"]["work"]
        except (OSError, ValueError, TypeError, KeyError):  # results of another program or command
            continue
        if work in works:
            found[work] = document
    return found


def curves(points: Sequence[Point]) -> list[Curve]:
    """Every metric of every task, in the order of the results."""
    found = []
    for task in dict.fromkeys(task for point in points for task in ordered_tasks(point.document)):
        results = [point.document["results"].get(task, {}) for point in points]
        keys = sorted({key for result in results for key in result if _is_metric(key)})
        alias = next((str(result["alias"]).strip() for result in results if "alias" in result), task)
        for key in keys:
            metric, _, filtered = key.partition(",")
            values = tuple(_float(result.get(key)) for result in results)
            errors = tuple(_float(result.get(f"{metric}_stderr,{filtered}")) for result in results)
            found.append(Curve(alias, metric_label(key), values, errors))
    return found


def _is_metric(key: str) -> bool:
    metric, _, filtered = key.partition(",")
    return bool(filtered) and not metric.endswith("_stderr")


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def revisions_table(points: Sequence[Point]) -> str:
    """A row for each revision, a column for each metric; the first line names the tasks, the second the metrics."""
    columns = curves(points)
    tasks, shown = [""], ""
    for curve in columns:
        tasks.append("" if curve.task == shown else curve.task)
        shown = curve.task
    rows = [tuple(tasks), ("revision", *(curve.metric for curve in columns))]
    rows += [
        (point.name, *(metric_number(curve.values[index]) for curve in columns)) for index, point in enumerate(points)
    ]
    return aligned_columns(rows, left=1)


def result_line(document: Mapping[str, Any]) -> str:
    """The results of one revision in a line, for people who watch: ``piqa acc 0.5321, acc_norm 0.5299``."""
    parts, shown = [], ""
    for curve in curves([Point("", None, document)]):
        name = curve.metric if curve.task == shown else f"{curve.task} {curve.metric}"
        parts.append(f"{name} {metric_number(curve.values[0])}")
        shown = curve.task
    return ", ".join(parts)
