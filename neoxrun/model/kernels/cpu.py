"""Which of torch's kernels computes a linear layer, and which attention.

In bf16 on a CPU oneDNN's are faster with weights in a layout of its own, for one token as for thousands, and with GELU
in the same kernel, which by itself takes a third of the product's time, most of it to read and write memory. torch has
no public names for them; without them, and everywhere else, its ordinary ones serve.

On a CPU, ``scaled_dot_product_attention`` takes up to twice as long for short sequences as its two products and the
softmax between them.

Shapes: ``B`` batch, ``T`` tokens, ``I`` / ``O`` input and output width, ``N`` heads, ``D`` head dim.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

Gelu = Literal["tanh", "erf"]
"""The two forms of GELU (Hendrycks and Gimpel, 2016): the approximation by tanh, and the exact one."""

_APPROXIMATE: dict[Gelu, str] = {"tanh": "tanh", "erf": "none"}  # as torch calls them
_TOKENS = 1024  # of the passes that the layout is chosen for
# Tokens, measured: with longer sequences the scores leave the CPU's caches.
_SHORT = {torch.bfloat16: 320, torch.float16: 160, torch.float32: 160}


def packed(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` ``[O, I]`` as ``linear`` likes it best; nothing else takes the result."""
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not _has_packed():
        return weight
    own: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)
    return own


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Gelu | None = None
) -> torch.Tensor:
    """``activation(x W^T + b)``: ``[B, T, I] -> [B, T, O]``, with a weight that may be packed."""
    if weight.is_mkldnn:
        fused = ("none", "") if activation is None else ("gelu", _APPROXIMATE[activation])
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, fused[0], [], fused[1])
        return y
    y = F.linear(x, weight, bias)
    return y if activation is None else F.gelu(y, approximate=_APPROXIMATE[activation])


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``softmax(q k^T / sqrt(D)) v``: ``[B, N, T, D]``, in the type of ``v``, which may be a narrower one.

    Args:
        q, k, v: ``[B, N, T, D]``.
        mask: bool ``[B, 1, T, T]``, True where a token may look. None: at all that stand before it.
    """
    length, width = q.shape[-2:]
    if q.device.type != "cpu" or length > _SHORT[v.dtype]:
        out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask, is_causal=mask is None)
        return out.to(v.dtype)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()
    scores = torch.matmul(q * width**-0.5, k.transpose(-1, -2))
    # Adding takes a tenth of the time of filling by a mask.
    scores += torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    # Products in fp16 are slow on a CPU.
    dtype = torch.bfloat16 if v.dtype == torch.bfloat16 else torch.float32
    return torch.matmul(scores.softmax(-1).to(dtype), v.to(dtype)).to(v.dtype)


@cache
def _has_packed() -> bool:
    ours = torch.ops.mkldnn
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    return all(hasattr(ours, name) for name in names) and bool(ours._is_mkldnn_bf16_supported())
