"""Models to measure: published shapes with random weights, as a Hugging Face folder and as GPT-NeoX layer files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.config.reader import load_settings

SHAPES = ("pythia-14m", "pythia-70m", "pythia-160m", "pythia-410m")
VOCABULARY = 50304


def make(shape: str, folder: Path, dtype: torch.dtype) -> Path:
    """A folder with ``hf/`` and ``neox/`` (the same random weights in ``dtype``), a tokenizer and ``config.yml``."""
    if (folder / "config.yml").exists():
        return folder
    model = load_settings([shape]).model
    torch.manual_seed(0)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=model.hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_attention_heads,
            intermediate_size=model.intermediate_size,
            hidden_act="gelu_fast",
            rotary_pct=model.rotary_pct,
            max_position_embeddings=model.seq_length,
            use_parallel_residual=model.gpt_j_residual,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).to(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder / "hf")
    state = from_huggingface(network.state_dict())
    save_layer_files(state, folder / "neox", tp=1, config=model, tag="global_step0")
    _write_tokenizer(folder / "tokenizer.json")
    (folder / "config.yml").write_text(f"load: {folder}/neox\nvocab_file: {folder}/tokenizer.json\n", encoding="utf-8")
    return folder


def _write_tokenizer(path: Path) -> None:
    """A tokenizer as large as the models', of single bytes and unused words: nobody reads the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: 1 + i for i, letter in enumerate(alphabet)}
    vocabulary |= {f"<{i}>": i for i in range(len(vocabulary), VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    path.write_text(json.dumps(json.loads(tokenizer.to_str())), encoding="utf-8")
