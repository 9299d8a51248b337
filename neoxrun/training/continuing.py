"""Continuing a run of GPT-NeoX: its optimizer's state and its weights in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.load import load_weights
from neoxrun.checkpoint.merge import Rule, rule_of
from neoxrun.checkpoint.neox_optimizer import SavedOptimizer, StateKind, open_optimizer
from neoxrun.checkpoint.neox_run import NeoxRun, not_continued
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import Parameter, TensorKey, parameters
from neoxrun.errors import CheckpointError
from neoxrun.model.gpt_neox import Stage
from neoxrun.training.optimizer_state import OptimizerState


def continue_neox_run(run: NeoxRun, stage: Stage, state: OptimizerState) -> int:
    """Set the optimizer's state to that of GPT-NeoX's; the network has the weights of the same checkpoint already.

    GPT-NeoX's ranks each train the norms and the biases that are one here: these are to have the same state on all of
    them. A bias that its ranks add up is one here, with the state of each.

    Args:
        run: the files.
        stage: the network, at the tensor-parallel size of the run.
        state: of the optimizer.

    Returns:
        The steps that were applied.

    Raises:
        CheckpointError: a file is damaged or unsafe, or the state is not that of the network.
    """
    table = parameters(stage.config, stage.vocab_size)
    ranks = [open_optimizer(run, rank, table) for rank in range(run.tp)]
    _check_copies(run, ranks, table, stage.config)
    own = ranks[stage.mesh.tp_rank]
    state.prepare(own.steps)
    if not run.parts and stage.weights_dtype != torch.float32:
        _set_weights(run, stage, state)
    for key, parameter in stage.keyed_parameters().items():
        if parameter.requires_grad:
            for kind, tensor in _state_of(key, ranks, stage):
                if not tensor.isfinite().all():
                    raise _not_finite(key, kind, run)
                state.set(parameter, kind, tensor.to(stage.device))
    state.set_scaler(dict(own.scaler))
    return own.steps


def _set_weights(run: NeoxRun, stage: Stage, state: OptimizerState) -> None:
    """Set the optimizer's fp32 weights to the checkpoint's: without ZeRO only its layer files have them.

    Those of the network are rounded to 16 bits.
    """
    found = stage.keyed_parameters()

    def assign(key: TensorKey, tensor: Tensor) -> None:
        if found[key].requires_grad:
            state.set(found[key], "master", tensor)

    load_weights(
        find_checkpoint(run.folder, stage.config),
        {key: tuple(getattr(parameter, "ds_shape", parameter.shape)) for key, parameter in found.items()},
        assign,
        config=stage.config,
        tp_rank=stage.mesh.tp_rank,
        tp_size=stage.mesh.tp,
        device=stage.device,
        dtype=torch.float32,
        merge="average",
        one_version=True,
    )


def _state_of(key: TensorKey, ranks: Sequence[SavedOptimizer], stage: Stage) -> Iterator[tuple[StateKind, Tensor]]:
    """What this rank's parameter begins with."""
    for kind, span in ranks[stage.mesh.tp_rank].spans[key].items():
        if kind == "master" and rule_of(key.name, stage.config) is Rule.SUM:
            yield kind, torch.stack([rank.spans[key][kind].read() for rank in ranks]).sum(0)
        else:
            yield kind, span.read()


def _check_copies(
    run: NeoxRun, ranks: Sequence[SavedOptimizer], table: dict[TensorKey, Parameter], config: ModelConfig
) -> None:
    """Refuse ranks that have trained apart what is trained as one here."""
    first = ranks[0]
    for key, entry in table.items():
        if entry.dim is None and entry.used:
            summed = rule_of(key.name, config) is Rule.SUM  # each rank has its own weights of such a bias
            kinds = [kind for kind in first.spans[key] if not (summed and kind == "master")]
            for rank in ranks[1:]:
                for kind in kinds:
                    if not torch.equal(rank.spans[key][kind].read(), first.spans[key][kind].read()):
                        raise not_continued(
                            f"its {run.tp} tensor-parallel ranks have trained their norms and biases apart, which are "
                            f"trained as one here ({key.name} of layer {key.layer})",
                            run.folder,
                        )


def _not_finite(key: TensorKey, kind: str, run: NeoxRun) -> CheckpointError:
    return CheckpointError(
        f"{kind} of {key.name} in layer {key.layer} holds NaN or infinity",
        code="nonfinite_weights",
        where=str(run.folder),
        hint="Continue from the checkpoint of an earlier iteration (--set iteration=N).",
    )
