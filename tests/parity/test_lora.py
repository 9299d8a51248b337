"""Adapters merged at load, at several splits: against PEFT, which applies them without merging."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from neoxrun.checkpoint.adapter import write_adapter
from neoxrun.checkpoint.huggingface import to_tensor_key
from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import TensorKey, parameters
from neoxrun.config.training import LoraConfig
from neoxrun.conversion.convert import convert
from neoxrun.conversion.options import ConvertOptions
from support.adapters import peft_logits, save_peft_adapter
from support.checkpoints import fixture_config, join, raw_shards, tiny
from support.hugging_face import twin
from support.paths import FIXTURES, shared_folder
from support.ranks import Answer, Case, run_on_split

SPLITS = [(1, 1), (2, 1), (1, 2)]
CLOSE = 1e-5
ROWS = 101
BASE = tiny(num_layers=3, hidden_size=32, intermediate_size=128, seq_length=32, max_position_embeddings=32)
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 3},
    "two-targets": {"target_modules": ["dense", "dense_4h_to_h"]},
    "regular-expression": {"target_modules": r".*\.mlp\.dense_.*"},
    "two-layers": {"layers_to_transform": [0, 2]},
    "patterns": {"rank_pattern": {"attention.dense": 2, "query_key_value": 8}, "alpha_pattern": {"dense_h_to_4h": 32}},
    "half": {},
    "bin": {"safe": False},
}
SEQUENTIAL = "plain, sequential residual"
STORED = "stored by PEFT"
DRIFTED = "norms that drifted apart"
AVERAGED = "norms that drifted apart and are averaged"


def prompts(rows: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(rows, (length,), generator=generator).tolist() for length in (9, 5, 21, 14)]


class Suite:
    """The cases, PEFT's logits of each, and the answers of the splits that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cases, self.expected = folder, dict[str, Case](), dict[str, list[Tensor]]()
        self._answers: dict[tuple[int, int], dict[str, Answer]] = {}
        for residual in (True, False):
            config = dataclasses.replace(BASE, gpt_j_residual=residual)
            model = twin(config, ROWS)
            base = folder / f"base-{residual}"
            save_layer_files(from_huggingface(model.state_dict()), base, tp=2, config=config, tag="global_step1")
            for name, options in (ADAPTERS if residual else {SEQUENTIAL: ADAPTERS["plain"]}).items():
                adapter = folder / name
                save_peft_adapter(model, adapter, **options)
                if name == "half":
                    write_half(adapter / "adapter_model.safetensors")
                self.cases[name] = Case(config, base, prompts(ROWS), adapter=adapter)
                self.expected[name] = peft_logits(model, adapter, prompts(ROWS))
        native = FIXTURES / "tp2_native"
        config = fixture_config(native)
        model = twin(config, 512)
        averaged = join(raw_shards(native), parallel_residual=True)
        model.load_state_dict({name: averaged[as_key(name, config)] for name in model.state_dict()})
        save_peft_adapter(model, folder / DRIFTED)
        self.cases[DRIFTED] = Case(config, native, prompts(512), adapter=folder / DRIFTED)
        self.cases[AVERAGED] = dataclasses.replace(self.cases[DRIFTED], merge="average")
        self.expected[AVERAGED] = peft_logits(model, folder / DRIFTED, prompts(512))
        stored = shared_folder() / "fixtures-train" / "lora"
        if stored.is_dir():
            logits = load_file(stored / "logits.safetensors")
            config = fixture_config(FIXTURES / "tp1")
            ids = [logits["input_ids"][0].tolist(), *prompts(512)[1:]]
            self.cases[STORED] = Case(config, FIXTURES / "tp1", ids, adapter=stored / "adapter_after")
            self.expected[STORED] = [logits["logits_adapted"][0]]

    def answer(self, split: tuple[int, int], name: str) -> Answer:
        if split not in self._answers:
            self._answers[split] = run_on_split(self.cases, *split, self.folder)
        return self._answers[split][name]


def as_key(name: str, config: ModelConfig) -> TensorKey:
    key = to_tensor_key(name, config.num_layers)
    assert key is not None
    return key


