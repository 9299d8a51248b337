"""This rank's part of the network, loaded to be trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import load_weights, read_vocab_rows
from neoxrun.checkpoint.source import LayerSource
from neoxrun.config.precisions import Precisions
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import TensorKey, divided_dim
from neoxrun.config.training import TrainingConfig
from neoxrun.conversion.folding import FinalNorm, find_final_norm, merge_for_files, norm_bias
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.layers import RowParallelLinear
from neoxrun.model.training_form import Dropout, TrainingForm
from neoxrun.parallel.mesh import Mesh
from neoxrun.terminal.progress import Bar
from neoxrun.training.tensor_parallel import collectives_of


def training_form(training: TrainingConfig, mesh: Mesh) -> TrainingForm:
    """What the modules of this rank's stage share."""
    dropout = Dropout(
        training.seed,
        mesh.device,
        mesh.tp_rank,
        hidden=training.hidden_dropout,
        attention=training.attention_dropout,
    )
    return TrainingForm(collectives_of(mesh), dropout)


def load_training_stage(
    checkpoint: Checkpoint,
    config: ModelConfig,
    mesh: Mesh,
    precisions: Precisions,
    form: TrainingForm,
    *,
    merge: Merge = "fold",
    show_progress: bool = False,
) -> tuple[Stage, list[str]]:
    """Build the stage in training form and load it, all of it frozen.

    The norms of a checkpoint's ranks are trained as one, and so are their biases: where the files have different
    versions, they are merged as for another tensor-parallel size.

    Args:
        checkpoint: the files.
        config: the network.
        mesh: this rank among the others.
        precisions: number formats.
        form: of ``training_form``.
        merge: what becomes of norms that differ.
        show_progress: say how loading goes.

    Returns:
        The stage, and what people should know about its weights.

    Raises:
        CheckpointError: as ``load_weights``.
    """
    stage = Stage(config, mesh, read_vocab_rows(checkpoint, config), mesh.device, precisions, form)
    merge = merge_for_files(config, merge)
    final = find_final_norm(
        LayerSource(checkpoint, config),
        {norm_bias(config): stage.weights_dtype},
        folds=merge == "fold" and checkpoint.source_tp > 1,
    )
    total = sum(math.prod(shape) for shape in stage.targets().values()) * stage.weights_dtype.itemsize
    with Bar("loading", total, show=show_progress) as bar:
        approximated = load_weights(
            checkpoint,
            stage.targets(),
            _assigning(stage, final),
            config=config,
            tp_rank=mesh.tp_rank,
            tp_size=mesh.tp,
            device=mesh.device,
            dtype=stage.weights_dtype,
            merge=merge,
            one_version=True,
            progress=bar.update,
        )
    return stage, _warnings(approximated, final, checkpoint.source_tp)


def train_everything(stage: Stage) -> None:
    """Let all parameters be trained, but for the biases that only the first rank adds."""
    unused = {
        f"{name}.bias"
        for name, module in stage.named_modules()
        if isinstance(module, RowParallelLinear) and not module.adds_bias
    }
    for name, parameter in stage.named_parameters():
        parameter.requires_grad_(name not in unused)


def mark_divided(stage: Stage) -> None:
    """Mark the parameters of which each tensor-parallel rank has a part, for DeepSpeed: their norms add up."""
    for key, parameter in stage.keyed_parameters().items():
        parameter.model_parallel = divided_dim(key.name) is not None  # type: ignore[attr-defined]


def _assigning(stage: Stage, final: FinalNorm | None) -> Callable[[TensorKey, torch.Tensor], None]:
    """Fills the stage; a folded final norm keeps a shift, as in the files of ``neoxrun convert``."""
    if final is None:
        return stage.assign
    shift, head = norm_bias(stage.config), stage.config.num_layers + 4

    def assign(key: TensorKey, tensor: torch.Tensor) -> None:
        if key == shift:
            tensor = final.shift.to(tensor)
        elif key == TensorKey(head, "final_linear.bias"):
            final.note_bias(tensor.cpu())
            return
        elif key.layer == head:
            final.note_head(tensor.cpu())
        stage.assign(key, tensor)

    return assign


def _warnings(approximated: frozenset[str], final: FinalNorm | None, source_tp: int) -> list[str]:
    ranks, texts = f"the checkpoint's {source_tp} tensor-parallel ranks", []
    if approximated:
        texts.append(f"{ranks} have trained apart: what differs and is trained as one begins as the average")
    if final is not None and final.remains:
        texts.append(
            f"the final norms of {ranks} differ, and are trained as one: a token's logit begins up to "
            f"{final.remains:.3g} off"
        )
    return texts
