"""Mistakes that are found before torch is imported: command line, configuration, prompts, output, files."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from support.command import neoxrun
from support.paths import DEMO

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


def demo(*arguments: str) -> tuple[str, ...]:
    return ("generate", "demo", *arguments)


USAGE = {
    "no command": ((), "COMMAND"),
    "unknown command": (("generat",), "generat"),
    "unknown flag": (demo("--temprature", "1"), "--temprature"),
    "two sources": (demo(*PROMPT, "-i", "good.txt"), "--prompt"),
    "not a number": (demo(*PROMPT, "--tp", "two"), "'two' is not a whole number of 1 or more"),
    "impossible value": (demo(*PROMPT, "--temperature", "-1"), "temperature must be a number from 0 to 1000000"),
    "bias of no token": (demo(*PROMPT, "--logit-bias", "2048=1"), "--logit-bias 2048", "ids 0 to 2047"),
    "malformed bias": (demo(*PROMPT, "--logit-bias", "a=1"), "--logit-bias a=1"),
    "too many tokens": (demo(*PROMPT, "--maximum-tokens", "2147483648"), "maximum_tokens", "2**31 - 1", "2147483648"),
    "too large a seed": (demo(*PROMPT, "--seed", "9223372036854775808"), "seed must be", "2**63 - 1"),
    "too many answers": (demo(*PROMPT, "-n", "99999999999"), "more than 1,000,000 answers", "--num-samples"),
    "too many texts": (demo("-n", "99999999999"), "more than 1,000,000 answers", "--num-samples"),
    "too many answers to a line": (demo("-i", "many.jsonl"), "more than 1,000,000 answers"),
    "too many answers to lines": (demo("-i", "good.txt", "-n", "1000001"), "more than 1,000,000 answers"),
    "output of a stream": (demo("-i", "/dev/stdin"), "/dev/stdin is a stream", "-o"),
    "resume a device": (demo(*PROMPT, "-o", "/dev/null", "--resume"), "/dev/null is not a regular file"),
    "empty separator": (demo("-i", "good.txt", "--prompt-end", ""), "--prompt-end is empty"),
    "input is output": (demo("-i", "good.txt", "-o", "good.txt"), "is also the input"),
    "resume what": (demo(*PROMPT, "--resume"), "--resume needs a file"),
    "dialogue into a file": (demo("--interactive", "-o", "x"), "--interactive"),
    "override without value": (demo(*PROMPT, "--set", "num_layers"), "num_layers"),
    "heads not divisible": (demo(*PROMPT, "--tp", "3"), "8 attention heads", "--tp 3", "1, 2, 4, 8"),
    "more stages than layers": (demo(*PROMPT, "--pp", "7"), "--pp 7", "layers (6)"),
    "no GPU": (demo(*PROMPT, "--device", "cuda"), "no CUDA GPU is visible", "--device cpu"),
    "too few GPUs": (demo(*PROMPT, "--gpus", "0,1"), "GPU 0", "no GPU is visible"),
    "GPUs of a CPU": (demo(*PROMPT, "--gpus", "0", "--device", "cpu"), "--gpus"),
    "hosts that cannot meet": (demo(*PROMPT, "--nnodes", "2"), "--rdzv-endpoint"),
    "no such port": (demo(*PROMPT, "--nnodes", "2", "--rdzv-endpoint", "host:99999"), "host:99999 is not HOST:PORT"),
    "no such host number": (
        demo(*PROMPT, "--nnodes", "2", "--node-rank", "2", "--rdzv-endpoint", "a:1"),
        "--node-rank 2",
    ),
    "hosts of unequal size": (
        demo(*PROMPT, "--nnodes", "2", "--rdzv-endpoint", "a:1", "--replicas", "1", "--pp", "3"),
        "pp 3",
        "hosts",
    ),
    "tensor parallelism over hosts": (
        demo(*PROMPT, "--nnodes", "2", "--rdzv-endpoint", "a:1", "--replicas", "1", "--pp", "1", "--tp", "2"),
        "tp 2",
        "hosts",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_command_line(case, files) -> None:
    arguments, *says = USAGE[case]
    neoxrun(*arguments, cwd=files).check_error(2, *says)


WORLDS = {
    "not the plan's size": ({"RANK": "0", "WORLD_SIZE": "3"}, ("--tp", "2"), "3 ranks"),
    "all three given": ({"RANK": "0", "WORLD_SIZE": "2"}, ("--tp", "1", "--pp", "1", "--replicas", "1"), "2 ranks"),
    "no number": ({"RANK": "zero", "WORLD_SIZE": "2"}, (), "RANK is 'zero'"),
    "no such rank": ({"RANK": "2", "WORLD_SIZE": "2"}, (), "rank 2 of 2"),
    "no rank of the host": ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "0"}, (), "on this host 1 of 0"),
    "no port": ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "high"}, ("--tp", "2"), "MASTER_PORT is 'high'"),
    "Slurm without its number": ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (), "SLURM_LOCALID is not set"),
}


@pytest.mark.parametrize("case", WORLDS)
def test_ranks_that_exist_already(case) -> None:
    environment, arguments, says = WORLDS[case]
    neoxrun(*demo(*PROMPT, *arguments), env=environment).check_error(2, says)


def test_network_interface_that_is_not_there() -> None:
    result = neoxrun(*demo(*PROMPT, "--tp", "2"), env={"GLOO_SOCKET_IFNAME": "lo,eth77"})
    result.check_error(2, "GLOO_SOCKET_IFNAME names eth77", "are lo")


def test_only_one_rank_of_a_host_speaks() -> None:
    result = neoxrun(*demo("--set", "num_layer=1"), env={"RANK": "1", "WORLD_SIZE": "2"})
    assert (result.code, result.out, result.err) == (2, "", "")


CONFIGURATIONS = {
    "missing": (("nowhere.yml",), None, "there is no configuration nowhere.yml"),
    "misspelt name": (("pythia160m",), None, "Did you mean pythia-160m?"),
    "folder": (("folder",), None, "is a folder"),
    "unparseable": (("demo", "broken.yml"), "broken.yml:2", "not valid YAML"),
    "unknown key": (("demo", "unknown.yml"), "unknown.yml:2", "unknown option num_layer", "Did you mean num_layers?"),
    "unsupported": (("demo", "alibi.yml"), "alibi.yml:1", "pos_emb: alibi is not supported", "rotary"),
    "unsupported by flag": (("demo", "--set", "moe_num_experts=4"), None, "moe_num_experts", "not supported"),
    "incomplete": (("--set", "hidden_size=8", "good.yml"), None, "good.yml"),
    "impossible": (("demo", "--set", "num_attention_heads=7"), None, "hidden_size"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configuration(case, files) -> None:
    arguments, where, *says = CONFIGURATIONS[case]
    result = neoxrun("generate", *arguments, *PROMPT, cwd=files).check_error(2, *says)
    if where:
        assert f"\n  --> {where}\n" in result.err


PROMPTS = {
    "missing": ("missing.txt", None, "missing.txt does not exist"),
    "empty": ("empty.txt", None, "no prompts in empty.txt"),
    "folder": ("folder", None, "folder", "Is a directory"),
    "not UTF-8": ("latin1.txt", "latin1.txt:2", "not UTF-8", "0xef at offset 8", "iconv"),
    "white space": ("blank.txt", None, "no prompts in blank.txt"),
    "not JSON": ("cut.jsonl", "cut.jsonl:2", "not JSON", "column"),
    "not an object": ("list.jsonl", "list.jsonl:1", "not a JSON object"),
    "no text": ("wordless.jsonl", "wordless.jsonl:1", '"prompt" or "context"'),
    "two texts": ("both.jsonl", "both.jsonl:1", 'both "prompt" and "context"'),
    "unknown key": ("misspelt.jsonl", "misspelt.jsonl:1", '"temprature"', "temperature"),
    "impossible parameter": ("cold.jsonl", "cold.jsonl:3", "temperature must be", "-1"),
    "an id twice": ("twice.jsonl", "twice.jsonl:2", "'x' is used twice, first in line 1"),
    "no answers": ("none.jsonl", "none.jsonl:1", '"n" is a whole number'),
    "half a character": ("half.jsonl", "half.jsonl:1", "not valid Unicode"),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(case, files) -> None:
    name, where, *says = PROMPTS[case]
    neoxrun(*demo("-i", name), cwd=files).check_error(4, *says, where=where)
    assert not (files / f"{name}.output.jsonl").exists()


def test_prompts_from_stdin() -> None:
    neoxrun(*demo("-i", "-"), stdin=" \n").check_error(4, "no prompts in standard input")


def test_prompt_that_is_no_text() -> None:
    neoxrun(*demo("--prompt", os.fsdecode(b"caf\xe9"))).check_error(4, "not valid Unicode")


OUTPUTS = {
    "folder missing": ("nowhere/out.jsonl", "No such file or directory"),
    "a folder": ("folder", "Is a directory"),
    "under a file": ("good.txt/out.jsonl", "Not a directory"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_output(case, files) -> None:
    name, *says = OUTPUTS[case]
    neoxrun(*demo("-i", "good.txt", "-o", name), cwd=files).check_error(4, name, *says)


RESUMED = {"not records": ("foreign.jsonl", "not an output record"), "others": ("other.jsonl", "does not belong")}


@pytest.mark.parametrize("case", RESUMED)
def test_resuming_another_file(case, files) -> None:
    name, says = RESUMED[case]
    before = (files / name).read_text()
    result = neoxrun(*demo("-i", "good.txt", "-o", name, "--resume"), cwd=files)
    result.check_error(4, says, where=f"{name}:1")
    assert (files / name).read_text() == before


TOKENIZERS = {
    "missing": (("--tokenizer", "nowhere.json"), "there is no tokenizer file", "--tokenizer"),
    "missing and no weights": (("--tokenizer", "nowhere.json", "--random-weights"), "no tokenizer", "--tokenizer"),
    "a web page": (("--tokenizer", "page.json"), "web page"),
    "cut off": (("--tokenizer", "cut.json"), "not JSON"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizer(case, files) -> None:
    arguments, *says = TOKENIZERS[case]
    neoxrun(*demo(*PROMPT, *arguments), cwd=files).check_error(4, *says)


def remove_latest(folder: Path) -> None:
    (folder / "latest").unlink()
    (folder / "global_step1").mkdir()


CHECKPOINTS = {
    "missing": (shutil.rmtree, "does not exist", "--checkpoint"),
    "empty": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "is empty"),
    "latest missing": (remove_latest, "no file `latest`", "global_step1, global_step5000", "--set iteration=5000"),
    "latest points nowhere": (
        lambda folder: (folder / "latest").write_text("global_step9"),
        "`latest` names 'global_step9'",
        "global_step5000",
    ),
    "shard missing": (
        lambda folder: (folder / "global_step5000" / "layer_03-model_01-model_states.pt").unlink(),
        "1 file is missing",
        "layer_03-model_01-model_states.pt",
    ),
    "shard empty": (
        lambda folder: (folder / "global_step5000" / "layer_03-model_01-model_states.pt").write_bytes(b""),
        "layer_03-model_01-model_states.pt is empty",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoint(case, tmp_path: Path) -> None:
    damage, *says = CHECKPOINTS[case]
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    damage(folder)
    neoxrun(*demo(*PROMPT, "--checkpoint", folder)).check_error(3, *says)


def test_no_checkpoint_named() -> None:
    neoxrun(*demo(*PROMPT, "--set", "load=null")).check_error(2, "names no checkpoint", "--checkpoint")


def test_full_disk_and_closed_pipe_of_stdout() -> None:
    with Path("/dev/full").open("w") as full:
        neoxrun("plan", "demo", stdout=full.fileno()).check_error(4, "No space left on device")
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
def test_quick_answers_import_nothing_heavy(case, tmp_path: Path) -> None:
    arguments, code = QUICK[case]
    # Processor time: how long it takes by the clock depends on what else the machine does.
    seconds = min(neoxrun(*arguments, cwd=tmp_path).cpu_seconds for _ in range(2))
    assert seconds < 0.5
    watched = neoxrun("-X", "importtime", "-m", "neoxrun", *arguments, command=[sys.executable], cwd=tmp_path)
    assert code in (None, watched.code)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in watched.err.splitlines() if "|" in line}
    assert "neoxrun" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_help_is_sentences_with_defaults(command) -> None:
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
