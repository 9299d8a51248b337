"""Results over revisions: which are on disk, the table, and what makes two works the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.errors import DataError
from neoxrun.evaluation.catalog import TaskName
from neoxrun.evaluation.find import FoundTasks
from neoxrun.evaluation.trajectory import (
    Point,
    curves,
    describe_work,
    result_line,
    revisions_table,
    saved_results,
    work_on,
)
from neoxrun.evaluation.trajectory_plot import draw_revisions


def document(**values: Any) -> dict[str, Any]:
    """Results of piqa and arc."""
    piqa = {"alias": "piqa", "acc,none": values.get("acc"), "acc_stderr,none": 0.01, "acc_norm,none": 0.5}
    return {"results": {"piqa": piqa, "arc": {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": "N/A"}}}


POINTS = [
    Point("step0", 0, document(acc=0.5)),
    Point("step1", 1, {"results": {"piqa": {"alias": "piqa", "acc,none": 0.6}}}),
    Point("step1000", 1000, document(acc=0.7)),
]


def test_a_row_for_each_revision_and_a_column_for_each_metric() -> None:
    assert revisions_table(POINTS) == (
        "            piqa               arc\n"
        "revision     acc  acc_norm     acc\n"
        "step0     0.5000    0.5000  0.2500\n"
        "step1     0.6000\n"
        "step1000  0.7000    0.5000  0.2500\n"
    )
    assert result_line(POINTS[0].document) == "piqa acc 0.5000, acc_norm 0.5000, arc acc 0.2500"


def test_errors_are_numbers_or_nothing() -> None:
    acc, _, arc = curves(POINTS)
    assert (acc.task, acc.metric, acc.values, acc.errors) == ("piqa", "acc", (0.5, 0.6, 0.7), (0.01, None, 0.01))
    assert arc.errors == (None, None, None)


@pytest.mark.parametrize("points", [POINTS, [Point("main", None, document(acc=0.4)), *POINTS], POINTS[:1]])
def test_the_plot(points: list[Point], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is optional: pip install 'neoxrun[plot]'")
    draw_revisions(points, "lab/tiny", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError) as caught:
        draw_revisions(points, "lab/tiny", tmp_path / "none" / "a.png")
    assert caught.value.code == "unwritable_file"


def test_the_newest_results_of_a_work_are_found(tmp_path: Path) -> None:
    def write(name: str, content: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    def results(work: str, number: int) -> dict[str, Any]:
        return {"neoxrun": {"revision": {"work": work}}, "number": number}

    write("a@1/results_2026-01-02.json", results("one", 2))
    write("a@1/results_2026-01-01.json", results("one", 1))
    write("a@2/results_2026-01-01.json", results("two", 3))
    write("b/results_2026-01-01.json", {"neoxrun": {}})
    write("b/results_2026-01-02.json", "half a fi")
    write("b/results_2026-01-03.json", [])
    assert {work: one["number"] for work, one in saved_results(tmp_path, ["one", "three"]).items()} == {"one": 2}
    assert saved_results(tmp_path / "none", ["one"]) == {}


def test_what_makes_another_work(tmp_path: Path) -> None:
    task = tmp_path / "piqa.yaml"
    task.write_text("task: piqa")
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    found = FoundTasks(("piqa",), {"piqa": TaskName("task", task)}, (), tmp_path, None, None)
    settings = load_settings(["demo"])

    def work(**changes: Any) -> str:
        how = {"options": {"limit": None}, "dtype": "fp32", "tokenizer": None, "settings": settings, "found": found}
        how |= changes
        return describe_work(how["settings"], how["found"], how["options"], how["dtype"], how["tokenizer"])

    first = work()
    assert work() == first
    assert work(settings=dataclasses.replace(settings, checkpoint=tmp_path)) == first, "where it is does not count"
    model = dataclasses.replace(settings.model, rotary_pct=0.5)
    others = [
        work(options={"limit": 5}),
        work(dtype="bf16"),
        work(tokenizer=tokenizer),
        work(settings=dataclasses.replace(settings, model=model)),
        work(found=dataclasses.replace(found, names=("piqa", "arc"))),
        work(found=dataclasses.replace(found, num_fewshot=5)),
    ]
    task.write_text("task: piqa\nnum_fewshot: 1")
    others.append(work())
    assert len({first, *others}) == len(others) + 1
    on = [("lab/a", "step0", "x"), ("lab/b", "step0", "x"), ("lab/a", "step1", "x"), ("lab/a", "step0", "y")]
    assert len({work_on(first, *one) for one in on}) == 4
