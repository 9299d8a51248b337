"""`neoxrun evaluate` as a user meets it: what it says at the end, and of tasks that fail."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from support.colours import BROKEN, DOCUMENTS, write_json, write_tasks
from support.command import Running, neoxrun
from support.evaluations import results_of
from support.paths import DEMO
from support.snapshots import Snapshot

RANDOM = ["pythia-14m", "--random-weights", "--tokenizer", DEMO / "tokenizer.json"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def test_limits_of_the_results_are_reported(tasks: Path, tmp_path: Path) -> None:
    """Two documents of three, random weights, and a comparison with reference results."""
    reference = write_json(tmp_path / "reference.json", {"source": "a friend", "results": {"sights": {"acc": 1}}})
    out = tmp_path / "out"
    done = neoxrun(
        *("evaluate", *RANDOM, "--tasks", "sights", "--include-path", tasks, "--limit", 2),
        *("--output", out, "--log-samples", "--compare", reference, "--batch-size", 2),
    ).check_success()
    table, _, comparison = done.out.partition("\n\n")
    lines = table.splitlines()
    assert [line.split()[0] for line in lines] == ["task", "sights", "colours", "limited:", "random"]
    assert all(line.endswith("2 of 3") for line in lines[1:3]), table
    assert "limited: colours 2 of 3" in table
    assert "compared with a friend" in comparison
    assert "random weights" in comparison

    results = results_of(out)
    # What programs that read lm-eval's results look for.
    assert {"results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better"} <= set(results)
    assert {"n-samples", "config", "date", "lm_eval_version", "model_name", "task_hashes"} <= set(results)
    assert results["config"]["limit"] == 2
    added = results["neoxrun"]
    assert added["weights"] == "random"
    assert added["limited"] == "colours 2 of 3"
    assert added["documents"] == {"colours": {"scored": 2, "total": 3}}
    assert added["dataset_splits"] == {"colours": "test"}
    assert added["dtype"] == "float32"
    assert len(added["checkpoint"]["fingerprint"]) == 64
    assert [one["source"] for one in added["compared"]] == ["a friend"]
    assert added["seconds"]["total"] > added["seconds"]["computing"] > 0
    (samples,) = out.glob("*/samples_colours_*.jsonl")
    documents = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [document["doc"] for document in documents] == DOCUMENTS[:2]
    assert documents[0]["arguments"]["gen_args_2"] == {"arg_0": "The colour of blood is", "arg_1": " blue"}


LM_EVAL = [sys.executable, "-m", "neoxrun.evaluation", "run", "--model", "neoxrun"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *LM_EVAL[1:]]


@pytest.mark.parametrize(("command", "arguments"), [(LM_EVAL, "config=demo"), (TORCHRUN, "config=demo,tp=2")])
def test_from_lm_evals_own_command_line(command: list[str], arguments: str, tasks: Path, tmp_path: Path) -> None:
    asked = ["--model_args", arguments, "--device", "cpu", "--tasks", "colours", "--include_path", tasks]
    result = Running(*asked, "--output_path", tmp_path, command=command).finish()
    assert result.code == 0, result.err
    (path,) = tmp_path.rglob("results_*.json")
    through_lm_eval = json.loads(path.read_text())
    asked = ("--tasks", "colours", "--include-path", tasks, "--output", tmp_path / "own", "--tp", 2)
    neoxrun("evaluate", "demo", *asked).check_success()
    own = results_of(tmp_path / "own")
    assert own["results"]["colours"]["acc,none"] == through_lm_eval["results"]["colours"]["acc,none"]
    assert through_lm_eval.keys() <= own.keys()
    assert through_lm_eval["config"].keys() <= own["config"].keys()
    same = ["git_hash", "transformers_version", "tokenizer_bos_token", "tokenizer_eos_token", "tokenizer_pad_token"]
    assert [own[key] for key in same] == [through_lm_eval[key] for key in same]
    assert own["tokenizer_eos_token"] == ["<|endoftext|>", "0"]
    assert own["pretty_env_info"].startswith("PyTorch version")


def test_everything_in_a_reference_is_compared_or_named(tasks: Path, tmp_path: Path) -> None:
    """An earlier run's results with changes: in percent, NaN, a text, another task; and rows without text."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [*DOCUMENTS, {"thing": None, "colour": "red"}, {"thing": "", "colour": "green"}]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = yaml.safe_load((tasks / "colours.yaml").read_text())
    task["dataset_kwargs"]["data_files"] = {"test": str(folder / "rows.jsonl")}
    task["metric_list"] = [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm", "acc_mutual_info")]
    (folder / "rows.yaml").write_text(yaml.safe_dump(task | {"task": "rows"}))
    asked = ("evaluate", "demo", "--tasks", "rows", "--include-path", folder)
    done = neoxrun(*asked, "--output", tmp_path / "out").check_success()
    assert "2 documents of rows have no text under 'thing': 3, 4 (counted from 0)" in done.err

    earlier = results_of(tmp_path / "out")
    metrics = earlier["results"]["rows"]
    for key in ("acc,none", "acc_stderr,none"):
        metrics[key] *= 100
    metrics |= {"acc_norm,none": float("nan"), "acc_mutual_info,none": "see the appendix", "f1,none": 0.5}
    earlier["results"]["boolq"] = {"acc,none": 0.6}
    done = neoxrun(*asked, "--compare", write_json(tmp_path / "earlier.json", earlier)).check_success()
    _, _, comparison = done.out.partition("compared with ")
    rows = {line.split()[1]: line for line in comparison.splitlines() if line.startswith("rows ")}
    assert rows["acc"].endswith("+0.0 stderr  agrees (reference in percent)")
    assert rows["acc"].split()[2:4] == rows["acc"].split()[4:6], "value and standard error, of both sides"
    assert rows["acc_norm"].endswith("unknown: the reference value is NaN")
    assert rows["acc_mutual_info"].endswith("unknown: the reference value is text")
    assert "not measured in this run: rows f1\n" in comparison
    assert "not in this run, though the reference has them: boolq (acc)\n" in comparison


def test_wrong_names_and_options_are_usage_errors(tasks: Path) -> None:
    asked = ("evaluate", "demo", "--include-path", tasks, "--tasks")
    neoxrun(*asked, "colour").check_error(2, "there is no task 'colour'", "Did you mean colours")
    neoxrun(*asked, "colours", "--gen-kwargs", "max_new_tokens=x").check_error(
        2, "--gen-kwargs max_new_tokens: must be"
    )


def test_results_of_two_checkpoints_are_apart(tasks: Path, tmp_path: Path) -> None:
    """The same configuration with other weights in a folder of the same name."""
    for name in ("one", "other"):
        shutil.copytree(DEMO, tmp_path / name / "demo")
    (norm,) = (tmp_path / "other").rglob("layer_09-model_00*")
    weights = torch.load(norm)
    next(iter(weights.values())).view(-1)[0] += 1
    torch.save(weights, norm)
    for name in ("one", "other"):
        asked = ("--checkpoint", tmp_path / name / "demo", "--tasks", "colours", "--include-path", tasks)
        neoxrun("evaluate", "demo", *asked, "--output", tmp_path / "out").check_success()
    names = sorted(path.parent.name for path in (tmp_path / "out").glob("*/results_*.json"))
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"demo@global_step5000-[0-9a-f]{8}", name) for name in names), names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("config=demo,foo=1", "foo"),
        ("config=demo,tp=x", "tp must be a whole number of 1 or more, not 'x'"),
        ("config=demo,tp=2", "torchrun"),
    ],
)
def test_wrong_model_args(arguments: str, says: str, tasks: Path, snapshot: Snapshot) -> None:
    asked = ["--model_args", arguments, "--tasks", "colours", "--include_path", tasks]
    result = Running(*asked, command=LM_EVAL).finish()
    assert result.code == 2, result.err
    assert says in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("name", BROKEN)
