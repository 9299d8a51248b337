"""The loss of `neoxrun finetune`, and that of `neoxrun score`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.command import neoxrun
from support.tiny_models import demo_tokenizer
from support.training_data import write_packed

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")

# The demo model is trained with dropout otherwise, as its configuration says.
STILL = ("--set", "hidden_dropout=0", "--set", "attention_dropout=0")


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_the_first_loss_is_what_score_says_of_the_same_rows(tmp_path: Path) -> None:
    """Each row is a document after an end of document, as score reads it."""
    texts = ["import os, sys\n", "def main(argv: list[str]) -> int:\n    return 0\n", "A run is a folder.\n"]
    tokenizer = demo_tokenizer()
    assert tokenizer.eod is not None
    packed = write_packed(tmp_path / "rows", [[tokenizer.eod, *tokenizer.encode(text)] for text in texts])
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    once = ("--no-pack", "--seq-length", 64, "--batch-size", len(texts), "--steps", 1, "--device", "cpu", "-q")
    neoxrun("finetune", "demo", "--data", packed, "--output", tmp_path / "run", *once, *STILL).check_success()
    words = ("score", "demo", "-i", tmp_path / "texts.jsonl", "--level", "document", "--dtype", "fp32", "-q")
    records = neoxrun(*words, "-o", "-").check_success().records
    scored = [record for record in records if "logprob" in record]
    assert len(scored) == len(texts)
    expected = -sum(record["logprob"] for record in scored) / sum(record["tokens"] for record in scored)
    assert losses(tmp_path / "run") == [pytest.approx(expected, abs=1e-5)]
