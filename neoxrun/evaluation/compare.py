"""Compares measured results with reference results, in standard errors. No torch, no lm-eval."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from neoxrun.config.settings import ModelConfig
from neoxrun.errors import DataError, UsageError
from neoxrun.terminal.words import printable

AGREES_WITHIN: Final = 2.0
"""Standard errors. Results that differ by chance alone are further apart in 1 of 20 cases."""

_FORMAT: Final = (
    'The file must hold {"source": TEXT, "num_fewshot": N, "results": {TASK: {METRIC: NUMBER}}}, for example '
    '{"results": {"piqa": {"acc": 0.7742}}}; the results file of an earlier run will do.'
)


@dataclass(frozen=True)
class ReferenceResults:
    """Results from elsewhere, to compare with.

    Attributes:
        source: who measured them, or the file.
        results: task -> metric -> value; a metric's name includes its filter (``acc,none``) if the file's does.
        num_fewshot: task -> examples before each question, if that is known.
        limited: task -> how many of its documents were scored, if not all were.
        random_weights: they were measured with random weights, so they mean nothing.
    """

    source: str
    results: Mapping[str, Mapping[str, float]]
    num_fewshot: Mapping[str, int] = field(default_factory=dict)
    limited: Mapping[str, str] = field(default_factory=dict)
    random_weights: bool = False


@dataclass(frozen=True)
class ComparedValue:
    """One measured value and its reference value.

    Attributes:
        task, metric: what was measured, as the results name it: ``acc,none``.
        measured, stderr: the value of this run and its standard error; None if it has none.
        reference: the value to compare with.
        errors: how many standard errors the measured value is above the reference; None if that is not known.
        verdict: ``agrees``, ``differs``, or why neither can be said.
        source: where the reference value comes from.
    """

    task: str
    metric: str
    measured: float
    stderr: float | None
    reference: float
    errors: float | None
    verdict: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The comparison in the results file, whose keys are a format: ``ours`` is measured, ``theirs`` reference."""
        return {
            "task": self.task,
            "metric": self.metric,
            "ours": self.measured,
            "stderr": self.stderr,
            "theirs": self.reference,
            "errors": self.errors,
            "verdict": self.verdict,
            "source": self.source,
        }


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


def metric_label(key: str) -> str:
    """``acc,none`` and ``acc,get-answer`` for people: ``acc``, ``acc (get-answer)``."""
    metric, _, filtered = key.partition(",")
    return metric if filtered in ("", "none") else f"{metric} ({filtered})"


def document_counts(document: Mapping[str, Any], task: str) -> tuple[int, int]:
    """How many documents of a task were scored, and how many it has; for a group, the sums over its tasks."""
    count = _dict(document, "n-samples").get(task)
    if isinstance(count, dict):
        return count.get("effective", 0), count.get("original", 0)
    scored, total = 0, 0
    for member in _dict(document, "group_subtasks").get(task, ()):
        more = document_counts(document, member)
        scored, total = scored + more[0], total + more[1]
    return scored, total


def check_overlap(references: Sequence[ReferenceResults], names: Collection[str]) -> None:
    """Check before the run that some of its results can be compared.

    Args:
        references: what to compare with.
        names: tasks and groups of the run. Those defined within a group's file are called ``group::name``, and any
            such name passes.

    Raises:
        UsageError: the reference results are all for other tasks.
    """
    known = sorted({task for one in references for task in one.results})
    if not {part for name in known for part in (name, name.partition("::")[0])} & set(names):
        raise UsageError(
            f"there is nothing to compare: the reference results are for {', '.join(known)}, the tasks of this run are "
            f"{', '.join(names)}",
            code="conflicting_options",
            hint="Leave out --compare, or add a task that has reference results.",
        )


def compare_results(document: Mapping[str, Any], references: Sequence[ReferenceResults]) -> list[ComparedValue]:
    """Every measured value that has a reference value.

    Args:
        document: results in lm-eval's layout, with neoxrun's own part.
        references: what to compare with.
    """
    return [comparison for one in references for comparison in _compared(document, one)]


