"""The network at every split, cached and not, in batches and alone, against computations that are not neoxrun's.

Hugging Face's network where it has the options, a plain one (reference.py) where it has not, and the stored
answers of GPT-NeoX itself. A split's ranks are started once for all cases.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.config.settings import ModelConfig, Precision, RopeScaling
from neoxrun.config.tensors import TensorKey
from neoxrun.model.dtypes import DTYPES
from support.checkpoints import REFERENCE_CHECKPOINTS, fixture_config, join, random_model, raw_shards, tiny
from support.hugging_face import twin
from support.paths import FIXTURES
from support.ranks import SCORED_FROM, Answer, Case, new_tokens, run_on_split
from support.reference import Weights, greedy, logits

SPLITS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]
CLOSE = 1e-4
ROWS = 101  # divides over no split
BASE = tiny(num_layers=3, hidden_size=32, intermediate_size=128, seq_length=32, max_position_embeddings=32)

HUGGING_FACE: dict[str, dict[str, Any]] = {
    "parallel-tanh": {"rotary_pct": 0.25},
    "parallel-erf": {"gelu": "erf", "rotary_pct": 1.0},
    "sequential-tanh": {"gpt_j_residual": False, "rotary_pct": 1.0},
    "sequential-erf": {"gpt_j_residual": False, "gelu": "erf", "rotary_pct": 0.25},
    "tied-embeddings": {"tie_embeddings": True},
    "scaled-linear": {"rotary_pct": 0.5, "rope_scaling": RopeScaling("linear", 4.0, 32)},
    "scaled-yarn": {
        "rotary_pct": 1.0,
        "rotary_emb_base": 100.0,
        "rope_scaling": RopeScaling("yarn", 4.0, 8, beta_fast=1.0, beta_slow=0.1, attention_factor=1.2),
    },
}
OTHER: dict[str, dict[str, Any]] = {
    "learned-positions": {"pos_emb": "learned", "tie_embeddings": True, "gpt_j_residual": False},
    "no-positions": {"pos_emb": "none"},
    "tied-norms": {"gpt_j_tied": True},
    "rmsnorm": {"norm": "rmsnorm", "norm_epsilon": 1e-2},
    "no-attention-biases": {"use_bias_in_attn_linear": False},
    "no-mlp-biases": {"use_bias_in_mlp": False, "gpt_j_residual": False},
    "legacy-angles": {"rotary_legacy_fp16": True, "rotary_emb_base": 500.0},
    "narrow-mlp": {"intermediate_size": 48},
    "few-words": {},
}
AVERAGED = ("tp2_native", "tp2_legacy_20b")
FEW_ROWS = 5  # of four shards the last is all padding
LOW: tuple[Precision, ...] = ("bf16", "fp16")


@dataclasses.dataclass(frozen=True)
class Expected:
    """The right logits ``[T, V]`` and greedy tokens of each prompt."""

    logits: list[Tensor]
    tokens: list[list[int]]


def prompts(rows: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(rows, (length,), generator=generator).tolist() for length in (9, 5, 21, 14)]


def lively(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Values at which every part of the network matters, and logits of a size of about 3."""
    noise = torch.randn(tensor.shape, generator=generator)
    if "norm" in name:
        return 0.3 * noise if name.endswith("bias") else 1 + 0.3 * noise
    if tensor.dim() == 1:
        return 0.3 * noise
    if "embed_in" in name or "embeddings" in name:
        return noise
    return 1.5 * noise / tensor.shape[1] ** 0.5


def hugging_face(config: ModelConfig) -> GPTNeoXForCausalLM:
    model = twin(config, ROWS)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(lively(name, parameter, generator))
    return model


@torch.no_grad()
def expected_of_hugging_face(model: GPTNeoXForCausalLM, dtype: torch.dtype = torch.float32) -> Expected:
    model = model.to(dtype)
    texts, scores = [], []
    for number, prompt in enumerate(prompts(ROWS)):
        ids = torch.tensor([prompt])
        scores.append(model(ids).logits[0].float())
        count = new_tokens(number)
        text = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
        )
        texts.append(text[0, len(prompt) :].tolist())
    return Expected(scores, texts)


def expected_of_reference(config: ModelConfig, shards: list[Weights], ids: list[list[int]]) -> Expected:
    return Expected(
        [logits(config, shards, prompt) for prompt in ids],
        [greedy(config, shards, prompt, new_tokens(number)) for number, prompt in enumerate(ids)],
    )


def lively_weights(config: ModelConfig, rows: int = ROWS) -> dict[TensorKey, Tensor]:
    generator = torch.Generator().manual_seed(13)
    return {key: lively(key.name, tensor, generator) for key, tensor in random_model(config, rows).items()}


