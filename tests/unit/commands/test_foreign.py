from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.cli import COMMANDS, build_parser
from neoxrun.commands.foreign import translate
from neoxrun.commands.foreign_names import CONFIG, EXPLAINED, FOREIGN_NAMES, FOREIGN_VALUES
from neoxrun.config.precisions import DTYPE_NAMES, QUANTISED, is_quantised
from neoxrun.errors import UsageError


def parsers() -> dict[str, argparse.ArgumentParser]:
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(commands.choices)


PARSERS = parsers()


def translated(command: str, *words: str) -> list[str]:
    return translate(command, words, PARSERS[command])


@pytest.mark.parametrize("row", FOREIGN_NAMES, ids=lambda row: row.names[0])
def test_what_takes_the_place_of_a_foreign_name_is_there_and_hides_nothing(row: Any) -> None:
    for command in row.commands:
        options = PARSERS[command]._option_string_actions
        assert row.ours == CONFIG or row.ours in options
        assert not options.keys() & set(row.names)


def test_a_command_understands_a_name_in_one_way() -> None:
    for command in COMMANDS:
        names = [name for row in FOREIGN_NAMES if command in row.commands for name in row.names]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_explained_is_an_error_with_the_explanation(command: str) -> None:
    """Unless it means something to this command: `-c` is lm-eval's cache, and llama.cpp's context."""
    understood = {name for row in FOREIGN_NAMES if command in row.commands for name in row.names}
    for name in EXPLAINED.keys() - understood - PARSERS[command]._option_string_actions.keys():
        with pytest.raises(UsageError) as caught:
            translated(command, name, "3")
        assert (caught.value.message, caught.value.hint) == (f"{command} has no option {name}", EXPLAINED[name])


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("--maxtoken", "--maximum-tokens"),
        ("--max", "--maximum-tokens"),
        ("--max_new_token", "--maximum-tokens"),
        ("--numreturnsequences", "--num-samples"),
        ("--tensor-parallel", "--tp"),
        ("--temprature", "--temperature"),
        ("--modle", "--model"),
    ],
)
def test_what_is_like_a_name_of_any_tool_is_suggested_as_ours(name: str, ours: str) -> None:
    with pytest.raises(UsageError) as caught:
        translated("generate", name, "3")
    assert caught.value.hint == f"Did you mean {ours}? See `neoxrun generate --help`."


@pytest.mark.parametrize("name", ["--bogus", "--num_beams", "--best_of", "--version"])
def test_what_is_not_alike_is_not_suggested(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        translated("generate", name, "3")
    assert "Did you mean" not in str(caught.value.hint)


@pytest.mark.parametrize("command", ["plan", "inspect", "diff"])
def test_an_output_file_of_a_command_that_prints(command: str) -> None:
    for words in (("-o", "plan.txt"), ("--output=plan.txt",)):
        with pytest.raises(UsageError) as caught:
            translated(command, *words)
        assert "goes to stdout: add `> FILE`" in str(caught.value.hint)


def test_a_value_that_there_is_not_names_the_ones_that_there_are() -> None:
    for value, hint in (("hugging-face", "Did you mean huggingface?"), ("nope", "See `neoxrun convert --help`.")):
        with pytest.raises(UsageError) as caught:
            build_parser().parse_args(["convert", "a", "b", "--to", value])
        assert "choose from 'neox', 'huggingface'" in caught.value.message
        assert hint in str(caught.value.hint)
    for value in ("hf", "HF", "transformers"):
        assert build_parser().parse_args(["convert", "a", "b", "--to", value]).to == "huggingface"
    assert build_parser().parse_args(["convert", "a", "b", "--to", "gpt-neox"]).to == "neox"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--device", "mps"), "--device must be cpu or cuda, not mps", "Other names: gpu, auto, cuda:N."),
        (("--device=cuda:x",), "not cuda:x", "cuda:N"),
        (("--device", "cdua"), "not cdua", "Did you mean cuda?"),
        (("--dtype", "int8"), "--dtype must be fp32, fp16 or bf16, not int8", QUANTISED),
        (("--dtype=NF4",), "not NF4", QUANTISED),
        (("--torch-dtype", "float8_e4m3fn"), "not float8_e4m3fn", QUANTISED),
        (("--dtype", "bf17"), "not bf17", "Did you mean bf16? Other names: float16, half, "),
    ],
)
def test_a_device_or_format_that_there_is_not_names_all_that_are_understood(
    words: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        translated("generate", *words)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert (caught.value.code, caught.value.exit_code) == ("invalid_value", 2)


def test_values_become_values_that_the_parser_takes() -> None:
    options = PARSERS["generate"]._option_string_actions
    for option, pairs in FOREIGN_VALUES.items():
        choices = options[option].choices
        assert choices is None or set(pairs.values()) <= {*choices, ""}


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (("--max_new_tokens", "5"), ["--maximum-tokens", "5"]),
        (("--max-tokens=5",), ["--maximum-tokens=5"]),
        (("--prompt=--tp", "--stop=-x"), ["--prompt=--tp", "--stop=-x"]),
        (("-p=-x",), ["--prompt=-x"]),
        (("--prompt", "x", "--model", "demo"), ["demo", "--prompt", "x"]),
        (("-mdemo",), None),
        (("--dtype", "Half"), ["--dtype", "fp16"]),
        (("--dtype", "auto"), []),
        (("--device", "cuda:1"), ["--device", "cuda", "--gpus", "1"]),
        (("--batch-size", "auto"), []),
        (("--batch-size", "auto:4"), []),
        (("--model_name_or_path", "demo"), ["demo"]),
        (("-n3", "-vv"), ["--num-samples=3", "-vv"]),
        (("--temperature", "-1"), ["--temperature", "-1"]),
        (("--prompt=",), ["--prompt="]),
        (("--dtype=float16",), ["--dtype=fp16"]),
        (("demo", "--", "--max_tokens"), ["demo", "--", "--max_tokens"]),
        (("--stop", "a", "--stop", "b"), ["--stop", "a", "--stop", "b"]),
        (("--set", "a_b=c_d"), ["--set", "a_b=c_d"]),
    ],
)
def test_words(words: tuple[str, ...], ours: list[str] | None) -> None:
    if ours is None:
        with pytest.raises(UsageError):
            translated("generate", *words)
    else:
        assert translated("generate", *words) == ours


