"""What can be downloaded by name, and names that are unknown."""

from __future__ import annotations

import contextlib
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.download import catalog, models_file
from neoxrun.errors import UsageError


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalog.Catalog:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return models_file.load_catalog()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pythia-160m", "pythia-160m"),
        ("PYTHIA-160M", "pythia-160m"),
        ("EleutherAI/pythia-410m", "pythia-410m"),
        ("20b", "20B"),
    ],
)
def test_a_model_has_several_names(shipped: catalog.Catalog, name: str, found: str) -> None:
    assert shipped.model(name).name == found


def test_any_repository_of_the_hub_is_a_model(shipped: catalog.Catalog) -> None:
    model = shipped.model("someone/their-neox")
    assert (model.hub, model.folder, model.config) == ("someone/their-neox", "their-neox", None)


@pytest.mark.parametrize(
    "name", ["pythia160m", "nothing", "../etc", "a/b/c", "https://host/tree", "", "./a", "a/..", "a/."]
)
def test_an_unknown_model_is_refused(shipped: catalog.Catalog, name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(name))) as caught:
        shipped.model(name)
    assert caught.value.code == "unknown_download"
    assert "--list" in str(caught.value.hint)
    assert ("Did you mean pythia-160m" in str(caught.value.hint)) == (name == "pythia160m")


def test_an_unknown_task_is_refused_with_what_there_is(shipped: catalog.Catalog) -> None:
    assert set(shipped.task("lambada_openai").files) < set(shipped.task("lambada").files)
    with pytest.raises(UsageError, match="no task 'lamada'") as caught:
        shipped.task("lamada")
    assert caught.value.code == "unknown_download"
    assert str(caught.value.hint).startswith("Did you mean lambada")
    assert "piqa" in str(caught.value.hint)


@given(st.text(string.printable, max_size=40))
def test_no_name_brings_a_traceback(name: str) -> None:
    known = catalog.Catalog({"pythia-14m": catalog.Model("pythia-14m", "x", hub="a/b")}, {})
    with contextlib.suppress(UsageError):
        model = known.model(name)
        assert "/" not in model.folder
        assert model.folder not in ("", ".", "..")
