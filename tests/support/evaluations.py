"""A small Pythia-shaped model with the 20B's tokenizer, tasks for it, and what lm-eval's ``hf`` model says of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from support.command import Result, neoxrun
from support.hub_access import without_hub
from support.paths import FIXTURES
from support.task_data import write_lines
from support.tokenizer_files import write_20b_tokenizer

LIMIT = int(os.environ.get("NEOXRUN_EVALUATE_LIMIT", "24"))  # documents of a task; 9999 for all of LAMBADA and PIQA
WHOLE = LIMIT > 5153
# Of the model: shorter than some of the sequences, and longer than every answer, which lm-eval's model insists on.
CONTEXT = 320 if WHOLE else 160

_NETWORK = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": CONTEXT,
    "max_position_embeddings": CONTEXT,
    "pos_emb": "rotary",
    "rotary_pct": 0.25,
    "no_weight_tying": True,
    "gpt_j_residual": True,
    "bias_gelu_fusion": False,
    "tokenizer_type": "HFTokenizer",
}

_ANSWERS: dict[str, Any] = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
# Some stories are longer than the context.
_TASKS: dict[str, dict[str, Any]] = {
    "answers": _ANSWERS,
    "answers_shown": _ANSWERS | {"fewshot_split": "train", "num_fewshot": 2},
    "story": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{story}}",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{story}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", " t", "e "], "max_gen_toks": 20, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


@dataclass(frozen=True)
class EvaluatedModel:
    """Files of a model and of tasks.

    Attributes:
        config: configuration to give the command.
        folder: Hugging Face's files.
        tasks: --include-path.
        data: --data-dir.
    """

    config: Path
    folder: Path
    tasks: Path
    data: Path

    def evaluate(self, *arguments: object, **how: Any) -> Result:
        """Run `neoxrun evaluate` with this model."""
        timeout = 1200 if WHOLE else 120
        return neoxrun("evaluate", self.config, *self.where, *arguments, timeout=timeout, **how)

    @property
    def where(self) -> list[object]:
        """Where tasks and data are."""
        return ["--include-path", self.tasks, "--data-dir", self.data]


def write_model(folder: Path, data: Path) -> EvaluatedModel:
    """Write the model and its tasks into a folder; ``data`` has the documents of LAMBADA and PIQA."""
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=50304,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=CONTEXT,
            rotary_pct=0.25,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(0.0, 0.08 if parameter.dim() > 1 else 0.02, generator=generator)
    network.save_pretrained(folder / "model")
    end = "<|endoftext|>"
    tokenizer_file = write_20b_tokenizer(folder / "20B_tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), bos_token=end, eos_token=end, unk_token=end)
    tokenizer.save_pretrained(folder / "model")
    config = folder / "small.yml"
    config.write_text(json.dumps(_NETWORK | {"vocab_file": str(tokenizer_file), "load": str(folder / "model")}))
    tasks = folder / "tasks"
    tasks.mkdir()
    documents = _documents(network, tokenizer, (FIXTURES / "shakespeare.txt").read_text())
    write_lines(tasks / "test.jsonl", *documents[:12])
    write_lines(tasks / "train.jsonl", *documents[12:])
    files = {"test": str(tasks / "test.jsonl"), "train": str(tasks / "train.jsonl")}
    for name, task in _TASKS.items():
        common = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(common | task | {"metadata": {"version": 1.0}}))
    return EvaluatedModel(config, folder / "model", tasks, data)


def _documents(network: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> list[dict[str, str]]:
    """Questions, where possible with the answer that the network itself gives, and texts of all lengths."""
    documents = []
    for number in range(18):
        start = 2000 * number
        question = text[start : start + 40].strip()
        ids = tokenizer.encode(question)
        greedy = network.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False)[0].tolist()
        answer = tokenizer.decode(greedy[len(ids) :])
        if not number % 3 or tokenizer.encode(question + answer) != greedy:
            answer = text[start + 40 : start + 60].rstrip()
        documents.append({"question": question, "answer": answer, "story": text[start : start + 60 * (number + 1)]})
    return documents


def results_of(folder: Path) -> dict[str, Any]:
    """The one results file below a folder."""
    (path,) = folder.glob("*/results_*.json")
    return json.loads(path.read_text())


def responses_of(folder: Path) -> dict[str, list[list[Any]]]:
    """Per task, per document, the answers to its requests, as the samples files have them: texts."""
    found = {}
    for path in sorted(folder.glob("*/samples_*.jsonl")):
        name = path.name.removeprefix("samples_").rpartition("_")[0]
        found[name] = [json.loads(line)["resps"] for line in path.read_text().splitlines()]
    return found


def reference_results(model: EvaluatedModel, tasks: list[str]) -> dict[str, Any]:
    """lm-eval's own results with its ``hf`` model, one request at a time."""
    with without_hub(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISABLE_MULTIPROC", "1")
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        from neoxrun.evaluation.data import prepare_tasks

        prepared = prepare_tasks(tasks, model.data, include_path=model.tasks)
        results: dict[str, Any] = simple_evaluate(
            model=HFLM(pretrained=str(model.folder), device="cpu", dtype="float32", batch_size=1),
            tasks=list(prepared.task_dict["tasks"].values()),
            task_manager=TaskManager(include_defaults=False),
            limit=LIMIT,
            bootstrap_iters=100,
            log_samples=True,
        )
    return results