def _own_words(parser: argparse.ArgumentParser) -> st.SearchStrategy[list[str]]:
    """Option by option, what our own help shows."""
    values = st.text("abc_=:1 -", min_size=1)

    def words(action: argparse.Action) -> st.SearchStrategy[list[str]]:
        flag = st.sampled_from(action.option_strings)
        if action.nargs == 0:
            return flag.map(lambda name: [name])
        choices: Sequence[str] = list(action.choices or ())
        value = st.sampled_from(choices) if choices else values
        long = action.option_strings[-1]
        joined = value.map(lambda text: [f"{long}={text}"])
        return joined | st.tuples(flag, value.filter(lambda text: not text.startswith("-"))).map(list)

    options = [
        action
        for action in parser._actions
        if action.option_strings and action.nargs in (0, None) and action.type in (None, str)
    ]
    chosen = st.lists(st.sampled_from(options), unique_by=lambda action: action.dest, max_size=6)
    parts = chosen.flatmap(lambda actions: st.tuples(*map(words, actions)))
    return parts.map(lambda found: [word for part in found for word in part])


@given(st.data())
def test_our_own_words_mean_what_they_meant(data: st.DataObject) -> None:
    """The parser alone, without translation, understands the same."""
    command = data.draw(st.sampled_from(["generate", "plan", "bench"]))
    parser = PARSERS[command]
    words = [word for word in data.draw(_own_words(parser)) if word not in ("-h", "--help")]

    def understood(words: Sequence[str]) -> object:
        try:
            return argparse.ArgumentParser.parse_known_args(parser, words)
        except UsageError as error:  # two options that exclude each other
            return error.message

    if not any(word.endswith(("cuda:1", "auto")) for word in words):
        assert understood(translate(command, words, parser)) == understood(words)


def test_a_numbered_gpu_and_gpus() -> None:
    for words in (("--device", "cuda:1", "--gpus", "0"), ("--gpus=0", "--device=gpu:1")):
        with pytest.raises(UsageError, match=r"--device (cuda|gpu):1 and --gpus"):
            translated("plan", *words)


def test_model_and_config() -> None:
    for words in (("demo", "--model", "20B"), ("--model", "demo", "-m", "20B"), ("--model=demo", "--tp", "1", "20B")):
        with pytest.raises(UsageError, match="--model is the argument CONFIG"):
            translated("generate", *words)
    assert translated("evaluate", "--model", "demo", "--tasks", "piqa", "arc") == ["demo", "--tasks", "piqa", "arc"]


def test_no_format_that_neoxrun_has_is_a_quantised_one() -> None:
    assert not [name for name in ("fp32", "fp16", "bf16", *DTYPE_NAMES, "float64", "double", "") if is_quantised(name)]
    assert all(map(is_quantised, ("int8", "uint4", "fp8", "fp4", "float8", "8bit", "4-bit", "q4_k_m", "q8_0", "awq")))