def not_measured(document: Mapping[str, Any], references: Sequence[ReferenceResults]) -> list[str]:
    """The reference values for tasks of this run that it did not measure: ``piqa f1``."""
    return [
        f"{task} {metric_label(metric)}"
        for one in references
        for task, metrics in one.results.items()
        for metric in metrics
        if task in document["results"] and not _matching(metric, document["results"][task])
    ]


def _compared(document: Mapping[str, Any], reference: ReferenceResults) -> Iterator[ComparedValue]:
    for task, metrics in reference.results.items():
        measured = document["results"].get(task, {})
        for metric, value in metrics.items():
            for key in _matching(metric, measured):
                name, _, filtered = key.partition(",")
                stderr = measured.get(f"{name}_stderr,{filtered}")
                stderr = float(stderr) if isinstance(stderr, int | float) and stderr > 0 else None
                finite = math.isfinite(measured[key]) and math.isfinite(value)
                errors = _errors(name, measured[key], stderr, value) if stderr is not None and finite else None
                verdict = _verdict(document, task, reference, errors) if finite else "unknown: not a number"
                yield ComparedValue(task, key, float(measured[key]), stderr, value, errors, verdict, reference.source)


def _matching(metric: str, measured: Mapping[str, Any]) -> list[str]:
    """The measured metrics to compare with a reference metric: its filter's, or every filter's if it names none."""
    names = [key for key, value in measured.items() if isinstance(value, int | float)]
    return [key for key in names if (key if "," in metric else key.partition(",")[0]) == metric]


def _errors(metric: str, measured: float, stderr: float, reference: float) -> float:
    """How many standard errors the measured value is above the reference.

    Perplexities are compared by their logarithms, whose standard error is ``stderr / measured``: that of a bad model's
    perplexity itself is so large that any other value would seem near.
    """
    if "perplexity" in metric and measured > 0 and reference > 0:
        return math.log(measured / reference) / (stderr / measured)
    return (measured - reference) / stderr


def _verdict(document: Mapping[str, Any], task: str, reference: ReferenceResults, errors: float | None) -> str:
    shots, reference_shots = document["n-shot"].get(task), reference.num_fewshot.get(task)
    if document["neoxrun"].get("weights") == "random":
        return "means nothing: random weights"
    if reference.random_weights:
        return "means nothing: the reference has random weights"
    if reference_shots is not None and shots != reference_shots:
        return f"not comparable: {'mixed' if shots is None else shots}-shot, reference {reference_shots}-shot"
    if errors is None:
        return "unknown: no standard error"
    verdict = "agrees" if abs(errors) <= AGREES_WITHIN else "differs"
    scored, total = document_counts(document, task)
    limits = [f"limited: {scored} of {total}"] if scored != total else []
    limits += [f"reference limited: {reference.limited[task]}"] if task in reference.limited else []
    return f"{verdict} ({', '.join(limits)})" if limits else verdict


def _reference_results(content: Mapping[str, Any], name: str) -> ReferenceResults:
    """Reference results from a file, in neoxrun's own format or in that of lm-eval's results."""
    results = {
        printable(str(task)): {
            printable(metric): float(value)
            for metric, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and _is_metric(metric)
        }
        for task, metrics in content["results"].items()
        if isinstance(metrics, dict)
    }
    shots = _dict(content, "n-shot")
    if "num_fewshot" in content:
        if type(content["num_fewshot"]) is not int:
            raise TypeError(f"num_fewshot is {content['num_fewshot']!r}, which is not a whole number")
        shots = dict.fromkeys(results, content["num_fewshot"])
    scored = {task: document_counts(content, task) for task in results}
    return ReferenceResults(
        printable(str(content.get("source", name))),
        results,
        {task: number for task, number in shots.items() if isinstance(number, int)},
        {task: f"{some} of {all_}" for task, (some, all_) in scored.items() if some != all_},
        random_weights=_dict(content, "neoxrun").get("weights") == "random",
    )


def _dict(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping within a file; empty if the file lacks it."""
    part = content.get(key)
    return part if isinstance(part, dict) else {}


def _is_metric(name: str) -> bool:
    return name not in ("sample_len", "sample_count") and not name.partition(",")[0].endswith("_stderr")
