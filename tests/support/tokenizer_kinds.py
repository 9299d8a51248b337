"""Tokenizers of the kinds that GPT-NeoX models come with, tiny, in folders as they are published."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from support.paths import ROOT

END = "<|endoftext|>"
CHAT = ("<|prompter|>", "<|assistant|>", "<|system|>", "<|im_start|>", "<|im_end|>")
_OTHER = "日本語のテキスト。東京は晴れです。\nこんにちは、世界。한국어 문장입니다.\n"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8") + _OTHER * 8

ODD_TEXTS = (
    "",
    " ",
    "   ",
    "\n",
    "a",
    "Hello, world!",
    " leading and trailing ",
    "two  spaces\tand\ta tab\n\n\nlines\r\n",
    "def f(x):\n    return x ** 2  # 'quoted' \"text\"",
    "e\u0301 \u1e9b\u0323 \ufb01 \u2460 \uff21\uff22 \u00bd",  # composed by NFC, changed by NFKC
    "日本語と English と한국어、全角　空白。",
    "👩\u200d👩\u200d👧 🇯🇵 😀\ufe0f",
    "\u0000\u0007\u200b\ufeff\u00a0\u2028\U0010ffff",
    "don't can't I'm we've . , ! ?",
    f"{END}a{END}{END} b {END}",
    "<|prompter|>Hi<|endoftext|><|assistant|>",
    "<|im_start|>user\nHi <|im_end|>\n<|im_start|> assistant",
    "<s>x</s> <unk><pad> </s>y <|padding|>",
    "<0x0A> ▁ ▁▁a <extra_id_0>",
    "1234567890 3.14 1,000,000",
    "\ud7a3\u1112\u1161\u11ab",
    "x" * 70,
)


def byte_level(normalizer: normalizers.Normalizer | None = None) -> Library:
    """Byte-level BPE with GPT-NeoX's special tokens, as most models have it."""
    library = Library(models.BPE())
    library.normalizer = normalizer  # type: ignore[assignment]
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END, "<|padding|>"], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator([TEXT], trainer)
    return library


def llama_bpe(*, modern: bool) -> Library:
    """BPE of words that begin with U+2581, with byte fallback; in the form of transformers 4 or 5."""
    library = Library(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    library.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False, limit_alphabet=80)
    )
    content = json.loads(library.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    library = Library.from_str(json.dumps(content))
    if modern:
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        library.pre_tokenizer = None  # type: ignore[assignment]
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    begin = [("<s>", library.token_to_id("<s>"))]
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=begin)
    return library


