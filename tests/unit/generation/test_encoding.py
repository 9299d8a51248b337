"""Each prompt is encoded once, and checked against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.sampling import SamplingParams
from neoxrun.generation.encoding import EncodedPrompt, PromptEncoder
from neoxrun.generation.prompts import Prompt, expand_prompt
from support.tiny_models import demo_tokenizer
from support.tokenizer_files import load_hugging_face
from support.tokenizer_kinds import END, FAST, byte_level, ends_texts, write_kind

TOKENIZER = demo_tokenizer()
SIZE = TOKENIZER.vocab_size


def encode(context: str, params: SamplingParams | None = None, **how: Any) -> EncodedPrompt:
    encoder = PromptEncoder(**{"tokenizer": TOKENIZER, "vocab_size": SIZE, "max_context": 20} | how)
    (encoded,) = encoder.encode([Prompt(0, None, context, params or SamplingParams())])
    return encoded


class Counting:
    """A tokenizer that says what it was asked."""

    start = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, text: str, *, complete: bool = False) -> list[int]:
        self.asked.append(text)
        return TOKENIZER.encode(text)


def test_a_text_is_encoded_once() -> None:
    tokenizer = Counting()
    encoder = PromptEncoder(tokenizer, vocab_size=SIZE, max_context=20, truncate="left")
    prompts = [
        prompt
        for index, text in enumerate(["import os", "class Queue:", "import os", "x = 1 " * 30])
        for prompt in expand_prompt(index, index, text, SamplingParams(maximum_tokens=5), 3)
    ]
    encoded = encoder.encode(prompts)
    assert [one.prompt for one in encoded] == prompts
    assert tokenizer.asked == ["import os", "class Queue:", "x = 1 " * 30]
    for one in encoded[:9]:
        assert list(one.ids) == TOKENIZER.encode(one.prompt.context)
    assert list(encoded[-1].ids) == TOKENIZER.encode("x = 1 " * 30)[-15:]


def test_nothing_is_added_to_what_a_chat_template_wrote(tmp_path: Path) -> None:
    folder = {"tokenizer.json": lambda: ends_texts(byte_level(), single=f"{END} $A"), "tokenizer_config.json": FAST}
    tokenizer = load_hugging_face(write_kind(tmp_path, folder))
    prompts = [Prompt(number, None, "a", SamplingParams(), complete) for number, complete in enumerate((False, True))]
    encoder = PromptEncoder(tokenizer, vocab_size=tokenizer.vocab_size, max_context=20)
    plain, chat = encoder.encode(prompts)
    assert list(plain.ids) == [tokenizer.eod, *chat.ids]


def test_an_empty_prompt_begins_with_the_models_own_token(tmp_path: Path) -> None:
    names = {**FAST, "bos_token": "<|padding|>"}
    tokenizer = load_hugging_face(write_kind(tmp_path, {"tokenizer.json": byte_level, "tokenizer_config.json": names}))
    assert list(encode("", tokenizer=tokenizer).ids) == [1]


def test_nothing_is_said_of_a_prompt_that_fits() -> None:
    assert encode("import os").notice is None
    empty = encode("")
    assert (list(empty.ids), empty.notice) == ([TOKENIZER.eod], None)
    longest = TOKENIZER.decode(TOKENIZER.encode("a b c d e f g h i j k l m n o p q r s t u v")[:19])
    assert len(TOKENIZER.encode(longest)) == 19, "one token less than the context"
    assert encode(longest).notice is None


@pytest.mark.parametrize(
    ("code", "says", "context", "how"),
    [
        ("prompt_too_long", "the context holds 20", "x = 1 " * 30, {}),
        ("bad_token_id", "ids 0 to 4", "import os", {"vocab_size": 5}),
        ("bad_logit_bias", f"names id {SIZE}", "import os", {"params": SamplingParams(logit_bias={1: 0, SIZE: 2.0})}),
        ("no_end_of_document_token", "<|endoftext|>", "", {"tokenizer": Counting()}),
    ],
)
def test_a_prompt_that_cannot_be_answered_has_a_code(code: str, says: str, context: str, how: dict) -> None:
    encoded = encode(context, **how)
    assert len(encoded.ids) == 0
    assert encoded.notice is not None
    assert encoded.notice.code == code
    assert says in encoded.notice.message


def test_a_wrong_prompt_is_refused_before_it_is_cut() -> None:
    text = TOKENIZER.decode([SIZE - 1]) + " x" * 40
    first, *others = TOKENIZER.encode(text)
    assert first > max(others[-19:]), "what would be kept is right"
    encoded = encode(text, truncate="left", vocab_size=max(others[-19:]) + 1)
    assert encoded.notice is not None
    assert encoded.notice.code == "bad_token_id"
