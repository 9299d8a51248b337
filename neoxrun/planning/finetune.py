"""How a fine-tuning runs: tensor-parallel size, replicas, rows of a pass, from what fits. Pure, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from neoxrun.config.precisions import precisions_for
from neoxrun.config.settings import ModelConfig, Precision, Settings
from neoxrun.config.training import LoraConfig, ZeroConfig
from neoxrun.config.training_batch import Batch
from neoxrun.config.training_request import TrainingRequest
from neoxrun.errors import UsageError
from neoxrun.planning.decision import Decision, SplitRule, VocabularyAssumed
from neoxrun.planning.devices import Device
from neoxrun.planning.finetune_memory import FinetuneSizing, RankBytes, Share
from neoxrun.planning.finetune_refused import explain_finetune_refusal
from neoxrun.planning.finetune_speed import CpuSpeed, cpu_tokens, gpu_tokens
from neoxrun.planning.hardware import slowest
from neoxrun.planning.memory import kv_cache_bytes, usable_bytes
from neoxrun.planning.plan import Plan, RankMemory
from neoxrun.planning.request import Requested, check_request
from neoxrun.planning.split import tensor_sizes


@dataclass(frozen=True)
class FinetunePlan:
    """How a fine-tuning runs.

    Attributes:
        plan: the ranks, for the launcher.
        sizing: what was sized.
        share: how it is divided.
        need: what each rank holds.
        batch: rows of a step.
        tokens_per_second: estimated; None where the devices' speed is not known.
        notes: what differs from the configuration.
    """

    plan: Plan
    sizing: FinetuneSizing
    share: Share
    need: RankBytes
    batch: Batch
    tokens_per_second: float | None
    notes: tuple[str, ...]


def plan_finetune(
    settings: Settings,
    devices: Sequence[Device],
    requested: Requested,
    request: TrainingRequest,
    lora: LoraConfig | None,
    *,
    vocab_size: int,
    vocab_assumed: bool,
    cpu: CpuSpeed | None = None,
) -> FinetunePlan:
    """Decide how a model is fine-tuned on ``devices``.

    On GPUs the least tensor-parallel size that fits is used, and as many replicas as can share a step equally; on the
    CPU one rank, unless flags say otherwise. Activations are computed twice only if they do not fit otherwise.

    Args:
        settings: the model.
        devices: the GPUs of one host, or the one ``cpu`` device; all hosts are alike.
        requested: what flags force.
        request: of the training.
        lora: the adapters; None: all parameters are trained.
        vocab_size: rows of the word embedding.
        vocab_assumed: they are a guess.
        cpu: the speed of the ``cpu`` device; None: it is not known.

    Raises:
        UsageError: it is not possible, or does not fit; the hint has flags with which it would.
        ConfigError: replicas that a flag gives cannot share a step equally.
    """
    model = settings.model
    if requested.pp not in (None, 1):
        raise UsageError(
            f"--pp {requested.pp}: finetune does not divide a model into pipeline stages",
            code="impossible_split",
            hint="Use --tp to divide each layer, or --zero-stage 3 to divide the parameters over replicas.",
        )
    check_request(model, replace(requested, pp=None))
    if not devices:
        raise UsageError(
            "no CUDA GPU is visible",
            code="no_gpu",
            hint="See nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu.",
        )
    kind = devices[0].kind
    precision, notes = _precision(settings, devices, requested, request)
    sizing = FinetuneSizing(model, vocab_size, precision, kind, lora, model.seq_length)
    splits = list(_splits(model, devices, requested, request))
    if not splits:
        raise _no_split(devices, requested, request)
    found = None
    for tp, replicas in splits:
        free = _free_bytes(devices, tp * replicas, requested.nnodes)
        found = _fitting(sizing, request, tp, replicas, usable_bytes(free))
        if found is not None:
            break
    if found is None:
        leanest = splits[-1]
        free = _free_bytes(devices, leanest[0] * leanest[1], requested.nnodes)
        raise explain_finetune_refusal(sizing, request, leanest, free, tp_fixed=requested.tp is not None)
    share, batch = found
    if batch.note is not None:
        notes.append(batch.note)
    notes += _size_notes(model, share, requested)
    if request.zero is not None and request.zero.stage != share.zero.stage:
        notes.append(f"zero_optimization: stage {request.zero.stage} -> {share.zero.stage}, which {precision} needs")
    if vocab_assumed:
        notes.append(f"vocabulary: {vocab_size} assumed, no tokenizer file found")
    need = sizing.rank_bytes(share)
    return FinetunePlan(
        plan=_plan(sizing, share, need, devices, requested, vocab_assumed=vocab_assumed),
        sizing=sizing,
        share=share,
        need=need,
        batch=batch,
        tokens_per_second=_speed(
            sizing, share, batch, devices, requested.nnodes, cpu, dropout=request.attention_dropout > 0
        ),
        notes=tuple(notes),
    )


def _precision(
    settings: Settings, devices: Sequence[Device], requested: Requested, request: TrainingRequest
) -> tuple[Precision, list[str]]:
    """What a configuration that sets an optimizer says; that of weights that are only read does not count.

    Without either, bf16 on GPUs that have it and else fp16, and fp32 on the CPU.
    """
    if requested.dtype is not None:
        return requested.dtype, []
    wanted = settings.precision if request.is_training else None
    if devices[0].kind == "cpu":
        if wanted in (None, "fp32"):
            return "fp32", []
        return "fp32", [f"precision: {wanted} -> fp32, in which a CPU trains; --dtype {wanted} keeps it"]
    if wanted is not None:
        return wanted, []
    return ("bf16" if slowest(devices).bf16 else "fp16"), []


def _splits(
    model: ModelConfig, devices: Sequence[Device], requested: Requested, request: TrainingRequest
) -> Iterator[tuple[int, int]]:
    """Tensor-parallel sizes, the least first, each with the most replicas that are possible with it."""
    on_cpu, hosts = devices[0].kind == "cpu", requested.nnodes
    for tp in tensor_sizes(model):
        if requested.tp not in (None, tp) or (requested.tp is None and on_cpu and tp > 1):
            continue
        if on_cpu:
            most = requested.replicas or (requested.world_size or tp * hosts) // tp
        else:
            most = len(devices) // tp * hosts
        for replicas in range(most, 0, -1):
            ranks, odd = divmod(tp * replicas, hosts)
            if odd or ranks % tp or requested.replicas not in (None, replicas):
                continue
            if requested.world_size in (None, tp * replicas) and (requested.replicas or request.batch.fits(replicas)):
                yield tp, replicas
                break


def _free_bytes(devices: Sequence[Device], ranks: int, nnodes: int) -> int:
    """The least free memory of a device that is used; on the CPU, a rank's share of the host's."""
    per_host = ranks // nnodes
    if devices[0].kind == "cpu":
        return devices[0].free_bytes // per_host
    return sorted((device.free_bytes for device in devices), reverse=True)[:per_host][-1]


def _fitting(
    sizing: FinetuneSizing, request: TrainingRequest, tp: int, replicas: int, usable: int
) -> tuple[Share, Batch] | None:
    """The fastest way in which it fits: activations kept, and as many rows at a time as possible."""
    batch, zero = request.batch.solve(replicas), request.zero_for(replicas, sizing.precision)
    sizes = [batch.micro] if batch.micro else [n for n in range(batch.share, 0, -1) if batch.share % n == 0]
    choices = [False, True] if request.checkpoint_activations is None else [request.checkpoint_activations]
    for recompute in choices:
        for micro in sizes:
            share = Share(tp, replicas, zero, micro, recompute, request.fp32_gradients and micro < batch.share)
            if sizing.rank_bytes(share).total <= usable:
                return share, batch
    return None


def _no_split(devices: Sequence[Device], requested: Requested, request: TrainingRequest) -> UsageError:
    asked = [("tp", requested.tp), ("replicas", requested.replicas)]
    flags = " ".join(f"--{name} {size}" for name, size in asked if size) or "any split"
    where = f"{len(devices)} GPUs" if devices[0].kind == "cuda" else "the CPU"
    started = f" on the {requested.world_size} ranks that were started" if requested.world_size else f" on {where}"
    rows = f", with {request.batch.rows} rows of a step" if request.batch.rows else ""
    return UsageError(
        f"{flags} is not possible{started}{rows}",
        code="impossible_split",
        hint="Replicas share the rows of a step equally, and each has --tp devices of one host.",
    )


def _size_notes(model: ModelConfig, share: Share, requested: Requested) -> list[str]:
    notes = []
    if model.pipe_parallel_size > 1:
        notes.append(f"pipe_parallel_size: {model.pipe_parallel_size} -> 1, as finetune has no pipeline stages")
    if requested.tp is None and model.model_parallel_size != share.tp:
        why = "with which the model fits" if share.tp > 1 else "as the model fits without"
        notes.append(f"model_parallel_size: {model.model_parallel_size} -> {share.tp}, {why}")
    return notes


def _speed(
    sizing: FinetuneSizing,
    share: Share,
    batch: Batch,
    devices: Sequence[Device],
    hosts: int,
    cpu: CpuSpeed | None,
    *,
    dropout: bool,
) -> float | None:
    if devices[0].kind == "cuda":
        return gpu_tokens(sizing, share, devices)
    if cpu is None:
        return None
    passes = batch.share // share.micro
    return cpu_tokens(sizing, share, cpu, cores=devices[0].cores, hosts=hosts, passes=passes, dropout=dropout)


def _plan(
    sizing: FinetuneSizing,
    share: Share,
    need: RankBytes,
    devices: Sequence[Device],
    requested: Requested,
    *,
    vocab_assumed: bool,
) -> Plan:
    """The value that the launcher and the ranks go by."""
    model, per_host = sizing.model, share.tp * share.replicas // requested.nnodes
    freest = sorted(devices, key=lambda device: -device.free_bytes)[:per_host]
    used = sorted(freest, key=lambda device: device.index)
    free = _free_bytes(devices, share.tp * share.replicas, requested.nnodes)
    rows = tuple(
        RankMemory(
            rank=rank,
            node=0,
            device=used[rank].index if sizing.kind == "cuda" else 0,
            device_name=used[rank if sizing.kind == "cuda" else 0].name,
            stage=0,
            tensor_rank=rank,
            first_layer=0,
            num_layers=model.num_layers,
            weights_bytes=need.weights,
            kv_cache_bytes=0,
            workspace_bytes=need.total - need.weights,
            total_bytes=need.total,
            free_bytes=free,
        )
        for rank in range(share.tp)
    )
    precisions = precisions_for(sizing.precision, sizing.kind)
    return Plan(
        tp=share.tp,
        pp=1,
        replicas=share.replicas,
        precisions=precisions,
        device_kind=sizing.kind,
        gpus=tuple(device.index for device in used) if sizing.kind == "cuda" else (),
        nnodes=requested.nnodes,
        decision=Decision(SplitRule.REQUESTED, requested, len(devices)),
        notes=(VocabularyAssumed(sizing.vocab_size),) if vocab_assumed else (),
        devices=rows,
        host_peak_bytes=need.host,
        max_context=sizing.seq_length,
        max_batch=share.micro,
        prefill_tokens=share.micro * sizing.seq_length,
        parameters=sizing.parameters,
        kv_bytes_per_token=kv_cache_bytes(
            model, layers=model.num_layers, tensor=1, tokens=1, precision=precisions.cache
        ),
        vocab_size=sizing.vocab_size,
        vocab_assumed=vocab_assumed,
    )


def zero_words(zero: ZeroConfig) -> str:
    """``ZeRO 1``, ``ZeRO 3, optimizer and parameters in host memory``."""
    offloaded = [
        name for name, on in (("optimizer", zero.offload_optimizer), ("parameters", zero.offload_parameters)) if on
    ]
    return f"ZeRO {zero.stage}" + (f", {' and '.join(offloaded)} in host memory" if offloaded else "")
