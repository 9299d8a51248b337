"""What messages of the whole program say of its options, in the words of a Python program.

The same checks are behind the command and behind ``LLM``; their messages name the command's options.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

from neoxrun.config.sampling import SAMPLING_NAMES
from neoxrun.errors import NeoxrunError

_Error = TypeVar("_Error", bound=NeoxrunError)

_ARGUMENTS: Final = (
    *("checkpoint", "tokenizer", "tp", "pp", "device", "gpus", "dtype", "batch_size", "random_weights", "merge"),
    *("adapter", "eager", "stall_timeout", "truncate", *SAMPLING_NAMES),
)
_COMMAND: Final = re.compile("(`neoxrun [^`]*`)")
_REPLICAS: Final = re.compile(r",? --replicas(?: \d+)?")  # an LLM is one
_OVERRIDE: Final = re.compile(r"(?<![\w-])--set(?: '(?P<quoted>[^']*)'| (?P<plain>\S+=[^\s,;]*\w))?")
_OPTION: Final = re.compile(
    rf"(?<![\w-])--(?P<name>{'|'.join(one.replace('_', '-') for one in _ARGUMENTS)})(?![\w-])"
    r"(?: (?:(?P<text>fp32|fp16|bf16|cpu|cuda|fold|average)|(?P<value>\d+|[A-Z]+))\b)?"
)


def in_python(text: str) -> str:
    """A message without options, but for those of commands: ``--dtype bf16`` is ``dtype='bf16'``."""
    parts = _COMMAND.split(text)
    for number in range(0, len(parts), 2):
        part = _OVERRIDE.sub(_override, _REPLICAS.sub("", parts[number]))
        parts[number] = _OPTION.sub(_argument, part)
    return "".join(parts)


def error_in_python(error: _Error) -> _Error:
    """The error itself, whose message, place and hint are put ``in_python``."""
    error.message = in_python(error.message)
    error.where = error.where and in_python(error.where)
    error.hint = error.hint and in_python(error.hint)
    return error


def _override(found: re.Match[str]) -> str:
    value = found["quoted"] or found["plain"]
    return f"overrides=[{value!r}]" if value else "overrides"


def _argument(found: re.Match[str]) -> str:
    name = found["name"].replace("-", "_")
    if found["text"]:
        return f"{name}={found['text']!r}"
    return f"{name}={found['value']}" if found["value"] else name
