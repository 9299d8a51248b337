"""`neoxrun finetune` with `finetune: false`: GPT-NeoX's own run of 20 steps continued to step 30, as a user does it.

What it must give is a run of ours over all 30 steps, whose first 20 are GPT-NeoX's (tests/parity).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from neoxrun.checkpoint.files import read_pickle, read_safetensors
from neoxrun.checkpoint.neox_optimizer import open_optimizer
from neoxrun.checkpoint.neox_run import NeoxRun
from neoxrun.config.tensors import TensorKey, canonical, parameters
from support.checkpoints import fixture_config
from support.command import neoxrun
from support.paths import FIXTURES, shared_folder

TRAIN = shared_folder() / "fixtures-train"
TP1 = TRAIN / "tp1"
pytestmark = pytest.mark.skipif(not TRAIN.is_dir(), reason=f"{TRAIN} is not here")

# As many steps for the decay as GPT-NeoX's run of 20 had.
SAME = ("--device", "cpu", "--steps", 30, "--save-interval", 10, "--keep", 9)
CONTINUE = ("--set", "finetune=false")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ours over all 30 steps."""
    run = tmp_path_factory.mktemp("whole") / "run"
    neoxrun("finetune", TP1 / "config.yml", *SAME, "-o", run).check_success()
    return run


def curve(run: Path) -> dict[int, tuple[float, float, float]]:
    """The loss, rate and norm of each step."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["lr"], line["grad_norm"]) for line in lines if "loss" in line}


def final_state(run: Path, step: int = 30) -> dict[str, torch.Tensor]:
    """The weights and the optimizer's state after a step."""
    return read_safetensors(run / f"global_step{step}" / "training" / "state-model_00.safetensors")


def assert_same_end(whole: Path, run: Path) -> None:
    expected, found = curve(whole), curve(run)
    assert list(found) == list(range(21, 31))
    for step, values in found.items():
        assert values == pytest.approx(expected[step], abs=1e-5, rel=1e-5), step


def test_gpt_neox_s_run_continues_where_it_stopped(whole: Path, tmp_path: Path) -> None:
    """With the optimizer's settings of the run, as DeepSpeed has it, whatever is asked for, and also by --resume."""
    words = ("finetune", TP1 / "config.yml", *SAME, *CONTINUE, "--checkpoint", TP1, "-o", tmp_path / "run")
    words += ("--weight-decay", "0.3", "--set", "optimizer={params: {lr: 0.001, betas: [0.5, 0.95], eps: 0.01}}")
    done = neoxrun(*words).check_success()
    assert "continuing after step 20 of GPT-NeoX's run, with its optimizer's state" in done.err
    for stays, becomes in (
        ("weight_decay stays 0.1", "0.3 (--weight-decay)"),
        ("optimizer.params.betas stays 0.9 and 0.95", "0.5 and 0.95 (--set optimizer="),
        ("optimizer.params.eps stays 1e-08", "0.01 (--set optimizer="),
    ):
        assert f"{stays}, as the optimizer's state of GPT-NeoX's run has it, and does not become {becomes}" in done.err
    assert_same_end(whole, tmp_path / "run")
    expected, found = final_state(whole), final_state(tmp_path / "run")
    assert expected.keys() == found.keys()
    for name in (name for name in expected if name.endswith(".master")):
        apart = (found[name] - expected[name]).abs()
        if name.endswith("query_key_value.bias.master"):  # those of keys outside the rotary dims have no effect
            apart.view(4, 48)[:, 20:32] = 0
        assert apart.max() < 5e-5, name
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["continued"] == {"checkpoint": str(TP1 / "global_step20"), "iteration": 20}
    adam = {"weight_decay": 0.1, "betas": [0.9, 0.95], "epsilon": 1e-8}
    assert adam.items() <= settings["training"].items()
    again = neoxrun(*words, "--resume").check_success()
    assert "weight_decay stays 0.1" in again.err
    assert "the run is complete" in again.err