class Suite:
    """All cases, their right answers, and the answers of the splits that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: dict[str, Case] = {}
        self.expected: dict[str, Expected] = {}
        self._answers: dict[tuple[int, int], dict[str, Answer]] = {}
        for name, changes in HUGGING_FACE.items():
            config = dataclasses.replace(BASE, **changes)
            model = hugging_face(config)
            weights = from_huggingface(model.state_dict())
            save_layer_files(weights, folder / name, tp=2, config=config, tag="global_step1")
            model.save_pretrained(folder / f"{name}-hf")
            for suffix in ("", "-hf"):
                self.cases[name + suffix] = Case(config, folder / f"{name}{suffix}", prompts(ROWS))
            self.expected[name] = self.expected[f"{name}-hf"] = expected_of_hugging_face(model)
        for name in LOW:
            source = "sequential-tanh"
            self.cases[name] = dataclasses.replace(self.cases[source], dtype=name)
            self.expected[name] = self.expected[source]
        for name, changes in OTHER.items():
            config = dataclasses.replace(BASE, **changes)
            rows = FEW_ROWS if name == "few-words" else ROWS
            weights = lively_weights(config, rows)
            save_layer_files(weights, folder / name, tp=2, config=config, tag="global_step1")
            self.cases[name] = Case(config, folder / name, prompts(rows))
            self.expected[name] = expected_of_reference(config, [weights], prompts(rows))
        for name in REFERENCE_CHECKPOINTS:
            self._add_fixture(name, FIXTURES / name)

    def _add_fixture(self, name: str, folder: Path) -> None:
        config = real_config(folder)
        stored = load_file(next(folder.glob("logits*.safetensors")))
        ids = [stored["input_ids"][0].tolist(), *prompts(512)[1:]]
        self.cases[name] = Case(config, folder, ids)
        if name in AVERAGED:
            self.cases[f"{name}-averaged"] = Case(config, folder, ids, merge="average")
        shards = raw_shards(folder)
        whole = [join(shards, parallel_residual=config.gpt_j_residual)]
        self.expected[f"{name}-averaged"] = expected_of_reference(config, whole, ids)
        self.expected[name] = expected_of_reference(config, shards, ids)

    def answer(self, split: tuple[int, int], name: str) -> Answer:
        if split not in self._answers:
            self._answers[split] = run_on_split(self.cases, *split, self.folder)
        return self._answers[split][name]


def real_config(folder: Path) -> ModelConfig:
    config = fixture_config(folder)
    return dataclasses.replace(config, gelu="erf") if folder.name.endswith("erf") else config


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(tmp_path_factory.mktemp("splits"))


def distance(measured: list[Tensor], right: list[Tensor]) -> float:
    """Largest difference over all prompts; the files of tp 2 have a row of padding, the split adds none."""
    for row, expected in zip(measured, right, strict=True):
        assert len(row) == len(expected), "one row a token"
        assert row.shape[1] - expected.shape[1] in (0, expected.shape[1] % 2), "one column a word"
    return max(
        float((row[:, : expected.shape[1]] - expected).abs().max())
        for row, expected in zip(measured, right, strict=True)
    )


def distances(answer: Answer, right: Expected) -> dict[str, float]:
    return {
        "whole": distance(answer.whole, right.logits),
        "cached": distance(answer.cached, right.logits),
        "alone": distance(answer.alone, right.logits[:1]),
    }


def check(answer: Answer, right: Expected) -> None:
    far = distances(answer, right)
    assert max(far.values()) < CLOSE, far
    assert answer.batched_tokens == right.tokens
    assert answer.alone_tokens == right.tokens[:1]
    assert answer.interrupted_tokens == right.tokens, "scoring between the steps changed what was running"


def check_scores(answer: Answer, prompts: list[list[int]], right: list[Tensor], close: float) -> None:
    """Continuations that were scored together, also in trees of tokens, against logits of the prompts."""
    assert len(answer.scored_between) >= max(map(new_tokens, range(len(prompts))))
    for given in (answer.scored, answer.scored_in_trees, *answer.scored_between):
        for prompt, whole, scored in zip(prompts, right, given, strict=True):
            targets = torch.tensor(prompt[SCORED_FROM:])
            before = whole[SCORED_FROM - 1 : -1]
            sums = before.log_softmax(-1).gather(-1, targets[:, None])[:, 0].cumsum(0)
            measured = torch.tensor([one.logprob for one in scored])
            assert ((measured - sums).abs() / torch.arange(1, len(targets) + 1)).max() < close
            if close == CLOSE:
                most_likely = (before.argmax(-1) == targets).cumprod(0).bool()
                assert [one.greedy for one in scored] == most_likely.tolist()


def split_name(split: tuple[int, int]) -> str:
    return f"tp{split[0]}-pp{split[1]}"


splits = pytest.mark.parametrize("split", SPLITS, ids=split_name)


@splits
@pytest.mark.parametrize("name", [*HUGGING_FACE, *(f"{name}-hf" for name in HUGGING_FACE)])
def test_hugging_face_agrees(suite: Suite, split: tuple[int, int], name: str) -> None:
    answer = suite.answer(split, name)
    check(answer, suite.expected[name])
    check_scores(answer, suite.cases[name].prompts, answer.whole, CLOSE)


@splits
@pytest.mark.parametrize("name", OTHER)
def test_the_plain_reference_agrees(suite: Suite, split: tuple[int, int], name: str) -> None:
    answer = suite.answer(split, name)
    check(answer, suite.expected[name])
    check_scores(answer, suite.cases[name].prompts, answer.whole, CLOSE)


def test_a_single_layer_is_the_first_and_the_last(tmp_path: Path) -> None:
    config = dataclasses.replace(BASE, num_layers=1)
    weights = lively_weights(config)
    save_layer_files(weights, tmp_path, tp=2, config=config, tag="global_step1")
    answer = run_on_split({"one": Case(config, tmp_path, prompts(ROWS))}, 1, 1, tmp_path)["one"]
    check(answer, expected_of_reference(config, [weights], prompts(ROWS)))
    check_scores(answer, prompts(ROWS), answer.whole, CLOSE)


@splits
@pytest.mark.parametrize("name", REFERENCE_CHECKPOINTS)
def test_gpt_neox_agrees(suite: Suite, split: tuple[int, int], name: str) -> None:
    """Each rank's own norms count at every split: what it computes with them does not depend on the split."""
    answer = suite.answer(split, name)
    check(answer, suite.expected[name])
    check_scores(answer, suite.cases[name].prompts, answer.whole, CLOSE)
    if name != "tp2_legacy_20b":
        stored = load_file(FIXTURES / name / "logits.safetensors")
        assert distance(answer.cached[:1], [stored["logits"][0]]) < CLOSE


