"""Reading prompts. No torch, so that a wrong file is found before anything is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams, update_sampling
from neoxrun.errors import DataError, NeoxrunError, UsageError
from neoxrun.terminal.words import check_unicode, decode_utf8

_MESSAGES = "messages"
_TEXT_KEYS = ("prompt", "context", _MESSAGES)
_SAMPLES = ("n", "num_samples")
_PARAMETERS = set(SAMPLING_NAMES)
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
    """

    id: str | int
    sample: int | None
    context: str
    params: SamplingParams
    complete: bool = False

    @property
    def key(self) -> tuple[str | int, int | None]:
        """What identifies this answer within a run."""
        return self.id, self.sample


def read_prompts(
    source: str,
    *,
    prompt_end: str,
    params: SamplingParams,
    num_samples: int,
    render: Render,
    chat: bool = False,
) -> list[Prompt]:
    """The prompts of a file or of stdin (``-``).

    A ``.jsonl`` file has one object a line with ``prompt``, ``context`` or ``messages`` and, optionally, ``id``, ``n``
    and sampling parameters; any other is text, one prompt between ``prompt_end`` and the next, with white space around
    it removed and empty ones left out, as in GPT-NeoX.

    Args:
        source: path of the file, or ``-``.
        prompt_end: what ends a prompt of a text file.
        params: how to sample where a prompt does not say.
        num_samples: answers to each prompt that does not say.
        render: makes the text of a conversation.
        chat: the file holds conversations, whatever its name: every line has ``messages``, or is a list of them.

    Raises:
        DataError: the file is missing, not UTF-8, malformed, or holds no prompt; or a conversation cannot be rendered.
        UsageError: more answers are asked for than ``check_count`` allows.
    """
    name = "standard input" if source == "-" else source
    text = _read_text(source, name)
    if chat or source.endswith(".jsonl"):
        prompts = list(_from_jsonl(text, name, params, num_samples, render, chat))
    else:
        contexts = [part.strip() for part in text.split(prompt_end)]
        check_count(len(contexts) * num_samples)
        prompts = [
            prompt
            for index, context in enumerate(c for c in contexts if c)
            for prompt in expand_prompt(index, index, context, params, num_samples)
        ]
    if not prompts:
        raise DataError(
            f"there are no prompts in {name}",
            code="no_prompts",
            hint="Write one prompt a line; lines of white space do not count.",
        )
    return prompts


def check_count(answers: int) -> None:
    """Refuse a run of more answers than should be kept in memory.

    Raises:
        UsageError: there are more.
    """
    if answers > _MOST_ANSWERS:
        raise UsageError(
            f"more than {_MOST_ANSWERS:,} answers are asked for in one run",
            code="invalid_value",
            hint="Lower --num-samples, or divide the prompts over several runs.",
        )


def expand_prompt(
    identity: str | int, index: int, context: str, params: SamplingParams, num_samples: int, *, complete: bool = False
) -> Iterator[Prompt]:
    """One ``Prompt`` for each sample of a prompt, with the sample's own seed.

    The seed is made of the run's seed, the prompt's index and the sample's number, so that an answer stays the same
    whatever else is in the run and wherever it is resumed.
    """
    for sample in range(num_samples):
        seed = params.seed + (index << 64) + (sample << 32)
        yield Prompt(identity, sample if num_samples > 1 else None, context, replace(params, seed=seed), complete)


def _read_text(source: str, name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"the prompt file {source} does not exist",
            code="missing_file",
            hint="Give a file with -i, or --prompt TEXT.",
        ) from None
    except OSError as error:
        raise DataError(
            f"the prompt file {source} cannot be read: {error.strerror}",
            code="unreadable_file",
        ) from None
    return decode_utf8(data, name, where=name, hint="Convert it, for example with `iconv -f latin1 -t utf-8`.")


