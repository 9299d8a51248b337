"""Mistakes that are found before torch is imported: the command line, and the world that it runs in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import neoxrun
from support.snapshots import Snapshot

PROMPT = ("--prompt", "import os")
HEAVY = {"torch", "megatron", "transformers", "numpy", "safetensors"}


def demo(*arguments: object) -> tuple[object, ...]:
    return ("generate", "demo", *arguments)


# Of each mistake the facts that its message must hold; how it is said is in snapshots/test_usage.txt.
Case = tuple[tuple[object, ...], tuple[str, ...]]

USAGE: dict[str, Case] = {
    "no command": (("-q",), ("COMMAND",)),
    "misspelt command": (("generat",), ("generat", "generate?")),
    "part of a command": (("evalu", "demo"), ("evalu", "evaluate?")),
    "another tool's command": (("chat", "demo"), ("chat", "--interactive")),
    "unknown command": (("frobnicate",), ("frobnicate", "download, generate, evaluate, score, finetune, plan")),
    "unknown command's help": (("help", "evalu"), ("evalu", "evaluate?")),
    "empty command": (("",), ("''",)),
    "unknown flag": (demo("--temprature", "1"), ("--temprature", "--temperature?", "neoxrun generate --help")),
    "part of a flag": (demo("--maximum", "1"), ("--maximum", "--maximum-tokens?")),
    "another tool's flag": (demo("--do_sample"), ("--do-sample", "--temperature")),
    "lm-eval's model": (("evaluate", "--model", "hf", "--tasks", "piqa"), ("lm-eval", "CONFIG")),
    "lm-eval's model arguments": (("evaluate", "demo", "--model_args", "pretrained=a"), ("--model-args", "CONFIG")),
    "a flag twice": (demo(*PROMPT, "--prompt", "b"), ("--prompt", "twice")),
    "a flag under two names": (demo("-i", "good.txt", "-f", "good.txt"), ("-i", "-f", "same option")),
    "another tool's flag without a value": (demo("--max-new-tokens"), ("--maximum-tokens",)),
    "two sources": (demo(*PROMPT, "-i", "good.txt"), ("--prompt",)),
    "prompt after an option": (
        demo("--seed", "1", "hello"),
        ("hello", "--prompt", "-i", "neoxrun generate --help"),
    ),
    "option before the command": (("--eager", "generate", "demo"), ("--eager", "follow the command")),
    "word after the tasks": (
        ("evaluate", "demo", "--tasks", "piqa", "--limit", "2", "extra.txt"),
        ("extra.txt", "--tasks", "neoxrun evaluate --help"),
    ),
    "not a number": (demo(*PROMPT, "--tp", "two"), ("--tp", "'two'")),
    "impossible value": (demo(*PROMPT, "--temperature", "-1"), ("temperature", "0", "1000000")),
    "commas in a list": (
        ("finetune", "demo", "--lora", "--lora-targets", "dense,query_key_value"),
        ("--lora-targets", "Write dense query_key_value, with spaces."),
    ),
    "value like a number": (("plan", "--devices", "-2xH100"), ("--devices '-2xH100'", "from 1 to 9999")),
    "bias of no token": (demo(*PROMPT, "--logit-bias", "2048=1"), ("--logit-bias 2048", "0 to 2047")),
    "malformed bias": (demo(*PROMPT, "--logit-bias", "a=1"), ("--logit-bias a=1",)),
    "too many tokens": (
        demo(*PROMPT, "--maximum-tokens", "2147483648"),
        ("maximum_tokens", "2**31 - 1", "2147483648"),
    ),
    "too large a seed": (demo(*PROMPT, "--seed", "9223372036854775808"), ("seed", "2**63 - 1")),
    "too many answers": (demo(*PROMPT, "-n", "99999999999"), ("1,000,000", "--num-samples")),
    "too many texts": (demo("-n", "99999999999"), ("1,000,000", "--num-samples")),
    "too many answers to a line": (demo("-i", "many.jsonl"), ("1,000,000",)),
    "too many answers to lines": (demo("-i", "good.txt", "-n", "1000001"), ("1,000,000",)),
    "output of a stream": (demo("-i", "/dev/stdin"), ("/dev/stdin", "-o")),
    "resume a device": (demo(*PROMPT, "-o", "/dev/null", "--resume"), ("/dev/null",)),
    "empty separator": (demo("-i", "good.txt", "--prompt-end", ""), ("--prompt-end",)),
    "input is output": (demo("-i", "good.txt", "-o", "good.txt"), ("good.txt",)),
    "resume what": (demo(*PROMPT, "--resume"), ("--resume",)),
    "dialogue into a file": (demo("--interactive", "-o", "x"), ("--interactive",)),
    "override without value": (demo(*PROMPT, "--set", "num_layers"), ("num_layers",)),
    "heads not divisible": (demo(*PROMPT, "--tp", "3"), ("8 attention heads", "--tp 3", "1, 2, 4, 8")),
    "more stages than layers": (demo(*PROMPT, "--pp", "7"), ("--pp 7", "6")),
    "no GPU": (demo(*PROMPT, "--device", "cuda"), ("--device cpu",)),
    "too few GPUs": (demo(*PROMPT, "--gpus", "0,1"), ("GPU 0",)),
    "GPUs of a CPU": (demo(*PROMPT, "--gpus", "0", "--device", "cpu"), ("--gpus",)),
    "hosts that cannot meet": (demo(*PROMPT, "--nnodes", "2"), ("--rdzv-endpoint",)),
    "no such port": (demo(*PROMPT, "--nnodes", "2", "--rdzv-endpoint", "host:99999"), ("host:99999", "HOST:PORT")),
    "no such host number": (
        demo(*PROMPT, "--nnodes", "2", "--node-rank", "2", "--rdzv-endpoint", "a:1"),
        ("--node-rank 2",),
    ),
    "hosts of unequal size": (
        demo(*PROMPT, "--nnodes", "2", "--rdzv-endpoint", "a:1", "--replicas", "1", "--pp", "3"),
        ("pp 3", "hosts"),
    ),
    "tensor parallelism over hosts": (
        demo(*PROMPT, "--nnodes", "2", "--rdzv-endpoint", "a:1", "--replicas", "1", "--pp", "1", "--tp", "2"),
        ("tp 2", "hosts"),
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_command_line(case: str, files: Path, snapshot: Snapshot) -> None:
    arguments, facts = USAGE[case]
    snapshot(neoxrun(*arguments, cwd=files).check_error(2, *facts))


WORLDS: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "not the plan's size": ({"RANK": "0", "WORLD_SIZE": "3"}, ("--tp", "2"), ("3 ranks",)),
    "all three given": (
        {"RANK": "0", "WORLD_SIZE": "2"},
        ("--tp", "1", "--pp", "1", "--replicas", "1"),
        ("2 ranks",),
    ),
    "no number": ({"RANK": "zero", "WORLD_SIZE": "2"}, (), ("RANK", "'zero'")),
    "no such rank": ({"RANK": "2", "WORLD_SIZE": "2"}, (), ("rank 2 of 2",)),
    "no rank of the host": ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "0"}, (), ("1 of 0",)),
    "no port": (
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "high"},
        ("--tp", "2", "--dtype", "fp32"),
        ("MASTER_PORT", "'high'"),
    ),
    "Slurm without its number": ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (), ("SLURM_LOCALID",)),
}


@pytest.mark.parametrize("case", WORLDS)
def test_ranks_that_exist_already(case: str, snapshot: Snapshot) -> None:
    environment, arguments, facts = WORLDS[case]
    snapshot(neoxrun(*demo(*PROMPT, *arguments), env=environment).check_error(2, *facts))


def test_network_interface_that_is_not_there() -> None:
    """Which others there are depends on the machine."""
    result = neoxrun(*demo(*PROMPT, "--tp", "2"), env={"GLOO_SOCKET_IFNAME": "lo,eth77"})
    result.check_error(2, "GLOO_SOCKET_IFNAME", "eth77", " lo")


def test_only_one_rank_of_a_host_speaks() -> None:
    result = neoxrun(*demo("--set", "num_layer=1"), env={"RANK": "1", "WORLD_SIZE": "2"})
    assert (result.code, result.out, result.err) == (2, "", "")


def test_full_disk_and_closed_pipe_of_stdout(snapshot: Snapshot) -> None:
    with Path("/dev/full").open("w") as full:
        snapshot(neoxrun("plan", "demo", stdout=full.fileno()).check_error(4, "No space left on device"))
    reader, writer = os.pipe()
    os.close(reader)
    result = neoxrun("plan", "demo", stdout=writer)
    os.close(writer)
    assert (result.code, result.err) == (141, "")


QUICK = {
    "version": (("--version",), 0),
    "help": (("--help",), 0),
    "help of a command": (("generate", "--help"), 0),
    "a wrong key": (("generate", "demo", "--set", "num_layer=3"), 2),
    "a wrong split": (demo(*PROMPT, "--tp", "3"), 2),
    "a checkpoint that is not there": (("generate", "20B", *PROMPT, "--device", "cpu", "--dtype", "bf16"), None),
}


@pytest.mark.parametrize("case", QUICK)
def test_quick_answers_import_nothing_heavy(case: str, tmp_path: Path) -> None:
    arguments, code = QUICK[case]
    # Processor time: how long it takes by the clock depends on what else the machine does.
    seconds = min(neoxrun(*arguments, cwd=tmp_path).cpu_seconds for _ in range(2))
    assert seconds < 0.5
    watched = neoxrun("-X", "importtime", "-m", "neoxrun", *arguments, command=[sys.executable], cwd=tmp_path)
    assert code in (None, watched.code)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in watched.err.splitlines() if "|" in line}
    assert "neoxrun" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("arguments", [(), ("help",), ("help", "help"), ("help", "-h")])
def test_help_is_on_stdout(arguments: tuple[str, ...]) -> None:
    assert neoxrun(*arguments).check_success().out == neoxrun("--help").check_success().out


def test_help_of_a_command() -> None:
    shown = neoxrun("help", "plan").check_success().out
    assert shown == neoxrun("plan", "--help").check_success().out
    assert "--devices" in shown


# What each stage before the ranks calls its mistakes, with -v; the ranks' own are in test_checkpoint and elsewhere.
CODES = {
    "unsupported_option": (2, demo(*PROMPT, "--set", "pos_emb=alibi")),
    "unknown_option": (2, ("plan", "demo", "--set", "num_layer=3")),
    "missing_configuration": (2, ("plan", "nowhere")),
    "impossible_split": (2, demo(*PROMPT, "--tp", "3")),
    "no_gpu": (2, demo(*PROMPT, "--device", "cuda")),
    "missing_option": (2, demo(*PROMPT, "--resume")),
    "missing_checkpoint": (3, demo(*PROMPT, "--checkpoint", "folder")),
    "missing_file": (4, demo("-i", "missing.txt")),
    "bad_input": (4, demo("-i", "cut.jsonl")),
    "bad_prompt": (4, demo("-i", "misspelt.jsonl")),
    "foreign_record": (4, demo("-i", "good.txt", "-o", "other.jsonl", "--resume")),
    "bad_tokenizer": (4, demo(*PROMPT, "--tokenizer", "page.json")),
}


@pytest.mark.parametrize("code", CODES)
def test_codes(code: str, files: Path) -> None:
    exit_code, arguments = CODES[code]
    neoxrun(*arguments, "-v", cwd=files).check_error(exit_code, which=code)


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_help_is_sentences_with_defaults(command: str) -> None:
    result = neoxrun(command, "--help", env={"COLUMNS": "1000"}).check_success()
    texts = re.findall(r"^ {2}(-\S.*?)(?: {2,}|\n {10,})(\S.*)$", result.out, re.MULTILINE)
    assert len(texts) > 15
    for option, text in texts:
        if "-h, --help" in option:
            continue
        assert text[0].isupper(), f"{option}: {text}"
        assert text.endswith("."), f"{option}: {text}"
        if re.search(r"[A-Z]{1,}$|\}$", option.split(",")[-1]) and option.split()[0] not in ("--set", "--prompt"):
            assert "efault" in text, f"{option} takes a value, and its help names no default: {text}"


def test_names_of_other_tools() -> None:
    ours = ("demo", *PROMPT, "--maximum-tokens", "4", "--temperature", "0", "--dtype", "fp32", "--device", "cpu")
    theirs = ("-p", "import os", "--model", "demo", "--max_new_tokens=4", "--temp=0", "--dtype", "float32")
    answers = [neoxrun("generate", *words).check_success().out for words in (ours, (*theirs, "--device", "cpu"))]
    assert answers[0] == answers[1]


def test_eval_is_evaluate() -> None:
    assert neoxrun("eval", "--help").check_success().out == neoxrun("evaluate", "--help").check_success().out


BASH = """
. {script}
ask() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_neoxrun; echo "${{COMPREPLY[@]}}"; }}
ask neoxrun gene
ask neoxrun generate --maxi
ask neoxrun evaluate --dtype ""
"""


def test_completion_in_bash(tmp_path: Path) -> None:
    script = tmp_path / "neoxrun.bash"
    script.write_text(neoxrun("completion", "bash").check_success().out)
    done = subprocess.run(["bash", "-c", BASH.format(script=script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["generate", "--maximum-tokens", "fp32 fp16 bf16"]


@pytest.mark.parametrize(("shell", "holds"), [("zsh", "#compdef neoxrun"), ("fish", "complete -c neoxrun")])
def test_completion_in_other_shells(shell: str, holds: str) -> None:
    assert holds in neoxrun("completion", shell).check_success().out


def test_the_module_is_the_command() -> None:
    assert neoxrun("-m", "neoxrun", "--version", command=[sys.executable]).out == neoxrun("--version").out
