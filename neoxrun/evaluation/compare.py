"""Published figures beside ours: how far apart they are, in standard errors. No torch, no lm-eval."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from neoxrun.config.settings import ModelConfig
from neoxrun.errors import DataError, UsageError
from neoxrun.terminal.words import printable

AGREES_WITHIN: Final = 2.0
"""Standard errors. Of two figures that differ by chance alone, 1 in 20 is further apart."""

_FORMAT: Final = (
    'A file of figures is {"source": TEXT, "num_fewshot": N, "results": {TASK: {METRIC: NUMBER}}}, for example '
    '{"results": {"piqa": {"acc": 0.7742}}}; the results file of an earlier run is one, too.'
)


@dataclass(frozen=True)
class Figures:
    """What somebody else has measured.

    Attributes:
        source: who, or which file.
        results: task -> metric -> value; a metric is named with its filter (``acc,none``) where the file does so.
        num_fewshot: task -> examples before each question, where that is known.
        limited: task -> how much of it was scored, where that is not all.
        random_weights: the figures mean nothing.
    """

    source: str
    results: Mapping[str, Mapping[str, float]]
    num_fewshot: Mapping[str, int] = field(default_factory=dict)
    limited: Mapping[str, str] = field(default_factory=dict)
    random_weights: bool = False


@dataclass(frozen=True)
class Comparison:
    """One figure of theirs, and ours.

    Attributes:
        task, metric: what was measured, as the results name it: ``acc,none``.
        ours, stderr: our value and its standard error; None where there is none.
        theirs: their value.
        errors: how many standard errors ours is above theirs; None where that cannot be said.
        verdict: ``agrees``, ``differs``, or why it cannot be said.
        source: whose figure it is.
    """

    task: str
    metric: str
    ours: float
    stderr: float | None
    theirs: float
    errors: float | None
    verdict: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """As the results file has it."""
        return asdict(self)


def published(model: ModelConfig) -> tuple[Figures, ...]:
    """The figures that are shipped for a model, which its network tells.

    Raises:
        UsageError: there are none for it.
    """
    content = json.loads(resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    for known in content["models"]:
        if all(getattr(model, key) == value for key, value in known["network"].items()):
            return tuple(_figures(entry, known["name"]) for entry in known["figures"])
    names = ", ".join(known["name"] for known in content["models"])
    raise UsageError(
        f"no published figures of this model are shipped (there are those of {names})",
        hint=f"Give figures of your own with --compare FILE. {_FORMAT}",
    )


def read(path: Path) -> tuple[Figures, ...]:
    """The figures of a user's own file.

    Raises:
        DataError: there is no such file, or it holds no figures.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"the figures {path} cannot be read: {error.strerror}",
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
            figures = _figures(content, str(path))
        except (OverflowError, RecursionError, TypeError) as error:
            raise DataError(
                f"{path} holds other values than figures: {error}", code="bad_file", where=str(path), hint=_FORMAT
            ) from None
        if any(figures.results.values()):
            return (figures,)
    raise DataError(f"{path} holds no figures", code="bad_file", where=str(path), hint=_FORMAT)


def label(key: str) -> str:
    """``acc,none`` and ``acc,get-answer`` for people: ``acc``, ``acc (get-answer)``."""
    metric, _, filtered = key.partition(",")
    return metric if filtered in ("", "none") else f"{metric} ({filtered})"


def counts(document: Mapping[str, Any], task: str) -> tuple[int, int]:
    """How many documents were scored, and how many there are; of a group over all its tasks."""
    count = _dict(document, "n-samples").get(task)
    if isinstance(count, dict):
        return count.get("effective", 0), count.get("original", 0)
    scored, total = 0, 0
    for member in _dict(document, "group_subtasks").get(task, ()):
        more = counts(document, member)
        scored, total = scored + more[0], total + more[1]
    return scored, total


def check_overlap(figures: Sequence[Figures], names: Collection[str]) -> None:
    """Fail now rather than after the run.

    Args:
        figures: theirs.
        names: tasks and groups of the run. Those that a group's own file makes are called ``group::name``, and any
            such name passes.

    Raises:
        UsageError: the figures are all of other tasks.
    """
    known = sorted({task for one in figures for task in one.results})
    if not {part for name in known for part in (name, name.partition("::")[0])} & set(names):
        raise UsageError(
            f"there is nothing to compare: the figures are of {', '.join(known)}, the tasks are {', '.join(names)}",
            hint="Leave out --compare, or add a task that there are figures of.",
        )


