"""The settings of a run, as they are written and read."""

from __future__ import annotations

import json

from neoxrun.config.training import LoraConfig
from support.run_settings import A_FILE, made


def test_settings_survive_their_file() -> None:
    described = made(lora=LoraConfig(rank=4), train_files=(A_FILE,))
    assert json.loads(json.dumps(described)) == described
    assert described["lora"]["rank"] == 4
    assert described["data"]["train"] == ["/data/corpus.jsonl"]
    assert described["training"]["schedule"]["style"] == "cosine"
    noted = {"name": "/data/corpus.jsonl", "documents": 40, "tokens": 574, "digest": "x"}
    assert described["files"] == {"train": {"/data/corpus.jsonl": noted}, "valid": {}}
