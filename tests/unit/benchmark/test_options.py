"""What is refused before the run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from neoxrun.benchmark.options import check_comparison
from neoxrun.errors import NeoxrunError, UsageError
from support.checkpoints import tiny


@pytest.fixture(params=["there", "missing"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """transformers, or not."""
    here = request.param == "there"
    found: Any = object() if here else None
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: found if name == "transformers" else find_spec(name, *rest)
    )
    return here


def refusal(check: Any, *arguments: Any) -> NeoxrunError | None:
    try:
        check(*arguments)
    except NeoxrunError as error:
        return error
    return None


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
