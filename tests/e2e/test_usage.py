"""Mistakes that are found before torch is imported: command line, configuration, prompts, output, files."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import neoxrun
from support.paths import DEMO
from support.snapshots import Snapshot

PROMPT = ("--prompt", "import os")
HEAVY = {"torch", "megatron", "transformers", "numpy", "safetensors"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands of a test run in, with the files that the tables below name."""
    contents: dict[str, str | bytes] = {
        "broken.yml": '{"num_layers": 6,\n "hidden_size": ]\n}\n',
        "unknown.yml": "# a comment\nnum_layer: 6\n",
        "alibi.yml": "pos_emb: alibi\n",
        "empty.txt": "",
        "blank.txt": "\n  \n\t\n",
        "latin1.txt": b"caf\xc3\xa9\nna\xefve\n",
        "good.txt": "import os\n",
        "cut.jsonl": '{"prompt": "a"}\n{"prompt": "b"\n',
        "list.jsonl": '["a"]\n',
        "wordless.jsonl": '{"id": 7}\n',
        "both.jsonl": '{"prompt": "a", "context": "b"}\n',
        "misspelt.jsonl": '{"prompt": "a", "temprature": 1}\n',
        "cold.jsonl": '{"prompt": "a"}\n\n{"prompt": "b", "temperature": -1}\n',
        "twice.jsonl": '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n',
        "none.jsonl": '{"prompt": "a", "n": 0}\n',
        "half.jsonl": '{"prompt": "\\ud800"}\n',
        "many.jsonl": '{"prompt": "a"}\n{"prompt": "b", "n": 99999999999}\n',
        "foreign.jsonl": '{"hello": 1}\n',
        "other.jsonl": '{"id": 0, "context": "something else", "text": ""}\n',
        "page.json": "<!DOCTYPE html><html><body>404</body></html>",
        "cut.json": '{"model": {"vocab": {"a"',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme").touch()
    return tmp_path


def demo(*arguments: object) -> tuple[object, ...]:
    return ("generate", "demo", *arguments)


# Of each mistake the facts that its message must hold; how it is said is in snapshots/test_usage.txt.
Case = tuple[tuple[object, ...], tuple[str, ...]]

USAGE: dict[str, Case] = {
    "no command": (("-q",), ("COMMAND",)),
    "misspelt command": (("generat",), ("generat", "generate?")),
    "part of a command": (("eval", "demo"), ("eval", "evaluate?")),
    "unknown command": (("frobnicate",), ("frobnicate", "download, generate, evaluate, plan")),
    "unknown command's help": (("help", "eval"), ("eval", "evaluate?")),
    "empty command": (("",), ("''",)),
    "unknown flag": (demo("--temprature", "1"), ("--temprature",)),
    "two sources": (demo(*PROMPT, "-i", "good.txt"), ("--prompt",)),
    "not a number": (demo(*PROMPT, "--tp", "two"), ("--tp", "'two'")),
    "impossible value": (demo(*PROMPT, "--temperature", "-1"), ("temperature", "0", "1000000")),
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
    "no port": ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "high"}, ("--tp", "2"), ("MASTER_PORT", "'high'")),
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