def _from_jsonl(
    text: str, name: str, params: SamplingParams, num_samples: int, render: Render, chat: bool
) -> Iterator[Prompt]:
    seen: dict[str | int, int] = {}
    index = total = 0
    # Not splitlines: JSON allows U+2028 and its like within a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"this line is not JSON: {error.msg} (column {error.colno})",
                code="bad_prompt",
                where=where,
                hint='A .jsonl file has one object a line, such as {"prompt": "import os"}.',
            ) from None
        except (ValueError, RecursionError):
            raise DataError(
                "this line is nested too deeply, or has a number that is too large",
                code="bad_prompt",
                where=where,
            ) from None
        if chat:
            entry = _conversation(entry, where)
        if not isinstance(entry, dict):
            raise DataError(
                "this line is not a JSON object",
                code="bad_prompt",
                where=where,
            )
        check_unicode(json.dumps(entry, ensure_ascii=False), where)
        identity, context, own, count = _entry(entry, index, where, params, num_samples)
        rendered = context is None
        if context is None:
            context = render(entry["messages"], where)
        if identity in seen:
            raise DataError(
                f"the id {identity!r} is used twice, first in line {seen[identity]}",
                code="bad_prompt",
                where=where,
                hint="Give every prompt a different id, or none.",
            )
        seen[identity] = number
        total += count
        check_count(total)
        # A prompt's own seed decides alone; with the run's seed the index makes the prompts differ.
        seeded = 0 if "seed" in entry else index
        yield from expand_prompt(identity, seeded, context, own, count, complete=rendered)
        index += 1


def _conversation(entry: Any, where: str) -> dict[str, Any]:
    """A line of a file of conversations."""
    if isinstance(entry, list):
        return {"messages": entry}
    if isinstance(entry, dict) and "messages" in entry:
        return entry
    raise DataError(
        'a line of --chat needs "messages"',
        code="bad_prompt",
        where=where,
        hint='For example {"messages": [{"role": "user", "content": "Hello"}]}. Prompts of plain text are for -i.',
    )


def _entry(
    entry: dict[str, Any], index: int, where: str, params: SamplingParams, num_samples: int
) -> tuple[str | int, str | None, SamplingParams, int]:
    """A line's id, its text (None where it has messages), how to sample, and how often."""
    texts = [key for key in _TEXT_KEYS if key in entry]
    if len(texts) > 1:
        raise DataError(
            f'a line has both "{texts[0]}" and "{texts[1]}", and only one can be continued',
            code="bad_prompt",
            where=where,
            hint="Keep one.",
        )
    if len(texts) != 1 or not (texts[0] == _MESSAGES or isinstance(entry[texts[0]], str)):
        raise DataError(
            'a line needs one text under "prompt" or "context", or "messages"',
            code="bad_prompt",
            where=where,
        )
    identity = entry.get("id", index)
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise DataError(
            f'"id" is a text or a whole number, not {json.dumps(identity)}',
            code="bad_prompt",
            where=where,
        )
    count = next((entry[key] for key in _SAMPLES if key in entry), num_samples)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise DataError(
            f'"n" is a whole number of 1 or more, not {json.dumps(count)}',
            code="bad_prompt",
            where=where,
        )
    unknown = set(entry) - _PARAMETERS - {"id", *_TEXT_KEYS, *_SAMPLES}
    if unknown:
        raise DataError(
            f'unknown key "{min(unknown)}"',
            code="bad_prompt",
            where=where,
            hint=f"Known keys: id, prompt, context or messages, n, {', '.join(sorted(_PARAMETERS))}.",
        )
    own = {key: value for key, value in entry.items() if key in _PARAMETERS}
    try:
        context = None if texts[0] == _MESSAGES else entry[texts[0]]
        return identity, context, update_sampling(params, own), count
    except NeoxrunError as error:
        raise DataError(
            error.message,
            code="bad_prompt",
            where=where,
            hint=error.hint,
        ) from None
