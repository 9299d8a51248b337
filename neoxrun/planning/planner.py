"""What runs where: settings and devices become a Plan of tensor x pipeline x replicas. Pure, no torch."""

from __future__ import annotations

from collections.abc import Sequence

from neoxrun import tokenizer
from neoxrun.config.settings import Settings
from neoxrun.errors import UsageError
from neoxrun.parallel.partition import rank_at
from neoxrun.planning.choose import Choice, choose_cpu, choose_gpus
from neoxrun.planning.decision import BatchReduced, ContextShortened, Note, PrecisionLowered, VocabularyAssumed
from neoxrun.planning.devices import Device
from neoxrun.planning.memory import MAX_BATCH, host_peak_bytes, kv_cache_bytes, model_parameters, prefill_tokens
from neoxrun.planning.plan import Plan, RankMemory
from neoxrun.planning.refused import explain_refusal
from neoxrun.planning.request import Requested, check_request

_GPT2_VOCABULARY, _NEOX_VOCABULARY = 50257, 50277


def vocab_size_for_planning(settings: Settings) -> tuple[int, bool]:
    """Rows of the word embedding, padded as GPT-NeoX pads them, and whether they are assumed.

    They come from the tokenizer file. Where there is none (nothing has been downloaded yet) the size of the
    tokenizer that GPT-NeoX models of that type were released with is assumed.

    Raises:
        ConfigError: the type of tokenizer is not supported.
        DataError: the tokenizer file exists and cannot be read.
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
    check_request(model, requested, len(devices) if devices and devices[0].kind == "cuda" else None)
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
    if not isinstance(choice, Choice):
        raise explain_refusal(choice)
    sizing, split = choice.sizing, choice.split
    context = min(sizing.context, choice.tokens)
    batch = min(requested.batch_size or MAX_BATCH[sizing.kind], sizing.sequences(choice.tokens, context))
    notes: list[Note] = [*choice.notes]
    precisions = sizing.precisions
    if sizing.kind == "cpu" and requested.dtype is None and precisions.weights == "bf16" != settings.precision:
        notes.append(PrecisionLowered(settings.precision, native=choice.decision.precision_too_large is None))
    if context < sizing.context:
        notes.append(ContextShortened(sizing.context, context))
    if requested.batch_size and batch < requested.batch_size:
        notes.append(BatchReduced(requested.batch_size, batch, context))
    if vocab_assumed:
        notes.append(VocabularyAssumed(vocab_size))
    return Plan(
        tp=split.tp,
        pp=split.pp,
        replicas=split.replicas,
        precisions=precisions,
        device_kind=sizing.kind,
        gpus=tuple(device.index for device in choice.devices) if sizing.kind == "cuda" else (),
        nnodes=requested.nnodes,
        decision=choice.decision,
        notes=tuple(notes),
        devices=_rank_table(choice, sizing.positions(batch, context)),
        host_peak_bytes=host_peak_bytes(
            model, vocab_size, sizing.needs(split), split.tp, precisions.weights, sizing.kind
        ),
        max_context=context,
        max_batch=batch,
        prefill_tokens=prefill_tokens(sizing.context),
        parameters=model_parameters(model, vocab_size),
        kv_bytes_per_token=kv_cache_bytes(
            model, layers=model.num_layers, tensor=1, tokens=1, precision=precisions.cache
        ),
        vocab_size=vocab_size,
        vocab_assumed=vocab_assumed,
    )


def _rank_table(choice: Choice, positions: int) -> tuple[RankMemory, ...]:
    """Every rank of the first replica, with a cache of ``positions`` positions."""
    split, per_node = choice.split, len(choice.devices)
    rows = []
    for stage, need in enumerate(choice.sizing.needs(split)):
        for tensor_rank in range(split.tp):
            rank = rank_at(split.tp, split.replicas, tensor_rank, 0, stage)
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
                    kv_cache_bytes=need.kv_bytes_per_token * positions,
                    workspace_bytes=need.workspace_bytes,
                    total_bytes=need.total_bytes(positions),
                    free_bytes=device.free_bytes,
                )
            )
    return tuple(rows)
