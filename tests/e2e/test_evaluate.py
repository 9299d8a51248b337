"""`neoxrun evaluate` as a user meets it: what it refuses before anything is loaded, and what it says at the end."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import yaml

from neoxrun import cli
from neoxrun.launch import launcher as launch
from support.command import Running, neoxrun
from support.evaluations import results_of
from support.pages import first_cells, options_of, section, written
from support.paths import DEMO, ROOT

TASK = {
    "task": "colours",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "The colour of {{thing}} is",
    "doc_to_choice": ["red", "green", "blue"],
    "doc_to_target": "{{colour}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
DOCUMENTS = [
    {"thing": "blood", "colour": "red"},
    {"thing": "grass", "colour": "green"},
    {"thing": "the sky", "colour": "blue"},
]
# Variants of `colours` that are wrong: what is changed, and what is said of it.
BROKEN = {
    "broken_template": ({"doc_to_text": "{{thing.name.first}}"}, "no attribute 'name'"),
    "broken_word": ({"doc_to_choice": ["red", "green"]}, "document 2 (from 0) has 'blue' for its right answer, of 2"),
    "broken_number": ({"doc_to_target": "{{thing | length - 3}}"}, "document 2 (from 0) has 4 for its right answer"),
    "broken_type": ({"doc_to_target": "{{[thing | length - 3.0]}}"}, "document 0 (from 0) has [2.0] for its right"),
    "broken_metric": ({"metric_list": [{"metric": "acc_nrom"}]}, "lm-eval's own messages, above"),
}
RANDOM = ["pythia-14m", "--random-weights", "--tokenizer", DEMO / "tokenizer.json"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """--include-path: `colours`, a group of it, and those of BROKEN."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(data)}}}
    (folder / "colours.yaml").write_text(yaml.safe_dump(task))
    for name, wrong in BROKEN.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | {"task": name} | wrong[0]))
    group = {"group": "sights", "task": ["colours"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "sights.yaml").write_text(yaml.safe_dump(group))
    return folder


def figures(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


REFUSED = {
    "unknown task": (["--tasks", "lambada_opnai"], 4, "there is no task 'lambada_opnai'", "lambada_openai"),
    "program text": (["--tasks", "humaneval"], 2, "humaneval runs program text", None),
    "configuration after --tasks": (["--tasks", "colours", "demo"], 2, "demo is a configuration", "before --tasks"),
    "output below a file": (["--output", "{file}/results"], 4, "results cannot be written", "--output"),
    "samples without a folder": (["--log-samples"], 2, "--log-samples needs a folder", "--output"),
    "cache in no folder": (["--cache", "{folder}/none/answers"], 4, "cannot be used", "--cache"),
    "cache is another file": (["--cache", "{file}"], 4, "is not a file of answers", "--cache"),
    "nothing published": (["--compare"], 2, "no published figures of this model", '"results"'),
    "no figures file": (["--compare", "{folder}/none.json"], 4, "figures", '"results"'),
    "no figures in the file": (["--compare", "{file}"], 4, "not JSON", '"results"'),
    "figures of other tasks": (["--compare", "{figures}"], 2, "the figures are of piqa", "Leave out --compare"),
    "half a document": (["--limit", "1.5"], 2, "'1.5' is neither", "--help"),
    "generation option": (["--gen-kwargs", "max_gen_toks"], 2, "is not KEY=VALUE", "max_gen_toks=64"),
    "empty name": (["--output", ""], 2, "the name is empty", "--help"),
    "wandb": (["--wandb"], 2, "wandb, which is not installed", "neoxrun[wandb]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_loaded(
    case: str, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, message, hint = REFUSED[case]
    file = tmp_path / "file"
    file.write_text("something else, long enough to be looked at")
    given = figures(tmp_path / "figures.json", {"results": {"piqa": {"acc": 0.7742}}})
    arguments = [word.format(file=file, folder=tmp_path, figures=given) for word in arguments]
    if "--tasks" not in arguments:
        arguments += ["--tasks", "colours"]
    monkeypatch.setattr(launch, "run", lambda job: pytest.fail("ranks were started"))
    monkeypatch.setattr("importlib.util.find_spec", without_wandb())
    command = ["evaluate", "demo", "--device", "cpu", "--include-path", str(tasks), *arguments]
    assert cli.main(command) == code
    said = capsys.readouterr().err
    problem, _, advice = said.partition("\n\nhint: ")
    assert message in problem, said
    assert hint is None or hint in advice, said
    assert file.read_text().startswith("something else")


def test_wandb_without_a_login_is_found_before_the_run(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def login() -> None:
        raise RuntimeError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(login=login, __spec__=object()))
    monkeypatch.setattr(launch, "run", lambda job: pytest.fail("ranks were started"))
    command = ["evaluate", "demo", "--device", "cpu", "--include-path", str(tasks), "--tasks", "colours", "--wandb"]
    assert cli.main(command) == 4
    problem, _, advice = capsys.readouterr().err.partition("\n\nhint: ")
    assert "No API key configured." in problem
    assert "wandb login" in advice


def test_figures_of_a_group_are_something_to_compare_with(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = {"group": "outer", "task": ["sights", {"group": "inner", "task": ["colours"]}]}
    folder = tmp_path / "tasks"
    shutil.copytree(tasks, folder)
    (folder / "outer.yaml").write_text(yaml.safe_dump(outer))
    started = []
    monkeypatch.setattr(launch, "run", started.append)
    for name in ("outer", "sights", "outer::inner", "colours"):
        given = figures(tmp_path / "figures.json", {"results": {name: {"acc": 0.5}}})
        command = ["evaluate", "demo", "--device", "cpu", "--include-path", str(folder), "--tasks", "outer"]
        cli.main([*command, "--compare", str(given)])
        assert len(started) == 1, name
        started.clear()


def test_guide_has_every_option() -> None:
    guide = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    documented = written(first_cells(section(guide, "Options")))
    options = [action for action in options_of("evaluate") if action.option_strings]
    assert not [action.option_strings for action in options if not documented & set(action.option_strings)]
    assert documented <= {name for action in options for name in action.option_strings}


def without_wandb():
    from importlib.util import find_spec

    return lambda name, *rest: None if name == "wandb" else find_spec(name, *rest)


def test_list(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--tasks", "list", "--include-path", str(tasks)]) == 0
    names = capsys.readouterr().out.splitlines()
    assert {"lambada", "lambada_openai", "piqa", "colours"} <= set(names)
    assert names == sorted(names)


def test_what_is_not_the_whole_truth_is_said(tasks: Path, tmp_path: Path) -> None:
    """Two documents of three, random weights, and a comparison with somebody's figures."""
    theirs = figures(tmp_path / "theirs.json", {"source": "a friend", "results": {"sights": {"acc": 1}}})
    out = tmp_path / "out"
    done = neoxrun(
        *("evaluate", *RANDOM, "--tasks", "sights", "--include-path", tasks, "--limit", 2),
        *("--output", out, "--log-samples", "--compare", theirs, "--batch-size", 2),
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
    ours = results["neoxrun"]
    assert ours["weights"] == "random"
    assert ours["limited"] == "colours 2 of 3"
    assert ours["documents"] == {"colours": {"scored": 2, "total": 3}}
    assert ours["dataset_splits"] == {"colours": "test"}
    assert ours["dtype"] == "float32"
    assert len(ours["checkpoint"]["fingerprint"]) == 64
    assert [one["source"] for one in ours["compared"]] == ["a friend"]
    assert ours["seconds"]["total"] > ours["seconds"]["computing"] > 0
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
    theirs = json.loads(path.read_text())["results"]["colours"]["acc,none"]
    ours = neoxrun("evaluate", "demo", "--tasks", "colours", "--include-path", tasks, "--output", tmp_path / "ours")
    ours.check_success()
    assert theirs == results_of(tmp_path / "ours")["results"]["colours"]["acc,none"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [("config=demo,foo=1", "foo"), ("config=demo,tp=x", "x is not"), ("config=demo,tp=2", "torchrun")],
)
def test_wrong_model_args(arguments: str, says: str, tasks: Path) -> None:
    asked = ["--model_args", arguments, "--tasks", "colours", "--include_path", tasks]
    result = Running(*asked, command=LM_EVAL).finish()
    assert result.code == 2, result.err
    assert says in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("name", BROKEN)
def test_a_task_that_fails_is_found_before_the_weights(name: str, tasks: Path) -> None:
    done = neoxrun("evaluate", *RANDOM, "--tasks", name, "--include-path", tasks)
    done.check_error(4, name, *BROKEN[name][1:])
    assert "the weights are random" not in done.err


def test_a_task_that_fails_later_is_named(tasks: Path) -> None:
    task = yaml.safe_load((tasks / "colours.yaml").read_text())
    metrics = [{"metric": "acc", "aggregation": "nope", "higher_is_better": True}]
    (tasks / "late.yaml").write_text(yaml.safe_dump(task | {"task": "late", "metric_list": metrics}))
    done = neoxrun("evaluate", *RANDOM, "--tasks", "late", "--include-path", tasks)
    done.check_error(4, "lm-eval cannot work with late", "metric_list")


def test_a_link_to_no_file_is_left(tasks: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "answers")
    neoxrun("evaluate", *RANDOM, "--tasks", "nope", "--include-path", tasks, "--cache", link).check_error(4, "nope")
    assert link.is_symlink()
    assert not link.exists()
