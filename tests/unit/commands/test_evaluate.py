"""What `neoxrun evaluate` refuses before anything is loaded, and the names that it lists."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import yaml

from neoxrun import cli
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.planning import devices
from support.colours import write_json, write_tasks
from support.pages import first_cells, options_of, section, written
from support.paths import ROOT
from support.plans import gpus


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


REFUSED = {
    "unknown task": (["--tasks", "lambada_opnai"], 2, "there is no task 'lambada_opnai'", "lambada_openai"),
    "program text": (["--tasks", "humaneval"], 2, "humaneval runs code that the model writes", None),
    "configuration after --tasks": (
        ["--tasks", "colours", "demo"],
        2,
        "demo is a configuration, not a task",
        "before --tasks",
    ),
    "output below a file": (["--output", "{file}/results"], 4, "results cannot be written", "--output"),
    "samples without a folder": (["--log-samples"], 2, "--log-samples needs a folder", "--output"),
    "cache in no folder": (["--cache", "{folder}/none/answers"], 4, "cannot be used", "--cache"),
    "cache is another file": (["--cache", "{file}"], 4, "is not a cache of answers", "--cache"),
    "nothing published": (["--compare"], 2, "no published results are shipped for this model", '"results"'),
    "no results file": (["--compare", "{folder}/none.json"], 4, "the reference results", '"results"'),
    "no results in the file": (["--compare", "{file}"], 4, "not JSON", '"results"'),
    "results of other tasks": (
        ["--compare", "{results}"],
        2,
        "the reference results are for piqa",
        "Leave out --compare",
    ),
    "half a document": (["--limit", "1.5"], 2, "'1.5' is neither", "--help"),
    "generation option": (["--gen-kwargs", "max_gen_toks"], 2, "is not KEY=VALUE", "max_gen_toks=64"),
    "generation option's value": (
        ["--gen-kwargs", "max_new_tokens=x"],
        2,
        "--gen-kwargs max_new_tokens: must be",
        None,
    ),
    "generation option's name": (["--gen-kwargs", "untill=x"], 2, "--gen-kwargs untill: 'x' is not supported", "until"),
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
    given = write_json(tmp_path / "results.json", {"results": {"piqa": {"acc": 0.7742}}})
    arguments = [word.format(file=file, folder=tmp_path, results=given) for word in arguments]
    if "--tasks" not in arguments:
        arguments += ["--tasks", "colours"]
    monkeypatch.setattr(launcher, "run_job", lambda job: pytest.fail("ranks were started"))
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
    monkeypatch.setattr(launcher, "run_job", lambda job: pytest.fail("ranks were started"))
    command = ["evaluate", "demo", "--device", "cpu", "--include-path", str(tasks), "--tasks", "colours", "--wandb"]
    assert cli.main(command) == 4
    problem, _, advice = capsys.readouterr().err.partition("\n\nhint: ")
    assert "No API key configured." in problem
    assert "wandb login" in advice


def test_results_of_a_group_are_something_to_compare_with(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = {"group": "outer", "task": ["sights", {"group": "inner", "task": ["colours"]}]}
    folder = tmp_path / "tasks"
    shutil.copytree(tasks, folder)
    (folder / "outer.yaml").write_text(yaml.safe_dump(outer))
    started = []
    monkeypatch.setattr(launcher, "run_job", started.append)
    for name in ("outer", "sights", "outer::inner", "colours"):
        given = write_json(tmp_path / "results.json", {"results": {name: {"acc": 0.5}}})
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


def without_wandb() -> Callable[..., ModuleSpec | None]:
    from importlib.util import find_spec

    return lambda name, *rest: None if name == "wandb" else find_spec(name, *rest)


def test_list(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--tasks", "list", "--include-path", str(tasks)]) == 0
    names = capsys.readouterr().out.splitlines()
    assert {"lambada", "lambada_openai", "piqa", "colours"} <= set(names)
    assert names == sorted(names)


@pytest.mark.parametrize(("limit", "replicas"), [([], 8), (["--limit", "5"], 1)])
def test_the_limit_counts_in_the_plan(
    limit: list[str], replicas: int, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight GPUs for five documents would take longer to start than to score them."""
    started: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", started.append)
    monkeypatch.setattr(devices, "visible_gpus", lambda chosen: gpus(8, "NVIDIA H100 80GB HBM3", 85))
    model = ["pythia-6.9b", "--random-weights", "--tokenizer", str(ROOT / "configs/demo/tokenizer.json")]
    cli.main(["evaluate", *model, "--include-path", str(tasks), "--tasks", "sights", *limit])
    assert started[0].plan.replicas == replicas
