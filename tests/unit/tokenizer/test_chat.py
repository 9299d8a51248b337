"""Chat templates that are absent, wrong, hostile or strict. (What they render is compared in tests/parity.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.settings import TokenizerConfig
from neoxrun.errors import DataError
from neoxrun.tokenizer.chat import ChatTemplate, RefusedMessagesError, read_chat_template

USER = {"role": "user", "content": "Hello"}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"eos_token": "</s>"}, Path("tokenizer_config.json"))


def code_of(source: str, messages: object = (USER,), **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        template(source).render(list(messages) if isinstance(messages, tuple) else messages, **options)
    return caught.value.code


def test_a_model_without_a_template(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for options in (
        None,
        {"tokenizer_class": "GPTNeoXTokenizer"},
        {"chat_template": [{"name": "rag", "template": "x"}]},
    ):
        if options is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
        with pytest.raises(DataError, match="has no chat template") as caught:
            read_chat_template(TokenizerConfig("HFTokenizer", path, None))
        assert caught.value.code == "no_chat_template"
    with pytest.raises(DataError, match="names no tokenizer"):
        read_chat_template(TokenizerConfig("HFTokenizer", None, None))


def test_a_template_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("\n{% for m in %}")
    with pytest.raises(DataError, match="line 2") as caught:
        read_chat_template(TokenizerConfig("HFTokenizer", tmp_path / "tokenizer.json", None))
    assert caught.value.code == "bad_chat_template"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_chat_template(TokenizerConfig("HFTokenizer", tmp_path / "tokenizer.json", None))


def test_a_template_that_refuses_the_messages() -> None:
    strict = template("{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}x")
    with pytest.raises(RefusedMessagesError, match="no system role") as caught:
        strict.render([{"role": "system", "content": ""}], where="chat.jsonl:3")
    assert (caught.value.code, caught.value.where) == ("bad_prompt", "chat.jsonl:3")
    assert strict.render([USER]) == "x"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ namespace(_x=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ range(10**9) | list }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_template_that_fails_or_reaches_out(source: str) -> None:
    assert code_of(source) == "bad_chat_template"


@pytest.mark.parametrize("messages", [[], "Hello", [USER, "x"], [{"content": "x"}], [{"role": 1}], {"role": "user"}])
def test_what_is_not_messages(messages: object) -> None:
    assert code_of("x", messages) == "bad_prompt"


def test_the_last_message_is_continued() -> None:
    chat = template("{% for m in messages %}{{ m.content | trim }}{{ eos_token }}{% endfor %}")
    assert chat.render([USER, {"role": "assistant", "content": "Well, "}], answer=False) == "Hello</s>Well,"
    assert code_of("nothing of it", answer=False) == "bad_chat_template"


def test_a_conversation_ends_as_the_template_ends_it() -> None:
    chat = template(
        "{% for m in messages %}{{ m.content | trim }}{{ eos_token }}{% endfor %}{{ add_generation_prompt }}"
    )
    assert chat.render([USER, {"role": "assistant", "content": "Well "}], answer=False, closed=True) == (
        "Hello</s>Well</s>False"
    )


def test_a_message_in_parts_is_continued_after_its_last_text() -> None:
    chat = template(
        "{% for m in messages %}{% for part in m.content %}[{{ part.text or 'image' }}]{% endfor %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "Two "}]
    assert chat.render([{"role": "assistant", "content": parts}], answer=False) == "[One][Two "
    assert parts[1] == {"type": "text", "text": "Two "}, "the caller's message is not changed"
    for content in ([{"type": "image"}], [], 3, {"text": "x"}):
        assert code_of("x", [{"role": "assistant", "content": content}], answer=False) == "bad_prompt"


@pytest.mark.parametrize(
    "source",
    [
        "".join(f"{{% for a{number} in messages %}}" for number in range(30)) + "{% endfor %}" * 30,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
    ids=["blocks that Python does not nest so deep", "parentheses"],
)
def test_a_template_beyond_the_compilers_limits(source: str, tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(DataError, match="cannot be used") as caught:
        read_chat_template(TokenizerConfig("HFTokenizer", tmp_path / "tokenizer.json", None))
    assert (caught.value.code, caught.value.where) == ("bad_chat_template", str(path))