def test_a_task_that_fails_is_found_before_the_weights(name: str, tasks: Path, snapshot: Snapshot) -> None:
    done = neoxrun("evaluate", *RANDOM, "--tasks", name, "--include-path", tasks)
    done.check_error(4, name, *BROKEN[name][1:])
    snapshot(done)
    assert "the weights are random" not in done.err


def test_empty_choices_are_named_and_nothing_else_is_said(tmp_path: Path) -> None:
    rows = [{"thing": "a", "c": ["x", "y"]}, {"thing": "b", "c": ["", ""]}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = {
        "task": "empty",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "thing",
        "doc_to_choice": "c",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc_norm"}],
    }
    (tmp_path / "empty.yaml").write_text(json.dumps(options))
    done = neoxrun("evaluate", *RANDOM, "--tasks", "empty", "--include-path", tmp_path)
    done.check_success()
    assert "1 document of empty has a choice or an answer without text: 1 (counted from 0)" in done.err
    assert "RuntimeWarning" not in done.err


LATE = """
def process_results(document, answers):
    return {"acc": 1.0 / (document["thing"] != "the sky")}
"""


def test_a_document_that_fails_at_the_end_costs_no_answers(tasks: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    folder, out = tmp_path / "tasks", tmp_path / "out"
    shutil.copytree(tasks, folder)
    (folder / "late_code.py").write_text(LATE)
    text = (tasks / "colours.yaml").read_text().replace("task: colours", "task: late")
    (folder / "late.yaml").write_text(f"{text}\nprocess_results: !function late_code.process_results\n")
    asked = ("evaluate", *RANDOM, "--tasks", "late", "colours", "--include-path", folder)
    done = neoxrun(*asked, "--output", out)
    (kept,) = out.glob("*/answers_*.db")
    done.check_error(4, "cannot score document 2 (counted from 0) of late: ZeroDivisionError")
    snapshot(done, replace={kept.name: "answers_TIME.db"})
    assert f"--cache {kept}" in done.err

    (folder / "late_code.py").write_text(LATE.replace("1.0 / (", "0.5 + ("))
    neoxrun(*asked, "--output", out, "--cache", kept).check_success()
    results = results_of(out)["neoxrun"]
    assert results["requests"] == results["requests_from_cache"] == 9


def test_a_link_to_no_file_is_left(tasks: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "answers")
    neoxrun("evaluate", *RANDOM, "--tasks", "nope", "--include-path", tasks, "--cache", link).check_error(2, "nope")
    assert link.is_symlink()
    assert not link.exists()
