"""`neoxrun score` gives transformers' log-probabilities and lm-eval's perplexities, on every split."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

pytest.importorskip("accelerate", reason="lm-eval's hf model needs accelerate")

from support import evaluations
from support.command import neoxrun, records_of
from support.evaluations import CONTEXT, EvaluatedModel
from support.paths import FIXTURES
from support.task_data import write_hub_form, write_lines

SPLITS = ["--tp 1", "--tp 2", "--tp 1 --pp 2", "--tp 1 --replicas 2"]
SHAKESPEARE = (FIXTURES / "shakespeare.txt").read_text()
TEXTS = [
    SHAKESPEARE[:2500],  # several windows
    "import os",
    " \n a 日本語 🎉\u2028 word.\n\n",
    "",
    SHAKESPEARE[5000:5600],
    "x",
    *(SHAKESPEARE[300 * n : 300 * n + 7 * n + 9] for n in range(1, 20)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    folder = tmp_path_factory.mktemp("score")
    return evaluations.write_model(folder, write_hub_form(folder / "data"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("texts") / "texts.jsonl", *({"text": text} for text in TEXTS))


class Reference:
    """Log-probabilities by transformers, each token by itself: what it is predicted from follows from its number."""

    def __init__(self, folder: Path) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    @torch.inference_mode()
    def rows(self, text: str, context: int, stride: int) -> list[tuple[int, torch.Tensor]]:
        """Of each token its id and the log-probabilities ``[V]`` at its position."""
        ids = [self.tokenizer.eos_token_id, *self.tokenizer(text)["input_ids"]]
        last = len(ids) - 1
        found: list[tuple[int, torch.Tensor]] = []
        known: dict[tuple[int, int], torch.Tensor] = {}
        for number in range(1, len(ids)):
            end = context if number <= context else context + stride * -(-(number - context) // stride)
            end = min(end, last)
            start = max(0, end - context)
            if (start, end) not in known:
                known[start, end] = self.network(torch.tensor([ids[start:end]])).logits[0].log_softmax(-1)
            found.append((ids[number], known[start, end][number - 1 - start]))
        return found


@pytest.fixture(scope="module")
def reference(model: EvaluatedModel) -> Reference:
    return Reference(model.folder)


def check_records(records: list[dict], reference: Reference, context: int, stride: int, top: int) -> None:
    assert [record["text"] for record in records] == TEXTS
    for record in records:
        rows = reference.rows(record["text"], context, stride)
        assert record["token_ids"] == [token for token, _ in rows]
        right = [float(row[token]) for token, row in rows]
        assert record["token_logprobs"] == pytest.approx(right, abs=1e-4)
        assert record["logprob"] == pytest.approx(sum(right), abs=1e-4 * max(1, len(rows)))
        assert sum(record["word_logprobs"]) == pytest.approx(sum(right), abs=1e-4 * max(1, len(rows)))
        for (_, row), ids, logprobs in zip(rows, record["top_ids"], record["top_logprobs"], strict=True):
            assert logprobs == pytest.approx(row.topk(top).values.tolist(), abs=1e-4)
            assert row[ids].tolist() == pytest.approx(logprobs, abs=1e-4)
            assert len(set(ids)) == top


@pytest.mark.parametrize("split", SPLITS)
def test_same_as_transformers(
    split: str, model: EvaluatedModel, reference: Reference, texts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.jsonl"
    asked = ["-i", texts, "-o", output, "--top", 3, "--context", 100, "--stride", 37, "--dtype", "fp32"]
    done = neoxrun("score", model.config, *asked, "--json", *split.split()).check_success()
    records = records_of(output)
    check_records(records, reference, 100, 37, 3)
    assert records[3] | {"run": ""} == records[3] | {"run": "", "tokens": 0, "words": 0, "logprob": 0, "bits": 0}
    summary = json.loads(done.out)
    assert summary["documents"] == len(TEXTS)
    assert summary["empty_documents"] == 1
    assert summary["logprob"] == pytest.approx(math.fsum(record["logprob"] for record in records))
    assert summary["perplexity"] == pytest.approx(math.exp(-summary["logprob"] / summary["tokens"]))


def test_parquet_in_and_out_and_the_models_whole_context(
    model: EvaluatedModel, reference: Reference, tmp_path: Path
) -> None:
    given, output = tmp_path / "texts.parquet", tmp_path / "scores.parquet"
    parquet.write_table(pyarrow.table({"page": TEXTS, "id": [f"p{n}" for n in range(len(TEXTS))]}), given)
    asked = ["-i", given, "-o", output, "--column", "page", "--top", 1, "--dtype", "fp32", "--tp", 1]
    neoxrun("score", model.config, *asked).check_success()
    records = parquet.read_table(output).to_pylist()
    assert [record["id"] for record in records] == [f"p{n}" for n in range(len(TEXTS))]
    check_records(records, reference, CONTEXT, CONTEXT, 1)
    sidecar = output.with_name("scores.parquet.meta.json")
    assert {*tmp_path.iterdir()} == {given, output, sidecar}, "no file of lines is left"


@pytest.mark.parametrize("split", ["--tp 1", "--tp 2"])
def test_same_as_lm_eval(split: str, model: EvaluatedModel, tmp_path: Path) -> None:
    results = evaluations.reference_results(model, ["story"])["results"]["story"]
    given = model.tasks / "test.jsonl"
    asked = ["-i", given, "-o", tmp_path / "scores.jsonl", "--column", "story", "--level", "document", "--json"]
    done = neoxrun("score", model.config, *asked, "--dtype", "fp32", *split.split()).check_success()
    summary = json.loads(done.out)
    assert summary["documents"] == 12
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert summary[name] == pytest.approx(results[f"{name},none"], rel=1e-5), name
