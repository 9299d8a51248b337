"""Training small models on a split of ranks: in this process, or by torchrun running this file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from neoxrun.checkpoint.adapter import open_adapter
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.config.precisions import precisions_for
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.config.tensors import TensorKey, parameters
from neoxrun.config.training import LoraConfig, ScheduleConfig, TrainingConfig
from neoxrun.model.lora import add_lora, whole_lora
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.mesh import Mesh
from neoxrun.training.deepspeed_engine import DeepSpeedEngine
from neoxrun.training.network import LanguageModel
from neoxrun.training.rows import Row
from neoxrun.training.stage import load_training_stage, mark_divided, train_everything, training_form
from neoxrun.training.trainer import StepResult, Trainer
from support.lora import fill_lora
from support.paths import shared_folder
from support.ranks import CPU, end_rank, torchrun

FIXTURES_TRAIN = shared_folder() / "fixtures-train"
CONSTANT = TrainingConfig(1, 4, 4, ScheduleConfig(1e-3, 1e-3, "constant", 0, 1))


@dataclass(frozen=True)
class TrainingCase:
    """A model, and rows ``[rows, T + 1]`` to learn from.

    Attributes:
        config, folder: the model.
        ids: the rows.
        training: how it is trained.
        valid: rows of evaluations.
        learned: bool ``[rows, T]``, which targets count; None: all.
        precision: number format.
        most_logits: of ``LanguageModel``.
        adapter: folder of an adapter whose training continues; None: the whole model is trained.
    """

    config: ModelConfig
    folder: Path
    ids: Tensor
    training: TrainingConfig = CONSTANT
    valid: Tensor | None = None
    learned: Tensor | None = None
    precision: Precision = "fp32"
    most_logits: int = 2**27
    adapter: Path | None = None


@dataclass
class Pass:
    """What one pass over all rows gives: the mean loss, and the whole gradients of it."""

    loss: float
    gradients: dict[TensorKey, Tensor]


@dataclass
class Curve:
    """What a whole training gives: its steps, the evaluations before and after, and the weights or the adapter."""

    steps: list[StepResult]
    evaluations: list[float]
    weights: dict[TensorKey, Tensor]
    adapter: dict[TensorKey, tuple[Tensor, Tensor]]


class ListedRows:
    """Rows that are in memory."""

    def __init__(self, ids: Tensor, learned: Tensor | None) -> None:
        self._ids = ids.numpy()
        self._learned = np.ones_like(self._ids[:, 1:], dtype=np.bool_) if learned is None else learned.numpy()

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Row:
        return Row(self._ids[index], self._learned[index])


def trained_model(case: TrainingCase, mesh: Mesh) -> LanguageModel:
    """The model of a case; all of it is to be trained, or its adapter."""
    stage, _ = load_training_stage(
        find_checkpoint(case.folder, case.config),
        case.config,
        mesh,
        precisions_for(case.precision, "cpu"),
        training_form(case.training, mesh),
    )
    if case.adapter is None:
        train_everything(stage)
    else:
        adapter = open_adapter(case.adapter, case.config)
        add_lora(stage, LoraConfig(adapter.files.config.rank, adapter.files.config.alpha), case.training.seed)
        fill_lora(stage, {key: (one.a, one.b) for key, one in adapter.low_rank.items()})
    mark_divided(stage)
    return LanguageModel(stage, checkpointed=case.training.checkpoint_activations, most_logits=case.most_logits)


def run_pass(case: TrainingCase, mesh: Mesh) -> Pass:
    """One pass on one of the ranks."""
    model = trained_model(case, mesh)
    ids, targets = case.ids[:, :-1], case.ids[:, 1:]
    loss = model(ids, targets, torch.full(targets.shape, 1 / targets.numel()))
    loss.backward()
    return Pass(loss.item(), joined(model, mesh, lambda parameter: parameter.grad))


def joined(model: LanguageModel, mesh: Mesh, part: Callable[[Tensor], Tensor | None]) -> dict[TensorKey, Tensor]:
    """A tensor of each parameter, whole: the ranks' parts of what is divided, and rank 0's of what is not.

    The others' versions of what is not divided have to be the same, where they have any.
    """
    stage = model.stage
    mine = {key: part(p) for key, p in stage.keyed_parameters().items() if p.requires_grad}
    ranks = mesh.gather_from_tp({key: tensor for key, tensor in mine.items() if tensor is not None})
    found = {}
    for key, parameter in parameters(stage.config, stage.vocab_size).items():
        if key in ranks[0]:
            shares = [rank[key] for rank in ranks if key in rank]
            assert parameter.dim is not None or all(torch.equal(shares[0], share) for share in shares), key
            whole = shares[0] if parameter.dim is None else torch.cat(shares, parameter.dim)
            found[key] = whole[: parameter.shape[0]].clone()
    return found


def run_curve(case: TrainingCase, mesh: Mesh) -> Curve:
    """All steps of a case on one of the ranks, with an evaluation before and after."""
    model = trained_model(case, mesh)
    training = case.training
    engine = DeepSpeedEngine(model, mesh, meshes.data_parallel_group(mesh), training)
    train = ListedRows(case.ids, case.learned)
    valid = None if case.valid is None else ListedRows(case.valid, None)
    trainer = Trainer(engine, mesh, training, train, valid)

    def evaluations() -> list[float]:
        return [trainer.evaluate(0, lambda: None)] if training.eval_iters else []

    before = evaluations()
    steps = [trainer.step(index, index) for index in range(training.train_iters)]
    after = evaluations()
    with engine.whole(*model.parameters()):
        weights = joined(model, mesh, torch.Tensor.detach)
        adapter = whole_lora(model.stage)
    return Curve(steps, before + after, weights, adapter)


Answer = TypeVar("Answer", Pass, Curve)


def run_split(
    run: Callable[[TrainingCase, Mesh], Answer],
    cases: dict[str, TrainingCase],
    split: tuple[int, int],
    folder: Path,
) -> dict[str, Answer]:
    """What ``run_pass`` or ``run_curve`` gives for each case at tp x dp; one start of the ranks for all.

    Even for one rank, since DeepSpeed changes a process for good.
    """
    tp, dp = split
    asked, given = folder / "training.pt", folder / f"trained-{tp}x{dp}.pt"
    torch.save((run, cases), asked)
    torchrun(__file__, tp, dp, asked, given, ranks=tp * dp)
    answers: dict[str, Answer] = torch.load(given, weights_only=False)
    return answers


def reference_rows(split: str = "train") -> Tensor:
    """The rows of GPT-NeoX's fine-tuning, ``[steps, rows, T + 1]``."""
    return load_file(FIXTURES_TRAIN / "data" / "batches.safetensors")[split]


def main() -> None:
    tp, dp, asked, given = sys.argv[1:]
    mesh = meshes.connect_ranks(int(tp), 1, int(dp), CPU)
    run, cases = torch.load(asked, weights_only=False)
    answers = {name: run(case, mesh) for name, case in cases.items()}
    if mesh.rank == 0:
        torch.save(answers, given)
    end_rank()


if __name__ == "__main__":
    # Under its own name, so that the saved cases and answers are of the classes that the tests know.
    from support.training import main as run_rank

    run_rank()
