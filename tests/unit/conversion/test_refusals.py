"""`inspect` names what `generate` would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from neoxrun.conversion.convert import convert
from neoxrun.conversion.inspect import inspect_folder
from neoxrun.conversion.refusals import note_refusals
from neoxrun.conversion.survey import survey_folder
from support.conversions import order
from support.paths import FIXTURES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    convert(order(FIXTURES / "tp1", tmp_path / "hf", "huggingface"))
    return tmp_path / "hf"


def odd(folder: Path) -> str:
    survey = survey_folder(folder)
    note_refusals(survey, folder)
    return " ".join(survey.odd)


def config(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def in_place_of_config(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "config.json").unlink()
        make(folder / "config.json")

    return change


def without(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        del tensors[name]
        save_file(tensors, path, {"format": "pt"})

    return change


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda folder: (folder / "config.json").write_text('{"a'), "Its configuration cannot be used: "),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "There is no config.json"),
    "a folder": (in_place_of_config(Path.mkdir), "Its configuration cannot be used: cannot read config.json: Is a dir"),
    "a link to nothing": (
        in_place_of_config(lambda path: path.symlink_to("nothing")),
        "Its configuration cannot be used: cannot read config.json: No such file",
    ),
    "another model": (config(model_type="llama"), "'llama'"),
    "quantised": (config(quantization_config={"quant_method": "gptq"}), "quantised (gptq)"),
    "more layers": (config(num_hidden_layers=4), "are missing: layer 05 "),
    "fewer layers": (config(num_hidden_layers=2), "do not belong to it: layer 04 "),
    "wider": (config(intermediate_size=512), "have other shapes: layer 02 mlp."),
    "a missing tensor": (without("gpt_neox.layers.1.attention.dense.bias"), "missing: layer 03 attention.dense.bias."),
    "a cut tokenizer": (lambda folder: (folder / "tokenizer.json").write_text('{"a'), "tokenizer.json is not JSON"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "There is no tokenizer in "),
}


def test_a_good_folder(folder: Path) -> None:
    assert odd(folder) == ""


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(case: str, folder: Path) -> None:
    spoil, says = CASES[case]
    spoil(folder)
    assert says in odd(folder)


def test_a_folder_that_says_nothing_is_not_odd() -> None:
    survey = survey_folder(FIXTURES / "tp1" / "global_step150000")
    note_refusals(survey, FIXTURES / "tp1" / "global_step150000")
    assert survey.odd == []


def test_a_folder_with_the_name_of_a_shipped_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is meant, also without a slash in it."""
    folder.rename(folder.with_name("pythia-160m"))
    monkeypatch.chdir(folder.parent)
    text = inspect_folder(Path("pythia-160m"), None, full=False, tensors=False, as_json=False, show_progress=False)
    assert "As the folder itself says." in text
    assert text.endswith("Nothing is odd.\n")
    assert "num_layers: 3\n" in text
