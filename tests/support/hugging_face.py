"""Hugging Face's model of a network of ours."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from neoxrun.config.rope import write_rope_scaling
from neoxrun.config.settings import ModelConfig, RopeScaling


def scaling_keys(scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys of ``rope_parameters`` that say how rotary angles are scaled."""
    return {"rope_type": "default"} if scaling is None else write_rope_scaling(scaling)


def twin(config: ModelConfig, rows: int) -> GPTNeoXForCausalLM:
    """Hugging Face's model of the same network, with random weights."""
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=rows,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            hidden_act="gelu_fast" if config.gelu == "tanh" else "gelu",
            layer_norm_eps=config.norm_epsilon,
            max_position_embeddings=config.seq_length,
            use_parallel_residual=config.gpt_j_residual,
            rope_parameters={
                **scaling_keys(config.rope_scaling),
                "rope_theta": config.rotary_emb_base,
                "partial_rotary_factor": config.rotary_pct,
            },
            tie_word_embeddings=config.tie_embeddings,
        )
    ).eval()
