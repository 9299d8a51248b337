"""Unknown options: those of forks that concern training are accepted, the others are not."""

from __future__ import annotations

import pytest

from neoxrun.config import neox_keys
from neoxrun.config.known import _TRAINING, check_names
from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import ConfigError


def entries(*names: str) -> dict[str, ConfigEntry]:
    return {name: ConfigEntry(name, 1, "a.yml:3") for name in names}


# StableLM's, RedPajama's, open-calm's and other forks' own.
@pytest.mark.parametrize(
    "name",
    ["eval_batch_size", "train_data_file", "data_cache_dir", "dataset_name", "wandb_entity", "steps"],
)
def test_training_options_of_forks_are_named_in_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert check_names(entries("num_layers", name, "lr_decay_iters")) == {name, "lr_decay_iters"}
    assert f"unknown option {name} is ignored" in caplog.text
    assert "a.yml:3" in caplog.text


@pytest.mark.parametrize("name", ["num_layer", "attention_scale", "logit_softcap", "rotary", "train_imp", "dataflow"])
def test_other_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_names(entries("num_layers", name))
    assert (caught.value.code, caught.value.where) == ("unknown_option", "a.yml:3")


def test_no_option_that_matters_begins_like_those_of_training() -> None:
    matter = neox_keys.KNOWN - neox_keys.IGNORED
    assert {name for name in matter if _TRAINING.fullmatch(name)} == {"train_impl"}
