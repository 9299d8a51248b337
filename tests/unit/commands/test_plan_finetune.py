"""``neoxrun plan --finetune``: its lines, its JSON, and flags that do not go together."""

from __future__ import annotations

import json

import pytest

from neoxrun.cli import main


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["plan", "demo", "--finetune", "--devices", "2xH100", "--batch-size", "8", "--micro-batch-size", "2"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "demo: training the whole model, 3,456,000 parameters in bf16"
    assert lines[1] == (
        "tensor parallel 1 x replicas 2, ZeRO 1; 8 rows of 512 tokens a step, in 2 passes of 2 on each replica"
    )
    assert lines[2].startswith("memory: ")
    assert lines[3].startswith("speed: about ")


def test_the_speed_of_this_cpu_is_measured_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    for words, lines in (("", 1), ("--devices 64GB", 0), ("--dtype bf16", 0)):
        assert main(["plan", "demo", "--finetune", "--device", "cpu", *words.split()]) == 0
        assert capsys.readouterr().out.count("\nspeed: about ") == lines, words


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = "plan 20B --finetune --lora --lora-rank 8 --devices 1x80GB --json --zero-stage 2 --offload optimizer"
    assert main(words.split()) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["tp"], plan["replicas"], plan["zero_stage"], plan["offload_optimizer"]) == (1, 1, 2, True)
    assert (plan["parameters"], plan["trained_parameters"]) == (20_554_567_680, 34_603_008)
    parts = ("weights", "gradients", "optimizer", "activations", "runtime")
    assert plan["total_bytes"] == sum(plan[f"{part}_bytes"] for part in parts)
    assert plan["total_bytes"] < plan["free_bytes"] == 80 * 2**30
    assert plan["host_bytes"] > 0
    assert plan["step_bytes"] == 0, "on the host"


def test_the_memory_of_a_whole_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "20B", "--finetune", "--devices", "8xH100"]) == 0
    assert "optimizer 30.8 GB, its step 20.6 GB, runtime 2.1 GB" in capsys.readouterr().out
    assert main(["plan", "20B", "--finetune", "--devices", "4xH100"]) == 2
    assert "61.7 GB of the optimizer, 41.1 GB of its step need" in capsys.readouterr().err


def test_a_refusal_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "20B", "--finetune", "--devices", "1x24GB", "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["code"] == "does_not_fit"
    assert "hint: What would fit: --zero-stage 3 --offload all" in printed.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--lora", "--lora needs --finetune"),
        ("--batch-size 4", "--batch-size needs --finetune"),
        ("--finetune --score", "--score and --finetune cannot be combined"),
        ("--finetune --prompts 3", "--prompts and --finetune cannot be combined"),
        ("--finetune --lora-rank 3", "--lora-rank needs --lora"),
        ("--finetune --pp 2", "--pp 2: finetune does not divide a model into pipeline stages"),
    ],
)
def test_flags_that_do_not_go_together(words: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", "--devices", "1x80GB", *words.split()]) == 2
    assert error in capsys.readouterr().err
