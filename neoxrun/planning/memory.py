"""What a model needs: parameters, KV cache and workspace of every rank, in bytes. Pure arithmetic, no torch.

A copy of the model is ``tensor * pipeline`` ranks. All tensor-parallel ranks of one stage need the same, so
the functions here answer per stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from neoxrun.config.limits import LOGIT_ROWS, PREFILL_TOKENS
from neoxrun.config.settings import DTYPE_BYTES, ModelConfig, Precision
from neoxrun.parallel.partition import stage_layers, vocab_shard

DeviceKind = Literal["cuda", "cpu"]

MAX_BATCH: dict[DeviceKind, int] = {
    "cuda": 256,
    "cpu": 64,
}  # sequences at a time, unless --batch-size says more

# What a process takes of a GPU beside its tensors: context, kernels and cuBLAS's workspaces took 727 MB on an
# H100 (driver 580, torch 2.11) after prefills in fp16 and fp32.
CUDA_RANK_BYTES = 750 * 10**6
NCCL_BYTES = 400 * 10**6
CPU_RANK_BYTES = 400 * 10**6
CUDA_HOST_BYTES = 10**9

# Tokens of a pass that only scores. A CPU is fastest where they fit its caches; a GPU is busy with so many, even where
# the model is small.
_MOST_SCORED: dict[DeviceKind, int] = {"cpu": PREFILL_TOKENS // 4, "cuda": 8 * PREFILL_TOKENS}
_MASK_BYTES = 6  # of each pair of tokens of a row: who sees whom, as it is made and as attention wants it


@dataclass(frozen=True)
class RankNeed:
    """What one rank of a pipeline stage holds.

    Attributes:
        layers: its transformer layers.
        weights_bytes: its shard of the parameters.
        workspace_bytes: activations, logits and what the runtime takes for itself.
        kv_bytes_per_token: KV cache of one token of one sequence.
    """

    layers: range
    weights_bytes: int
    workspace_bytes: int
    kv_bytes_per_token: int

    def total_bytes(self, tokens: int) -> int:
        """Everything, with a KV cache of ``tokens`` tokens."""
        return self.weights_bytes + self.workspace_bytes + self.kv_bytes_per_token * tokens


def _norm_parameters(model: ModelConfig) -> int:
    return model.hidden_size * (2 if model.norm == "layernorm" else 1)


def layer_parameters(model: ModelConfig, tensor: int) -> int:
    """Parameters of one transformer layer on one of ``tensor`` ranks.

    With ``gpt_j_tied`` the second norm, which the files hold and nothing uses, is not counted.
    """
    hidden, inner = model.hidden_size, model.intermediate_size
    norms = 1 if model.gpt_j_residual and model.gpt_j_tied else 2
    count = norms * _norm_parameters(model)
    count += (3 * hidden * hidden + hidden * hidden + 2 * hidden * inner) // tensor
    if model.use_bias_in_attn_linear:
        count += 3 * hidden // tensor + hidden
    if model.use_bias_in_mlp:
        count += inner // tensor + hidden
    return count


def stage_parameters(model: ModelConfig, vocab_size: int, tensor: int, pipeline: int, stage: int) -> int:
    """Parameters of one rank of ``stage``.

    The first stage has the embeddings, the last one the final norm and the LM head. A head that is tied to
    the word embedding is a second copy of it as soon as there is more than one stage.

    Args:
        model: the network.
        vocab_size: rows of the word embedding (padded as in the checkpoint).
        tensor: tensor-parallel size.
        pipeline: number of stages.
        stage: which one, from 0.
    """
    count = len(stage_layers(model.num_layers, pipeline, stage)) * layer_parameters(model, tensor)
    vocabulary = len(vocab_shard(vocab_size, tensor, 0)) * model.hidden_size
    if stage == 0:
        count += vocabulary
        if model.pos_emb == "learned":
            count += model.max_position_embeddings * model.hidden_size
    if stage == pipeline - 1:
        count += _norm_parameters(model)
        if pipeline > 1 or not model.tie_embeddings:
            count += vocabulary
    return count


def model_parameters(model: ModelConfig, vocab_size: int) -> int:
    """Parameters of the whole model, each counted once."""
    return stage_parameters(model, vocab_size, tensor=1, pipeline=1, stage=0)


def prefill_tokens(context: int) -> int:
    """Most tokens of one forward pass: the scheduler's limit, or one prompt that fills the context."""
    return max(PREFILL_TOKENS, context)


