"""Whether the options of a configuration are known, and what to do about those that are not. No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from neoxrun.config import neox_keys
from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import ConfigError
from neoxrun.terminal.log import log
from neoxrun.terminal.words import did_you_mean

# Forks of GPT-NeoX have options of their own. What their names begin with says that these concern data, training or
# logging: none of GPT-NeoX's own options that begin so changes what a trained model computes.
_TRAINING: Final = re.compile(
    r"(pos_|neg_)?(train|valid|validation|test|eval|evaluation|data|dataset|datasets|save|log|logging|wandb?|tensorboard|comet|"
    r"checkpoint|checkpointing|lr|optimizer|adam|weight_decay|warmup|grad|gradient|zero|deepspeed|ds|profile|"
    r"profiler|s3|slurm|curriculum|dpo|kto|ppo|rlhf|shuffle|num_epochs|epochs?|steps)(_\w+)?"
)
_CLOSE: Final = 0.8  # how alike a misspelling of an option that matters is


def with_present_names(entries: Mapping[str, ConfigEntry]) -> dict[str, ConfigEntry]:
    """The options of one file under the names that GPT-NeoX has for them today; where both are given, today's counts.

    ``greedy: true``, which GPT-NeoX had until 2021, is a temperature of 0.
    """
    present = {key: entry for key, entry in entries.items() if key not in neox_keys.RENAMED and key != "greedy"}
    for old, new in neox_keys.RENAMED.items():
        if old in entries:
            present.setdefault(new, replace(entries[old], key=new, written=old))
    greedy = entries.get("greedy")
    if greedy is not None and greedy.value is True:
        present["temperature"] = replace(greedy, key="temperature", value=0.0, written="greedy")
    elif greedy is not None and greedy.value is not False:
        present["greedy"] = greedy  # unknown, with that value
    return present


def check_names(entries: Mapping[str, ConfigEntry], *, training: bool = False) -> set[str]:
    """The options that have no effect here. Those of forks that concern training are named in a warning.

    Args:
        entries: of the merged configuration.
        training: the model is to be trained, so that those count and are refused.

    Raises:
        ConfigError: an option is neither known nor one of those.
    """
    foreign = [entry for entry in entries.values() if entry.key not in neox_keys.KNOWN]
    for entry in foreign:
        misspelt = difflib.get_close_matches(entry.key, neox_keys.KNOWN - neox_keys.IGNORED, 1, _CLOSE)
        if training or misspelt or not _TRAINING.fullmatch(entry.key):
            raise ConfigError(
                f"unknown option {entry.key}",
                code="unknown_option",
                where=entry.where,
                hint=did_you_mean(entry.key, neox_keys.KNOWN, 1) or "GPT-NeoX has no such option: remove it.",
            )
    for entry in foreign:
        log.warning(f"unknown option {entry.key} is ignored: by its name, it concerns training only ({entry.where})")
    return {entry.key for entry in entries.values() if entry.key not in neox_keys.KNOWN - neox_keys.IGNORED}
