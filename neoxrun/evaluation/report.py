"""The output of a run: files of results and samples in lm-eval's layout, a table, and notes. No torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from neoxrun.errors import DataError, writing_code
from neoxrun.evaluation.compare import AGREES_WITHIN, ComparedValue
from neoxrun.evaluation.metrics import document_counts, metric_label
from neoxrun.terminal.words import aligned_columns

_COMPARED = ("task", "metric", "measured", "stderr", "reference", "stderr", "difference", "verdict")

Samples = Mapping[str, Sequence[Mapping[str, Any]]]


def check_results_folder(folder: Path) -> None:
    """Create the folder for the results, or fail before the run rather than after it.

    Raises:
        DataError: it cannot be created, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def save_results(
    folder: Path, document: Mapping[str, Any], samples: Samples | None, plain: Callable[[Any], Any]
) -> list[Path]:
    """Write ``results_<time>.json`` and ``samples_<task>_<time>.jsonl`` below the model's name, as lm-eval does.

    Args:
        folder: see ``check_results_folder``.
        document: the results.
        samples: for each task, what lm-eval logged of each document; None writes no samples.
        plain: lm-eval's function that turns other values into JSON values.

    Raises:
        DataError: a file cannot be written.
    """
    folder, date = folder / str(document["model_name_sanitized"]), time_for_names()
    paths = [folder / f"results_{date}.json"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(paths[0], [json.dumps(document, indent=2, default=plain, ensure_ascii=False)])
        for task, entries in (samples or {}).items():
            paths.append(folder / f"samples_{task.replace('/', '%2F')}_{date}.jsonl")
            _write(paths[-1], (json.dumps(_sample(entry), default=plain, ensure_ascii=False) for entry in entries))
    except OSError as error:
        raise _unwritable(paths[-1], error) from None
    return paths


def time_for_names() -> str:
    """The time, as lm-eval writes it into names of files."""
    return datetime.now().isoformat().replace(":", "-")


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write lines under a temporary name, which the complete file then loses."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _sample(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A logged document in lm-eval's layout: the arguments of its requests have names, all answers are strings."""
    arguments = {
        f"gen_args_{number}": {f"arg_{index}": value for index, value in enumerate(arguments)}
        for number, arguments in enumerate(entry["arguments"])
    }
    return {
        **entry,
        "arguments": arguments,
        "resps": _texts(entry["resps"]),
        "filtered_resps": _texts(entry["filtered_resps"]),
        "target": str(entry["target"]),
    }


def _texts(value: Any) -> Any:
    return [_texts(item) for item in value] if isinstance(value, list | tuple) else str(value)


def results_table(document: Mapping[str, Any]) -> str:
    """The results, one metric a line, with the number of documents that it was measured on."""
    rows = [("task", "metric", "value", "stderr", "shots", "documents")]
    for task in ordered_tasks(document):
        metrics = document["results"][task]
        for key, value in sorted(metrics.items()):
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr"):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            rows.append(
                (
                    str(metrics.get("alias", task)).strip(),
                    metric_label(key),
                    metric_number(value),
                    metric_number(error),
                    str(document["n-shot"].get(task, "")),
                    "{} of {}".format(*document_counts(document, task)),
                )
            )
    return aligned_columns(rows, left=2)


def ordered_tasks(document: Mapping[str, Any]) -> list[str]:
    """The tasks and groups of the results: groups before their members, in the order of the results."""
    members = document.get("group_subtasks", {})
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        if name in document["results"]:
            ordered[name] = None
        for member in members.get(name, ()):
            add(member)

    inner = {member for names in members.values() for member in names}
    for name in [*members, *document["results"]]:
        if name not in inner:
            add(name)
    return [*ordered, *(name for name in document["results"] if name not in ordered)]


def result_notes(document: Mapping[str, Any]) -> list[str]:
    """Notes to print below the table: what limits the meaning of the results."""
    notes = []
    added = document["neoxrun"]
    if added["limited"]:
        notes.append(f"limited: {added['limited']}. These are not results for the complete tasks.")
    if added.get("weights") == "random":
        notes.append("random weights: the results mean nothing.")
    for dataset, source in added["data"].items():
        for split, local in source.get("splits", {}).items():
            if files := [file["path"] for file in local["files"] if not file["published"]]:
                text = f"local data: {dataset} {split} was read from {', '.join(files)}"
                notes.append(f"{text}, which may differ from the published data.")
    without = [task for task in document["n-samples"] if not any("," in key for key in document["results"][task])]
    if without:
        notes.append(f"no results: no metric is defined for {', '.join(without)}.")
    return notes


def limited_tasks(document: Mapping[str, Any]) -> str | None:
    """The tasks of which not all documents were scored, and how many were; None if all tasks were complete."""
    parts = [
        f"{task} {count['effective']} of {count['original']}"
        for task, count in document["n-samples"].items()
        if count["effective"] != count["original"]
    ]
    return ", ".join(parts) or None


def comparison_table(comparisons: Iterable[ComparedValue]) -> str:
    """The measured results next to the reference results, a block for each source; then what ``agrees`` means."""
    blocks: dict[str, list[tuple[str, ...]]] = {}
    for one in comparisons:
        rows = blocks.setdefault(one.source, [_COMPARED])
        apart = "" if one.errors is None else f"{one.errors:+.1f} stderr"
        numbers = map(metric_number, (one.measured, one.stderr, one.reference, one.reference_stderr))
        rows.append((one.task, metric_label(one.metric), *numbers, apart, one.verdict))
    texts = [
        f"compared with {source}\n{aligned_columns(rows, left=2, last_left=True)}" for source, rows in blocks.items()
    ]
    if any("agrees" in row[-1] or "differs" in row[-1] for rows in blocks.values() for row in rows):
        texts.append(f"agrees: within {AGREES_WITHIN:g} standard errors of the difference.\n")
    return "\n".join(texts)


def metric_number(value: Any) -> str:
    """A value of the results for a table; empty if there is none."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
    return "" if value in (None, "N/A") else str(value)


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"the results cannot be written to {path}: {error.strerror}",
        code=writing_code(error),
        where=str(path),
        hint="Name another folder with --output.",
    )
