"""The smallest configuration, and writing one."""

from __future__ import annotations

import json
from pathlib import Path

SMALL = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 32,
    "max_position_embeddings": 48,
}


def write_config(folder: Path, text: str | dict[str, object], name: str = "model.yml") -> str:
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return str(path)
