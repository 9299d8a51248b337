"""The ids that end a text, as the files of a Hugging Face folder name them. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from neoxrun.config.huggingface import CONFIG_JSON, read_json

GENERATION_CONFIG: Final = "generation_config.json"
"""The file in which transformers keeps how a model writes texts."""


def read_end_ids(folder: Path) -> tuple[int, ...]:
    """The end ids of generation_config.json, or else of config.json; none where there are no such files.

    Raises:
        CheckpointError: a file is damaged.
    """
    for name in (GENERATION_CONFIG, CONFIG_JSON):
        if not (folder / name).is_file():
            continue
        value = read_json(folder / name).get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        found = tuple(dict.fromkeys(one for one in values if isinstance(one, int) and not isinstance(one, bool)))
        if found:
            return found
    return ()
