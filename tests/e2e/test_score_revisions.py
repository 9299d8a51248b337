"""`neoxrun score --revisions`, over a repository on a hub of the tests."""

from __future__ import annotations

import json
from pathlib import Path

from neoxrun.generation.output_lock import output_lock
from support.command import Running, neoxrun
from support.download_command import environment
from support.hub_server import HubServer
from support.revisions import NAME, repository, write_config

STEPS = ("step0", "step1000", "step2000")
TEXTS = "import os\nclass Queue:\n"


def scoring(server: HubServer, folder: Path, *arguments: object) -> Running:
    words = ("score", write_config(folder), "-i", "texts.txt", "-o", "scores.jsonl", "--repo", NAME, *arguments)
    return Running(*words, cwd=folder, env=environment(folder, HF_ENDPOINT=server.url))


def test_each_revision_has_its_records_and_a_row(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text(TEXTS)
    with HubServer({NAME: repository(main=3, step0=0, step1000=1, step2000=3)}) as hub:
        done = scoring(hub, tmp_path, "--revisions", "all").finish()
        assert done.code == 0, done.err
        assert not list(tmp_path.glob("tiny-*"))
        lines = [line.split() for line in done.out.splitlines()]
        assert [line[0] for line in lines] == ["texts.txt", "revision", *STEPS]

        # One of them by hand: the same records but for what tells the models apart.
        folder = tmp_path / "by-hand"
        folder.mkdir()
        for name, data in hub.repositories[NAME].revisions["step1000"].items():
            (folder / name).write_bytes(data)
        files = ("--checkpoint", folder, "--tokenizer", folder / "tokenizer.json", "-i", tmp_path / "texts.txt")
        single = neoxrun("score", write_config(tmp_path), *files, "-o", tmp_path / "single.jsonl", "--json")
        summary = json.loads(single.check_success().out)
        records = [
            [json.loads(line) | {"run": ""} for line in (tmp_path / name).read_text().splitlines()]
            for name in ("scores.step1000.jsonl", "single.jsonl")
        ]
        assert records[0] == records[1]
        assert dict(zip(lines[1], lines[3], strict=True))["perplexity"] == f"{summary['perplexity']:.4f}"

        # The same command again: the same table, and nothing is fetched. A torn file is completed.
        hub.cdn.requests.clear()
        again = scoring(hub, tmp_path, "--revisions", "all").finish()
        assert (again.code, again.out) == (0, done.out)
        assert not hub.cdn.requests
        torn = tmp_path / "scores.step2000.jsonl"
        whole = torn.read_text()
        torn.write_text(whole[: whole.index("\n") + 5])
        more = scoring(hub, tmp_path, "--revisions", "all").finish()
        assert (more.code, more.out) == (0, done.out)
        assert torn.read_text() == whole

        torn.write_text(whole[: whole.index("\n") + 5])
        hub.cdn.requests.clear()
        with output_lock(torn):
            held = scoring(hub, tmp_path, "--revisions", "all").finish()
        held.check_error(4, "another run is writing to scores.step2000.jsonl", where="scores.step2000.jsonl")
        assert not hub.cdn.requests

        other = scoring(hub, tmp_path, "--revisions", "all", "--context", "8").finish()
        other.check_error(4, "another model, number format or other options")


def test_what_does_not_go_with_it(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "texts.txt").write_text(TEXTS)
    words = ("score", config, "-i", tmp_path / "texts.txt")
    neoxrun(*words, "--plot", "x.png").check_error(2, "--plot needs --revisions")
    neoxrun(*words, "--revisions", "all", "--random-weights").check_error(2, "--random-weights and --revisions")
    neoxrun(*words, "-o", "-", "--revisions", "all").check_error(2, "a file of records for each revision")
