"""What is refused before the run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from neoxrun.benchmark.options import check_comparison, check_plot
from neoxrun.errors import DataError, NeoxrunError, UsageError
from support.checkpoints import tiny


@pytest.fixture(params=["there", "missing"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both optional packages, or neither."""
    here = request.param == "there"
    names = ("matplotlib", "transformers")
    found: Any = object() if here else None
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: found if name in names else find_spec(name, *rest)
    )
    return here


def refusal(check: Any, *arguments: Any) -> NeoxrunError | None:
    try:
        check(*arguments)
    except NeoxrunError as error:
        return error
    return None


def test_a_plot_needs_matplotlib(installed: bool, tmp_path: Path) -> None:
    error = refusal(check_plot, tmp_path / "a.png")
    assert (error is None) == installed
    if error is not None:
        assert isinstance(error, UsageError)
        assert (error.code, error.hint) == ("missing_package", "Install it: pip install 'neoxrun[plot]'")


@pytest.mark.parametrize("installed", ["there"], indirect=True)
def test_a_plot_needs_a_folder_and_a_known_format(installed: bool, tmp_path: Path) -> None:
    gone = refusal(check_plot, tmp_path / "none" / "a.png")
    assert isinstance(gone, DataError)
    assert gone.where == str(tmp_path / "none" / "a.png")
    unknown = refusal(check_plot, tmp_path / "a.txt")
    assert isinstance(unknown, UsageError)
    assert "a.txt does not end in .png, .svg or .pdf" in unknown.message
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_needs_transformers(installed: bool) -> None:
    error = refusal(check_comparison, tiny(), 1)
    assert (error is None) == installed
    assert error is None or error.code == "missing_package"


@pytest.mark.parametrize("installed", ["there"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "ranks", "code", "says"),
    [
        ({}, 2, "conflicting_options", "2 ranks"),
        ({"pos_emb": "learned"}, 1, "unsupported_option", "pos_emb: learned"),
        ({"norm": "rmsnorm"}, 1, "unsupported_option", "norm: rmsnorm"),
        ({"gpt_j_tied": True}, 1, "unsupported_option", "gpt_j_tied"),
        ({"use_bias_in_mlp": False}, 1, "unsupported_option", "without a bias"),
    ],
)
def test_a_comparison_needs_the_same_network_on_one_device(
    installed: bool, changes: dict[str, Any], ranks: int, code: str, says: str
) -> None:
    error = refusal(check_comparison, tiny(**changes), ranks)
    assert isinstance(error, UsageError)
    assert error.code == code
    assert says in error.message
