"""`neoxrun evaluate --revisions` as a user meets it, over a repository on a hub of the tests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.colours import write_tasks
from support.command import Result, Running, neoxrun, wait_for
from support.faulty_server import Fault
from support.hub_server import HubServer
from support.revisions import NAME, evaluating, repository, weights_at, write_config
from support.snapshots import Snapshot

_TALE = {
    "task": "tale",
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{thing}} {{colour}}",
    "metric_list": [{"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "colours.jsonl")}}}
    (folder / "tale.yaml").write_text(yaml.safe_dump(_TALE | data))
    return folder


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The last step is main's, as it should be."""
    with HubServer({NAME: repository(main=3, step0=0, step1000=1, step2000=3)}) as server:
        yield server


def downloaded(hub: HubServer) -> list[str]:
    """The revisions whose weights were asked for, each once, in order."""
    names = {weights_at(name): name for name in hub.repositories[NAME].revisions}
    return list(dict.fromkeys(names[request.path] for request in hub.cdn.requests))


def saved(folder: Path) -> dict[str, dict[str, Any]]:
    """The results below a folder, by revision."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*/results_*.json"))]
    found = {document["neoxrun"]["revision"]["revision"]: document for document in documents}
    assert len(found) == len(documents), "a revision has results twice"
    return found


def on_disk(folder: Path) -> set[str]:
    """The revisions that have a folder."""
    return {path.name.removeprefix("tiny-") for path in folder.glob("tiny-*")}


def watched(running: Running, folder: Path) -> tuple[Result, int]:
    """How the command ends, and the most revisions that were on disk meanwhile."""
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, len(on_disk(folder)))
        return running.process.poll() is not None

    wait_for(ended, 120, lambda: "it does not end")
    return running.finish(), most


def test_every_revision_is_fetched_run_and_removed(hub: HubServer, tasks: Path, tmp_path: Path) -> None:
    plot = tmp_path / "steps.svg"
    drawn = ["--plot", plot] if find_spec("matplotlib") else []
    asked = ("--revisions", "all", *drawn)
    done, most = watched(evaluating(hub, tmp_path, tasks, *asked, names=["colours", "tale"]), tmp_path)
    assert done.code == 0, done.err
    assert most == 2, "the next one is fetched while one runs, and no more than that"
    assert on_disk(tmp_path) == set()
    assert downloaded(hub) == ["step0", "step1000", "step2000"]
    results = saved(tmp_path / "results")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {f"lab__tiny@{name}" for name in results}
    tale = {name: document["results"]["tale"]["byte_perplexity,none"] for name, document in results.items()}
    assert len(set(tale.values())) == 3, "each was measured with its own weights"
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[:2] == [["colours", "tale"], ["revision", "acc", "byte_perplexity"]]
    assert [(line[0], line[2]) for line in lines[2:]] == [
        (name, f"{tale[name]:.4f}") for name in ("step0", "step1000", "step2000")
    ]
    assert plot.is_file() == bool(drawn)

    # One of them by hand: the same results.
    folder = tmp_path / "by-hand"
    folder.mkdir()
    for name, data in hub.repositories[NAME].revisions["step1000"].items():
        (folder / name).write_bytes(data)
    files = ("--checkpoint", folder, "--tokenizer", folder / "tokenizer.json")
    what = ("--tasks", "tale", "--include-path", tasks, "--output", tmp_path / "single")
    neoxrun("evaluate", write_config(tmp_path), *files, *what).check_success()
    (path,) = (tmp_path / "single").glob("*/results_*.json")
    assert json.loads(path.read_text())["results"]["tale"]["byte_perplexity,none"] == tale["step1000"]

    # The same command again: the same table, and nothing is fetched or run.
    hub.cdn.requests.clear()
    again = evaluating(hub, tmp_path, tasks, *asked, names=["colours", "tale"]).finish()
    assert (again.code, again.out) == (0, done.out)
    assert not hub.cdn.requests
    assert saved(tmp_path / "results") == results


def test_revisions_with_the_weights_of_another_are_named(tasks: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    seeds = {"main": 9, "step0": 0, "step1": 1, "step2": 9, "step3": 1, "step4": 9, "step5": 9}
    with HubServer({NAME: repository(**seeds)}) as hub:
        done = evaluating(hub, tmp_path, tasks, "--revisions", "all").finish()
        snapshot(done.check_error(3, "3 of 6 revisions"))
        assert not hub.cdn.requests
        some = evaluating(hub, tmp_path, tasks, "--revisions", "step0,step4").finish()
        snapshot(some.check_error(3, "1 of 2 revisions"), "some")
        # Allowed: it is run; and a folder that was kept is used and left from then on.
        asked = ("--revisions", "4:4:1", "--allow-duplicates", "--revisions-dir", tmp_path / "kept")
        done = evaluating(hub, tmp_path, tasks, *asked, "--keep-revisions").finish()
        assert done.code == 0, done.err
        assert "warning: the same weights as main: step4\n" in done.err
        assert saved(tmp_path / "results").keys() == {"step4"}
        weights = tmp_path / "kept" / "tiny-step4" / "model.safetensors"
        assert weights.read_bytes() == hub.repositories[NAME].revisions["step4"]["model.safetensors"]
        hub.cdn.requests.clear()
        again = evaluating(hub, tmp_path, tasks, *asked, "--output", tmp_path / "out", "--limit", 2).finish()
        assert again.code == 0, again.err
        assert saved(tmp_path / "out")["step4"]["n-samples"]["colours"]["effective"] == 2
        assert weights.is_file()
        assert not hub.cdn.requests


MISSING = {
    "a name": ["--revisions", "step0,step1500"],
    "a step": ["--revisions", "0:3000:500"],
    "a range": ["--revisions", "5000:6000"],
}


@pytest.mark.parametrize("case", MISSING)
def test_a_revision_that_does_not_exist(
    case: str, hub: HubServer, tasks: Path, tmp_path: Path, snapshot: Snapshot
) -> None:
    done = evaluating(hub, tmp_path, tasks, *MISSING[case]).finish()
    snapshot(done.check_error(4, NAME))
    assert not hub.cdn.requests


REFUSED = {
    "nothing": ["--revisions", "step0,,step1"],
    "a folder of weights": ["--revisions", "all", "--checkpoint", "x"],
    "a comparison": ["--revisions", "all", "--compare"],
    "a repository of one": [],
    "several hosts": ["--revisions", "all", "--nnodes", 2, "--rdzv-endpoint", "localhost:1234"],
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, hub: HubServer, tasks: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot(evaluating(hub, tmp_path, tasks, *REFUSED[case]).finish().check_error(2))


def test_a_repository_has_to_be_known(tasks: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    where = ("--tasks", "colours", "--include-path", tasks, "--revisions", "all")
    snapshot(neoxrun("evaluate", write_config(tmp_path), *where, cwd=tmp_path).check_error(2, "tiny.yml"))
    snapshot(neoxrun("evaluate", "20B", *where, cwd=tmp_path).check_error(2, "20B"), "20B")
    plot = neoxrun("evaluate", "20B", *where[:-2], "--plot", "x.png", cwd=tmp_path)
    snapshot(plot.check_error(2, "--plot needs --revisions"), "a plot of one")


def test_a_download_that_fails_keeps_what_was_done(hub: HubServer, tasks: Path, tmp_path: Path) -> None:
    hub.cdn.faults[weights_at("step1000")] = [Fault("cut", 200_000), *[Fault("status", 403)] * 3]
    done = evaluating(hub, tmp_path, tasks, "--revisions", "step0,step1000").finish()
    done.check_error(4, "step1000: model.safetensors cannot be fetched", "The same command continues")
    assert saved(tmp_path / "results").keys() == {"step0"}
    assert on_disk(tmp_path) == {"step1000"}
    hub.cdn.faults.clear()
    hub.cdn.requests.clear()
    again = evaluating(hub, tmp_path, tasks, "--revisions", "step0,step1000").finish()
    assert again.code == 0, again.err
    assert downloaded(hub) == ["step1000"]
    assert hub.cdn.requests[0].start > 0, "the rest only"
    assert saved(tmp_path / "results").keys() == {"step0", "step1000"}
    assert on_disk(tmp_path) == set()


def model_runs(running: Running) -> bool:
    return any("neoxrun.launch.start" in line for line in running.processes().values())


@pytest.mark.parametrize(("how", "ranks"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGKILL, 2)])
def test_interrupted_and_resumed(how: int, ranks: int, hub: HubServer, tasks: Path, tmp_path: Path) -> None:
    hub.cdn.faults[weights_at("step2000")] = [Fault("stall", 100_000)]
    running = evaluating(hub, tmp_path, tasks, "--revisions", "step1000,step2000", "--tp", ranks)
    part = tmp_path / "tiny-step2000" / ".model.safetensors.part"
    wait_for(lambda: part.exists() and model_runs(running), 60, lambda: "it does not start")
    if how == signal.SIGINT:
        running.interrupt()
        running.finish(timeout=20).check_error(130, "interrupted")
    else:
        os.kill(running.process.pid, how)
        assert running.finish(timeout=20).code == -how
    running.check_all_gone()
    assert on_disk(tmp_path) == {"step1000", "step2000"}
    hub.cdn.requests.clear()
    # What was left is used, and what is not needed any more is removed.
    again = evaluating(hub, tmp_path, tasks, "--revisions", "step1000").finish()
    assert again.code == 0, again.err
    assert not hub.cdn.requests
    assert saved(tmp_path / "results").keys() == {"step1000"}
    assert on_disk(tmp_path) == set()


def test_ctrl_c_while_a_revision_is_awaited(hub: HubServer, tasks: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    hub.cdn.faults[weights_at("step0")] = [Fault("stall", 100_000)]
    running = evaluating(hub, tmp_path, tasks, "--revisions", "step0", "-q")
    part = tmp_path / "tiny-step0" / ".model.safetensors.part"
    wait_for(lambda: part.exists() and part.stat().st_size >= 100_000, 60, lambda: "nothing arrives")
    running.interrupt()
    snapshot(running.finish(timeout=20).check_error(130, "step0"))