def unigram() -> Library:
    """Unigram with byte fallback, as a conversion of a SentencePiece model has it."""
    library = Library(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    library.train_from_iterator(
        [TEXT], trainers.UnigramTrainer(vocab_size=600, special_tokens=specials, unk_token="<unk>", show_progress=False)
    )
    content = json.loads(library.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    content["model"]["byte_fallback"] = True
    library = Library.from_str(json.dumps(content))
    library.normalizer = normalizers.NFKC()
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return library


def with_punctuation() -> Library:
    """Unigram whose words are often what ``clean_up_tokenization_spaces`` is about."""
    words = ["<unk>", END, *"▁.?!,'msx", "▁.", "▁!", "▁,", "▁'", "n't", "▁n't", "ve", "re"]
    library = Library(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    library.decoder = decoders.Metaspace(prepend_scheme="never")
    library.add_special_tokens([END])
    return library


def spiece(**options: Any) -> bytes:
    """A SentencePiece model with byte fallback."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        **{"vocab_size": 600, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2, **options},
    )
    return model.getvalue()


def ends_texts(library: Library, token: str = END, *, single: str = f"$A {END}") -> Library:
    """The same with a post-processor that adds a token to every text."""
    library.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, library.token_to_id(token))]
    )
    return library


def added(number: int, content: str, **flags: bool) -> dict[str, dict[str, Any]]:
    """An entry of ``added_tokens_decoder``."""
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {str(number): {"content": content, **plain, **flags}}


def _bytes_folder(library: Callable[[], Library], **files: Any) -> dict[str, Any]:
    return {"tokenizer.json": library, **{name.replace("__", "."): content for name, content in files.items()}}


NEOX: dict[str, Any] = {"tokenizer_class": "GPTNeoXTokenizer", "eos_token": END, "bos_token": END, "unk_token": END}
FAST: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
LLAMA: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}

KINDS: dict[str, dict[str, Any]] = {
    "config.json alone": _bytes_folder(byte_level),
    "pythia": _bytes_folder(lambda: byte_level(normalizers.NFC()), tokenizer_config__json=NEOX),
    "nfkc in the file": _bytes_folder(lambda: byte_level(normalizers.NFKC()), tokenizer_config__json=NEOX),
    "polyglot": _bytes_folder(
        lambda: byte_level(normalizers.NFC()),
        tokenizer_config__json=FAST,
        special_tokens_map__json={"eos_token": END, "pad_token": END, "additional_special_tokens": ["<|sep|>", END]},
    ),
    "open-assistant": _bytes_folder(
        byte_level,
        tokenizer_config__json={
            **NEOX,
            "added_tokens_decoder": {
                **added(0, END),
                **added(1, "<|padding|>"),
                **added(400, "    ", special=False, normalized=True),
                **added(401, "<|prompter|>"),
                **added(402, "<|assistant|>", rstrip=True),
                **added(403, "<|im_end|>", lstrip=True, special=False),
            },
            "additional_special_tokens": ["<|prompter|>", "<|assistant|>", "<|system|>"],
            "sep_token": END,
            "pad_token": "<|padding|>",
        },
    ),
    "h2ogpt": _bytes_folder(
        byte_level,
        tokenizer_config__json=NEOX,
        special_tokens_map__json={
            "eos_token": {"content": "<|im_end|>", "lstrip": False, "rstrip": True, "normalized": False},
            "bos_token": END,
            "cls_token": "<|cls|>",
        },
        added_tokens__json={"<|im_end|>": 401, "<|im_start|>": 400, "<human>": 402},
    ),
    "own names of tokens": _bytes_folder(
        byte_level,
        tokenizer_config__json={**NEOX, "bos_token": None, "image_token": "<|image|>", "add_prefix_space": True},
    ),
    "end added, class without it": _bytes_folder(
        lambda: ends_texts(byte_level()), tokenizer_config__json={**NEOX, "add_eos_token": False}
    ),
    "end added": _bytes_folder(lambda: ends_texts(byte_level()), tokenizer_config__json=FAST),
    "begin added": _bytes_folder(
        lambda: ends_texts(byte_level(), single=f"{END} $A"), tokenizer_config__json={**FAST, "add_bos_token": False}
    ),
    "gpt2": _bytes_folder(byte_level, tokenizer_config__json={**NEOX, "tokenizer_class": "GPT2TokenizerFast"}),
    "special tokens split": _bytes_folder(byte_level, tokenizer_config__json={**FAST, "split_special_tokens": True}),
    "unigram": _bytes_folder(
        unigram, tokenizer_config__json={**FAST, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ),
    "unigram, cleaned": _bytes_folder(
        with_punctuation,
        tokenizer_config__json={**FAST, "unk_token": "<unk>", "clean_up_tokenization_spaces": True},
    ),
    "byte-level BPE is not cleaned": _bytes_folder(
        byte_level, tokenizer_config__json={**NEOX, "clean_up_tokenization_spaces": True}
    ),
    "byte-level BPE, cleaned all the same": _bytes_folder(
        byte_level,
        tokenizer_config__json={
            **NEOX,
            "clean_up_tokenization_spaces": True,
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
        },
    ),
    "llama of transformers 4": _bytes_folder(lambda: llama_bpe(modern=False), tokenizer_config__json=LLAMA),
    "llama of transformers 5": _bytes_folder(lambda: llama_bpe(modern=True), tokenizer_config__json=LLAMA),
    "llama, legacy": _bytes_folder(lambda: llama_bpe(modern=False), tokenizer_config__json={**LLAMA, "legacy": True}),
    "llama, byte-level": _bytes_folder(
        byte_level, tokenizer_config__json={**NEOX, "tokenizer_class": "LlamaTokenizer"}
    ),
}


def write_kind(folder: Path, files: dict[str, Any]) -> Path:
    """Write a folder of ``KINDS``, with a config.json; returns the tokenizer's file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": {"model_type": "gpt_neox"}, **files}.items():
        if name == "tokenizer.json":
            content().save(str(folder / name))
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    names = ("tokenizer.json", "tokenizer.model", "spiece.model")
    return folder / next((name for name in names if name in files), "vocab.json")
