"""A fine-tuning that does not fit: by how much, and with which flags it would. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from neoxrun.config.training import LoraConfig, ZeroConfig
from neoxrun.config.training_request import TrainingRequest
from neoxrun.errors import UsageError
from neoxrun.planning.finetune_memory import FinetuneSizing, Share
from neoxrun.planning.memory import usable_bytes
from neoxrun.planning.split import tensor_sizes
from neoxrun.terminal.words import counted, human_bytes

_MOST_WAYS: Final = 3
_MOST_GPUS: Final = 64
_SHORT_ROW: Final = 512


def explain_finetune_refusal(
    sizing: FinetuneSizing, request: TrainingRequest, split: tuple[int, int], free: int, *, tp_fixed: bool
) -> UsageError:
    """The error for a fine-tuning that fits on no split.

    Args:
        sizing: the model, and what is trained.
        request: of the training.
        split: tensor-parallel size and replicas with which it needs the least.
        free: bytes of each device.
        tp_fixed: a flag gives the tensor-parallel size.
    """
    tp, replicas = split
    batch = request.batch.solve(replicas)
    zero = request.zero_for(replicas, sizing.precision)
    recompute = request.checkpoint_activations is not False
    micro = batch.micro or 1
    share = Share(tp, replicas, zero, micro, recompute, request.fp32_gradients and micro < batch.share)
    need, usable = sizing.rank_bytes(share), usable_bytes(free)
    parts = (
        ("weights", need.weights),
        ("gradients", need.gradients),
        ("the optimizer", need.optimizer),
        need.working,
    )
    ways = [way for way, fits in _ways(sizing, share, usable, tp_fixed=tp_fixed) if fits][:_MOST_WAYS]
    what = "the whole model" if sizing.lora is None else "an adapter"
    device = "GPU" if sizing.kind == "cuda" else "rank"
    otherwise = "Use a smaller model, or larger devices."
    if sizing.kind == "cpu" and tp * replicas > 1:
        otherwise = "Use fewer ranks (--tp, --replicas): they share the host's memory."
    return UsageError(
        f"training {what} does not fit on {counted(tp * replicas, device)}: "
        f"{', '.join(f'{human_bytes(size)} of {name}' for name, size in parts)} need, with the rest, "
        f"{human_bytes(need.total)} on each, and {human_bytes(usable)} of {human_bytes(free)} free can be used",
        code="does_not_fit",
        hint=f"What would fit: {', or '.join(ways)}." if ways else otherwise,
    )


def _ways(sizing: FinetuneSizing, share: Share, usable: int, *, tp_fixed: bool) -> Iterator[tuple[str, bool]]:
    """Flags, and whether it fits with them: the least change first."""
    lean = replace(share, micro=1, recompute=True)
    less = [
        *(["--micro-batch-size 1"] if share.micro > 1 else []),
        *(["--set checkpoint_activations=true"] if not share.recompute else []),
    ]

    def fits(sized: FinetuneSizing, changed: Share) -> bool:
        return sized.rank_bytes(changed).total <= usable

    def words(*flags: str) -> str:
        return " ".join([*less, *flags])

    if less:
        yield words(), fits(sizing, lean)
    on_gpus = sizing.kind == "cuda"
    three, stage = ZeroConfig(3), max(1, share.zero.stage)
    if share.replicas > 1 and share.zero.stage < 3:
        yield words("--zero-stage 3"), fits(sizing, replace(lean, zero=three))
    if on_gpus and not share.zero.offload_optimizer:
        offloaded = replace(lean, zero=ZeroConfig(stage, True))
        yield words("--offload optimizer"), fits(sizing, offloaded)
    if sizing.lora is not None and sizing.lora.rank > (usual := LoraConfig().rank):
        yield words(f"--lora-rank {usual}"), fits(replace(sizing, lora=replace(sizing.lora, rank=usual)), lean)
    if sizing.lora is None:
        yield words("--lora"), fits(replace(sizing, lora=LoraConfig()), lean)
    if on_gpus and not share.zero.offload_parameters:
        yield words("--zero-stage 3 --offload all"), fits(sizing, replace(lean, zero=ZeroConfig(3, True, True)))
    if sizing.seq_length > _SHORT_ROW:
        yield words(f"--seq-length {_SHORT_ROW}"), fits(replace(sizing, seq_length=_SHORT_ROW), lean)
    if sizing.precision == "fp32":
        in_bf16 = replace(lean, zero=replace(share.zero, stage=stage))
        yield words("--dtype bf16"), fits(replace(sizing, precision="bf16"), in_bf16)
    if on_gpus and not tp_fixed:
        for tp in tensor_sizes(sizing.model):
            if share.tp < tp <= _MOST_GPUS and fits(sizing, replace(lean, tp=tp)):
                yield f"{tp * share.replicas} such GPUs", True
                break