def test_the_moments_of_gpt_neox_are_those_of_the_same_steps_here(whole: Path) -> None:
    config = fixture_config(FIXTURES / "tp1")
    folder = TP1 / "global_step20"
    run = NeoxRun(folder, 20, (folder / "mp_rank_00_model_states.pt",), (), {})
    saved = open_optimizer(run, 0, parameters(config, 512))
    own = final_state(whole, 20)
    assert saved.steps == 20
    assert len(saved.spans) == len(own) // 3
    for key, spans in saved.spans.items():
        name = f"layers.{key.layer - 2}.{key.name}" if 2 <= key.layer < 5 else key.name
        for kind, span in spans.items():
            expected = own[f"{name}.{kind}"]
            torch.testing.assert_close(span.read(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def in_parts(step: Path, rank: int, states: dict[str, Any], names: list[str], weights: dict[str, torch.Tensor]) -> None:
    """The optimizer's state in ``states`` as ZeRO 1 has it on two replicas: flat, in halves, the last one padded."""
    state, groups = states["optimizer"]["state"], states["optimizer"]["param_groups"]
    states["optimizer"], states["dp_world_size"], states["param_shapes"] = None, 2, []
    flat: dict[str, list[torch.Tensor]] = {"exp_avg": [], "exp_avg_sq": [], "master": []}
    for group in groups:
        states["param_shapes"].append({names[number]: weights[names[number]].shape for number in group["params"]})
        for kind, whole in flat.items():
            tensors = [weights[names[n]] if kind == "master" else state[n][kind] for n in group["params"]]
            whole.append(torch.cat([tensor.flatten() for tensor in tensors]))
    for part in range(2):
        shares = {kind: [whole.chunk(2)[part].clone() for whole in wholes] for kind, wholes in flat.items()}
        base = {
            "state": {
                group: {"step": state[0]["step"]}
                | {kind: torch.cat([shares[kind][group], torch.zeros(4 * part)]) for kind in ("exp_avg", "exp_avg_sq")}
                for group in range(2)
            },
            "param_groups": [{"params": [0]}, {"params": [1]}],
        }
        saved = {
            "base_optimizer_state": base,
            "single_partition_of_fp32_groups": shares["master"],
            "group_paddings": [4 * part] * 2,
            "zero_stage": 1,
        }
        torch.save({"optimizer_state_dict": saved}, step / f"zero_pp_rank_{part}_mp_rank_{rank:02d}_optim_states.pt")


def in_two(folder: Path, *, zero: bool) -> None:
    """GPT-NeoX's checkpoint after 20 steps as two tensor-parallel ranks have it that began with the same norms."""
    step = folder / "global_step20"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step20")
    table = parameters(fixture_config(FIXTURES / "tp1"), 512)
    keys = [key for key in table if not (key.name.endswith("bias") or "norm" in key.name)]
    keys += [key for key in table if key not in keys]

    def half(key: TensorKey, tensor: torch.Tensor, rank: int) -> torch.Tensor:
        dim = table[key].dim
        return tensor if dim is None else tensor.chunk(2, dim)[rank].clone()

    for rank in range(2):
        weights = {}
        for path in (TP1 / "global_step20").glob("layer_*"):
            layer = {}
            for name, tensor in read_pickle(path).items():
                key = TensorKey(int(path.name[6:8]), canonical(name))
                # Of the model's bias each rank adds its half.
                added = key.name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias")
                layer[name] = half(key, tensor, rank) / (2 if added else 1)
                weights[f"{key.layer}.{key.name}"] = layer[name]
            torch.save(layer, step / path.name.replace("model_00", f"model_{rank:02d}"))
        states = dict(read_pickle(TP1 / "global_step20" / "mp_rank_00_model_states.pt"))
        state = {
            number: {"step": entry["step"]}
            | {kind: half(keys[number], entry[kind], rank) for kind in ("exp_avg", "exp_avg_sq")}
            for number, entry in states["optimizer"]["state"].items()
        }
        states["optimizer"] = {"state": state, "param_groups": states["optimizer"]["param_groups"]}
        if zero:
            in_parts(step, rank, states, [f"{key.layer}.{key.name}" for key in keys], weights)
        torch.save(states, step / f"mp_rank_{rank:02d}_model_states.pt")


def test_in_16_bits_the_fp32_weights_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """At a rate that moves none of them; from GPT-NeoX's layer files, as there is no ZeRO."""
    in_two(tmp_path, zero=False)
    still = "optimizer={type: Adam, params: {lr: 1.0e-30}}"
    words = ("finetune", TP1 / "config.yml", *CONTINUE, "--checkpoint", tmp_path, "--device", "cpu", "--dtype", "bf16")
    words += ("--steps", 21, "--set", still, "--set", "min_lr=0", "--set", "override_lr_scheduler=true")
    neoxrun(*words, "-o", tmp_path / "run").check_success()
    folder = tmp_path / "run" / "global_step21" / "training"
    ranks = [read_safetensors(folder / f"state-model_{rank:02d}.safetensors") for rank in range(2)]
    table = parameters(fixture_config(FIXTURES / "tp1"), 512)
    for layer in (0, 2, 3, 4, 6, 7):
        for name, weight in read_pickle(TP1 / "global_step20" / f"layer_{layer:02d}-model_00-model_states.pt").items():
            key = TensorKey(layer, canonical(name))
            dim = table[key].dim
            own = f"layers.{layer - 2}.{key.name}" if 2 <= layer < 5 else key.name
            parts = [rank[f"{own}.master"] for rank in (ranks if dim is not None else ranks[:1])]
            assert torch.equal(torch.cat(parts, dim or 0), weight), key


@pytest.mark.parametrize("zero", [False, True], ids=["whole", "zero"])
def test_at_two_ranks_in_the_folder_that_it_is_in(whole: Path, tmp_path: Path, zero: bool) -> None:
    """With the run's own model_parallel_size; `save` is `load`, as where GPT-NeoX trains."""
    folder = tmp_path / "run"
    in_two(folder, zero=zero)
    before = {path: path.read_bytes() for path in (folder / "global_step20").iterdir()}
    words = ("finetune", TP1 / "config.yml", *SAME, *CONTINUE, "--set", f"load={folder}", "--set", f"save={folder}")
    # The schedule of the run, which is that of the steps before, also when it is continued once more.
    words += ("--set", "lr_decay_iters=null", "--set", "use_checkpoint_lr_scheduler=true")
    done = neoxrun(*words).check_success()
    assert "tensor parallel 2 x replicas 1" in done.err
    assert_same_end(whole, folder)
    assert {path: path.read_bytes() for path in (folder / "global_step20").iterdir()} == before
    assert (folder / "latest").read_text() == "global_step30"
    if zero:
        return
    again = neoxrun(*words)
    assert again.code == 4
    assert "holds a run already" in again.err
    assert "the run is complete" in neoxrun(*words, "--resume").check_success().err


def test_ranks_that_trained_apart_are_refused(tmp_path: Path) -> None:
    """What the error advises does not touch GPT-NeoX's checkpoints either."""
    tp2, folder = TRAIN / "tp2", tmp_path / "run"
    shutil.copytree(tp2 / "global_step20", folder / "global_step20")
    shutil.copy(tp2 / "latest", folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ("finetune", tp2 / "config.yml", "--set", f"load={folder}", "--set", f"save={folder}", "--device", "cpu")
    done = neoxrun(*words, *CONTINUE, "--steps", 30)
    assert done.code == 3
    assert "its 2 tensor-parallel ranks have trained their norms and biases apart" in done.err
    assert "--set finetune=true" in done.err
    assert {path.name for path in folder.iterdir()} == {"global_step20", "latest", "settings.json"}
    done = neoxrun(*words, "--set", "finetune=true", "--steps", 20)
    assert done.code == 4
    assert "global_step20" in done.err
    assert "--output DIR" in done.err
    assert {path: path.read_bytes() for path in before} == before


def test_ranks_with_other_norms_and_equal_moments_are_refused(tmp_path: Path) -> None:
    in_two(tmp_path, zero=True)
    path = tmp_path / "global_step20" / "zero_pp_rank_0_mp_rank_01_optim_states.pt"
    saved = torch.load(path)
    saved["optimizer_state_dict"]["single_partition_of_fp32_groups"][1][:64] += 0.1
    torch.save(saved, path)
    words = ("finetune", TP1 / "config.yml", *SAME, *CONTINUE, "--checkpoint", tmp_path, "-o", tmp_path / "run")
    done = neoxrun(*words)
    assert done.code == 3
    assert "have trained their norms and biases apart, which are trained as one here (input_layernorm" in done.err


def test_another_schedule_and_too_few_steps_are_refused(tmp_path: Path) -> None:
    words = ("finetune", TP1 / "config.yml", "--device", "cpu", *CONTINUE, "--checkpoint", TP1, "--dry-run")
    words += ("-o", tmp_path / "run")
    done = neoxrun(*words)
    assert done.code == 2
    assert "has 20 steps already, and 20 are asked for" in done.err
    done = neoxrun(*words, "--steps", 30, "--set", "lr_decay_iters=null")
    assert done.code == 2
    assert "warmup_iter was 4.0, is 6.0; end_iter was 20, is 30" in done.err
    done = neoxrun(*words, "--steps", 30, "--set", "lr_decay_iters=null", "--set", "override_lr_scheduler=true")
    assert "6 steps of warm-up" in done.check_success().err
    done = neoxrun(*words, "--steps", 30, "--set", "lr_decay_iters=null", "--set", "use_checkpoint_lr_scheduler=true")
    assert "4 steps of warm-up" in done.check_success().err
    both = ("--set", "override_lr_scheduler=true", "--set", "use_checkpoint_lr_scheduler=true")
    assert "cannot both be set" in neoxrun(*words, "--steps", 30, *both).err
    done = neoxrun(*words, "--steps", 30, "--lora")
    assert "which an adapter does not have: the weights are trained from step 1" in done.check_success().err
    done = neoxrun(*words, "--steps", 30, "--set", "no_load_optim=true")
    assert "which no_load_optim leaves out" in done.check_success().err
