"""Training adapters on a split of ranks, in plain torch: in this process, or by torchrun running this file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from neoxrun.checkpoint.adapter import open_adapter
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.config.precisions import precisions_for
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import TensorKey
from neoxrun.config.training import LoraConfig, ScheduleConfig, TrainingConfig
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.lora import add_lora, whole_lora
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.mesh import Mesh
from neoxrun.training.network import LanguageModel
from neoxrun.training.stage import load_training_stage, mark_divided, training_form
from support.lora import fill_lora
from support.ranks import CPU, end_rank, torchrun

Matrices = dict[TensorKey, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LoraCase:
    """An adapter that is trained on rows ``[steps, rows, T + 1]``, one batch a step.

    Attributes:
        config, folder: the model.
        ids: the rows.
        rates: the learning rate of each step; fewer than there are rows leave the rest out.
        lora: the adapter's settings.
        begin: an adapter's folder to begin with; None: a new one.
        weight_decay, clipping: of AdamW; the largest norm of the gradients, 0 for none.
        checkpointed: compute the layers again in the backward pass.
        evaluated: rows ``[batches, rows, T + 1]`` whose mean loss is computed at the end.
    """

    config: ModelConfig
    folder: Path
    ids: Tensor
    rates: tuple[float, ...]
    lora: LoraConfig
    begin: Path | None = None
    weight_decay: float = 0.0
    clipping: float = 0.0
    checkpointed: bool = False
    evaluated: Tensor | None = None


@dataclass
class Trained:
    """What each step gave, the gradients of the first, and the adapter at the end."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: Matrices = field(default_factory=dict)
    matrices: Matrices = field(default_factory=dict)
    evaluation: float = 0.0


def train(case: LoraCase, mesh: Mesh) -> Trained:
    """Train on one of the ranks, with torch's AdamW."""
    training = TrainingConfig(1, 4, 4, ScheduleConfig(1e-3, 1e-3, "constant", 0, 1))
    checkpoint = find_checkpoint(case.folder, case.config)
    form, precisions = training_form(training, mesh), precisions_for("fp32", "cpu")
    stage, _ = load_training_stage(checkpoint, case.config, mesh, precisions, form)
    add_lora(stage, case.lora, training.seed)
    mark_divided(stage)
    if case.begin is not None:
        low_rank = open_adapter(case.begin, case.config).low_rank
        fill_lora(stage, {key: (one.a, one.b) for key, one in low_rank.items()})
    model = LanguageModel(stage, checkpointed=case.checkpointed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), eps=1e-8, weight_decay=case.weight_decay)
    result = Trained()
    for step, rate in enumerate(case.rates):
        form.dropout.begin(step)
        loss = _mean_loss(model, case.ids[step])
        optimizer.zero_grad()
        loss.backward()
        norm = _norm(trained, mesh)
        if step == 0:
            result.gradients = _gradients(stage)
        for parameter in trained if case.clipping else ():
            assert parameter.grad is not None
            parameter.grad.mul_(min(1.0, case.clipping / (norm + 1e-6)))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        result.losses.append(loss.item())
        result.norms.append(norm)
    result.matrices = whole_lora(stage)
    if case.evaluated is not None:
        with torch.no_grad():
            result.evaluation = sum(_mean_loss(model, rows).item() for rows in case.evaluated) / len(case.evaluated)
    return result


def _mean_loss(model: LanguageModel, rows: Tensor) -> Tensor:
    targets = rows[:, 1:]
    loss: Tensor = model(rows[:, :-1], targets, torch.full(targets.shape, 1 / targets.numel()))
    return loss


def _norm(trained: Iterable[nn.Parameter], mesh: Mesh) -> float:
    """Divided parameters count on every rank, whole ones on the first: as DeepSpeed has it."""
    counted = [one for one in trained if mesh.tp_rank == 0 or one.model_parallel]  # type: ignore[attr-defined]
    mine = sum(float(one.grad.double().square().sum()) for one in counted if one.grad is not None)
    return float(sum(mesh.gather_from_tp(mine)) ** 0.5)


def _gradients(stage: Stage) -> Matrices:
    """Whole gradients of A and B, which are equal on all ranks where they are not divided."""
    kept = {parameter: parameter.data for parameter in stage.parameters() if parameter.requires_grad}
    for parameter in kept:
        assert parameter.grad is not None
        parameter.data = parameter.grad
    whole = whole_lora(stage)
    for key, parameter in stage.keyed_parameters().items():
        if parameter in kept and not parameter.model_parallel:  # type: ignore[attr-defined]
            ranks = stage.mesh.gather_from_tp(parameter.data)
            assert all(torch.equal(ranks[0], other) for other in ranks), f"the ranks' gradients of {key} differ"
    for parameter, data in kept.items():
        parameter.data = data
    return {key: (a.clone(), b.clone()) for key, (a, b) in whole.items()}


def train_on_split(cases: dict[str, LoraCase], tp: int, folder: Path) -> dict[str, Trained]:
    """What each case gives at ``tp``; one start of the ranks for all."""
    if tp == 1:
        return {name: train(case, meshes.single_rank_mesh(CPU)) for name, case in cases.items()}
    asked, given = folder / "cases.pt", folder / f"trained-{tp}.pt"
    torch.save(cases, asked)
    torchrun(__file__, tp, asked, given, ranks=tp)
    trained: dict[str, Trained] = torch.load(given, weights_only=False)
    return trained


def assert_same_matrices(measured: Matrices, right: Matrices, atol: float) -> None:
    """The adapters' matrices of the same layers, or gradients of them, are equal within ``atol``."""
    assert measured.keys() == right.keys()
    for key, pair in right.items():
        for one, other in zip(measured[key], pair, strict=True):
            torch.testing.assert_close(one, other, atol=atol, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


def main() -> None:
    tp, asked, given = sys.argv[1:]
    mesh = meshes.connect_ranks(int(tp), 1, 1, CPU)
    trained = {name: train(case, mesh) for name, case in torch.load(asked, weights_only=False).items()}
    if mesh.rank == 0:
        torch.save(trained, given)
    end_rank()


if __name__ == "__main__":
    # Under its own name, so that the saved cases and answers are of the classes that the tests know.
    from support.lora_training import main as run_rank

    run_rank()
