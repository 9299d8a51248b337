"""The documents of a file of texts, each in pieces that are learned or only read. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from neoxrun.errors import DataError
from neoxrun.input.reader import read_rows
from neoxrun.input.row import Row
from neoxrun.input.source import Source
from neoxrun.terminal.words import check_unicode, did_you_mean, printable
from neoxrun.tokenizer.chat import ChatTemplate

_PAIR: Final = ("prompt", "completion")
_MESSAGES: Final = "messages"
_ASSISTANT: Final = "assistant"


class Piece(NamedTuple):
    """A part of a document, and whether its tokens are learned."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class TrainingDocument:
    """A document to be trained on.

    Attributes:
        pieces: its text.
        complete: the text has everything that a chat template adds, so the tokenizer adds nothing.
        where: file and line (or row), for messages.
    """

    pieces: tuple[Piece, ...]
    complete: bool
    where: str

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)


def read_training_documents(source: Source, column: str, chat: ChatTemplate | None) -> Iterator[TrainingDocument]:
    """The documents of a file in their order, also those without a text.

    A row has ``column``, or ``prompt`` and ``completion`` (the completion is learned), or ``messages`` (the assistant's
    turns are learned).

    Args:
        source: the file.
        column: the key or column that holds a text, where the file is not a text itself.
        chat: the model's chat template; None: it has none.

    Raises:
        DataError: the file cannot be read or is not of its format, or a row is not one of those.
    """
    plain = source.format == "txt"
    for row in read_rows(source):
        yield _document(row, "text" if plain else column, chat)


def _document(row: Row, column: str, chat: ChatTemplate | None) -> TrainingDocument:
    fields = {key: value for key, value in row.fields.items() if value is not None}
    kinds = [kind for kind in ((column,), _PAIR, (_MESSAGES,)) if all(key in fields for key in kind)]
    if column not in ("text", *_PAIR, _MESSAGES) or not kinds:  # a column that was asked for is the one that counts
        kinds = [(column,)]
    if len(kinds) > 1:
        raise _bad(row, f"a row has both {_shown(kinds[0])} and {_shown(kinds[1])}, and only one can be learned")
    if kinds[0] == (_MESSAGES,):
        return TrainingDocument(_turns(row, fields[_MESSAGES], chat), True, row.where)
    if kinds[0] == _PAIR:
        prompt, completion = (_text(row, fields[key], key) for key in _PAIR)
        return TrainingDocument((Piece(prompt, False), Piece(completion, True)), False, row.where)
    if column not in fields:
        raise _missing(row, column)
    return TrainingDocument((Piece(_text(row, fields[column], column), True),), False, row.where)


def _turns(row: Row, messages: object, chat: ChatTemplate | None) -> tuple[Piece, ...]:
    """A conversation, cut where the assistant's turns begin and end."""
    if chat is None:
        raise DataError(
            "these are messages, and the model has no chat template",
            code="no_chat_template",
            where=row.where,
            hint='Write the rows with "prompt" and "completion", or put the template into chat_template.jinja next to '
            "the tokenizer.",
        )
    whole = chat.render(messages, answer=False, closed=True, where=row.where)
    assert isinstance(messages, list)  # or render would have refused them
    pieces: list[Piece] = []
    done = 0
    for number, message in enumerate(messages):
        if message["role"] != _ASSISTANT:
            continue
        if message.get("content") is None and not message.get("tool_calls"):
            raise _bad(row, f"message {number + 1} is the assistant's and has no content to learn")
        before = chat.render(messages[:number], where=row.where) if number else ""
        after = chat.render(messages[: number + 1], answer=False, closed=True, where=row.where)
        if not (whole.startswith(after) and after.startswith(before)) or len(before) < done:
            raise _bad(
                row,
                "the chat template writes a turn in another way when others follow, so the assistant's turns cannot be "
                "found",
                'Write a row with "prompt" and "completion" for each answer.',
            )
        pieces += [Piece(whole[done : len(before)], False), Piece(whole[len(before) : len(after)], True)]
        done = len(after)
    if not pieces:
        raise _bad(row, "no message is the assistant's, so nothing is learned", "Leave the row out.")
    check_unicode(whole, row.where)
    return tuple(piece for piece in (*pieces, Piece(whole[done:], False)) if piece.text)


def _text(row: Row, value: object, key: str) -> str:
    if not isinstance(value, str):
        raise _bad(row, f'"{printable(key)}" is not a text here but {printable(json.dumps(value, default=str))}')
    check_unicode(value, row.where)
    return value


def _bad(row: Row, message: str, hint: str | None = None) -> DataError:
    return DataError(message, code="bad_document", where=row.where, hint=hint or "Correct the row, or leave it out.")


def _missing(row: Row, column: str) -> DataError:
    names = list(row.fields)
    known = ", ".join(printable(name) for name in names[:20])
    hint = f"Name the key of the text with --column; known keys: {known}."
    if column == "text":  # a key of the row may be mistyped, else what was asked for
        wanted = [key for key in (column, *_PAIR, _MESSAGES) if key not in names]
        guesses = (did_you_mean(name, wanted, 1) for name in names if name not in (*_PAIR, _MESSAGES))
        hint = next(filter(None, guesses), hint)
    elif near := did_you_mean(column, names, 1):
        hint = near.replace("mean ", "mean --column ")
    return DataError(
        f'a row needs a text under "{printable(column)}", or "prompt" and "completion", or "messages"',
        code="missing_column",
        where=row.where,
        hint=hint,
    )


def _shown(keys: tuple[str, ...]) -> str:
    return " and ".join(f'"{printable(key)}"' for key in keys)
