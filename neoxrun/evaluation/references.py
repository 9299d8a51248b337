"""Results from elsewhere, to compare with: the published ones that are shipped, and the user's files. No lm-eval."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from neoxrun.config.settings import ModelConfig
from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation.metrics import document_counts, mapping_at, stderr_key
from neoxrun.terminal.words import printable

_FORMAT: Final = (
    'The file must hold {"source": TEXT, "num_fewshot": N, "results": {TASK: {METRIC: NUMBER}}}, for example '
    '{"results": {"piqa": {"acc": 0.7742}}}; the results file of an earlier run will do.'
)
# What else a task's entry has in lm-eval's files.
_NOT_METRICS: Final = ("name", "alias", "sample_len", "sample_count")


@dataclass(frozen=True)
class ReferenceResults:
    """Results from elsewhere, to compare with.

    Attributes:
        source: who measured them, or the file.
        results: task -> metric -> value; a metric's name includes its filter (``acc,none``) if the file's does. Text
            where the file has no number.
        errors: task -> metric -> standard error, where it is known.
        num_fewshot: task -> examples before each question, if that is known.
        limited: task -> how many of its documents were scored, if not all were.
        random_weights: they were measured with random weights, so they mean nothing.
    """

    source: str
    results: Mapping[str, Mapping[str, float | str]]
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    num_fewshot: Mapping[str, int] = field(default_factory=dict)
    limited: Mapping[str, str] = field(default_factory=dict)
    random_weights: bool = False


def published_results(model: ModelConfig) -> tuple[ReferenceResults, ...]:
    """The published results that are shipped for a model, which is recognized by its network.

    Raises:
        UsageError: there are none for it.
    """
    content = json.loads(resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    for known in content["models"]:
        if all(getattr(model, key) == value for key, value in known["network"].items()):
            return tuple(_reference_results(entry, known["name"]) for entry in known["published"])
    names = ", ".join(known["name"] for known in content["models"])
    raise UsageError(
        f"no published results are shipped for this model, only for {names}",
        code="invalid_value",
        hint=f"Compare with your own file: --compare FILE. {_FORMAT}",
    )


def read_reference_results(path: Path) -> tuple[ReferenceResults, ...]:
    """The reference results in a user's file.

    Raises:
        DataError: the file cannot be read, or holds no results.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"the reference results {path} cannot be read: {error.strerror}",
            code="unreadable_file",
            where=str(path),
            hint=_FORMAT,
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", code="bad_file", where=str(path), hint=_FORMAT) from None
    except RecursionError:
        raise DataError(f"{path} is nested too deeply", code="bad_file", where=str(path), hint=_FORMAT) from None
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        try:
            reference = _reference_results(content, str(path))
        except (OverflowError, RecursionError, TypeError) as error:
            raise DataError(
                f"{path} holds values that are not results: {error}",
                code="bad_file",
                where=str(path),
                hint=_FORMAT,
            ) from None
        if any(reference.results.values()):
            return (reference,)
    raise DataError(f"{path} holds no results", code="bad_file", where=str(path), hint=_FORMAT)


def _reference_results(content: Mapping[str, Any], name: str) -> ReferenceResults:
    """Reference results from a file, in neoxrun's own format or in that of lm-eval's results."""
    tasks = {printable(str(task)): metrics for task, metrics in content["results"].items() if isinstance(metrics, dict)}
    results = {
        task: {printable(metric): _value(value) for metric, value in metrics.items() if _is_metric(metric)}
        for task, metrics in tasks.items()
    }
    errors = {task: {printable(metric): error for metric, error in _errors(metrics)} for task, metrics in tasks.items()}
    shots = mapping_at(content, "n-shot")
    if "num_fewshot" in content:
        if type(content["num_fewshot"]) is not int:
            raise TypeError(f"num_fewshot is {content['num_fewshot']!r}, which is not a whole number")
        shots = dict.fromkeys(results, content["num_fewshot"])
    scored = {task: document_counts(content, task) for task in results}
    return ReferenceResults(
        printable(str(content.get("source", name))),
        results,
        errors,
        {task: number for task, number in shots.items() if isinstance(number, int)},
        {task: f"{some} of {all_}" for task, (some, all_) in scored.items() if some != all_},
        random_weights=mapping_at(content, "neoxrun").get("weights") == "random",
    )


def _value(value: Any) -> float | str:
    """A number as it is; of anything else the text, so that it can be named."""
    return float(value) if _is_number(value) else printable(str(value))


def _errors(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics of a task that have a standard error, and it."""
    for metric in metrics:
        error: Any = metrics.get(stderr_key(metric))
        if _is_number(error):
            yield metric, float(error)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_metric(name: str) -> bool:
    return name not in _NOT_METRICS and not name.partition(",")[0].endswith("_stderr")