def cache_value_bytes(dtype: Precision, kind: DeviceKind) -> int:
    """Bytes of one number in the KV cache, which is fp32 on the CPU whatever the weights are."""
    return DTYPE_BYTES["fp32" if kind == "cpu" else dtype]


def _workspace_bytes(
    model: ModelConfig,
    vocab_size: int,
    tensor: int,
    pipeline: int,
    stage: int,
    dtype: Precision,
    context: int,
) -> int:
    """Activations of the largest forward pass, as if none of a layer's tensors were freed before its end.

    For ``T = prefill_tokens(context)`` tokens a layer holds, in the model's dtype: the residual stream, the
    normed input and the outputs of attention and MLP (``4 T H``, not split by tensor parallelism); query, key
    and value, rotated copies and the attention's result (``7 T H / tp``); the MLP's inner activation
    before and after GELU (``2 T I / tp``). scaled_dot_product_attention never materialises the scores; scoring on a
    CPU does, for short rows in passes of a quarter of the tokens. The last stage adds ``LOGIT_ROWS`` rows of fp32
    logits twice: as computed, and as the sampler's probabilities.
    """
    workspace = prefill_tokens(context) * _token_bytes(model, tensor, dtype)
    if stage == pipeline - 1:
        workspace += 2 * LOGIT_ROWS * vocab_size * DTYPE_BYTES["fp32"]
    return workspace


def _token_bytes(model: ModelConfig, tensor: int, dtype: Precision) -> int:
    width = 4 * model.hidden_size + (7 * model.hidden_size + 2 * model.intermediate_size) // tensor
    return width * DTYPE_BYTES[dtype]


def scoring_tokens(model: ModelConfig, *, tensor: int, dtype: Precision, kind: DeviceKind, spare: int) -> int:
    """Most tokens of a pass that only scores, on one rank.

    Args:
        model: the network.
        tensor: tensor-parallel size.
        dtype: number format of the weights.
        kind: of the device.
        spare: bytes for the key-value cache, which scoring does without.
    """
    # Query, key, value and result once more for attention, where rows are padded by a quarter at most; counted twice.
    padded = 8 * model.hidden_size // tensor * DTYPE_BYTES[dtype]
    per_token = _token_bytes(model, tensor, dtype) + padded + _MASK_BYTES * PREFILL_TOKENS
    return min(_MOST_SCORED[kind], PREFILL_TOKENS + spare // per_token)


def stage_needs(
    model: ModelConfig,
    vocab_size: int,
    *,
    tensor: int,
    pipeline: int,
    dtype: Precision,
    kind: DeviceKind,
    context: int,
) -> tuple[RankNeed, ...]:
    """What one rank of every stage holds, when prompts may be ``context`` tokens long."""
    if kind == "cpu":
        runtime = CPU_RANK_BYTES
    else:
        runtime = CUDA_RANK_BYTES + (NCCL_BYTES if tensor * pipeline > 1 else 0)
    needs = []
    for stage in range(pipeline):
        layers = stage_layers(model.num_layers, pipeline, stage)
        needs.append(
            RankNeed(
                layers=layers,
                weights_bytes=stage_parameters(model, vocab_size, tensor, pipeline, stage) * DTYPE_BYTES[dtype],
                workspace_bytes=runtime + _workspace_bytes(model, vocab_size, tensor, pipeline, stage, dtype, context),
                kv_bytes_per_token=2 * len(layers) * model.hidden_size // tensor * cache_value_bytes(dtype, kind),
            )
        )
    return tuple(needs)


def host_peak_bytes(
    model: ModelConfig,
    vocab_size: int,
    needs: tuple[RankNeed, ...],
    tensor: int,
    dtype: Precision,
    kind: DeviceKind,
) -> int:
    """Peak host memory of one rank while it loads: one layer, or the embedding, at a time passes through.

    On the CPU the rank's shard stays there too.
    """
    vocabulary = len(vocab_shard(vocab_size, tensor, 0)) * model.hidden_size
    piece = max(layer_parameters(model, tensor), vocabulary) * DTYPE_BYTES[dtype]
    if kind == "cuda":
        return piece + CUDA_HOST_BYTES
    return piece + max(need.weights_bytes for need in needs) + CPU_RANK_BYTES
