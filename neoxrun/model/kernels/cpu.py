"""The choice among torch's kernels for a linear layer and for attention.

In bf16 on a CPU, oneDNN's linear kernels are faster with weights in oneDNN's layout, and with GELU in the same kernel:
by itself GELU takes a third of the product's time, most of it reading and writing memory. torch has no public names for
these kernels; where they are missing, and on other devices and types, the ordinary ones are used. For one token nothing
is as fast as torch's own product of a matrix and a vector, which needs the ordinary layout: on two cores it reads 28 to
43 GB/s, oneDNN's kernels 22 to 29 with their layout and 13 to 18 without.

For short sequences on a CPU, ``scaled_dot_product_attention`` takes up to twice as long as two matrix products and a
softmax.

Shapes: ``B`` batch, ``T`` tokens, ``I`` / ``O`` input and output width, ``N`` heads, ``D`` head dim.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F

Gelu = Literal["tanh", "erf"]
"""The two forms of GELU (Hendrycks and Gimpel, 2016): the approximation by tanh, and the exact one."""

_APPROXIMATE: dict[Gelu, str] = {"tanh": "tanh", "erf": "none"}  # as torch calls them
_TOKENS = 1024  # tokens of a pass for which oneDNN chooses the layout
# Most tokens of a short sequence, measured: the attention scores of longer ones do not fit the CPU's caches.
_SHORT = {torch.bfloat16: 320, torch.float16: 160, torch.float32: 160}


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` ``[O, I]`` in the layout in which ``linear`` is fastest; no other function can read the result."""
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not _has_packed_kernels():
        return weight
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)
    return packed


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: Gelu | None = None
) -> torch.Tensor:
    """``activation(x W^T + b)``: ``[T, I] -> [T, O]``, with a weight that may be packed."""
    if weight.is_mkldnn:
        fused = ("none", "") if activation is None else ("gelu", _APPROXIMATE[activation])
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, fused[0], [], fused[1])
        return y
    if x.dtype == torch.bfloat16 and x.shape[0] == 1 and not x.is_cuda:
        y = _product_with_vector(x, weight, bias)
        return y if activation is None else gelu(y, activation)
    if (
        activation == "tanh"
        and bias is not None
        and x.is_cuda
        and x.dim() == 2
        and not torch.is_grad_enabled()
        and hasattr(torch, "_addmm_activation")
    ):
        # cuBLAS does the two in one kernel, which has no gradient.
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
    y = F.linear(x, weight, bias)
    return y if activation is None else gelu(y, activation)


def gelu(x: torch.Tensor, form: Gelu) -> torch.Tensor:
    """GELU in one of its forms."""
    return F.gelu(x, approximate=_APPROXIMATE[form])


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """``softmax(q k^T / sqrt(D)) v``: ``[B, N, T, D]`` in the type of ``v``.

    Args:
        q, k, v: ``[B, N, T, D]``; ``v`` may have a narrower type than ``q`` and ``k``.
        mask: bool ``[B, 1, T, T]``, True where a token attends. None: to itself and all tokens before it.
    """
    length, width = q.shape[-2:]
    if q.device.type != "cpu" or length > _SHORT[v.dtype]:
        out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask, is_causal=mask is None)
        return out.to(v.dtype)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()
    scores = torch.matmul(q * width**-0.5, k.transpose(-1, -2))
    # Adding takes a tenth of the time that masked_fill takes on the scores.
    scores += torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    # Products in fp16 are slow on a CPU.
    dtype = torch.bfloat16 if v.dtype == torch.bfloat16 else torch.float32
    return torch.matmul(scores.softmax(-1).to(dtype), v.to(dtype)).to(v.dtype)


def _product_with_vector(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x W^T + b`` of one token, ``[1, I] -> [1, O]``, by torch's own kernel: it is used where oneDNN is off."""
    settings: Any = torch.backends.mkldnn
    enabled = settings.enabled
    settings.enabled = False
    try:
        return F.linear(x, weight, bias)
    finally:
        settings.enabled = enabled


@cache
def _has_packed_kernels() -> bool:
    kernels = torch.ops.mkldnn
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    return all(hasattr(kernels, name) for name in names) and bool(kernels._is_mkldnn_bf16_supported())
