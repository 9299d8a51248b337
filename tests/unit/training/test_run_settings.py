"""The settings of a run, as they are written and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from neoxrun.config.training import LoraConfig
from neoxrun.training.run_settings import evaluation_digest
from support.run_settings import A_FILE, DATA, TRAINING, made


def test_settings_survive_their_file() -> None:
    described = made(lora=LoraConfig(rank=4), train_files=(A_FILE,))
    assert json.loads(json.dumps(described)) == described
    assert described["lora"]["rank"] == 4
    assert described["data"]["train"] == ["/data/corpus.jsonl"]
    assert described["training"]["schedule"]["style"] == "cosine"
    noted = {"name": "/data/corpus.jsonl", "documents": 40, "tokens": 574, "digest": "x"}
    assert described["files"] == {"train": {"/data/corpus.jsonl": noted}, "valid": {}}


def test_evaluations_that_can_be_compared_have_one_digest() -> None:
    valid = replace(DATA, valid=(Path("/data/valid.jsonl"),))
    more = {"train_files": (A_FILE,), "valid_files": (replace(A_FILE, name="/data/valid.jsonl"),)}
    other = replace(A_FILE, digest="y")

    def digest(*given: Any, **changed: Any) -> str:
        return evaluation_digest(made(*given, **(more | changed)))

    same = digest(TRAINING, valid)
    assert same == digest(replace(TRAINING, train_iters=30, eval_interval=7, micro_batch_size=1), valid)
    assert same == digest(TRAINING, valid, LoraConfig())
    assert same == digest(TRAINING, replace(valid, train=(Path("/b"),), weights=(1.0,)), train_files=(other,))
    stream = replace(valid, eval_stream=True)
    different = [
        digest(replace(TRAINING, eval_iters=7), valid),
        digest(replace(TRAINING, train_batch_size=8), valid),
        digest(TRAINING, replace(valid, seq_length=8)),
        digest(TRAINING, valid, valid_files=(other,)),
        digest(TRAINING, stream),
        digest(replace(TRAINING, eval_interval=7), stream),
        digest(TRAINING, replace(DATA, split=(0.9, 0.1, 0.0))),
        digest(TRAINING, replace(DATA, split=(0.9, 0.1, 0.0)), train_files=(other,)),
    ]
    assert len({same, *different}) == 9
