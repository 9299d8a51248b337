"""Loading a rank's slices of a checkpoint, layer by layer, straight to its device, and proving that all are loaded.

A target tensor is copied from the mapped file into new memory on the device. At any moment a rank holds its finished
tensors and the mapping of one layer. A load ends with every target filled once and every tensor of the opened files
used or known not to be needed, or with a CheckpointError.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import Adapter
from neoxrun.checkpoint.content import AGAIN
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.share import RankShare
from neoxrun.checkpoint.source import LayerSource, Shard, StoredTensor
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import Parameter, TensorKey, parameters
from neoxrun.errors import CheckpointError
from neoxrun.terminal.words import listing

_MOST_RANKS = 64  # tensor-parallel ranks of a checkpoint
_OTHER_CONFIGURATION = "Use the configuration that belongs to this checkpoint."
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_vocab_rows(checkpoint: Checkpoint, config: ModelConfig) -> int:
    """Rows of the checkpoint's (padded) vocabulary over all shards. Reads names and shapes, no weights.

    Raises:
        CheckpointError: the embedding is missing, its shards do not fit together, or all files of some tensor-parallel
            ranks are missing.
    """
    source = LayerSource(checkpoint, config)
    rows = _vocab_rows(source)
    _refuse_missing_ranks(source, rows)
    return rows


def _refuse_missing_ranks(source: LayerSource, rows: int) -> None:
    """Refuse a checkpoint without any file of its last ranks: only the first layer's shapes show that."""
    checkpoint, table = source.checkpoint, parameters(source.config, rows)
    if checkpoint.kind == "huggingface":
        return
    present = checkpoint.source_tp
    divided = [
        (stored.tensor, parameter)
        for name, stored in source.read_layer(2)[0].items()
        if (parameter := table.get(TensorKey(2, name))) and parameter.dim is not None
        if isinstance(stored.tensor, Tensor)
    ]
    for ranks in range(present + 1, _MOST_RANKS + 1):
        if divided and all(_fits(tensor, parameter, ranks) for tensor, parameter in divided):
            pattern = "layer_*-model_{:02d}-*" if checkpoint.kind == "layers" else "mp_rank_{:02d}_*"
            missing = [pattern.format(rank) for rank in range(present, ranks)]
            raise CheckpointError(
                f"all files of {ranks - present} of the {ranks} tensor-parallel ranks are missing: {listing(missing)}",
                code="missing_shard",
                where=str(checkpoint.folder),
                hint="Copy or download these files too.",
            )


def _vocab_rows(source: LayerSource) -> int:
    name, hidden = "word_embeddings.weight", source.config.hidden_size
    rows: list[int] = []
    for rank, shard in enumerate(source.read_layer(0)):
        stored = shard.get(name)
        if stored is None:
            raise _missing(source.checkpoint, 0, rank, [name])
        shape = tuple(_tensor(stored).shape)
        if len(shape) != 2 or shape[1] != hidden or 0 in shape:
            raise CheckpointError(
                f"{stored.name} has shape {list(shape)}, the configuration asks for [vocabulary, {hidden}]",
                code="wrong_shape",
                where=str(stored.file),
                hint=_OTHER_CONFIGURATION,
            )
        if rows and shape[0] != rows[0]:
            raise CheckpointError(
                f"the shards of {stored.name} differ: rank 0 has {rows[0]} rows, rank {rank} has {shape[0]}",
                code="mixed_checkpoints",
                where=str(stored.file),
                hint="The files come from different checkpoints: copy or download them again.",
            )
        rows.append(shape[0])
    return sum(rows)


