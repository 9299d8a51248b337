"""Writing GPT-NeoX layer files, divided over tensor-parallel ranks as in GPT-NeoX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from neoxrun.checkpoint import huggingface
from neoxrun.checkpoint.merge import contributing_shards, rule_of
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import Parameter, TensorKey, local_shape, parameters
from neoxrun.errors import CheckpointError, UsageError
from neoxrun.parallel.partition import vocab_shard


def save_layer_files(
    tensors: Mapping[TensorKey, Tensor], folder: Path, *, tp: int, config: ModelConfig, tag: str
) -> None:
    """Write a whole model as ``folder/tag/layer_XX-model_YY-model_states.pt`` files and ``folder/latest``.

    A vocabulary that does not divide over the ranks is padded with zero rows. Of a bias that GPT-NeoX's ranks add up,
    rank 0 holds all and the others hold zeros: the sum is exact in every dtype.

    Args:
        tensors: every tensor of the model, whole (as at tensor-parallel size 1).
        folder: the ``load`` folder; created if necessary.
        tp: tensor-parallel size to write.
        config: the network.
        tag: name of the folder for the files, ``global_step<N>``.

    Raises:
        CheckpointError: ``tensors`` are not those of ``config``.
        UsageError: the model does not divide over ``tp`` ranks.
    """
    check_split(config, tp)
    embedding = tensors.get(TensorKey(0, "word_embeddings.weight"))
    table = parameters(config, 0 if embedding is None else embedding.shape[0])
    if wrong := sorted(table.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"missing or unexpected tensor: layer {wrong[0].layer}, {wrong[0].name}",
            code="wrong_tensors",
        )
    target = folder / tag
    target.mkdir(parents=True, exist_ok=True)
    for layer in sorted({key.layer for key in table}):
        keys = [key for key in table if key.layer == layer]
        for rank in range(tp):
            shard = {key.name: _share(tensors[key], key, table[key], config, tp, rank) for key in keys}
            torch.save(shard, target / f"layer_{layer:02d}-model_{rank:02d}-model_states.pt")
    (folder / "latest").write_text(tag, encoding="utf-8")


def check_split(config: ModelConfig, tp: int) -> None:
    """Refuse to divide a model over ranks between which its heads or its MLP do not divide.

    Raises:
        UsageError: naming what does not divide.
    """
    for what, size in (
        ("num_attention_heads", config.num_attention_heads),
        ("MLP width", config.intermediate_size),
    ):
        if size % tp:
            raise UsageError(f"{what} {size} does not divide over {tp} tensor-parallel ranks", code="impossible_split")


def _share(tensor: Tensor, key: TensorKey, parameter: Parameter, config: ModelConfig, tp: int, rank: int) -> Tensor:
    """A rank's share of a whole tensor, copied: torch.save would write the whole storage of a view."""
    if tuple(tensor.shape) != parameter.shape:
        raise CheckpointError(
            f"layer {key.layer}, {key.name} has shape {list(tensor.shape)}, the configuration asks for "
            f"{list(parameter.shape)}",
            code="wrong_shape",
        )
    part = tensor.new_zeros(local_shape(key.name, parameter, tp), device="cpu")
    dim = parameter.dim
    if dim is not None:
        share = vocab_shard(parameter.shape[dim], tp, rank)
        length = max(0, min(share.stop, parameter.shape[dim]) - share.start)
        part.narrow(dim, 0, length).copy_(tensor.narrow(dim, min(share.start, parameter.shape[dim]), length))
    elif tp == 1 or contributing_shards(rule_of(key.name, config), 1, tp, rank):
        part.copy_(tensor)
    return part


def from_huggingface(state_dict: Mapping[str, Tensor]) -> dict[TensorKey, Tensor]:
    """The tensors of a Hugging Face GPTNeoXForCausalLM under GPT-NeoX's names, without its buffers.

    Args:
        state_dict: the model's, or read from its files. A head that is tied to the embedding is left out.

    Raises:
        CheckpointError: a tensor's name is not one of a GPTNeoXForCausalLM.
    """
    names = [name for name in state_dict if not huggingface.is_buffer(name)]
    num_layers = huggingface.count_layers(names)
    embedding = state_dict.get("gpt_neox.embed_in.weight")
    tensors = {}
    for name in names:
        key = huggingface.to_tensor_key(name, num_layers)
        if key is None:
            raise CheckpointError(f"unexpected tensor {name}: not a Hugging Face GPT-NeoX model", code="wrong_tensors")
        tensor = state_dict[name]
        tied = embedding is not None and key.layer == num_layers + 4 and tensor.data_ptr() == embedding.data_ptr()
        if not tied:
            tensors[key] = tensor
    return tensors
