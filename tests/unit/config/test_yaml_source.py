"""YAML as plain values with the lines they come from; what is not YAML is refused with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config.yaml_source import ConfigEntry, read_override, read_yaml_file, read_yaml_values
from neoxrun.errors import ConfigError, UsageError


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "one.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_options_remember_their_lines_and_folder(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff# a comment\n"num-layers": 2\n\nrotary_pct: 1e-1\nload: [a, {b: null}]\n')
    assert read_yaml_file(path) == {
        "num_layers": ConfigEntry("num_layers", 2, f"{path}:2", tmp_path),
        "rotary_pct": ConfigEntry("rotary_pct", 0.1, f"{path}:4", tmp_path),
        "load": ConfigEntry("load", ["a", {"b": None}], f"{path}:5", tmp_path),
    }


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_an_empty_file_has_no_options(text: str, tmp_path: Path) -> None:
    assert read_yaml_file(write(tmp_path, text)) == {}


REFUSED: dict[str, tuple[str, str, int]] = {
    "not YAML": ("a: 1\nb: [1\n", "invalid_yaml", 3),
    "a list": ("\n- a\n", "invalid_yaml", 2),
    "a name that is a list": ("a: 1\n[b]: 2\n", "invalid_yaml", 2),
    "an object": ("a: 1\nb: !!python/object:os.system {}\n", "invalid_yaml", 2),
    "a tag with a wrong value": ("b: !!int x\n", "invalid_yaml", 1),
    "an option twice": ("num-layers: 1\nb: 2\nnum_layers: 2\n", "conflicting_options", 3),
}


@pytest.mark.parametrize(
    ("text", "value", "warned"),
    [("num-layers: 1\nnum_layers: 1\n", 1, False), ("log_interval: 10\nlog-interval: 100\n", 100, True)],
)
def test_an_option_twice_that_changes_nothing(
    text: str, value: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = read_yaml_file(write(tmp_path, text)).values()
    assert entry.value == value, "the last wins, as in PyYAML"
    assert ("log_interval is given twice" in caplog.text) is warned


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files(case: str, tmp_path: Path) -> None:
    text, code, line = REFUSED[case]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_yaml_file(path)
    assert (caught.value.code, caught.value.where) == (code, f"{path}:{line}")


def test_tabs_have_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml_file(write(tmp_path, "a:\n\tb: 1\n"))
    assert caught.value.code == "invalid_yaml"
    assert "tabs" in (caught.value.hint or "")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yml", tmp_path, write(tmp_path, b"a: \xe9")):
        with pytest.raises(ConfigError) as caught:
            read_yaml_file(path)
        assert (caught.value.code, caught.value.where) == ("unreadable_configuration", str(path))


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("seq-length=1024", "seq_length", 1024),
        ("load=a=b", "load", "a=b"),
        ("load=", "load", None),
        (" stop =[a, b]", "stop", ["a", "b"]),
        ("eps=1e-5", "eps", 1e-5),
    ],
)
def test_overrides_are_yaml(text: str, key: str, value: object) -> None:
    assert read_override(text) == ConfigEntry(key, value, f"--set {text}")


@pytest.mark.parametrize("text", ["seq_length", "=3", ""])
def test_overrides_need_a_name_and_a_value(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_override(text)
    assert caught.value.code == "invalid_value"
    assert repr(text) in caught.value.message


def test_an_override_that_is_no_yaml() -> None:
    with pytest.raises(ConfigError) as caught:
        read_override("stop=[a")
    assert (caught.value.code, caught.value.where) == ("invalid_yaml", "--set stop=[a")


def test_values_keep_the_text_of_custom_tags() -> None:
    assert read_yaml_values(b"task: a\nfunction: !function utils.process\n") == {
        "task": "a",
        "function": "utils.process",
    }


def test_values_that_are_no_yaml_name_the_line() -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml_values(b"a: 1\nb: [1\n")
    assert (caught.value.code, caught.value.where) == ("invalid_yaml", ":3")


def test_texts_are_not_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        read_yaml_file(path)
    assert caught.value.where == f"{path}:2"
    assert "Texts follow an option: --data in finetune" in str(caught.value.hint)
