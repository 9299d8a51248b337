"""The ids that end a text, as the files of a Hugging Face folder name them. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from neoxrun.errors import CheckpointError


def read_end_ids(folder: Path) -> tuple[int, ...]:
    """The end ids of generation_config.json, or else of config.json; none where there are no such files.

    Raises:
        CheckpointError: a file is damaged.
    """
    for name in ("generation_config.json", "config.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"cannot read {name}: {error}", code="unreadable_checkpoint", where=str(folder / name)
            ) from error
        value = content.get("eos_token_id") if isinstance(content, dict) else None
        values = value if isinstance(value, list) else [value]
        found = tuple(dict.fromkeys(one for one in values if isinstance(one, int) and not isinstance(one, bool)))
        if found:
            return found
    return ()