def compare(document: Mapping[str, Any], figures: Sequence[Figures]) -> list[Comparison]:
    """Every figure that there is on both sides.

    Args:
        document: results in lm-eval's layout, with our ``neoxrun`` part.
        figures: theirs.
    """
    return [comparison for one in figures for comparison in _compared(document, one)]


def not_measured(document: Mapping[str, Any], figures: Sequence[Figures]) -> list[str]:
    """Of the tasks on both sides, the figures of theirs that have none of ours beside them: ``piqa f1``."""
    return [
        f"{task} {label(metric)}"
        for one in figures
        for task, theirs in one.results.items()
        for metric in theirs
        if task in document["results"] and not _same(metric, document["results"][task])
    ]


def _compared(document: Mapping[str, Any], figures: Figures) -> Iterator[Comparison]:
    for task, theirs in figures.results.items():
        mine = document["results"].get(task, {})
        for metric, value in theirs.items():
            for key in _same(metric, mine):
                name, _, filtered = key.partition(",")
                stderr = mine.get(f"{name}_stderr,{filtered}")
                stderr = float(stderr) if isinstance(stderr, int | float) and stderr > 0 else None
                finite = math.isfinite(mine[key]) and math.isfinite(value)
                errors = _errors(name, mine[key], stderr, value) if stderr is not None and finite else None
                verdict = _verdict(document, task, figures, errors) if finite else "cannot be said: no number"
                yield Comparison(task, key, float(mine[key]), stderr, value, errors, verdict, figures.source)


def _same(metric: str, mine: Mapping[str, Any]) -> list[str]:
    """Our figures that theirs is to be compared with: the same filter's, or every filter's where they name none."""
    names = [key for key, value in mine.items() if isinstance(value, int | float)]
    return [key for key in names if (key if "," in metric else key.partition(",")[0]) == metric]


def _errors(metric: str, ours: float, stderr: float, theirs: float) -> float:
    """How many standard errors ours is above theirs.

    Perplexities are compared by their logarithms, whose standard error is ``stderr / ours``: a bad model's is so large
    that any other would seem near.
    """
    if "perplexity" in metric and ours > 0 and theirs > 0:
        return math.log(ours / theirs) / (stderr / ours)
    return (ours - theirs) / stderr


def _verdict(document: Mapping[str, Any], task: str, figures: Figures, errors: float | None) -> str:
    shots, theirs = document["n-shot"].get(task), figures.num_fewshot.get(task)
    if document["neoxrun"].get("weights") == "random":
        return "means nothing: random weights"
    if figures.random_weights:
        return "means nothing: theirs are of random weights"
    if theirs is not None and shots != theirs:
        return f"not comparable: {'mixed' if shots is None else shots}-shot beside {theirs}-shot"
    if errors is None:
        return "cannot be said: no standard error"
    verdict = "agrees" if abs(errors) <= AGREES_WITHIN else "differs"
    scored, total = counts(document, task)
    limits = [f"limited: {scored} of {total}"] if scored != total else []
    limits += [f"theirs limited: {figures.limited[task]}"] if task in figures.limited else []
    return f"{verdict} ({', '.join(limits)})" if limits else verdict


def _figures(content: Mapping[str, Any], name: str) -> Figures:
    """One set of figures, from our format or from lm-eval's results."""
    results = {
        printable(str(task)): {
            printable(metric): float(value)
            for metric, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and _is_figure(metric)
        }
        for task, metrics in content["results"].items()
        if isinstance(metrics, dict)
    }
    shots = _dict(content, "n-shot")
    if "num_fewshot" in content:
        if type(content["num_fewshot"]) is not int:
            raise TypeError(f"num_fewshot is {content['num_fewshot']!r}, no whole number")
        shots = dict.fromkeys(results, content["num_fewshot"])
    scored = {task: counts(content, task) for task in results}
    return Figures(
        printable(str(content.get("source", name))),
        results,
        {task: number for task, number in shots.items() if isinstance(number, int)},
        {task: f"{some} of {all_}" for task, (some, all_) in scored.items() if some != all_},
        random_weights=_dict(content, "neoxrun").get("weights") == "random",
    )


def _dict(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of a file that may lack it."""
    part = content.get(key)
    return part if isinstance(part, dict) else {}


def _is_figure(metric: str) -> bool:
    return metric not in ("sample_len", "sample_count") and not metric.partition(",")[0].endswith("_stderr")
