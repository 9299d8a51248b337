"""GPT-NeoX's keys of data: which files, how they are divided, and where they are looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.data_reader import read_data
from neoxrun.config.reader import load_configuration
from neoxrun.config.training import DataConfig
from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import ConfigError, DataError
from support.configurations import SMALL, write_config
from support.paths import shared_folder

TRAIN = shared_folder() / "fixtures-train"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two files of texts and one pair of GPT-NeoX's, of which only the names count here."""
    for name in ("a.jsonl", "b.jsonl", "c_text_document.bin", "c_text_document.idx"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, flags: dict[str, Any] | None = None, **keys: object) -> DataConfig:
    """Of a configuration in ``folder`` with ``keys``, and ``flags`` of the command line over it."""
    path = write_config(folder, json.dumps(SMALL | keys))
    settings, options = load_configuration([path])
    over = {name: ConfigEntry(name, value, f"--{name}") for name, value in (flags or {}).items()}
    return read_data(options.over(over), settings, packed=True, column="text", document_end="")


@pytest.mark.skipif(not TRAIN.is_dir(), reason=f"{TRAIN} is not here")
def test_the_configuration_of_a_run_of_gpt_neox() -> None:
    settings, options = load_configuration([str(TRAIN / "tp1" / "config.yml")])
    data = read_data(options, settings, packed=True, column="text", document_end="")
    assert [path.resolve() for path in data.train] == [TRAIN.resolve() / "data" / "corpus_text_document"]
    assert data == DataConfig(train=data.train, split=(0.5, 0.5, 0.0), eval_stream=True, seq_length=64, seed=1234)


def test_data_path_is_divided(files: Path) -> None:
    data = read(files, data_path="c_text_document", eod_mask_loss=True, seed=5)
    assert data.train == (files / "c_text_document",)
    assert data.split == (0.969, 0.03, 0.001)
    assert (data.valid, data.weights, data.eod_mask_loss, data.seed, data.seq_length) == ((), None, True, 5, 32)


def test_evaluations_see_other_rows_each_time_where_a_configuration_names_them(files: Path) -> None:
    both = {"train_data_paths": ["a.jsonl"], "valid_data_paths": ["a.jsonl"]}
    given = {"train_data_paths": [str(files / "a.jsonl")]}
    evaluated = {"valid_data_paths": [str(files / "a.jsonl")]}
    assert read(files, data_path="a.jsonl").eval_stream
    assert read(files, **both).eval_stream
    assert read(files, given, **both).eval_stream, "not what is trained on counts"
    assert read(files, {"split": "90,10,0"}, data_path="a.jsonl").eval_stream
    assert not read(files, evaluated, data_path="a.jsonl").eval_stream
    assert not read(files, evaluated, **both).eval_stream
    assert not read(files, given | {"split": "90,10,0"}).eval_stream


@pytest.mark.parametrize(
    ("split", "shares"),
    [("8,2", (0.8, 0.2, 0.0)), ("6/2/2", (0.6, 0.2, 0.2)), (100, (1.0, 0.0, 0.0)), ("1, 1, 2, 9", (0.25, 0.25, 0.5))],
)
def test_splits(split: object, shares: tuple[float, ...], files: Path) -> None:
    assert read(files, data_path="a.jsonl", split=split).split == shares


@pytest.mark.parametrize("split", ["0,1", "a,b", "-1,2", "nan", "inf,1", [1, 2]])
def test_impossible_splits(split: object, files: Path) -> None:
    with pytest.raises(ConfigError, match="split must be"):
        read(files, data_path="a.jsonl", split=split)


def test_whole_files(files: Path) -> None:
    """Without weights GPT-NeoX takes as many rows from each; its split says nothing about them."""
    data = read(files, train_data_paths=["a.jsonl", "b.jsonl"], valid_data_paths=["c_text_document"], split="1,1")
    assert data.train == (files / "a.jsonl", files / "b.jsonl")
    assert data.valid == (files / "c_text_document",)
    assert (data.weights, data.valid_weights, data.split) == ((1.0, 1.0), (1.0,), None)


def test_weights(files: Path) -> None:
    data = read(files, train_data_paths=["a.jsonl", "b.jsonl"], train_data_weights=[2, 0.5])
    assert data.weights == (2.0, 0.5)
    single = read(files, train_data_paths=["a.jsonl"], valid_data_paths=["b.jsonl"], valid_data_weights=[3])
    assert (single.weights, single.valid_weights) == ((1.0,), (3.0,))
    for wrong in ([1], [1, 0], [1, "x"], 3):
        with pytest.raises(ConfigError, match="train_data_weights must be 2 numbers"):
            read(files, train_data_paths=["a.jsonl", "b.jsonl"], train_data_weights=wrong)


def test_files_of_the_command_line(files: Path) -> None:
    """They are whole, each as long as it is, whatever the configuration says of its own data."""
    both = [str(files / "a.jsonl"), str(files / "b.jsonl")]
    flags = {"data_path": None, "train_data_paths": both}
    data = read(files, flags, data_path="c_text_document", split="1,1")
    assert data.train == (files / "a.jsonl", files / "b.jsonl")
    assert (data.weights, data.split) == (None, None)
    assert read(files, flags | {"split": "3,1"}, data_path="c_text_document").split == (0.75, 0.25, 0.0)


def test_what_is_evaluated_on_is_not_cut_off_the_data(files: Path) -> None:
    data = read(files, {"valid_data_paths": [str(files / "b.jsonl")]}, data_path="a.jsonl")
    assert (data.train, data.valid, data.split) == ((files / "a.jsonl",), (files / "b.jsonl",), None)


def test_contradictions_and_nothing(files: Path) -> None:
    with pytest.raises(ConfigError, match="data_path and train_data_paths") as caught:
        read(files, data_path="a.jsonl", train_data_paths=["b.jsonl"])
    assert caught.value.code == "conflicting_options"
    with pytest.raises(ConfigError, match="no data to train on") as caught:
        read(files)
    assert caught.value.code == "missing_option"


@pytest.mark.parametrize(
    "keys",
    [
        {"data_path": "missing"},
        {"train_data_paths": ["a.jsonl", "missing"]},
        {"data_path": "a.jsonl", "valid_data_paths": ["missing"]},
    ],
)
def test_missing_files_are_named_with_their_line(keys: dict[str, Any], files: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*missing") as caught:
        read(files, **keys)
    assert caught.value.code == "missing_file"
    assert caught.value.where == f"{files}/model.yml:1"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("demo", "To train demo, name it before the options: they take all words that follow."),
        ("https://example.org/a.jsonl", "Download it first, and name the file."),
        ("-", "Write the texts to a file: they are read more than once."),
        ("missing.jsonl", "Name a file of texts, or"),
    ],
)
def test_what_is_not_a_file_but_something_else(path: str, hint: str, files: Path) -> None:
    with pytest.raises(DataError, match="there is no file") as caught:
        read(files, train_data_paths=[path])
    assert str(caught.value.hint).startswith(hint)


def test_relative_paths_are_looked_for_as_other_files_are(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First next to the configuration, then in the working directory."""
    elsewhere = files / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "d.jsonl").touch()
    (elsewhere / "a.jsonl").touch()
    data = read(files, train_data_paths=["a.jsonl", "d.jsonl"])
    assert data.train == (files / "a.jsonl", elsewhere / "d.jsonl")