def write_half(path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(tmp_path_factory.mktemp("lora"))


def distance(measured: list[Tensor], right: list[Tensor]) -> float:
    pairs = zip(measured, right, strict=False)
    return max(float((one[:, : other.shape[1]] - other).abs().max()) for one, other in pairs)


@pytest.mark.parametrize("name", [*ADAPTERS, SEQUENTIAL, AVERAGED, STORED])
@pytest.mark.parametrize("split", SPLITS, ids=lambda split: f"tp{split[0]}-pp{split[1]}")
def test_an_adapter_gives_the_logits_of_peft(suite: Suite, split: tuple[int, int], name: str) -> None:
    if name not in suite.cases:
        pytest.skip("no stored training runs (NEOXRUN_SHARED names their folder)")
    answer, right = suite.answer(split, name), suite.expected[name]
    assert distance(answer.whole, right) < CLOSE
    assert distance(answer.cached, right) < CLOSE


def test_the_adapters_change_the_logits_by_far_more_than_the_tolerance(suite: Suite) -> None:
    """Otherwise the test above could not fail."""
    plain = run_on_split(
        {name: dataclasses.replace(case, adapter=None) for name, case in suite.cases.items()}, 1, 1, suite.folder
    )
    for name, right in suite.expected.items():
        assert distance(plain[name].whole, right) > 100 * CLOSE, name


def test_an_adapter_on_norms_that_drifted_apart_is_the_same_at_every_split(suite: Suite) -> None:
    """Also at the checkpoint's own size, where each rank would keep its own norms without an adapter."""
    one, two = (suite.answer(split, DRIFTED).whole for split in SPLITS[:2])
    assert distance(one, two) < CLOSE


def test_a_merged_conversion_has_the_same_logits_in_transformers(suite: Suite, tmp_path: Path) -> None:
    """And PEFT applies the adapter to the conversion without it: norms that drifted apart are folded in both."""
    case = suite.cases[DRIFTED]
    settings = load_settings([str(case.folder / "config.yml")], checkpoint=str(case.folder))
    models = []
    for name, adapter in (("merged", case.adapter), ("plain", None)):
        adapted = dataclasses.replace(settings, adapter=adapter)
        convert(ConvertOptions(adapted, tmp_path / name, "huggingface", 1, None, 10**9, show_progress=False))
        models.append(GPTNeoXForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).eval())
    merged, plain = models
    assert case.adapter is not None
    right = peft_logits(plain, case.adapter, case.prompts)
    with torch.no_grad():
        measured = [merged(torch.tensor([prompt])).logits[0] for prompt in case.prompts]
    assert distance(measured, right) < CLOSE
    # The head's bias of a folded final norm has no place in these files: a constant for each token (docs/convert.md).
    constants = torch.cat([one - other for one, other in zip(suite.answer((1, 1), DRIFTED).whole, right, strict=True)])
    assert (constants - constants.mean(0)).abs().max() < CLOSE


def test_an_adapter_written_here_has_the_same_logits_in_peft(suite: Suite, tmp_path: Path) -> None:
    config, model = BASE, twin(BASE, ROWS)
    lora = LoraConfig(rank=3, alpha=4.5, targets=("query_key_value", "dense_4h_to_h"))
    generator = torch.Generator().manual_seed(5)
    matrices = {
        key: tuple(
            torch.randn(shape, generator=generator) / 4 for shape in ((3, weight.shape[1]), (weight.shape[0], 3))
        )
        for key, weight in parameters(config, ROWS).items()
        if key.name in ("attention.query_key_value.weight", "mlp.dense_4h_to_h.weight")
    }
    write_adapter(tmp_path, lora, as_pairs(matrices), "models/base")
    case = dataclasses.replace(suite.cases["plain"], adapter=tmp_path)
    answer = run_on_split({"written": case}, 1, 1, tmp_path)["written"]
    assert distance(answer.whole, peft_logits(model, tmp_path, prompts(ROWS))) < CLOSE


def as_pairs(matrices: dict[TensorKey, tuple[Tensor, ...]]) -> dict[TensorKey, tuple[Tensor, Tensor]]:
    return {key: (a, b) for key, (a, b) in matrices.items()}