CONFIGURATIONS: dict[str, tuple[tuple[str, ...], str | None, tuple[str, ...]]] = {
    "missing": (("nowhere.yml",), None, ("nowhere.yml",)),
    "misspelt name": (("pythia160m",), None, ("pythia-160m",)),
    "folder": (("folder",), None, ("folder",)),
    "unparseable": (("demo", "broken.yml"), "broken.yml:2", ()),
    "unknown key": (("demo", "unknown.yml"), "unknown.yml:2", ("num_layer", "num_layers")),
    "unsupported": (("demo", "alibi.yml"), "alibi.yml:1", ("pos_emb: alibi", "rotary")),
    "unsupported by flag": (("demo", "--set", "moe_num_experts=4"), None, ("moe_num_experts",)),
    "incomplete": (("--set", "hidden_size=8", "good.yml"), None, ("good.yml",)),
    "impossible": (("demo", "--set", "num_attention_heads=7"), None, ("hidden_size",)),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configuration(case: str, files: Path, snapshot: Snapshot) -> None:
    arguments, where, facts = CONFIGURATIONS[case]
    snapshot(neoxrun("generate", *arguments, *PROMPT, cwd=files).check_error(2, *facts, where=where))


PROMPTS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "missing": ("missing.txt", None, ("missing.txt",)),
    "empty": ("empty.txt", None, ("empty.txt",)),
    "folder": ("folder", None, ("folder", "Is a directory")),
    "not UTF-8": ("latin1.txt", "latin1.txt:2", ("UTF-8", "0xef", "8", "iconv")),
    "white space": ("blank.txt", None, ("blank.txt",)),
    "not JSON": ("cut.jsonl", "cut.jsonl:2", ("JSON", "column")),
    "not an object": ("list.jsonl", "list.jsonl:1", ("JSON object",)),
    "no text": ("wordless.jsonl", "wordless.jsonl:1", ('"prompt"', '"context"')),
    "two texts": ("both.jsonl", "both.jsonl:1", ('"prompt"', '"context"')),
    "unknown key": ("misspelt.jsonl", "misspelt.jsonl:1", ('"temprature"', "temperature")),
    "impossible parameter": ("cold.jsonl", "cold.jsonl:3", ("temperature", "-1")),
    "an id twice": ("twice.jsonl", "twice.jsonl:2", ("'x'", "line 1")),
    "no answers": ("none.jsonl", "none.jsonl:1", ('"n"',)),
    "half a character": ("half.jsonl", "half.jsonl:1", ("Unicode",)),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(case: str, files: Path, snapshot: Snapshot) -> None:
    name, where, facts = PROMPTS[case]
    snapshot(neoxrun(*demo("-i", name), cwd=files).check_error(4, *facts, where=where))
    assert not (files / f"{name}.output.jsonl").exists()


def test_prompts_from_stdin(snapshot: Snapshot) -> None:
    snapshot(neoxrun(*demo("-i", "-"), stdin=" \n").check_error(4))


def test_prompt_that_is_no_text(snapshot: Snapshot) -> None:
    snapshot(neoxrun(*demo("--prompt", os.fsdecode(b"caf\xe9"))).check_error(4, "Unicode"))


OUTPUTS = {
    "folder missing": ("nowhere/out.jsonl", "No such file or directory"),
    "a folder": ("folder", "Is a directory"),
    "under a file": ("good.txt/out.jsonl", "Not a directory"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_output(case: str, files: Path, snapshot: Snapshot) -> None:
    name, reason = OUTPUTS[case]
    snapshot(neoxrun(*demo("-i", "good.txt", "-o", name), cwd=files).check_error(4, name, reason))


@pytest.mark.parametrize("name", ["foreign.jsonl", "other.jsonl"])
def test_resuming_another_file(name: str, files: Path, snapshot: Snapshot) -> None:
    before = (files / name).read_text()
    result = neoxrun(*demo("-i", "good.txt", "-o", name, "--resume"), cwd=files)
    snapshot(result.check_error(4, where=f"{name}:1"))
    assert (files / name).read_text() == before


TOKENIZERS: dict[str, Case] = {
    "missing": (("--tokenizer", "nowhere.json"), ("nowhere.json", "--tokenizer")),
    "missing and no weights": (
        ("--tokenizer", "nowhere.json", "--random-weights"),
        ("nowhere.json", "--tokenizer"),
    ),
    "a web page": (("--tokenizer", "page.json"), ("page.json", "web page")),
    "cut off": (("--tokenizer", "cut.json"), ("cut.json", "JSON")),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizer(case: str, files: Path, snapshot: Snapshot) -> None:
    arguments, facts = TOKENIZERS[case]
    snapshot(neoxrun(*demo(*PROMPT, *arguments), cwd=files).check_error(4, *facts))


def remove_latest(folder: Path) -> None:
    (folder / "latest").unlink()
    (folder / "global_step1").mkdir()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def name_another_tag(folder: Path) -> None:
    (folder / "latest").write_text("global_step9")


def remove_shard(folder: Path) -> None:
    (folder / "global_step5000" / SHARD).unlink()


def empty_shard(folder: Path) -> None:
    (folder / "global_step5000" / SHARD).write_bytes(b"")


SHARD = "layer_03-model_01-model_states.pt"
CHECKPOINTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing": (shutil.rmtree, ("--checkpoint",)),
    "empty": (empty, ()),
    "latest missing": (remove_latest, ("`latest`", "global_step1, global_step5000", "--set iteration=5000")),
    "latest points nowhere": (name_another_tag, ("`latest`", "'global_step9'", "global_step5000")),
    "shard missing": (remove_shard, ("1 file", SHARD)),
    "shard empty": (empty_shard, (SHARD,)),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoint(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    damage, facts = CHECKPOINTS[case]
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    damage(folder)
    snapshot(neoxrun(*demo(*PROMPT, "--checkpoint", folder)).check_error(3, *facts))


def test_no_checkpoint_named(snapshot: Snapshot) -> None:
    snapshot(neoxrun(*demo(*PROMPT, "--set", "load=null")).check_error(2, "--checkpoint"))


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
    "bad_prompt": (4, demo("-i", "cut.jsonl")),
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


def test_the_module_is_the_command() -> None:
    assert neoxrun("-m", "neoxrun", "--version", command=[sys.executable]).out == neoxrun("--version").out
