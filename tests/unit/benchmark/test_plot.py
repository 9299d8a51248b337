"""The picture of a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neoxrun.benchmark.plot import draw_report
from neoxrun.benchmark.report import Report
from neoxrun.errors import DataError

pytest.importorskip("matplotlib", reason="matplotlib is optional: pip install 'neoxrun[plot]'")


@pytest.mark.parametrize(("name", "starts"), [("a.png", b"\x89PNG\r\n\x1a\n"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_name_decides_the_format(name: str, starts: bytes, report: Report, tmp_path: Path) -> None:
    compared = replace(report, results=(replace(report.results[0], reference_rate=10.0), *report.results[1:]))
    draw_report(compared, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(starts)


def test_a_file_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="plot cannot be written") as caught:
        draw_report(report, tmp_path / "none" / "a.png")
    assert caught.value.where == str(tmp_path / "none" / "a.png")
