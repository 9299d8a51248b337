"""Unknown options: those of forks that concern training are accepted, the others are not."""

from __future__ import annotations

import pytest

from neoxrun.config import neox_keys
from neoxrun.config.known import _TRAINING, check_names, with_present_names
from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import ConfigError


def entries(*names: str) -> dict[str, ConfigEntry]:
    return {name: ConfigEntry(name, 1, "a.yml:3") for name in names}


# StableLM's, RedPajama's, open-calm's and other forks' own.
@pytest.mark.parametrize(
    "name",
    [
        "eval_batch_size",
        "neg_train_data_path",
        "num_epochs",
        "train_data_file",
        "data_cache_dir",
        "dataset_name",
        "wandb_entity",
        "steps",
    ],
)
def test_training_options_of_forks_are_named_in_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert check_names(entries("num_layers", name, "lr_decay_iters")) == {name, "lr_decay_iters"}
    assert f"unknown option {name} is ignored" in caplog.text
    assert "a.yml:3" in caplog.text


@pytest.mark.parametrize(
    ("name", "hint"), [("train_iterz", "Did you mean train_iters?"), ("wandb_entity", "wandb_project")]
)
def test_training_refuses_them(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option {name}") as caught:
        check_names(entries("num_layers", name), training=True)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("name", ["num_layer", "attention_scale", "logit_softcap", "rotary", "train_imp", "dataflow"])
def test_other_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_names(entries("num_layers", name))
    assert (caught.value.code, caught.value.where) == ("unknown_option", "a.yml:3")


def test_no_option_that_matters_begins_like_those_of_training() -> None:
    matter = neox_keys.KNOWN - neox_keys.IGNORED
    assert {name for name in matter if _TRAINING.fullmatch(name)} == {"train_impl"}


def test_old_names_of_options() -> None:
    old = {name: ConfigEntry(name, 7, "a.yml:3") for name in ("out_seq_length", "genfile", "num_layers")}
    found = with_present_names(old)
    assert {key: (entry.key, entry.value, entry.where) for key, entry in found.items()} == {
        key: (key, 7, "a.yml:3") for key in ("maximum_tokens", "sample_output_file", "num_layers")
    }
    both = {
        "max_tokens": ConfigEntry("max_tokens", 7, "a.yml:3"),
        "maximum_tokens": ConfigEntry("maximum_tokens", 8, ""),
    }
    assert found["maximum_tokens"].written == "out_seq_length"
    assert with_present_names(both)["maximum_tokens"].value == 8


@pytest.mark.parametrize(("greedy", "temperature"), [(True, 0.0), (False, 0.7)])
def test_greedy_is_a_temperature_of_0(greedy: bool, temperature: float) -> None:
    found = with_present_names({**entries("greedy"), "temperature": ConfigEntry("temperature", 0.7, "b")})
    assert "greedy" in found, "1 is neither true nor false"
    given = {"greedy": ConfigEntry("greedy", greedy, "a"), "temperature": ConfigEntry("temperature", 0.7, "b")}
    found = with_present_names(given)
    assert found.keys() == {"temperature"}
    assert found["temperature"].value == temperature
