"""What is refused of a plot before the run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from neoxrun.errors import DataError, UsageError
from neoxrun.terminal.plots import check_plot, plot_mark


@pytest.fixture(params=["there", "missing"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    here: bool = request.param == "there"
    found: Any = object() if here else None
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: found if name == "matplotlib" else find_spec(name, *rest)
    )
    return here


def refusal(path: Path) -> DataError | UsageError | None:
    try:
        check_plot(path)
    except (DataError, UsageError) as error:
        return error
    return None


def test_a_plot_needs_matplotlib(installed: bool, tmp_path: Path) -> None:
    error = refusal(tmp_path / "a.png")
    assert (error is None) == installed
    if error is not None:
        assert isinstance(error, UsageError)
        assert (error.code, error.hint) == ("missing_package", "Install it: pip install 'neoxrun[plot]'")


@pytest.mark.parametrize("installed", ["there"], indirect=True)
def test_a_plot_needs_a_folder_and_a_known_format(installed: bool, tmp_path: Path) -> None:
    gone = refusal(tmp_path / "none" / "a.png")
    assert isinstance(gone, DataError)
    assert gone.where == str(tmp_path / "none" / "a.png")
    unknown = refusal(tmp_path / "a.txt")
    assert isinstance(unknown, UsageError)
    assert "a.txt does not end in .png, .svg or .pdf" in unknown.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("installed", ["there"], indirect=True)
def test_only_a_plot_of_neoxrun_is_replaced(installed: bool, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG of somebody")
    error = refusal(photo)
    assert error is not None
    assert (error.code, error.where) == ("other_file", str(photo))


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.PDF"])
def test_what_was_drawn_can_be_drawn_again(name: str, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib.figure")
    matplotlib.Figure().savefig(tmp_path / name)
    assert refusal(tmp_path / name) is not None
    matplotlib.Figure().savefig(tmp_path / name, metadata=plot_mark(tmp_path / name))
    assert refusal(tmp_path / name) is None
