"""Training an adapter against PEFT: its stored curves, and its gradients with every option of the network."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from safetensors.torch import load_file

from neoxrun.checkpoint.adapter import open_adapter
from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.config.tensors import TensorKey
from neoxrun.config.training import LoraConfig
from support.adapters import TARGETS, save_peft_adapter
from support.checkpoints import fixture_config, tiny
from support.hugging_face import twin
from support.lora_training import LoraCase, Matrices, Trained, assert_same_matrices, train_on_split
from support.paths import FIXTURES
from support.training import FIXTURES_TRAIN, reference_rows

STORED = FIXTURES_TRAIN / "lora"
ROWS = 101
SMALL = tiny(num_layers=2, hidden_size=32, intermediate_size=128, seq_length=16, max_position_embeddings=16)
OPTIONS: dict[str, dict[str, Any]] = {
    "parallel": {"rotary_pct": 0.25},
    "sequential": {"gpt_j_residual": False, "rotary_pct": 1.0, "gelu": "erf"},
}
LORA = LoraConfig(rank=4, alpha=8.0)
needs_stored = pytest.mark.skipif(not STORED.is_dir(), reason="no fixtures-train (NEOXRUN_SHARED names its parent)")


def as_matrices(tensors: dict[str, torch.Tensor]) -> Matrices:
    """A and B by the keys of their weights, of tensors by PEFT's names."""
    found: dict[TensorKey, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, rest = name.removeprefix("base_model.model.gpt_neox.layers.").partition(".")
        module, _, part = rest.partition(".lora_")
        found.setdefault(TensorKey(int(layer) + 2, f"{module}.weight"), {})[part[0]] = tensor
    return {key: (pair["A"], pair["B"]) for key, pair in found.items()}


@dataclasses.dataclass
class Suite:
    """The cases, and the loss and the gradients of the first step that PEFT gives."""

    cases: dict[str, LoraCase]
    expected: dict[str, tuple[float, Matrices]]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    found = Suite({}, {})
    for name, options in OPTIONS.items():
        config, folder = dataclasses.replace(SMALL, **options), tmp_path_factory.mktemp(name)
        model, ids = twin(config, ROWS), torch.randint(ROWS, (1, 3, 17), generator=torch.Generator().manual_seed(1))
        save_layer_files(from_huggingface(model.state_dict()), folder, tp=1, config=config, tag="global_step1")
        save_peft_adapter(model, folder / "adapter")
        torch.manual_seed(3)  # as save_peft_adapter, so that it is the same adapter
        peft = PeftConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False)
        adapted = get_peft_model(model, peft)
        loss = adapted(ids[0], labels=ids[0]).loss
        loss.backward()
        gradients = {name: p.grad for name, p in adapted.named_parameters() if p.grad is not None}
        found.expected[name] = loss.item(), as_matrices({k.replace(".default", ""): v for k, v in gradients.items()})
        case = LoraCase(config, folder, ids, (1e-3,), LORA, begin=folder / "adapter")
        found.cases |= {name: case, f"{name}, economical": dataclasses.replace(case, checkpointed=True)}
        found.expected[f"{name}, economical"] = found.expected[name]
    new = dataclasses.replace(found.cases["parallel"], begin=None, ids=ids.expand(4, -1, -1), rates=(1e-2,) * 4)
    found.cases["new"] = new
    found.cases["dropout"] = dataclasses.replace(new, lora=dataclasses.replace(LORA, dropout=0.5))
    found.cases["one target"] = dataclasses.replace(new, lora=dataclasses.replace(LORA, targets=("dense",)))
    if STORED.is_dir():
        curves = json.loads((STORED / "curve.json").read_text())
        for name, (weight_decay, clipping) in {"constant": (0.0, 0.0), "schedule": (0.1, 2.0)}.items():
            found.cases[name] = LoraCase(
                fixture_config(FIXTURES / "tp1"),
                FIXTURES / "tp1",
                reference_rows(),
                tuple(curves[name]["lr"]),
                LORA,
                begin=STORED / "adapter_before",
                weight_decay=weight_decay,
                clipping=clipping,
                evaluated=reference_rows("valid"),
            )
    return found


@pytest.fixture(scope="module")
def of_sizes(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Trained]]:
    """What each case gives at each tensor-parallel size."""
    folder = tmp_path_factory.mktemp("trained")
    return {tp: train_on_split(suite.cases, tp, folder) for tp in (1, 2)}


@pytest.fixture(params=[1, 2], ids="tp{}".format)
def trained(request: pytest.FixtureRequest, of_sizes: dict[int, dict[str, Trained]]) -> dict[str, Trained]:
    return of_sizes[request.param]


@pytest.mark.parametrize("name", [*OPTIONS, *(f"{name}, economical" for name in OPTIONS)])
def test_gradients_are_those_of_peft(name: str, suite: Suite, trained: dict[str, Trained]) -> None:
    loss, gradients = suite.expected[name]
    assert trained[name].losses[0] == pytest.approx(loss, abs=1e-6)
    assert_same_matrices(trained[name].gradients, gradients, 1e-6)


@needs_stored
@pytest.mark.parametrize("name", ["constant", "schedule"])
def test_the_curve_is_that_of_peft(name: str, trained: dict[str, Trained]) -> None:
    """Losses, norms, evaluation and the adapter at the end."""
    right = json.loads((STORED / "curve.json").read_text())[name]
    assert trained[name].losses == pytest.approx(right["lm_loss"], abs=1e-5)
    assert trained[name].norms == pytest.approx(right["grad_norm"], abs=1e-5)
    assert trained[name].evaluation == pytest.approx(right["eval_after"], abs=1e-5)
    gradients = as_matrices(load_file(STORED / "grads_step1.safetensors"))
    assert_same_matrices(trained[name].gradients, gradients, 1e-6)
    if name == "constant":
        after = open_adapter(STORED / "adapter_after", fixture_config(FIXTURES / "tp1")).low_rank
        right_matrices = {key: (one.a, one.b) for key, one in after.items()}
        assert_same_matrices(trained[name].matrices, right_matrices, 1e-5)


def test_a_new_adapter_changes_nothing_at_first_and_learns(trained: dict[str, Trained], suite: Suite) -> None:
    """A is drawn as PEFT draws it, B is 0; with dropout the ranks draw the same numbers for whole tensors."""
    new, dropped = trained["new"], trained["dropout"]
    assert new.losses[0] == pytest.approx(dropped.losses[0], abs=1e-6), "B is 0"
    assert new.losses[-1] < new.losses[0] - 0.1
    assert new.losses[1:] != pytest.approx(dropped.losses[1:], abs=1e-4)
    assert {key.name for key in trained["one target"].matrices} == {"attention.dense.weight"}
    for key, (a, _) in new.gradients.items():
        assert not a.any(), f"{key}: no gradient reaches A while B is 0"


def test_a_new_adapter_is_the_same_at_every_split(of_sizes: dict[int, dict[str, Trained]]) -> None:
    one, two = of_sizes[1], of_sizes[2]
    for name in ("new", "one target"):
        assert one[name].losses == pytest.approx(two[name].losses, abs=1e-5)
        assert_same_matrices(one[name].matrices, two[name].matrices, 1e-4)
