"""Reading prompts. No torch, so that a wrong file is found before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from neoxrun.config.sampling import SamplingParams
from neoxrun.errors import DataError, UsageError
from neoxrun.generation.row_keys import Entry, read_entry
from neoxrun.input.json_rows import TEXT_ROW
from neoxrun.input.reader import read_rows
from neoxrun.input.row import Row
from neoxrun.input.source import Source

_CONVERSATION: Final = '{"messages": [{"role": "user", "content": "Hello"}]}'
_NOTHING: Final[Mapping[str, Any]] = {}
_MOST_ANSWERS = 1_000_000  # of one run: the command and every rank hold them all, at about 400 bytes each


Render = Callable[[object, str], str]
"""Makes the text of a conversation: its messages, and the line that they are in, for an error."""


@dataclass(frozen=True)
class Prompt:
    """One answer to generate.

    Attributes:
        id: the record's id: the prompt's own, or its index in the input.
        sample: which of several answers to the same prompt; None where one was asked for.
        context: the text to continue; empty for unconditional generation.
        params: how to sample; the seed is already this answer's own.
        complete: the tokenizer adds no tokens to ``context``: a chat template has written them.
        extra: what else the input has for it, for its records; JSON values.
    """

    id: str | int
    sample: int | None
    context: str
    params: SamplingParams
    complete: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str | int, int | None]:
        """What identifies this answer within a run."""
        return self.id, self.sample


def read_prompts(
    source: Source,
    *,
    params: SamplingParams,
    num_samples: int,
    render: Render,
    chat: bool = False,
    strict: bool = False,
) -> list[Prompt]:
    """The prompts of an input.

    A row of a text is one prompt, with white space around it removed; empty ones are left out, as in GPT-NeoX. What
    the keys of other rows mean is in ``row_keys``.

    Args:
        source: the input.
        params: how to sample where a prompt does not say.
        num_samples: answers to each prompt that does not say.
        render: makes the text of a conversation.
        chat: the rows are conversations: each has ``messages``, or is a list of them.
        strict: refuse keys that mean nothing here.

    Raises:
        DataError: the input is malformed, or holds no prompt; or a conversation cannot be rendered.
        UsageError: more answers are asked for than ``check_count`` allows.
    """
    entries: list[Entry] = []
    answers = 0
    for entry in _entries(source, params, num_samples, render, chat, strict):
        answers += entry.count
        check_count(answers)
        entries.append(entry)
    if not entries:
        raise DataError(
            f"there are no prompts in {source.name}",
            code="no_prompts",
            hint=_what_to_write(source, chat),
        )
    return [
        prompt
        for index, entry in enumerate(entries)
        # A prompt's own seed decides alone; with the run's seed the index makes the prompts differ.
        for prompt in expand_prompt(
            entry.id,
            0 if entry.seeded else index,
            entry.text or "",
            entry.params,
            entry.count,
            complete=entry.complete,
            extra=entry.extra,
        )
    ]


def check_count(answers: int, fewer: str = "Lower --num-samples") -> None:
    """Refuse a run of more answers than should be kept in memory; ``fewer`` says how to ask for fewer.

    Raises:
        UsageError: there are more.
    """
    if answers > _MOST_ANSWERS:
        raise UsageError(
            f"more than {_MOST_ANSWERS:,} answers are asked for in one run",
            code="invalid_value",
            hint=f"{fewer}, or divide the prompts over several runs.",
        )


def expand_prompt(
    identity: str | int,
    index: int,
    context: str,
    params: SamplingParams,
    num_samples: int,
    *,
    complete: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Iterator[Prompt]:
    """One ``Prompt`` for each sample of a prompt, with the sample's own seed.

    The seed is made of the run's seed, the prompt's index and the sample's number, so that an answer stays the same
    whatever else is in the run and wherever it is resumed.
    """
    for sample in range(num_samples):
        seed = params.seed + (index << 64) + (sample << 32)
        own = replace(params, seed=seed)
        yield Prompt(identity, sample if num_samples > 1 else None, context, own, complete, extra or _NOTHING)


def _entries(
    source: Source, params: SamplingParams, num_samples: int, render: Render, chat: bool, strict: bool
) -> Iterator[Entry]:
    """The rows that are prompts, each with its text."""
    seen: dict[str | int, str] = {}
    index = 0
    for row in read_rows(source, example=_CONVERSATION if chat else TEXT_ROW):
        if source.format == "txt":
            text = row.fields["text"].strip()
            if text:
                yield Entry(index, text, None, params, num_samples, seeded=False)
                index += 1
            continue
        if chat:
            row = _conversation(row)
        entry = read_entry(row, index, params, num_samples, strict=strict)
        if entry.id in seen:
            raise DataError(
                f"the id {entry.id!r} is used twice, first in {seen[entry.id]}",
                code="bad_prompt",
                where=row.where,
                hint="Give every prompt a different id, or none.",
            )
        seen[entry.id] = f"{row.unit} {row.number}"
        if entry.text is None:
            entry = replace(entry, text=render(entry.messages, row.where), complete=True)
        yield entry
        index += 1


def _what_to_write(source: Source, chat: bool) -> str:
    """What an input without prompts should have."""
    if chat:
        return f"Write one conversation a {'line' if source.format == 'jsonl' else 'row'}, as in {_CONVERSATION}."
    if source.format == "txt":
        return "Write one prompt a line; lines of white space do not count."
    return 'It needs a row, with a "prompt" or "messages".'


def _conversation(row: Row) -> Row:
    """A row of conversations, as an object."""
    if isinstance(row.value, list):
        return replace(row, value={"messages": row.value})
    if isinstance(row.value, dict) and "messages" in row.value:
        return row
    raise DataError(
        f'a {row.unit} of --chat needs "messages"',
        code="bad_prompt",
        where=row.where,
        hint=f"Write it as in {_CONVERSATION}. Prompts of plain text are for -i.",
    )
