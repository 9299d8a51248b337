"""A tiny chat model as it is published: a folder with chat tokens and a chat template; and a YAML for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import AutoTokenizer

from support.checkpoints import tiny
from support.hugging_face import twin
from support.tokenizer_kinds import END, NEOX, added, byte_level, write_kind

ROWS, NEW = 512, 12
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER: dict[str, Any] = {
    **NEOX,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|im_start|>",
    "added_tokens_decoder": {
        **added(0, END),
        **added(1, "<|padding|>"),
        **added(400, "<|im_start|>"),
        **added(401, "<|im_end|>"),
    },
    "chat_template": TEMPLATE,
}
MESSAGES = [{"role": "user", "content": "Which file has the weights?"}]


class Chat(NamedTuple):
    """The model: its folder and configuration, the prompt of MESSAGES, and the tokens before ``<|im_end|>``."""

    folder: Path
    config: Path
    prompt: str
    before: list[int]
    text: str


def write_chat_model(folder: Path) -> Chat:
    """A random model, whose head is changed so that its greedy answer soon has ``<|im_end|>``."""
    network = replace(tiny(), seq_length=128, max_position_embeddings=128)
    model = twin(network, ROWS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)  # answers that do not repeat one token
    model.save_pretrained(folder)
    write_kind(
        folder,
        {
            "tokenizer.json": byte_level,
            "tokenizer_config.json": TOKENIZER,
            "config.json": json.loads((folder / "config.json").read_text()) | {"eos_token_id": None},
        },
    )
    (folder / "generation_config.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def answer() -> list[int]:
        options: Any = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None, "pad_token_id": 0}
        return model.generate(prompt, **options)[0, prompt.shape[1] :].tolist()

    tokens = answer()
    at = next(n for n in range(2, NEW) if tokens[n] not in (*tokens[:n], 0, 1, 400, 401))
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[[tokens[at], end]] = head[[end, tokens[at]]]
    assert answer()[: at + 1] == [*tokens[:at], end]
    model.save_pretrained(folder / "weights")
    (folder / "weights" / "model.safetensors").replace(folder / "model.safetensors")
    config = folder / "chat.yml"
    options = {
        "load": str(folder),
        "vocab_file": str(folder / "tokenizer.json"),
        "tokenizer_type": "HFTokenizer",
        "num_layers": network.num_layers,
        "hidden_size": network.hidden_size,
        "num_attention_heads": network.num_attention_heads,
        "intermediate_size": network.intermediate_size,
        "seq_length": network.seq_length,
        "max_position_embeddings": network.max_position_embeddings,
        "pos_emb": "rotary",
        "rotary_pct": network.rotary_pct,
        "rotary_emb_base": network.rotary_emb_base,
        "gpt_j_residual": network.gpt_j_residual,
        "norm": "layernorm",
        "layernorm_epsilon": network.norm_epsilon,
        "bias_gelu_fusion": network.gelu == "tanh",
        "no_weight_tying": not network.tie_embeddings,
        "use_bias_in_attn_linear": True,
        "precision": "fp32",
    }
    config.write_text(yaml.safe_dump(options))
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    return Chat(folder, config, text, tokens[:at], tokenizer.decode(tokens[:at], skip_special_tokens=True))