@splits
@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_norms_are_those_of_a_conversion(suite: Suite, split: tuple[int, int], name: str) -> None:
    """With ``--merge average``, at any size but the checkpoint's own."""
    answer = suite.answer(split, f"{name}-averaged")
    if split[0] == 2:
        check(answer, suite.expected[name])
        return
    check(answer, suite.expected[f"{name}-averaged"])
    assert distance(answer.whole, suite.expected[name].logits) > 100 * CLOSE, "folding is another model"
    if name == "tp2_legacy_20b":
        stored = load_file(FIXTURES / name / "logits_merged.safetensors")
        assert distance(answer.cached[:1], [stored["logits"][0]]) < CLOSE


@splits
@pytest.mark.parametrize("name", LOW)
def test_half_precision_is_as_exact_as_hugging_face(suite: Suite, split: tuple[int, int], name: str) -> None:
    """Twice Hugging Face's own rounding error: sums over ranks and stages are rounded elsewhere."""
    model = hugging_face(suite.cases[name].config)
    right = suite.expected[name]
    allowed = 2 * distance(expected_of_hugging_face(model, DTYPES[name]).logits, right.logits)
    answer = suite.answer(split, name)
    far = distances(answer, right)
    assert min(far.values()) > 10 * CLOSE, "this is fp32"
    assert max(far.values()) < allowed, (far, allowed)
    check_scores(answer, suite.cases[name].prompts, right.logits, allowed)
    assert [len(tokens) for tokens in answer.batched_tokens] == [len(tokens) for tokens in right.tokens]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("parallel-tanh", {"gelu": "erf"}),
        ("parallel-tanh", {"gpt_j_residual": False}),
        ("parallel-tanh", {"rotary_pct": 0.5}),
        ("scaled-linear", {"rope_scaling": None}),
        ("scaled-yarn", {"rope_scaling": RopeScaling("linear", 4.0, 8)}),
        ("scaled-yarn", {"rope_scaling": RopeScaling("yarn", 4.0, 8, beta_fast=1.0, beta_slow=0.1)}),
        ("no-positions", {"pos_emb": "rotary"}),
        ("tied-norms", {"gpt_j_tied": False}),
        ("rmsnorm", {"norm_epsilon": 1e-5}),
        ("legacy-angles", {"rotary_legacy_fp16": False}),
    ],
)
def test_the_cases_tell_networks_apart(suite: Suite, name: str, changes: dict[str, Any]) -> None:
    """An option that was ignored would show: it moves the logits by more than ten times what is allowed."""
    case, expected = suite.cases[name], suite.expected[name]
    if name in HUGGING_FACE:
        weights = from_huggingface(hugging_face(case.config).state_dict())
    else:
        weights = lively_weights(case.config)
    other = dataclasses.replace(case.config, **changes)
    moved = distance([logits(other, [weights], case.prompts[2])], expected.logits[2:3])
    assert moved > 10 * CLOSE
    same = distance([logits(case.config, [weights], case.prompts[2])], expected.logits[2:3])
    assert same < CLOSE
