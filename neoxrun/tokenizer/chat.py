"""Chat templates: messages to the text that a model was trained with, by the model's own template.

The template is a program in Jinja's language, from a file that nobody has checked; it runs in Jinja's sandbox, with the
functions that transformers gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from neoxrun.config.settings import TokenizerConfig
from neoxrun.config.tokenizer_names import CHAT_TEMPLATE, TOKENIZER_CONFIG
from neoxrun.errors import DataError
from neoxrun.terminal.words import failure
from neoxrun.tokenizer.siblings import read_siblings

_AGAIN: Final = 'Get the file again, or write the prompts out under "prompt".'
_TAG: Final = "CONTINUE_FINAL_MESSAGE_TAG "  # as transformers has it: a template may treat the space at its end
_REASONING: Final = ("reasoning_content", "thinking", "reasoning")


class RefusedMessagesError(DataError):
    """A template does not take these messages."""


class ChatTemplate:
    """A model's chat template.

    Args:
        source: the template.
        names: the special tokens by transformers' names, which the template can use.
        where: its file, for messages.

    Raises:
        DataError: it is not a template.
    """

    def __init__(self, source: str, names: Mapping[str, str], where: Path) -> None:
        self.source = source
        self._names, self._where = names, where
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise DataError(
                f"the chat template is wrong in its line {error.lineno}: {error.message}",
                code="bad_chat_template",
                where=str(where),
                hint=_AGAIN,
            ) from error
        except Exception as error:  # Jinja makes Python of it, whose compiler has limits of its own
            raise DataError(
                f"the chat template cannot be used: {type(error).__name__}: {error}",
                code="bad_chat_template",
                where=str(where),
                hint=_AGAIN,
            ) from error

    def render(self, messages: object, *, answer: bool = True, closed: bool = False, where: str | None = None) -> str:
        """The text of a conversation.

        Args:
            messages: a list of objects with ``role`` and ``content``.
            answer: end it where the model's answer begins (transformers' ``add_generation_prompt``); else where the
                last message ends, which the model continues.
            closed: without ``answer``, end it where the template ends the last message.
            where: the line with the messages, for the error.

        Raises:
            RefusedMessagesError: the template does not take them: for example, because of the order of the roles.
            DataError: they are not messages, or the template cannot handle them.
        """
        chat = _checked(messages, where)
        if not answer and not closed:
            chat[-1]["content"] = _tagged(chat[-1].get("content", ""), where)
        try:
            text = self._template.render(
                messages=chat, tools=None, documents=None, add_generation_prompt=answer, **self._names
            )
        except _RaisedError as error:
            raise RefusedMessagesError(
                f"the model's chat template refuses the messages: {error.message}",
                code="bad_prompt",
                where=where,
                hint="Change the roles, or their order, to those that the model was trained with.",
            ) from error
        except Exception as error:  # a template is a program: it can fail in any way
            raise DataError(
                f"the chat template fails on the messages: {type(error).__name__}: {error}",
                code="bad_chat_template",
                where=where or str(self._where),
                hint="Does every message have what the template reads? Most read `role` and `content`.",
            ) from error
        return text if answer or closed else _cut_at_tag(text, where)


def read_chat_template(config: TokenizerConfig) -> ChatTemplate:
    """The chat template in the folder of a model's tokenizer.

    Raises:
        DataError: there is none, or it is not a template.
    """
    folder = None if config.vocab_file is None else config.vocab_file.parent
    if folder is None:
        where = "the configuration names" if config.folder is None else f"{config.folder} has"
        raise _none_found(f"{where} no tokenizer")
    siblings = read_siblings(folder)
    options = {} if siblings is None else siblings.options
    names = {} if siblings is None else siblings.names
    path = folder / CHAT_TEMPLATE
    try:
        return ChatTemplate(path.read_text(encoding="utf-8"), names, path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {failure(error)}", code="bad_chat_template", where=str(path)
        ) from error
    found = options.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, str):
        raise _none_found(f"neither {CHAT_TEMPLATE} nor a `chat_template` in tokenizer_config.json is in {folder}")
    return ChatTemplate(found, names, folder / TOKENIZER_CONFIG)


def _none_found(why: str) -> DataError:
    return DataError(
        f"the model has no chat template: {why}",
        code="no_chat_template",
        hint='Not every model is trained for chats. Write its prompts out under "prompt", or put the template into '
        f"{CHAT_TEMPLATE} next to the tokenizer.",
    )


def _checked(messages: object, where: str | None) -> list[dict[str, Any]]:
    """A copy of the messages, without keys that hold nothing."""
    if not isinstance(messages, list) or not messages:
        problem = '"messages" must be a list of at least one message'
    elif not all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages):
        problem = 'every message must be an object with a "role"'
    else:
        return [_reasoned({key: value for key, value in one.items() if value is not None}) for one in messages]
    raise DataError(
        problem,
        code="bad_prompt",
        where=where,
        hint='For example {"messages": [{"role": "user", "content": "Hello"}]}.',
    )


def _reasoned(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning has all names that templates know it by."""
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _tagged(content: object, where: str | None) -> object:
    """A message's content with the tag after its text: after the last one of several parts."""
    if isinstance(content, str):
        return content + _TAG
    parts = list(content) if isinstance(content, list) else []
    for at in reversed(range(len(parts))):
        if isinstance(parts[at], dict) and isinstance(text := parts[at].get("text"), str):
            parts[at] = {**parts[at], "text": text + _TAG}
            return parts
    raise DataError(
        "the last message, which is to be continued, has no text",
        code="bad_prompt",
        where=where,
        hint='Its "content" is a text, or a list of parts like {"type": "text", "text": "Hello"}.',
    )


def _cut_at_tag(text: str, where: str | None) -> str:
    at = text.rfind(_TAG.strip())
    if at < 0:
        raise DataError(
            "the chat template does not show the last message, which is to be continued",
            code="bad_chat_template",
            where=where,
        )
    return text[:at] if text[at : at + len(_TAG)] == _TAG else text[:at].rstrip()


class _RaisedError(TemplateError):
    """What a template's ``raise_exception`` raises."""


class _GenerationBlock(Extension):
    """``{% generation %}``, which marks the model's own text in training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's content alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """``namespace`` without names that begin with an underscore, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *others = args
        for name in dict(*others, **kwargs):
            _check_name(name)
        Namespace.__init__(self, *others, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name}")


def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives its templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    environment.globals["namespace"] = _Namespace
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise _RaisedError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