def load_weights(
    checkpoint: Checkpoint,
    targets: Mapping[TensorKey, tuple[int, ...]],
    assign: Callable[[TensorKey, Tensor], None],
    *,
    config: ModelConfig,
    tp_rank: int,
    tp_size: int,
    device: torch.device,
    dtype: torch.dtype | None,
    merge: Merge = "fold",
    adapter: Adapter | None = None,
    one_version: bool = False,
    progress: Callable[[int], None] | None = None,
) -> frozenset[str]:
    """Fill one rank's tensors from a checkpoint of any tensor-parallel size.

    Args:
        checkpoint: the files, from ``find_checkpoint``.
        targets: the tensors that this rank's pipeline stage needs, with this rank's shapes. A last stage with a tied
            head needs ``TensorKey(0, "word_embeddings.weight")``; one with another head needs the final norm, too.
        assign: called once for each target, layer by layer, with a new tensor of ``dtype`` on ``device``. Where norms
            are folded it is also called with the bias of a layer that has none: of the head, or of a model without.
        config: the network.
        tp_rank: this rank within its tensor-parallel group.
        tp_size: ranks in that group. At the checkpoint's tensor-parallel size each rank keeps the undivided tensors of
            the same source rank.
        device: device of the tensors.
        dtype: number format of the tensors; None: each keeps the one that it has in the file.
        merge: at another size, what becomes of norms that differ between the source ranks.
        adapter: is merged into the weights, in fp32 and rounded once; None: there is none.
        one_version: load at the checkpoint's own size as at another one, so that undivided tensors have one version.
        progress: called with the bytes of each target once it is filled; they add up to the size of all targets.

    Returns:
        The names of undivided tensors that differed between the source ranks and became one, which is an approximation.

    Raises:
        CheckpointError: a file is damaged or unsafe, or a tensor is missing or unexpected, has another shape or type,
            or holds NaN or infinity.
    """
    source = LayerSource(checkpoint, config)
    table = parameters(config, _vocab_rows(source))
    share = RankShare(config, tp_rank, tp_size, device, dtype, merge, adapter, one_version=one_version)
    for layer in sorted({key.layer for key in targets}):
        shards = source.read_layer(layer)
        wanted = {key: table[key] for key in targets if key.layer == layer}
        _prove(source, layer, shards, table, {key.name for key in wanted})
        extremes: dict[str, Tensor] = {}
        for key, tensor in share.tensors(layer, shards, wanted):
            shape = tuple(tensor.shape)
            assert shape == tuple(targets.get(key, shape)), (
                f"{key}: the model wants {targets[key]}, its share is {shape}"
            )
            extremes[key.name] = torch.stack(tensor.aminmax())  # NaN where one of the numbers is
            assign(key, tensor)
            if progress is not None and key in targets:
                progress(tensor.numel() * tensor.element_size())
        # Checked once a layer, since each check waits for the device.
        for name, finite in zip(extremes, torch.stack([*extremes.values()]).isfinite().all(1).tolist(), strict=True):
            if not finite:
                raise _not_finite(name, shards, dtype or shards[0][name].tensor.dtype)
        del shards
    return frozenset(share.approximated)


def _prove(
    source: LayerSource, layer: int, shards: list[Shard], table: Mapping[TensorKey, Parameter], wanted: set[str]
) -> None:
    """Check that each source rank has the ``wanted`` tensors of a layer, in their shapes, and no others."""
    for rank, shard in enumerate(shards):
        if absent := sorted(wanted - shard.keys()):
            raise _missing(source.checkpoint, layer, rank, absent)
        for name, stored in shard.items():
            parameter = table.get(TensorKey(layer, name))
            unused = _left_to_the_first_stage(layer, name, source.config)
            if parameter is None or (name not in wanted and parameter.used and not unused):
                raise CheckpointError(
                    f"unexpected tensor {stored.name}: a model of this configuration does not have it",
                    code="wrong_tensors",
                    where=str(stored.file),
                    hint="Compare the configuration's norm, bias, pos_emb and gpt_j_* options with the checkpoint.",
                )
            if not _fits(_tensor(stored), parameter, len(shards)):
                raise _wrong_shape(name, shard, parameter, table, len(shards))


def _left_to_the_first_stage(layer: int, name: str, config: ModelConfig) -> bool:
    """Whether the tensor may stay unused, because a last stage with a tied head needs only the word embeddings."""
    return layer == 0 and config.tie_embeddings and name == "position_embeddings.weight"


