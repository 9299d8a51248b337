"""The arguments of LLM: names of other tools, values as torch writes them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neoxrun import LLM
from neoxrun.errors import UsageError
from neoxrun.serving.argument_names import EXPLAINED_ARGUMENTS, FOREIGN_ARGUMENTS
from neoxrun.serving.arguments import DEFAULTS, model_arguments
from neoxrun.serving.local import ModelArguments


def read(**given: Any) -> ModelArguments:
    own = {name: value for name, value in given.items() if name in DEFAULTS}
    foreign = {name: value for name, value in given.items() if name not in own and name != "configuration"}
    return model_arguments(given.get("configuration"), own, foreign)[0]


def test_what_is_left_out() -> None:
    assert read(configuration="demo") == ModelArguments(("demo",))
    assert read(configuration=["20B", Path("own.yml")]).sources == ("20B", "own.yml")


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"tensor_parallel_size": 2}, "tp", 2),
        ({"adapter": Path("run")}, "adapter", "run"),
        ({"peft": "run"}, "adapter", "run"),
        ({"tp": np.int64(2)}, "tp", 2),
        ({"pipeline_parallel_size": 3}, "pp", 3),
        ({"torch_dtype": torch.bfloat16}, "dtype", "bf16"),
        ({"dtype": torch.float16}, "dtype", "fp16"),
        ({"dtype": "half"}, "dtype", "fp16"),
        ({"dtype": "float32"}, "dtype", "fp32"),
        ({"dtype": "auto"}, "dtype", None),
        ({"device": "gpu"}, "device", "cuda"),
        ({"device": torch.device("cuda:1")}, "gpus", (1,)),
        ({"device": "cuda:1", "gpus": [1]}, "device", "cuda"),
        ({"device": "auto"}, "device", None),
        ({"gpus": range(2)}, "device", "cuda"),
        ({"enforce_eager": True}, "eager", True),
        ({"stall_timeout": 2.5}, "stall_timeout", 2.5),
        ({"quiet": False}, "show_progress", True),
        ({"checkpoint": Path("/weights")}, "checkpoint", "/weights"),
        ({"overrides": "seq_length=8"}, "overrides", ("seq_length=8",)),
    ],
)
def test_names_and_values_of_other_tools(given: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read(configuration="demo", **given), field) == value


def test_a_model_by_its_other_name() -> None:
    assert read(model="demo").sources == ("demo",)


@pytest.mark.parametrize(
    ("given", "code", "says", "hint"),
    [
        ({"dtype": "float15"}, "invalid_value", "dtype must be fp32, fp16 or bf16, not 'float15'", "float16"),
        ({"dtype": "float8"}, "invalid_value", "not 'float8'", "Quantised weights are not supported"),
        ({"dtype": "int8"}, "invalid_value", "not 'int8'", "Quantised weights are not supported"),
        ({"dtype": 1.5}, "invalid_value", "dtype must be fp32, fp16 or bf16, not '1.5'", None),
        ({"device": "mps"}, "invalid_value", "device must be cuda or cpu, not 'mps'", None),
        ({"device": "cuda:x"}, "invalid_value", "device must be cuda or cpu, not 'cuda:x'", "cuda"),
        ({"device": "cpu", "gpus": (0,)}, "conflicting_options", "gpus and device cpu", "Leave one"),
        ({"device": "cuda:1", "gpus": (0,)}, "conflicting_options", "cannot be combined", "leave one"),
        ({"gpus": "0,1"}, "invalid_value", "gpus must be numbers of GPUs, not '0,1'", "gpus=(0, 1)"),
        ({"gpus": (0, 0)}, "invalid_value", "each GPU once", None),
        ({"gpus": (-1,)}, "invalid_value", "a number of gpus must be a whole number of 0 or more, not -1", None),
        ({"tp": 0}, "invalid_value", "tp must be a whole number of 1 or more, not 0", None),
        ({"pp": 1.0}, "invalid_value", "pp must be a whole number of 1 or more, not 1.0", None),
        ({"tp": True}, "invalid_value", "tp must be a whole number of 1 or more, not True", None),
        ({"merge": "fald"}, "invalid_value", "merge must be fold or average, not 'fald'", "Did you mean fold"),
        ({"checkpoint": 7}, "invalid_value", "checkpoint must be a text or a path, not 7", None),
        (
            {"stall_timeout": 0},
            "invalid_value",
            "stall_timeout must be a number of seconds above 0 or None, not 0",
            None,
        ),
        ({"stall_timeout": "5"}, "invalid_value", "stall_timeout must be a number of seconds", None),
        ({"tp": 2, "tensor_parallel_size": 2}, "conflicting_options", "another name of tp", "Leave one"),
        ({"eager": True, "enforce_eager": False}, "conflicting_options", "another name of eager", "Leave one"),
        ({"batch_size": 1, "max_num_seqs": 9}, "conflicting_options", "another name of batch_size", "Leave one"),
        ({"torch_dtype": "fp16", "precision": "bf16"}, "conflicting_options", "another name of dtype", "Leave one"),
        ({"quiet": "x"}, "invalid_value", "quiet must be True or False, not 'x'", None),
        ({"eager": 1}, "invalid_value", "eager must be True or False, not 1", None),
        ({"max_num_seqs": 1.5}, "invalid_value", "batch_size must be a whole number of 1 or more, not 1.5", None),
        ({"max_model_len": 99}, "unknown_option", "LLM has no argument max_model_len", "seq_length=N"),
        ({"chekpoint": "x"}, "unknown_option", "LLM has no argument chekpoint", "Did you mean checkpoint?"),
        ({"tensor_parallel_sise": 2}, "unknown_option", "no argument tensor_p", "Did you mean tensor_parallel_size?"),
        (
            {"zzz": 1},
            "unknown_option",
            "LLM has no argument zzz",
            "The arguments are: adapter, batch_size, checkpoint,",
        ),
    ],
)
def test_what_is_refused(given: dict[str, Any], code: str, says: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        read(configuration="demo", **given)
    assert caught.value.code == code
    assert says in caught.value.message
    assert (caught.value.hint is None) if hint is None else (hint in (caught.value.hint or ""))


def test_the_model_and_the_batch_size_are_checked() -> None:
    with pytest.raises(UsageError, match="needs to know which model") as caught:
        LLM()
    assert caught.value.code == "missing_option"
    for given in ({"batch_size": 0}, {"max_num_seqs": 0}):
        with pytest.raises(UsageError, match="batch_size must be a whole number of 1 or more, not 0") as wrong:
            LLM("demo", device="cpu", **given)  # type: ignore[arg-type]
        assert wrong.value.code == "invalid_value"


def test_the_arguments_are_those_of_an_llm() -> None:
    assert (LLM.__init__.__kwdefaults__ or {}).keys() == DEFAULTS.keys()


def test_other_names_stand_for_arguments_and_explained_ones_do_not() -> None:
    arguments = {"configuration", *DEFAULTS}
    assert set(FOREIGN_ARGUMENTS.values()) <= arguments
    assert not arguments & (FOREIGN_ARGUMENTS.keys() | EXPLAINED_ARGUMENTS.keys())
