"""`neoxrun plan`: its table, its JSON and its errors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from neoxrun.cli import main
from neoxrun.commands.plan import render
from neoxrun.commands.plan_json import to_json
from neoxrun.config.precisions import DeviceKind
from neoxrun.planning.explain import explain_reason
from neoxrun.planning.request import TYPICAL_PROMPTS, TYPICAL_TEXTS, Work
from support.families import make_folder
from support.paths import FIXTURES
from support.plans import planned


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "20B.yml"
    path.write_text(
        "{num-layers: 44, hidden-size: 6144, num-attention-heads: 64, seq-length: 2048, rotary-pct: 0.25,\n"
        " max-position-embeddings: 2048, pos-emb: rotary, gpt-j-residual: true, no-weight-tying: true,\n"
        " tokenizer-type: HFTokenizer, model-parallel-size: 2, pipe-parallel-size: 4, fp16: {fp16: true}}\n"
    )
    return str(path)


def test_the_command(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", config, "--devices", "2x48GB", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["tp"], plan["pp"], plan["replicas"], plan["parameters"]) == (2, 1, 1, 20_554_567_680)
    assert main(["plan", config, "--devices", "64GB", "--device", "cpu", "--tp", "1"]) == 0
    assert "20B: 20,554,567,680 parameters in bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "work", "replicas"),
    [
        ([], TYPICAL_PROMPTS, 1),
        (["--prompts", "20000"], replace(TYPICAL_PROMPTS, prompts=20_000), 4),
        (["--prompts", "3", "--prompt-tokens", "9", "--maximum-tokens", "50"], Work(3, 9, 50, 50), 1),
        (["--score"], TYPICAL_TEXTS, 8),
        (["--score", "--prompts", "70", "--prompt-tokens", "20"], Work(70, 20, 0, 0), 1),
    ],
)
def test_the_work_decides(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], work: Work, replicas: int
) -> None:
    assert main(["plan", config, "--devices", "8x80GB", "--json", *arguments]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert Work(**plan["work"]) == work
    assert plan["replicas"] == plan["estimate"]["replicas"] == replicas
    assert main(["plan", config, "--devices", "8x80GB", *arguments]) == 0
    assert f"{work.prompts:,} " in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--prompt-tokens", "--maximum-tokens"])
def test_lengths_beyond_the_context_are_refused(config: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main(["plan", config, "--devices", "8x80GB", option, "100000"]) == 2
    said = capsys.readouterr().err
    assert option in said
    assert "the context holds" in said


def test_on_the_cpu_no_time_is_estimated() -> None:
    values = to_json(planned("20B", "256GB", "cpu"))
    assert [values[key] for key in ("work", "gpu_speed", "gpu_listed", "expected", "estimate", "alternative")] == [
        None
    ] * 6


def test_what_does_not_fit_is_json_too(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", config, "--devices", "1x24GB", "--json"]) == 2
    shown = capsys.readouterr()
    values = json.loads(shown.out)
    assert (values["fits"], values["code"]) == (False, "does_not_fit")
    assert values["message"] in shown.err
    assert values["hint"] in shown.err
    need = values["need"]
    assert need["total_bytes"] > need["usable_bytes"]
    assert (need["free_bytes"], need["dtype"], need["device_kind"]) == (24 * 2**30, "fp16", "cuda")
    assert main(["plan", config, "--devices", "1x80GB", "--json", "--tp", "5"]) == 2
    values = json.loads(capsys.readouterr().out)
    assert (values["fits"], values["code"], values["need"]) == (False, "impossible_split", None)


def test_speed_is_expected_of_known_cards_only(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", config, "--devices", "2xH100", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    rates = {rate["sequences"]: rate["tokens_per_second"] for rate in plan["expected"]}
    # Measured with shorter prompts: 129 and 1,959 (docs/performance.md).
    assert rates[1] == pytest.approx(129, rel=0.15)
    assert rates[16] == pytest.approx(1959, rel=0.2)
    assert plan["gpu_listed"] is True
    assert main(["plan", config, "--devices", "2xH100"]) == 0
    assert "expected     about 120 tokens/s for 1 sequence at a time, 1,700 for 16" in capsys.readouterr().out
    for more in (["--devices", "2x80GB"], ["--devices", "2xH100", "--score"]):
        assert main(["plan", config, "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["expected"] is None
    assert main(["plan", config, "--devices", "2x80GB"]) == 0
    shown = capsys.readouterr().out
    assert "assumed to be those of the A100 80GB" in shown
    assert "expected  " not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "2x48GB", "--score", "--maximum-tokens", "5"], "--score and --maximum-tokens"),
        (["--devices", "1x24GB"], "does not fit"),
        (["--devices", "2x48GB", "--gpus", "0"], "--gpus"),
        (["--devices", "many"], "not a count and a memory size"),
    ],
)
def test_the_command_refuses(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["plan", config, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


@pytest.mark.parametrize(("devices", "kind"), [("8x24GB", "cuda"), ("256GB", "cpu")])
def test_table_is_aligned_and_ends_with_the_reason(devices: str, kind: DeviceKind) -> None:
    plan = planned("20B", devices, kind)
    text = render(plan, "20B")
    lines = text.splitlines()
    table = lines[3 : 4 + len(plan.devices)]
    assert len({len(line) for line in table}) == 1, "every row ends in the same column"
    assert text.replace("\n", " ").endswith(explain_reason(plan))


def test_json_has_what_programs_rely_on() -> None:
    values = json.loads(json.dumps(to_json(planned("20B", "2x48GB"))))
    assert list(values) == [
        *("fits", "tp", "pp", "replicas", "dtype", "precisions", "device_kind", "gpus", "nnodes", "reason", "notes"),
        *("work", "gpu_speed", "gpu_listed", "expected", "estimate", "alternative", "devices"),
        *("host_peak_bytes", "max_context", "max_batch", "prefill_tokens", "parameters", "kv_bytes_per_token"),
        *("vocab_size", "vocab_assumed"),
    ]
    assert values["precisions"] == {"weights": "fp16", "compute": "fp16", "cache": "fp16"}
    assert values["reason"].endswith(".")
    assert list(values["work"]) == ["prompts", "prompt_tokens", "new_tokens", "longest_answer"]
    assert list(values["gpu_speed"]) == ["name", "bytes_per_second", "half_flops", "full_flops", "link", "bf16"]
    for estimate in (values["estimate"], values["alternative"]):
        assert list(estimate) == [
            *("tp", "pp", "replicas", "sequences", "loading_seconds", "working_seconds", "tokens_per_second"),
        ]
    assert len(values["devices"]) == 2
    for rank in values["devices"]:
        assert list(rank) == [
            *("rank", "node", "device", "device_name", "stage", "tensor_rank", "first_layer", "num_layers"),
            *("weights_bytes", "kv_cache_bytes", "workspace_bytes", "total_bytes", "free_bytes"),
        ]


def test_the_table_names_the_replica_it_shows() -> None:
    lines = render(planned("20B", "8x24GB"), "20B").splitlines()
    assert "device of replica 1" in lines[3]
    assert any(line.startswith("batch ") and line.endswith("in each replica") for line in lines)
    assert "device of replica" not in render(planned("20B", "2x48GB"), "20B")


@pytest.mark.parametrize(
    ("arguments", "notes"),
    [
        (["--tp", "2"], []),
        (["--tp", "1"], ["norms: folded into the weights that read them where the checkpoint's 2 "]),
        (["--tp", "1", "--merge", "average"], ["norms: averaged where the checkpoint's 2 tensor-parallel ranks"]),
        (["--tp", "1", "--checkpoint", "no_such_folder"], []),
    ],
)
def test_what_becomes_of_norms_at_another_size(
    capsys: pytest.CaptureFixture[str], arguments: list[str], notes: list[str]
) -> None:
    config = str(FIXTURES / "tp2_native" / "config.yml")
    assert main(["plan", config, "--devices", "64GB", "--device", "cpu", "--json", *arguments]) == 0
    said = [note for note in json.loads(capsys.readouterr().out)["notes"] if note.startswith("norms")]
    assert [note in text for note, text in zip(notes, said, strict=True)] == [True] * len(notes)


def test_weights_that_are_expected_and_missing_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_folder(tmp_path / "model", "pythia")
    capsys.readouterr()

    def notes(*arguments: str) -> list[str]:
        assert main(["plan", *arguments, "--devices", "64GB", "--device", "cpu", "--json"]) == 0
        return [note for note in json.loads(capsys.readouterr().out)["notes"] if note.startswith("weights")]

    assert notes(str(folder)) == []
    (folder / "model.safetensors").rename(folder / "model.safetensors.part")
    (note,) = notes(str(folder))
    assert f"no checkpoint in {folder}: " in note
    assert "model.safetensors.part" in note
    assert notes("20B", "--checkpoint", "nowhere")[0].endswith("nowhere does not exist")
    assert notes("20B", "--checkpoint", str(tmp_path))[0].startswith(f"weights: no checkpoint in {tmp_path}: ")
    assert notes("20B") == [], "a model that one only thinks about"


def test_a_tied_head_has_an_averaged_norm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "tp2_native", folder)
    for head in folder.rglob("layer_07-*"):
        head.unlink()
    arguments = ["--set", "no_weight_tying=false", "--devices", "64GB", "--device", "cpu", "--tp", "1"]
    assert main(["plan", str(folder / "config.yml"), *arguments]) == 0
    assert "the final norm is averaged, as the head is tied" in capsys.readouterr().out