def _tensor(stored: StoredTensor) -> Tensor:
    tensor = stored.tensor
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
        kind = f"layout {tensor.layout}" if isinstance(tensor, Tensor) else f"type {type(tensor).__name__}"
        raise CheckpointError(
            f"{stored.name} has {kind}, but weights must be dense tensors",
            code="unsupported_checkpoint",
            where=str(stored.file),
        )
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"{stored.name} has type {tensor.dtype}, but weights must be fp16, bf16 or fp32",
            code="unsupported_checkpoint",
            where=str(stored.file),
            hint="Quantised checkpoints are not supported: use the original weights.",
        )
    return tensor


def _fits(tensor: Tensor, parameter: Parameter, source_tp: int) -> bool:
    """Whether ``tensor`` is one of ``source_tp`` equal shares of the parameter."""
    shape, dim = list(tensor.shape), parameter.dim
    if dim is not None and dim < len(shape):
        shape[dim] *= source_tp
    return tuple(shape) == parameter.shape


def _wrong_shape(
    name: str, shard: Shard, parameter: Parameter, table: Mapping[TensorKey, Parameter], source_tp: int
) -> CheckpointError:
    stored, dim = shard[name], parameter.dim
    share = [-(-size // source_tp) if index == dim else size for index, size in enumerate(parameter.shape)]
    hint = _OTHER_CONFIGURATION
    # Shapes tell two causes: a transposed matrix, and attention with fewer key and value heads, whose output projection
    # has the right shape.
    if list(stored.tensor.shape) == share[::-1] != share:
        hint = "The tensor is transposed: GPT-NeoX stores a weight as [outputs, inputs]."
    elif name.startswith("attention.query_key_value."):
        whole = table[TensorKey(2, "attention.dense.weight")]
        dense = shard.get("attention.dense.weight")
        if dense is not None and _fits(_tensor(dense), whole, source_tp):
            hint = "The model seems to have grouped-query attention (num_kv_heads), which is not supported."
    return CheckpointError(
        f"{stored.name} has shape {list(stored.tensor.shape)}, the configuration asks for {share}",
        code="wrong_shape",
        where=str(stored.file),
        hint=hint,
    )


def _not_finite(name: str, shards: list[Shard], dtype: torch.dtype) -> CheckpointError:
    for stored in (shard[name] for shard in shards):
        count = int(stored.tensor.isfinite().logical_not().sum())
        if count:
            folder = shlex.quote(str(_downloaded_folder(stored.file)))
            return CheckpointError(
                f"{stored.name} holds NaN or infinity in {count} of its {stored.tensor.numel()} numbers",
                code="nonfinite_weights",
                where=str(stored.file),
                hint=f"`neoxrun download --verify {folder}` tells whether it is damaged. If it was saved so, use "
                "the checkpoint of an earlier iteration.",
            )
    stored = shards[0][name]
    short = str(dtype).removeprefix("torch.")
    return CheckpointError(
        f"{stored.name} holds numbers that are too large for {short}",
        code="nonfinite_weights",
        where=str(stored.file),
        hint={"float16": "Try --dtype bf16 or --dtype fp32.", "bfloat16": "Try --dtype fp32."}.get(short, AGAIN),
    )


def _downloaded_folder(path: Path) -> Path:
    """The folder that a download would have put a file of weights into."""
    return path.parents[1] if path.parent.name.startswith("global_step") else path.parent


def _missing(checkpoint: Checkpoint, layer: int, rank: int, names: list[str]) -> CheckpointError:
    if checkpoint.kind == "layers":
        where = checkpoint.layer_files[layer][rank]
    elif checkpoint.kind == "sequential":
        where = checkpoint.files[rank]
    else:
        where = checkpoint.folder
    return CheckpointError(
        f"layer {layer} has no {', '.join(names)}",
        code="wrong_tensors",
        where=str(where),
        hint=f"{_OTHER_CONFIGURATION} If it is the right one, copy or download the file again.",
    )
