"""Adapters for tests, made by PEFT itself on Hugging Face's model of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPTNeoXForCausalLM

TARGETS = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]


def save_peft_adapter(
    model: GPTNeoXForCausalLM, folder: Path, *, seed: int = 3, safe: bool = True, **options: Any
) -> None:
    """Write an adapter whose B is not zero. ``model`` itself stays as it is."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "init_lora_weights": False} | options
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    adapted.save_pretrained(folder, safe_serialization=safe)
    adapted.unload()


@torch.no_grad()
def peft_logits(model: GPTNeoXForCausalLM, folder: Path, prompts: list[list[int]]) -> list[Tensor]:
    """Logits ``[T, V]`` of each prompt with the adapter in a folder, which PEFT applies without merging it."""
    adapted = PeftModel.from_pretrained(model, folder).eval()
    found = [adapted(torch.tensor([prompt])).logits[0] for prompt in prompts]
    adapted.unload()
    return found
