"""What runs where: settings and devices become a Plan of tensor x pipeline x replicas. Pure, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from neoxrun import tokenizer
from neoxrun.config.settings import Precision, Settings
from neoxrun.errors import UsageError
from neoxrun.planning.choose import Choice, choose_cpu, choose_gpus
from neoxrun.planning.explain import size_notes
from neoxrun.planning.memory import (
    MAX_BATCH,
    DeviceKind,
    cache_value_bytes,
    host_peak_bytes,
    model_parameters,
    prefill_tokens,
)
from neoxrun.planning.placement import MARGIN, Device, Requested, check_request

__all__ = ["MARGIN", "Device", "Plan", "RankMemory", "Requested", "make_plan", "vocab_size_for_planning"]

_GPT2_VOCABULARY, _NEOX_VOCABULARY = 50257, 50277


@dataclass(frozen=True)
class RankMemory:
    """One rank of the first copy.

    Attributes:
        rank: global rank.
        node: host that it runs on, from 0.
        device: index of its GPU; 0 on the CPU.
        device_name: what the device is called.
        stage: pipeline stage.
        tensor_rank: place among the stage's tensor-parallel ranks.
        first_layer: its first transformer layer, from 0.
        num_layers: how many it has.
        weights_bytes: parameters.
        kv_cache_bytes: cache of ``max_batch`` sequences of ``max_context`` tokens.
        workspace_bytes: activations, logits and the runtime's own.
        total_bytes: the sum of the three.
        free_bytes: what is free on the device; on the CPU, this rank's equal share of the host.
    """

    rank: int
    node: int
    device: int
    device_name: str
    stage: int
    tensor_rank: int
    first_layer: int
    num_layers: int
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Plan:
    """The decision, and what it needs.

    Attributes:
        tp: tensor-parallel size.
        pp: pipeline stages.
        replicas: copies of the model.
        dtype: number format of weights and cache.
        device_kind: ``cuda`` or ``cpu``.
        gpus: indices of the GPUs used on each host, one for each of its ranks in order; empty on the CPU.
        nnodes: hosts.
        reason: why this split, one or two sentences.
        notes: one line for each thing that differs from what the configuration or a flag asked for.
        devices: every rank of the first copy.
        host_peak_bytes: peak host memory of one rank while it loads.
        max_context: longest sequence, prompt and answer together.
        max_batch: sequences of ``max_context`` tokens that one copy's cache holds.
        prefill_tokens: most tokens of one forward pass that the workspace allows for.
        parameters: of the whole model, each counted once.
        kv_bytes_per_token: cache of one token of one sequence, over all ranks of a copy.
        vocab_size: rows of the word embedding that were reckoned with.
        vocab_assumed: the vocabulary's size is a guess, because there is no tokenizer file.
    """

    tp: int
    pp: int
    replicas: int
    dtype: Precision
    device_kind: DeviceKind
    gpus: tuple[int, ...]
    nnodes: int
    reason: str
    notes: tuple[str, ...]
    devices: tuple[RankMemory, ...]
    host_peak_bytes: int
    max_context: int
    max_batch: int
    prefill_tokens: int
    parameters: int
    kv_bytes_per_token: int
    vocab_size: int
    vocab_assumed: bool

    @property
    def world_size(self) -> int:
        """Number of ranks, on all hosts."""
        return self.tp * self.pp * self.replicas

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)


def vocab_size_for_planning(settings: Settings) -> tuple[int, bool]:
    """Rows of the word embedding, padded as GPT-NeoX pads them, and whether they are assumed.

    They come from the tokenizer file. Where there is none (nothing has been downloaded yet) the size of the
    tokenizer that GPT-NeoX models of that type were released with is assumed.

    Raises:
        ConfigError: the type of tokenizer is not supported.
        DataError: the tokenizer file is there and cannot be read.
    """
    size = tokenizer.vocabulary_size(settings.tokenizer)
    assumed = size is None
    if size is None:
        size = _GPT2_VOCABULARY if "GPT2" in settings.tokenizer.tokenizer_type else _NEOX_VOCABULARY
    return settings.model.padded_vocab_size(size), assumed


def make_plan(
    settings: Settings,
    devices: Sequence[Device],
    requested: Requested,
    *,
    vocab_size: int,
    vocab_assumed: bool = False,
) -> Plan:
    """Decide how the model runs on ``devices``.

    Args:
        settings: the model, its precision and the sizes that its configuration names.
        devices: the GPUs of one host, or the one ``cpu`` device; all hosts are alike.
        requested: what flags force.
        vocab_size: rows of the word embedding.
        vocab_assumed: they are a guess, and the plan says so.

    Raises:
        UsageError: what is asked for is not possible, or the model does not fit; the message says by how much
            and what would be possible.
    """
    model = settings.model
    check_request(model, requested)
    if not devices:
        raise UsageError(
            "no CUDA GPU is visible",
            code="no_gpu",
            hint="See nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu.",
        )
    if devices[0].kind == "cpu":
        choice = choose_cpu(settings, devices[0], requested, vocab_size)
    else:
        choice = choose_gpus(settings, devices, requested, vocab_size)
    case, split = choice.case, choice.split
    tokens = case.tokens(split, choice.usable)
    context = min(case.context, tokens)
    batch = min(requested.batch_size or MAX_BATCH[case.kind], tokens // context)
    notes = [*choice.notes, *size_notes(model, split, requested, choice.seen)]
    if context < case.context:
        notes.append(f"context: {case.context} -> {context}, what fits")
    if requested.batch_size and batch < requested.batch_size:
        notes.append(f"batch size: {requested.batch_size} -> {batch}, what fits at {context} tokens each")
    if vocab_assumed:
        notes.append(f"vocabulary: {vocab_size} assumed, no tokenizer file found")
    return Plan(
        tp=split.tp,
        pp=split.pp,
        replicas=split.replicas,
        dtype=case.dtype,
        device_kind=case.kind,
        gpus=tuple(device.index for device in choice.devices) if case.kind == "cuda" else (),
        nnodes=requested.nnodes,
        reason=choice.why(batch, context),
        notes=tuple(notes),
        devices=_rank_table(choice, batch * context),
        host_peak_bytes=host_peak_bytes(model, vocab_size, case.needs(split), split.tp, case.dtype, case.kind),
        max_context=context,
        max_batch=batch,
        prefill_tokens=prefill_tokens(case.context),
        parameters=model_parameters(model, vocab_size),
        kv_bytes_per_token=2 * model.num_layers * model.hidden_size * cache_value_bytes(case.dtype, case.kind),
        vocab_size=vocab_size,
        vocab_assumed=vocab_assumed,
    )


def _rank_table(choice: Choice, tokens: int) -> tuple[RankMemory, ...]:
    """Every rank of the first copy, with a cache of ``tokens`` tokens."""
    split, per_node = choice.split, len(choice.devices)
    rows = []
    for stage, need in enumerate(choice.case.needs(split)):
        for tensor_rank in range(split.tp):
            rank = stage * split.replicas * split.tp + tensor_rank
            device = choice.devices[rank % per_node]
            rows.append(
                RankMemory(
                    rank=rank,
                    node=rank // per_node,
                    device=device.index,
                    device_name=device.name,
                    stage=stage,
                    tensor_rank=tensor_rank,
                    first_layer=need.layers.start,
                    num_layers=len(need.layers),
                    weights_bytes=need.weights_bytes,
                    kv_cache_bytes=need.kv_bytes_per_token * tokens,
                    workspace_bytes=need.workspace_bytes,
                    total_bytes=need.total_bytes(tokens),
                    free_bytes=device.free_bytes,
                )
            )
    return tuple(rows)
