"""The training pass against GPT-NeoX's own gradients, and against plain torch with every option of the network."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.config.tensors import TensorKey, canonical
from neoxrun.parallel import mesh as meshes
from support.checkpoints import assert_same_tensors, fixture_config, tiny
from support.hugging_face import twin
from support.paths import FIXTURES
from support.ranks import CPU
from support.training import CONSTANT, FIXTURES_TRAIN, Pass, TrainingCase, reference_rows, run_pass, run_split

ROWS = 101  # divides over no split
SMALL = tiny(num_layers=2, hidden_size=32, intermediate_size=128, seq_length=16, max_position_embeddings=16)
OPTIONS: dict[str, dict[str, Any]] = {
    "parallel": {"rotary_pct": 0.25},
    "sequential": {"gpt_j_residual": False, "rotary_pct": 1.0, "gelu": "erf"},
    "tied-embeddings": {"tie_embeddings": True},
}
ECONOMICAL = dataclasses.replace(CONSTANT, checkpoint_activations=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, TrainingCase], dict[str, Pass]]:
    """Each case, and the loss and gradients that transformers' network gives."""
    cases, passes = {}, {}
    for name, options in OPTIONS.items():
        config = dataclasses.replace(SMALL, **options)
        model, folder = twin(config, ROWS), tmp_path_factory.mktemp(name)
        save_layer_files(from_huggingface(model.state_dict()), folder, tp=1, config=config, tag="global_step1")
        ids = torch.randint(ROWS, (3, 17), generator=torch.Generator().manual_seed(1))
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        cases[name] = TrainingCase(config, folder, ids)
        cases[f"{name}, economical"] = TrainingCase(config, folder, ids, ECONOMICAL, most_logits=700)
        passes[name] = passes[f"{name}, economical"] = Pass(loss.item(), from_huggingface(gradients))
    return cases, passes


# Two ranks are those of the other tests of training, too.
SIZES = [1, 2, 4] if os.environ.get("NEOXRUN_THOROUGH") else [1, 4]


@pytest.fixture(scope="module", params=SIZES, ids="tp{}".format)
def passes(
    request: pytest.FixtureRequest,
    expected: tuple[dict[str, TrainingCase], dict[str, Pass]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Pass]:
    cases = dict(expected[0])
    if FIXTURES_TRAIN.is_dir():
        folder = FIXTURES / "tp1"
        cases["gpt-neox"] = TrainingCase(fixture_config(folder), folder, reference_rows()[0])
    if request.param == 1:
        return {name: run_pass(case, meshes.single_rank_mesh(CPU)) for name, case in cases.items()}
    return run_split(run_pass, cases, (request.param, 1), tmp_path_factory.mktemp("passes"))


@pytest.mark.parametrize("name", [*OPTIONS, *(f"{name}, economical" for name in OPTIONS)])
def test_gradients_are_those_of_transformers(
    name: str, expected: tuple[dict[str, TrainingCase], dict[str, Pass]], passes: dict[str, Pass]
) -> None:
    assert passes[name].loss == pytest.approx(expected[1][name].loss, abs=1e-6)
    assert_same_tensors(passes[name].gradients, expected[1][name].gradients, atol=1e-6, rtol=0)


@pytest.mark.skipif(not FIXTURES_TRAIN.is_dir(), reason="no fixtures-train (NEOXRUN_SHARED names its parent)")
def test_gradients_are_those_of_gpt_neox(passes: dict[str, Pass]) -> None:
    assert passes["gpt-neox"].loss == pytest.approx(7.382869243621826, abs=1e-5)
    gradients = load_file(FIXTURES_TRAIN / "tp1" / "gradients.safetensors")
    assert_same_tensors(
        passes["gpt-neox"].gradients, {as_key(name): g for name, g in gradients.items()}, atol=1e-6, rtol=0
    )


def as_key(name: str) -> TensorKey:
    """The key of ``layer_XX.<name in that layer file>``."""
    layer, _, rest = name.removeprefix("layer_").partition(".")
    return TensorKey(int(layer), canonical(rest))
