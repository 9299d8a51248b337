"""Options as people know them from other tools, and what they are called here. Words in, words out; no torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from neoxrun.config.precisions import DTYPE_NAMES
from neoxrun.errors import UsageError
from neoxrun.terminal.words import did_you_mean, printable

CONFIG: Final = "CONFIG"
"""In place of an option: the argument that names the model."""

_MODEL_COMMANDS: Final = ("generate", "evaluate", "score", "bench", "plan")


@dataclass(frozen=True)
class ForeignName:
    """What another tool calls an option.

    Attributes:
        names: as there, with hyphens.
        ours: the option here, or ``CONFIG``.
        commands: which commands understand it.
        tools: where it comes from.
    """

    names: tuple[str, ...]
    ours: str
    commands: tuple[str, ...]
    tools: str


FOREIGN_NAMES: Final = (
    ForeignName(
        ("--model", "-m", "--model-name-or-path"), CONFIG, _MODEL_COMMANDS, "vLLM, llama.cpp, litgpt, transformers"
    ),
    ForeignName(("--tensor-parallel-size", "-tp"), "--tp", _MODEL_COMMANDS, "vLLM"),
    ForeignName(("--pipeline-parallel-size", "-pp"), "--pp", _MODEL_COMMANDS, "vLLM"),
    ForeignName(("--data-parallel-size", "-dp"), "--replicas", _MODEL_COMMANDS, "vLLM"),
    ForeignName(("--model-parallel-size",), "--tp", _MODEL_COMMANDS, "GPT-NeoX"),
    ForeignName(("--pipe-parallel-size",), "--pp", _MODEL_COMMANDS, "GPT-NeoX"),
    ForeignName(("--torch-dtype", "--precision"), "--dtype", _MODEL_COMMANDS, "transformers, litgpt"),
    ForeignName(("--enforce-eager",), "--eager", ("generate", "evaluate", "score", "bench"), "vLLM"),
    ForeignName(("--load", "--checkpoint-dir"), "--checkpoint", _MODEL_COMMANDS, "GPT-NeoX, litgpt"),
    ForeignName(("--vocab-file",), "--tokenizer", _MODEL_COMMANDS, "GPT-NeoX"),
    ForeignName(
        ("--lora", "--adapter-path", "--adapter-name-or-path", "--lora-model-dir"),
        "--adapter",
        (*_MODEL_COMMANDS, "convert"),
        "llama.cpp, mlx-lm, LLaMA-Factory, Axolotl",
    ),
    ForeignName(
        ("--max-new-tokens", "--max-tokens", "--n-predict", "--predict"),
        "--maximum-tokens",
        ("generate",),
        "transformers, vLLM, litgpt, llama.cpp",
    ),
    ForeignName(("-p",), "--prompt", ("generate",), "llama.cpp"),
    ForeignName(
        ("-f", "--file", "--input-file", "--sample-input-file"), "--input", ("generate",), "llama.cpp, GPT-NeoX"
    ),
    ForeignName(("--output-file", "--sample-output-file"), "--output", ("generate",), "GPT-NeoX"),
    ForeignName(("--num-return-sequences", "--n"), "--num-samples", ("generate",), "transformers, vLLM"),
    ForeignName(("--temp",), "--temperature", ("generate",), "llama.cpp"),
    ForeignName(("--repeat-penalty",), "--repetition-penalty", ("generate",), "llama.cpp"),
    ForeignName(("--stop-strings", "--reverse-prompt", "-r"), "--stop", ("generate",), "transformers, llama.cpp"),
    ForeignName(("--conversation", "-cnv", "--chat-cli"), "--interactive", ("generate",), "llama.cpp"),
    ForeignName(("-s",), "--seed", ("generate",), "llama.cpp"),
    ForeignName(("-t", "--eval-tasks"), "--tasks", ("evaluate",), "lm-eval, GPT-NeoX"),
    ForeignName(("-f",), "--num-fewshot", ("evaluate",), "lm-eval"),
    ForeignName(("-L",), "--limit", ("evaluate",), "lm-eval"),
    ForeignName(("-b",), "--batch-size", ("evaluate",), "lm-eval"),
    ForeignName(("-s",), "--log-samples", ("evaluate",), "lm-eval"),
    ForeignName(("-c", "--use-cache"), "--cache", ("evaluate",), "lm-eval"),
    ForeignName(("-o", "--output-path"), "--output", ("evaluate",), "lm-eval"),
    ForeignName(("--local-dir", "--output-dir"), "--to", ("download",), "huggingface-cli"),
    ForeignName(("--max-workers",), "--jobs", ("download",), "huggingface-cli"),
)

EXPLAINED: Final[Mapping[str, str]] = {
    "--model-args": "The model is the argument CONFIG, and its number format is --dtype: "
    "`neoxrun evaluate CONFIG --dtype bf16`.",
    "--do-sample": "--temperature T samples; --temperature 0 does not.",
    "--num-beams": "There is no beam search: leave it out.",
    "--use-beam-search": "There is no beam search: leave it out.",
    "--best-of": "All answers are kept: --num-samples N.",
    "--version": "`neoxrun --version` prints it.",
    "--apply-chat-template": "`python -m neoxrun.evaluation`, which is lm-eval's command line, has it.",
    "--greedy": "--temperature 0 is greedy.",
    "--max-length": "Answers are counted without their prompts: --maximum-tokens N.",
    "--max-model-len": "--set seq_length=N shortens the context.",
    "--ctx-size": "--set seq_length=N shortens the context.",
    "-c": "--set seq_length=N shortens the context.",
    "-ngl": "Leave it out: all layers are on the GPUs. --device cpu uses none.",
    "--n-gpu-layers": "Leave it out: all layers are on the GPUs. --device cpu uses none.",
    "--gpu-layers": "Leave it out: all layers are on the GPUs. --device cpu uses none.",
    "-t": "Set the environment variable OMP_NUM_THREADS.",
    "--revision": "`neoxrun download NAME --revision REVISION` fetches it, and says how to run it; "
    "`evaluate --revisions` measures several.",
    "--trust-remote-code": "Leave it out: nothing in a model's files is executed.",
    "--gpu-memory-utilization": "Leave it out: the cache takes what is free.",
    "--num-gpus": "--gpus 0,1 names GPUs; without it all are used.",
    "--load-in-8bit": "Quantised weights are not supported; --dtype fp16 or bf16 takes 2 bytes a parameter.",
    "--load-in-4bit": "Quantised weights are not supported; --dtype fp16 or bf16 takes 2 bytes a parameter.",
    "--enable-lora": "Leave it out: --adapter DIR is enough.",
    "--lora-modules": "--adapter DIR merges one adapter into the weights.",
    "--quantization": "Quantised weights are not supported; --dtype fp16 or bf16 takes 2 bytes a parameter.",
    "--system-prompt": "Write it at the beginning of the prompt.",
    "--threads": "Set the environment variable OMP_NUM_THREADS.",
    "--wandb-args": "--wandb PROJECT.",
    "--tasks-list": "`neoxrun evaluate --tasks list` prints the tasks.",
}
"""Options of other tools that nothing here takes the place of, and what to do instead."""

_EVALUATORS: Final = ("hf", "hf-auto", "vllm", "neox", "huggingface", "local-completions", "local-chat-completions")

FOREIGN_VALUES: Final[Mapping[str, Mapping[str, str]]] = {
    "--dtype": DTYPE_NAMES,
    "--device": {"gpu": "cuda", "auto": ""},
    "--batch-size": {"auto": ""},
}
"""Values as other tools call them, by our option; an empty text leaves the option out, which means the same here."""

_TO_STDOUT: Final = ("plan", "inspect", "diff", "bench", "completion")
_GPU: Final = "device:number"  # no option's name
_NUMBERED_GPU: Final = re.compile(r"(?:cuda|gpu):(\d+)")
_AUTOMATIC: Final = re.compile(r"auto:\d+", re.IGNORECASE)  # lm-eval's: measured so many times
_ALIKE: Final = 0.8  # --gpus resembles --bogus by 0.77
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
            raise _unknown(command, name, options)
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
            found += [f"{long}={own}" for own in _own_values(long, value, given)]
        elif (value := next(rest, None)) is not None:
            found += [word for own in _own_values(long, value, given) for word in (ours, own)]
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


def _own_values(long: str, value: str, given: dict[str, str]) -> Iterator[str]:
    """A value as we call it; none where leaving the option out means the same."""
    if long == "--device" and _NUMBERED_GPU.fullmatch(value):
        given[_GPU] = value
        yield "cuda"
        return
    if long == "--batch-size" and _AUTOMATIC.fullmatch(value):
        return
    ours = FOREIGN_VALUES.get(long, {}).get(value.lower(), value)
    if ours or not value:
        yield ours


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


def _unknown(command: str, name: str, options: Mapping[str, argparse.Action]) -> UsageError:
    near = did_you_mean(name, options, 1, _ALIKE) if name.startswith("--") else ""
    if name in ("-o", "--output") and command in _TO_STDOUT:
        near = "The result goes to stdout: add `> FILE`."
    hint = EXPLAINED.get(name) or f"{near} {_help(command)}".strip()
    return UsageError(f"{command} has no option {printable(name)}", code="usage", hint=hint)


def _help(command: str) -> str:
    return f"See `neoxrun {command} --help`."
