"""Typed access to options: which values each kind accepts, and what an error names."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from neoxrun.config.typed import ConfigOptions
from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import ConfigError


def options(value: object, folder: Path | None = None) -> ConfigOptions:
    return ConfigOptions({"one": ConfigEntry("one", value, "a.yml:3", folder)})


ACCEPTED: dict[str, tuple[Callable[[ConfigOptions], object], object, object]] = {
    "integer": (lambda found: found.integer("one", 7), 2**31 - 1, 2**31 - 1),
    "integer 0": (lambda found: found.integer("one", 7, low=0), 0, 0),
    "integer null": (lambda found: found.integer("one", None), None, None),
    "number": (lambda found: found.number("one", 0.5), 2, 2.0),
    "number at its limit": (lambda found: found.number("one", 0.5, most=1), 1, 1.0),
    "integer in quotes": (lambda found: found.integer("one", 7), "64", 64),
    "number in quotes": (lambda found: found.number("one", 0.5), "1e-5", 1e-5),
    "flag": (lambda found: found.flag("one", True), False, False),
    "text": (lambda found: found.text("one", None), "a b", "a b"),
    "choice": (lambda found: found.choice("one", "x", ("gelu", "relu")), "GELU", "gelu"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted_values(case: str) -> None:
    read, value, result = ACCEPTED[case]
    assert read(options(value)) == result
    assert type(read(options(value))) is type(result)


@pytest.mark.parametrize("value", [0, -1, 2**31, 1.0, "0", "1.5", "x", True, [1], None])
def test_what_is_no_whole_number(value: object) -> None:
    check_refused(value, lambda found: found.integer("one", 7))


@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, 1.5, "nan", "2", "x", True, None])
def test_what_is_no_number_up_to_one(value: object) -> None:
    check_refused(value, lambda found: found.number("one", 0.5, most=1))


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_what_is_no_flag(value: object) -> None:
    check_refused(value, lambda found: found.flag("one", False))


@pytest.mark.parametrize("value", ["", "a\0b", 3, ["a"]])
def test_what_is_no_text(value: object) -> None:
    check_refused(value, lambda found: found.text("one", None))


def check_refused(value: object, read: Callable[[ConfigOptions], object]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(options(value))
    assert (caught.value.code, caught.value.where) == ("invalid_value", "a.yml:3")
    assert caught.value.message.startswith("one must be ")


def test_a_choice_that_is_not_supported() -> None:
    with pytest.raises(ConfigError) as caught:
        options("swish").choice("one", "gelu", ("gelu", "relu"))
    assert (caught.value.code, caught.value.where) == ("unsupported_option", "a.yml:3")
    assert "swish" in caught.value.message
    assert "gelu, relu" in (caught.value.hint or "")


def test_options_that_are_not_given_have_their_default() -> None:
    none = ConfigOptions({})
    assert none.get("one") is None
    assert none.where("one") is None
    assert none.integer("one", 7) == 7
    assert none.number("one", None) is None
    assert none.flag("one", True) is True
    assert none.text("one", "a") == "a"
    assert none.choice("one", "x", ("y",)) == "x"
    assert none.path("one") == (None, ())


def test_where_is_that_of_the_first_that_is_given() -> None:
    assert options(1).where("other", "one") == "a.yml:3"
    assert options(None).where("one") is None


def test_paths_are_looked_for_next_to_the_file_and_then_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, here = tmp_path / "folder", tmp_path / "here"
    for each in (folder, here):
        each.mkdir()
    monkeypatch.chdir(here)
    found = options("x", folder)
    both = (folder / "x", here / "x")
    assert found.path("one") == (here / "x", both), "where neither exists, the one in the working directory"
    (here / "x").mkdir()
    assert found.path("one") == (here / "x", both)
    (folder / "x").touch()
    assert found.path("one") == (folder / "x", both)
    assert found.path("one", Path.is_dir) == (here / "x", both), "what is accepted comes first"
    assert options(str(folder / "x")).path("one") == (folder / "x", (folder / "x",))
    check_refused("x" * 5000, lambda long: long.path("one"))
