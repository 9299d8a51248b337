"""Options as people know them from other tools, and what they are called here. Words in, words out; no torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from neoxrun.commands.foreign_names import CONFIG, EXPLAINED, FOREIGN_NAMES, FOREIGN_VALUES
from neoxrun.config.precisions import QUANTISED, is_quantised
from neoxrun.errors import UsageError
from neoxrun.terminal.words import did_you_mean, printable

_EVALUATORS: Final = ("hf", "hf-auto", "vllm", "neox", "huggingface", "local-completions", "local-chat-completions")

_TO_STDOUT: Final = ("plan", "inspect", "diff", "bench", "completion")
_GPU: Final = "device:number"  # no option's name
_NUMBERED_GPU: Final = re.compile(r"(?:cuda|gpu):(\d+)")
_AUTOMATIC: Final = re.compile(r"auto:\d+", re.IGNORECASE)  # lm-eval's: measured so many times
_ALIKE: Final = 0.8  # --gpus resembles --bogus by 0.77
_ALIKE_VALUE: Final = 0.7  # gpu resembles xpu by 0.67
_NUMBER: Final = re.compile(r"-\.?\d.*")


def translate(command: str, words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """A command line with our own names in it.

    Args:
        command: the command's name.
        words: what follows it.
        parser: the command's.

    Raises:
        UsageError: an option is unknown, belongs to another tool and has no counterpart here, or is given twice.
    """
    options = parser._option_string_actions
    aliases = {name: row.ours for row in FOREIGN_NAMES if command in row.commands for name in row.names}
    models: list[str] = []
    configs: list[str] = []
    in_list = False  # words belong to an option that takes several
    found: list[str] = []
    given: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            found += [word, *rest]
            break
        if not word.startswith("-") or word == "-" or _NUMBER.fullmatch(word):
            found.append(word)
            configs += [] if in_list else [word]
            continue
        in_list = False
        name, value = _split(word, options, aliases)
        ours = aliases.get(name, name)
        if ours == CONFIG:
            models.append(_model(command, name, value if value is not None else next(rest, None)))
            continue
        action = options.get(ours)
        if action is None:
            raise _unknown(command, name, options, aliases)
        if word[:2] == ours and action.nargs == 0:
            found.append(word)  # -vv
            continue
        _refuse_second(action, name, given)
        long = action.option_strings[-1]
        if action.nargs is not None:
            in_list = action.nargs != 0
            found.append(ours if value is None else f"{ours}={value}")
        elif value is not None:
            # Joined words stay joined: a value that begins with a hyphen cannot be given otherwise.
            found += [f"{long}={own}" for own in _own_values(action, value, given)]
        elif (value := next(rest, None)) is not None:
            found += [word for own in _own_values(action, value, given) for word in (ours, own)]
        else:
            found.append(ours)  # the parser says that a value is missing
    if models and len(models + configs) > 1:
        raise UsageError(
            f"--model is the argument CONFIG, and both are given: {', '.join(models + configs)}",
            code="usage",
            hint="Leave one of them out.",
        )
    if gpu := given.get(_GPU):
        if "gpus" in given:
            raise UsageError(
                f"--device {gpu} and {given['gpus']} cannot be combined",
                code="conflicting_options",
                hint="Both choose GPUs: leave one of them out.",
            )
        found += ["--gpus", gpu.partition(":")[2]]
    return models + found


def _split(word: str, options: Mapping[str, argparse.Action], aliases: Mapping[str, str]) -> tuple[str, str | None]:
    """The option of a word, with hyphens, and the value that follows it in the word."""
    if word.startswith("--") or word.partition("=")[0] in aliases:
        name, equals, value = word.partition("=")
        return name.replace("_", "-"), value if equals else None
    if word in options or word in EXPLAINED or word[:2] not in options:
        return word, None
    return word[:2], None if options[word[:2]].nargs == 0 else word[2:].removeprefix("=")


def _own_values(action: argparse.Action, value: str, given: dict[str, str]) -> Iterator[str]:
    """A value as we call it; none where leaving the option out means the same.

    Raises:
        UsageError: it is none that an option with other tools' names of its values has.
    """
    long = action.option_strings[-1]
    if long == "--device" and _NUMBERED_GPU.fullmatch(value):
        given[_GPU] = value
        yield "cuda"
        return
    if long == "--batch-size" and _AUTOMATIC.fullmatch(value):
        return
    also = FOREIGN_VALUES.get(long, {})
    ours = also.get(value.lower(), value)
    if also and action.choices and ours not in (*action.choices, ""):
        raise _impossible(long, value, list(action.choices), list(also))
    if ours or not value:
        yield ours


def _impossible(long: str, value: str, choices: list[str], also: list[str]) -> UsageError:
    near = did_you_mean(value, [*choices, *also], 1, _ALIKE_VALUE)
    if long == "--dtype" and is_quantised(value):
        near = QUANTISED
    elif long == "--device":
        also = [*also, "cuda:N"]
    return UsageError(
        f"{long} must be {', '.join(choices[:-1])} or {choices[-1]}, not {printable(value) or repr(value)}",
        code="invalid_value",
        hint=f"{near} Other names: {', '.join(also)}.".strip(),
    )


def _model(command: str, name: str, value: str | None) -> str:
    if value is None:
        raise UsageError(f"argument {name}: expected one argument", code="usage", hint=_help(command))
    if command == "evaluate" and value in _EVALUATORS:
        raise UsageError(
            f"{name} {value} is lm-eval's choice of the program that runs a model; here neoxrun does",
            code="usage",
            hint="The model is the argument CONFIG: `neoxrun evaluate CONFIG --tasks ...`.",
        )
    return value


def _refuse_second(action: argparse.Action, name: str, given: dict[str, str]) -> None:
    """The parser would drop the first of two values without a word."""
    if not isinstance(action, argparse._StoreAction):
        return
    if action.dest in given:
        both = name if given[action.dest] == name else f"{given[action.dest]} and {name}"
        twice = "is given twice" if both == name else "are the same option"
        raise UsageError(f"{both} {twice}", code="usage", hint="Leave one of them out.")
    given[action.dest] = name


def _unknown(command: str, name: str, options: Mapping[str, argparse.Action], aliases: Mapping[str, str]) -> UsageError:
    near = ""
    if name.startswith("--"):
        near = did_you_mean(name, options, 1, _ALIKE) or _like_foreign(name, aliases)
    if name in ("-o", "--output") and command in _TO_STDOUT:
        near = "The result goes to stdout: add `> FILE`."
    hint = EXPLAINED.get(name) or f"{near} {_help(command)}".strip()
    return UsageError(f"{command} has no option {printable(name)}", code="usage", hint=hint)


def _like_foreign(name: str, aliases: Mapping[str, str]) -> str:
    """A hint for a name that resembles another tool's: our option, or what takes the place of CONFIG."""
    for foreign, ours in aliases.items():
        if did_you_mean(name, [foreign], 1, _ALIKE):
            return f"Did you mean {foreign if ours == CONFIG else ours}?"
    return ""


def _help(command: str) -> str:
    return f"See `neoxrun {command} --help`."
