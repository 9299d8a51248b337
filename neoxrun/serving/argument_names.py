"""What other tools call the arguments of ``LLM``. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FOREIGN_ARGUMENTS: Final[Mapping[str, str]] = {
    "model": "configuration",
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "torch_dtype": "dtype",
    "precision": "dtype",
    "max_num_seqs": "batch_size",
    "enforce_eager": "eager",
    "checkpoint_dir": "checkpoint",
    "vocab_file": "tokenizer",
    "peft": "adapter",
    "lora_path": "adapter",
}
"""What vLLM, transformers, litgpt, lm-eval and GPT-NeoX call the arguments of ``LLM``."""

EXPLAINED_ARGUMENTS: Final[Mapping[str, str]] = {
    "max_model_len": 'overrides=["seq_length=N"] shortens the context.',
    "gpu_memory_utilization": "Leave it out: the cache takes what is free.",
    "trust_remote_code": "Leave it out: nothing in a model's files is executed.",
    "revision": "`neoxrun download NAME --revision REVISION` fetches it, and says which folder to name.",
    "device_map": "Leave it out; tp and pp divide a model, device and gpus choose where it runs.",
    "enable_lora": "Leave it out: adapter=DIR is merged into the weights.",
    "quantization": "Quantised weights are not supported; dtype='fp16' or 'bf16' takes 2 bytes a parameter.",
    "load_in_8bit": "Quantised weights are not supported; dtype='fp16' or 'bf16' takes 2 bytes a parameter.",
    "load_in_4bit": "Quantised weights are not supported; dtype='fp16' or 'bf16' takes 2 bytes a parameter.",
    "seed": "Give it with the sampling parameters: SamplingParams(seed=1).",
    "replicas": "An LLM is one replica: make one for each group of GPUs, with gpus=(0, 1).",
}
"""Names that nothing here takes the place of, and what to do instead."""
