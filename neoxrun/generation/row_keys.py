"""What the keys of a prompt's row mean. All others are carried into its records."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Final

from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams, update_sampling
from neoxrun.config.sampling_names import FOREIGN_PARAMETERS
from neoxrun.errors import DataError, NeoxrunError
from neoxrun.input.row import Row
from neoxrun.terminal.words import check_unicode, did_you_mean, printable

_MESSAGES: Final = "messages"
_TEXT_KEYS: Final = ("prompt", "context", _MESSAGES)
_PLAIN: Final = "text"  # of rows that have none of those
_SAMPLES: Final = ("n", "num_samples")
_PARAMETERS: Final = frozenset(SAMPLING_NAMES)
_KNOWN: Final = frozenset({"id", *_TEXT_KEYS, *_SAMPLES, *_PARAMETERS})
_JSON_CELLS: Final = frozenset({_MESSAGES, *_SAMPLES, *_PARAMETERS})

# Parameters by the names that other tools give them.
_ELSEWHERE: Final = {**FOREIGN_PARAMETERS, "max_length": "maximum_tokens", "num_return_sequences": "n"}
_DEEPEST: Final = 100  # levels that are carried on: copying a record takes several calls for each
_SHORTEST: Final = 5  # a shorter key is too much like others that mean something else: "step" like "stop"
_ALIKE: Final = 0.85


@dataclass(frozen=True)
class Entry:
    """A row of prompts.

    Attributes:
        id: its own, or its index.
        text: to continue; None where it has messages.
        messages: of a conversation.
        params: how to sample.
        count: answers that are wanted.
        seeded: it has a seed of its own.
        extra: what it has besides, of JSON values.
        complete: ``text`` is that of a conversation, in full.
    """

    id: str | int
    text: str | None
    messages: object
    params: SamplingParams
    count: int
    seeded: bool
    extra: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False


def read_entry(row: Row, index: int, params: SamplingParams, num_samples: int, *, strict: bool = False) -> Entry:
    """What a row asks for.

    Args:
        row: the row. A key whose value is null counts as left out. Cells of a table that are numbers elsewhere are read
            as JSON.
        index: its number among the prompts.
        params: how to sample where it does not say.
        num_samples: answers where it does not say.
        strict: refuse unknown keys.

    Raises:
        DataError: it has no text or two, a value that a key cannot have, or a key that is almost a parameter's.
    """
    where = row.where
    values = {key: _from_cell(key, value) for key, value in row.fields.items()} if row.cells else dict(row.fields)
    given = {key: _whole(value) for key, value in values.items() if value is not None and key in _KNOWN}
    source = _text_key(given, values, row)
    try:
        extra = {key: _carried(value, _DEEPEST) for key, value in values.items() if key not in _KNOWN and key != source}
        text_of_all = json.dumps([given, extra], ensure_ascii=False, default=str)
    except RecursionError:
        raise DataError("this row is nested too deeply", code="bad_prompt", where=where) from None
    _refuse_misspelt(extra, where, strict)
    check_unicode(text_of_all, where)
    count = next((given[key] for key in _SAMPLES if key in given), num_samples)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise DataError(
            f'"n" is a whole number of 1 or more, not {_shown(count)}',
            code="bad_prompt",
            where=where,
        )
    try:
        own = update_sampling(params, {key: value for key, value in given.items() if key in _PARAMETERS})
    except NeoxrunError as error:
        raise DataError(
            error.message,
            code="bad_prompt",
            where=where,
            hint=error.hint,
        ) from None
    text = None if source == _MESSAGES else values[source]
    return Entry(row.identity(index), text, given.get(_MESSAGES), own, count, "seed" in given, extra)


def _text_key(given: Mapping[str, Any], values: Mapping[str, Any], row: Row) -> str:
    """The key that has the text or the messages."""
    where = row.where
    found = [key for key in _TEXT_KEYS if key in given]
    if len(found) > 1:
        raise DataError(
            f'a row has both "{found[0]}" and "{found[1]}", and only one can be continued',
            code="bad_prompt",
            where=where,
            hint="Keep one.",
        )
    key = found[0] if found else _PLAIN
    if key == _MESSAGES or isinstance(values.get(key), str):
        return key
    empty = [name for name in (key, *_TEXT_KEYS) if name in values]
    if empty:
        key = empty[0]
        raise DataError(
            f'"{key}" is not a text here but {_shown(values[key])}',
            code="bad_prompt",
            where=where,
            hint="Give the row a text, or leave it out.",
        )
    near = next((guess for name in values if (guess := did_you_mean(name, (*_TEXT_KEYS, _PLAIN), 1))), "")
    names = ", ".join(printable(name) for name in list(values)[:20])
    what = "The first line names the columns; they are" if row.cells else "Its keys are"
    raise DataError(
        'a row needs one text under "prompt", "context" or "text", or "messages"',
        code="bad_prompt",
        where=where,
        hint=f"{near} {what}: {names}.".strip() if names else None,
    )


def _refuse_misspelt(extra: Mapping[str, Any], where: str, strict: bool) -> None:
    for key in extra:
        meant = _meant(key)
        if meant is None and not strict:
            continue
        if meant is None:
            hint = f"Known keys: id, prompt, context, text or messages, n, {', '.join(sorted(_PARAMETERS))}."
        else:
            hint = f"Did you mean {meant}? If not, rename the key."
        raise DataError(f'unknown key "{printable(key)}"', code="bad_prompt", where=where, hint=hint)


@lru_cache  # the rows of a file have the same keys
def _meant(key: str) -> str | None:
    """The parameter that is most likely meant by a key that is almost its name."""
    plain = _plain(key)
    names = {_plain(name): meant for name, meant in _ELSEWHERE.items()}
    names |= {_plain(name): name for name in (*_SAMPLES, *SAMPLING_NAMES) if len(name) > 1}
    if plain in names:
        return names[plain]
    if len(plain) < _SHORTEST:
        return None
    alike = {known: SequenceMatcher(None, plain, known).ratio() for known in names if len(known) >= _SHORTEST}
    best = max(alike, key=lambda known: alike[known])
    return names[best] if alike[best] >= _ALIKE else None


def _plain(key: str) -> str:
    return "".join(letter for letter in key.casefold() if letter.isalnum())


def _from_cell(key: str, text: str) -> Any:
    """The value of a table's cell. An empty one is a null, except for a text."""
    if key not in _JSON_CELLS:
        return text
    if not text:
        return None
    if key == "stop" and not text.startswith("["):
        return text
    try:
        return json.loads(text.lower() if key == "ignore_eos" else text)
    except (ValueError, RecursionError):
        return text  # what cannot have it says so


def _whole(value: Any) -> Any:
    """5 for 5.0, which a column of numbers makes of 5 where another row has none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _carried(value: Any, levels: int) -> Any:
    """A value as JSON can have it: null for what is not a number, Base64 for bytes, and text for dates and the like.

    Raises:
        RecursionError: it has more than ``levels``.
    """
    if levels < 0:
        raise RecursionError
    match value:
        case float():
            return value if math.isfinite(value) else None
        case None | str() | bool() | int():
            return value
        case dict():
            return {str(key): _carried(one, levels - 1) for key, one in value.items()}
        case list() | tuple():
            return [_carried(one, levels - 1) for one in value]
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _shown(value: object) -> str:
    return printable(json.dumps(value, ensure_ascii=False, default=str))
