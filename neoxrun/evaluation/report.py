"""What a run says at its end: lm-eval's own results and samples, what we add to them, and a table. No torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from neoxrun.errors import DataError, writing_code
from neoxrun.evaluation.compare import AGREES_WITHIN, Comparison, counts, label

Samples = Mapping[str, Sequence[Mapping[str, Any]]]


def check_folder(folder: Path) -> None:
    """Make the folder of the results, and fail now rather than after the run.

    Raises:
        DataError: it cannot be made, or not written in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def save(folder: Path, document: Mapping[str, Any], samples: Samples | None, plain: Callable[[Any], Any]) -> list[Path]:
    """Write ``results_<time>.json`` and ``samples_<task>_<time>.jsonl`` below the model's name, as lm-eval does.

    Args:
        folder: see ``check_folder``.
        document: the results.
        samples: per task, what lm-eval logged of each document; None writes none.
        plain: lm-eval's way to make JSON of other values.

    Raises:
        DataError: a file cannot be written.
    """
    folder = folder / str(document["model_name_sanitized"])
    date = datetime.now().isoformat().replace(":", "-")
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


def _write(path: Path, lines: Iterable[str]) -> None:
    """Under a name of its own until it is whole."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _sample(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A logged document with names for its requests' arguments, and all answers as text: lm-eval's layout."""
    arguments = {
        f"gen_args_{number}": {f"arg_{place}": value for place, value in enumerate(arguments)}
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


def table(document: Mapping[str, Any]) -> str:
    """The figures, a line for each, with how many documents they stand for."""
    rows = [("task", "metric", "value", "stderr", "shots", "documents")]
    for task in _ordered(document):
        metrics = document["results"][task]
        for key, value in sorted(metrics.items()):
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr"):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            rows.append(
                (
                    str(metrics.get("alias", task)).strip(),
                    label(key),
                    _number(value),
                    _number(error),
                    str(document["n-shot"].get(task, "")),
                    "{} of {}".format(*counts(document, task)),
                )
            )
    return _aligned(rows, left=2)


def _ordered(document: Mapping[str, Any]) -> list[str]:
    """Groups before their members, in the order of the results."""
    members = document.get("group_subtasks", {})
    placed: dict[str, None] = {}

    def place(name: str) -> None:
        if name in document["results"]:
            placed[name] = None
        for member in members.get(name, ()):
            place(member)

    inner = {member for names in members.values() for member in names}
    for name in [*members, *document["results"]]:
        if name not in inner:
            place(name)
    return [*placed, *(name for name in document["results"] if name not in placed)]


def notes(document: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know."""
    said = []
    ours = document["neoxrun"]
    if ours["limited"]:
        said.append(f"limited: {ours['limited']}. These are no figures of the whole tasks.")
    if ours.get("weights") == "random":
        said.append("random weights: the figures mean nothing.")
    for dataset, source in ours["data"].items():
        for split, given in source.get("splits", {}).items():
            if files := [file["path"] for file in given["files"] if not file["published"]]:
                said.append(f"{dataset} {split} is {', '.join(files)}: it may not be what was published.")
    without = [task for task in document["n-samples"] if not any("," in key for key in document["results"][task])]
    if without:
        said.append(f"no figures: {', '.join(without)} ask for no metric.")
    return said


def limited(document: Mapping[str, Any]) -> str | None:
    """Which tasks were not scored as a whole; None where all were."""
    parts = [
        f"{task} {count['effective']} of {count['original']}"
        for task, count in document["n-samples"].items()
        if count["effective"] != count["original"]
    ]
    return ", ".join(parts) or None


def comparison_table(comparisons: Iterable[Comparison]) -> str:
    """Theirs beside ours, a block for each source."""
    blocks: dict[str, list[tuple[str, ...]]] = {}
    for one in comparisons:
        rows = blocks.setdefault(one.source, [("task", "metric", "ours", "theirs", "difference", "verdict")])
        apart = "" if one.errors is None else f"{one.errors:+.1f} stderr"
        rows.append((one.task, label(one.metric), _number(one.ours), _number(one.theirs), apart, one.verdict))
    texts = [f"compared with {source}\n{_aligned(rows, left=2, last_left=True)}" for source, rows in blocks.items()]
    return "\n".join([*texts, f"agrees: within {AGREES_WITHIN:g} standard errors of ours.\n"])


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
    return "" if value in (None, "N/A") else str(value)


def _aligned(rows: Sequence[Sequence[str]], *, left: int, last_left: bool = False) -> str:
    """Columns of equal width; the first ``left`` are flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left or (last_left and place == len(row) - 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"the results cannot be written to {path}: {error.strerror}",
        code=writing_code(error),
        where=str(path),
        hint="Give another folder with --output.",
    )
