"""Tokenizers of every kind that GPT-NeoX models come with encode and decode as transformers does, and so do chats."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import transformers

from neoxrun.config.settings import TokenizerConfig
from neoxrun.tokenizer import Tokenizer, load_tokenizer, vocabulary_size
from neoxrun.tokenizer.chat import read_chat_template
from support.tokenizer_files import streamed
from support.tokenizer_kinds import END, KINDS, LLAMA, NEOX, ODD_TEXTS, TEXT, added, byte_level, spiece, write_kind

# As LlamaTokenizer's models are trained.
_LLAMA_MODEL: dict[str, Any] = {
    "model_type": "bpe",
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
SPIECE_KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tokenizer_config.json": LLAMA},
    "llama that begins texts": {"tokenizer_config.json": {**LLAMA, "add_bos_token": True}},
    "llama that begins and ends texts": {
        "tokenizer_config.json": {**LLAMA, "add_bos_token": True, "add_eos_token": True, "legacy": True}
    },
    "llama with chat tokens": {
        "tokenizer_config.json": {
            **LLAMA,
            "add_prefix_space": False,
            "added_tokens_decoder": {**added(0, "<unk>"), **added(600, "<|im_start|>"), **added(601, "<|im_end|>")},
        }
    },
}


def both(path: Path) -> tuple[Tokenizer, TokenizerConfig, Any]:
    config = TokenizerConfig("HFTokenizer", path, None)
    return load_tokenizer(config), config, transformers.AutoTokenizer.from_pretrained(path.parent)


def check_equal(ours: Tokenizer, reference: Any, entries: int) -> None:
    for text in ODD_TEXTS:
        ids = reference(text)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.encode(text, complete=True) == reference(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True), text
    assert ours.encode_all(list(ODD_TEXTS)) == [ours.encode(text) for text in ODD_TEXTS]
    draw = random.Random(1)
    for _ in range(100):
        ids = [draw.randrange(entries) for _ in range(12)]
        decoded = reference.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == "".join(streamed(ours, ids)) == decoded, ids
    assert dict(ours.names) == reference.special_tokens_map
    assert (ours.bos, ours.eos) == (reference.bos_token_id, reference.eos_token_id)
    assert ours.vocab_size == len(reference)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_json_and_its_siblings(kind: str, tmp_path: Path) -> None:
    ours, config, reference = both(write_kind(tmp_path, KINDS[kind]))
    check_equal(ours, reference, len(reference))
    assert vocabulary_size(config) == len(reference)


@pytest.mark.parametrize("kind", ["config.json alone", "pythia", "open-assistant", "h2ogpt", "gpt2", "begins texts"])
def test_gpt2s_files_and_their_siblings(kind: str, tmp_path: Path) -> None:
    files = dict(KINDS.get(kind, {"tokenizer_config.json": {**NEOX, "add_bos_token": True, "add_eos_token": True}}))
    files.pop("tokenizer.json", None)
    byte_level().model.save(str(tmp_path))
    write_kind(tmp_path, files)
    config = TokenizerConfig("GPT2BPETokenizer", tmp_path / "vocab.json", tmp_path / "merges.txt")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    check_equal(load_tokenizer(config), reference, len(reference))
    assert vocabulary_size(config) == len(reference)


@pytest.mark.parametrize("kind", SPIECE_KINDS)
def test_a_sentencepiece_model_of_llamas_kind(kind: str, tmp_path: Path) -> None:
    ours, config, reference = both(
        write_kind(tmp_path, {"tokenizer.model": spiece(**_LLAMA_MODEL)} | SPIECE_KINDS[kind])
    )
    check_equal(ours, reference, len(reference))
    assert vocabulary_size(config) == len(reference)


@pytest.mark.parametrize("cleaned", [False, True])
def test_other_sentencepiece_models_where_transformers_keeps_them(cleaned: bool, tmp_path: Path) -> None:
    """Its T5Tokenizer has no byte fallback, so only texts of the model's own pieces are compared."""
    config = {"tokenizer_class": "T5Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "extra_ids": 0}
    config["clean_up_tokenization_spaces"] = cleaned
    ours, _, reference = both(write_kind(tmp_path, {"spiece.model": spiece(), "tokenizer_config.json": config}))
    compared = 0
    for line in (*TEXT.splitlines(), "a , b . it 's"):
        ids = ours.encode(line)
        if not any(map(ours.is_byte, ids)) and "<" not in line:
            assert ids == reference(line, add_special_tokens=False)["input_ids"], line
            assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True), line
            compared += 1
    assert compared > 50
    assert (ours.decode(ours.encode("a , b")) == "a, b") is cleaned


TEMPLATES = {
    "roles": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "white space, namespace, loop controls": """
{%- set ns = namespace(system='') -%}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% set ns.system = message.content | trim %}{% continue %}{% endif %}
    {% generation %}
{{ bos_token }}{{ ns.system }} {{ message | tojson(indent=2) }}
    {% endgeneration %}
{% endfor %}
{{- 'Bot:' if add_generation_prompt }}""",
}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": " Be <b>brief</b> & kind. "},
        {"role": "user", "content": "日本語 \u2028 'x' \"y\""},
        {"role": "assistant", "content": "Hm.", "thinking": "why", "name": None},
        {"role": "user", "content": "  spaces  \n"},
    ],
]


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja", "several"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_chats(file: str, name: str, tmp_path: Path) -> None:
    template = TEMPLATES[name]
    options: dict[str, Any] = dict(NEOX)
    files: dict[str, Any] = {"tokenizer.json": byte_level, "tokenizer_config.json": options}
    if file == "tokenizer_config.json":
        options["chat_template"] = template
    elif file == "several":
        options["chat_template"] = [{"name": "tools", "template": "no"}, {"name": "default", "template": template}]
    else:
        options["chat_template"] = "the file next to it is used instead"
        files[file] = template.encode()
    ours, config, reference = both(write_kind(tmp_path, files))
    chat = read_chat_template(config)
    for messages in CHATS:
        text = chat.render(messages)
        assert text == reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = reference.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert ours.encode(text, complete=True) == ids
        continued = reference.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        assert chat.render(messages, answer=False) == continued
    assert END in chat.render(CHATS[0])
