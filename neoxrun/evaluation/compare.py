"""Compares measured results with reference results, in standard errors. No torch, no lm-eval."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from neoxrun.errors import UsageError
from neoxrun.evaluation.metrics import document_counts, metric_label, stderr_key
from neoxrun.evaluation.references import ReferenceResults

AGREES_WITHIN: Final = 2.0
"""Standard errors of the difference. Results that differ by chance alone are further apart in 1 of 20 cases."""

# Metrics that are shares, from 0 to 1, and that papers print in percent.
_SHARES: Final = re.compile(r"(?:^|_)(?:acc|exact_match|em|f1|mc1|mc2|pass)(?:_|@|$)")
_PERCENTAGE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True)
class ComparedValue:
    """One measured value and its reference value.

    Attributes:
        task, metric: what was measured, as the results name it: ``acc,none``.
        measured, stderr: the value of this run and its standard error; None if it has none.
        reference, reference_stderr: the value to compare with, and its standard error; text if it is not a number. A
            percentage has become a share.
        errors: how many standard errors of the difference the measured value is above the reference; None if that is
            not known.
        verdict: ``agrees``, ``differs``, or why neither can be said.
        source: where the reference value comes from.
    """

    task: str
    metric: str
    measured: float | str
    stderr: float | None
    reference: float | str
    reference_stderr: float | None
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
            "theirs_stderr": self.reference_stderr,
            "errors": self.errors,
            "verdict": self.verdict,
            "source": self.source,
        }


class _Value(NamedTuple):
    """A value, and its standard error if that is known and not 0."""

    value: float
    stderr: float | None


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
    """The reference values that this run did not measure, though it ran their tasks: ``piqa f1``."""
    found = (
        f"{task} {metric_label(metric)}"
        for one in references
        for task, metrics in one.results.items()
        for metric in metrics
        if task in document["results"] and not _matching(metric, document["results"][task])
    )
    return list(dict.fromkeys(found))


def not_run(document: Mapping[str, Any], references: Sequence[ReferenceResults]) -> list[str]:
    """The tasks that have reference values, and were not run: ``lambada_openai (acc, perplexity)``."""
    tasks: dict[str, dict[str, None]] = {}
    for one in references:
        for task, metrics in one.results.items():
            if task not in document["results"] and metrics:
                tasks.setdefault(task, {}).update(dict.fromkeys(map(metric_label, metrics)))
    return [f"{task} ({', '.join(metrics)})" for task, metrics in tasks.items()]


def _compared(document: Mapping[str, Any], reference: ReferenceResults) -> Iterator[ComparedValue]:
    for task, metrics in reference.results.items():
        results = document["results"].get(task, {})
        for metric, expected in metrics.items():
            for key in _matching(metric, results):
                yield _comparison(document, task, key, reference, metric, expected)


def _comparison(
    document: Mapping[str, Any], task: str, key: str, reference: ReferenceResults, metric: str, expected: float | str
) -> ComparedValue:
    """One value of the run, under ``key``, next to the reference value of ``metric``."""
    results = document["results"][task]
    measured, stderr = results[key], _error(results.get(stderr_key(key)))
    reference_stderr = _error(reference.errors.get(task, {}).get(metric))
    in_percent = _is_percentage(metric, measured, expected)
    if in_percent:
        expected = _number(expected) / 100
        reference_stderr = None if reference_stderr is None else reference_stderr / 100
    errors, unknown = None, _why_unknown(measured, expected)
    if not unknown:
        errors = _errors(metric, _Value(float(measured), stderr), _Value(_number(expected), reference_stderr))
    verdict = unknown or _verdict(document, task, reference, errors, in_percent=in_percent)
    return ComparedValue(task, key, measured, stderr, expected, reference_stderr, errors, verdict, reference.source)


def _matching(metric: str, measured: Mapping[str, Any]) -> list[str]:
    """The measured metrics to compare with a reference metric: its filter's, or every filter's if it names none."""
    names = [key for key in measured if "," in key and not key.partition(",")[0].endswith("_stderr")]
    return [key for key in names if (key if "," in metric else key.partition(",")[0]) == metric]


def _error(value: Any) -> float | None:
    """A standard error; None if it is not a positive number."""
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def _number(value: float | str) -> float:
    """A number, or that of a percentage."""
    return float(value.strip(" %\t")) if isinstance(value, str) else value


def _is_percentage(metric: str, measured: Any, expected: float | str) -> bool:
    """Whether a reference value is in percent where the measured one is a share."""
    if isinstance(expected, str):
        return _PERCENTAGE.fullmatch(expected) is not None
    share = _SHARES.search(metric.partition(",")[0]) and isinstance(measured, int | float) and 0 <= measured <= 1
    return bool(share) and 1 < expected <= 100


def _why_unknown(measured: Any, expected: float | str) -> str | None:
    """Why two values cannot be compared; None if they can."""
    for name, value in (("measured", measured), ("reference", expected)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"unknown: the {name} value is text"
        if not math.isfinite(value):
            return f"unknown: the {name} value is {'NaN' if math.isnan(value) else 'infinite'}"
    return None


def _errors(metric: str, measured: _Value, reference: _Value) -> float | None:
    """How many standard errors of their difference the measured value is above the reference.

    The two are taken as independent: the variance of the difference is the sum of both, or the one that is known.
    Perplexities are compared by their logarithms, whose standard error is ``stderr / value``: that of a bad model's
    perplexity itself is so large that any other value would seem near.
    """
    if "perplexity" in metric and measured.value > 0 and reference.value > 0:
        measured, reference = (
            _Value(math.log(one.value), None if one.stderr is None else one.stderr / one.value)
            for one in (measured, reference)
        )
    spread = math.hypot(measured.stderr or 0, reference.stderr or 0)
    return (measured.value - reference.value) / spread if spread else None


def _verdict(
    document: Mapping[str, Any], task: str, reference: ReferenceResults, errors: float | None, *, in_percent: bool
) -> str:
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
    limits += ["reference in percent"] if in_percent else []
    return f"{verdict} ({', '.join(limits)})" if limits else verdict
