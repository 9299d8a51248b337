"""``neoxrun download`` as a user runs it, against servers on loopback: what it says, how it ends, and the files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.config.reader import load_settings
from neoxrun.terminal.words import human_bytes
from support.command import Running
from support.download_command import NOWHERE, download, environment, own_models, read_tree, weights
from support.families import make_folder
from support.faulty_server import PAGE, Fault, FaultyServer
from support.hub_server import HubRepository, HubServer
from support.paths import DEMO, ROOT
from support.snapshots import Snapshot
from support.task_data import OWN, write_hub_form


def test_without_arguments_20b_lands_where_its_configuration_looks(
    tree_20b: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot
) -> None:
    with FaultyServer(tree_20b) as server:
        done = download(tmp_path, "--mirror", server.url).check_success()
    assert done.out == ""
    assert "95 files" in done.err
    assert "neoxrun generate 20B" in done.err.splitlines()[-1]
    snapshot(done, replace={human_bytes(sum(map(len, tree_20b.values())) + len("global_step150000")): "SIZE"})
    folder = tmp_path / "20B_checkpoints"
    arrived = read_tree(folder)
    record = json.loads(arrived.pop("neoxrun.manifest.json"))
    assert arrived == {**tree_20b, "latest": b"global_step150000"}
    assert {name: entry["sha256"] for name, entry in record["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in arrived.items()
    }
    monkeypatch.chdir(tmp_path)
    settings = load_settings(["20B"])
    assert settings.tokenizer.vocab_file == folder / "20B_tokenizer.json"
    found = find_configured_checkpoint(settings)
    assert (found.tag, found.source_tp, len(found.files)) == ("global_step150000", 2, 94)


def test_a_model_of_ones_own_by_its_listing_runs_at_once(demo_server: FaultyServer, tmp_path: Path) -> None:
    own_models(
        tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], config: {ROOT / 'configs' / 'demo.yml'}}}}}"
    )
    layer = next(name for name in demo_server.files if "layer_03" in name)
    demo_server.faults["tokenizer.json"] = [Fault("cut", 100), Fault("status", 503)]
    demo_server.faults[layer] = [Fault("corrupt", 20_000), Fault("html")]  # only its own checksum can tell the first
    done = download(tmp_path, "tiny").check_success()
    assert {**read_tree(tmp_path / "tiny"), "neoxrun.manifest.json": b""} == {
        **demo_server.files,
        "neoxrun.manifest.json": b"",
    }
    command = re.search(r"^next: neoxrun (.+)$", done.err, re.MULTILINE)
    assert command is not None
    assert "--checkpoint tiny --tokenizer tiny/tokenizer.json" in command[1]
    arguments = command[1].replace("'Once upon a time'", "import").split()
    answer = Running(*arguments, "--maximum-tokens", 3, "--tp", 2, cwd=tmp_path, env=environment(tmp_path)).finish()
    answer.check_success()
    assert answer.out


@pytest.mark.parametrize(
    ("page", "count"),
    [("<html>Welcome to captive portal</html>", 0), ("<html><a href='help.html'>help</a></html>", 1)],
    ids=["portal", "help"],
)
def test_a_page_that_lists_no_weights_is_no_model(
    page: str, count: int, demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot
) -> None:
    with FaultyServer({}) as portal:
        portal.listings[""] = page
        own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{portal.url}']}}}}")
        done = download(tmp_path, "tiny")
        snapshot(done.check_error(4, "tiny", f"{count} file", where=portal.url))
        assert not (tmp_path / "tiny").exists()
        shutil.rmtree(tmp_path / "config")
        own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{portal.url}', '{demo_server.url}']}}}}")
        download(tmp_path, "tiny").check_success()


def test_a_second_time_fetches_nothing_and_json_says_so(demo_server: FaultyServer, tmp_path: Path) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    first = json.loads(download(tmp_path, "tiny", "--json").check_success().out)
    assert (first["fetched_files"], first["name"], first["folder"]) == (2, "tiny", "tiny")
    second = json.loads(download(tmp_path, "tiny", "--json", "-q").check_success().out)
    assert (second["fetched_files"], second["fetched_bytes"]) == (0, 0)
    assert [file["sha256"] for file in second["files"]] == [file["sha256"] for file in first["files"]]
    assert len(demo_server.gets("tokenizer.json")) == 1


def test_dry_run_and_list_write_nothing(demo_server: FaultyServer, tmp_path: Path) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    size = len(demo_server.files["latest"]) + len(demo_server.files["tokenizer.json"])
    plan = json.loads(download(tmp_path, "tiny", "--dry-run", "--json").check_success().out)
    assert plan["size"] == size
    assert [(file["name"], file["here"]) for file in plan["files"]] == [("latest", "no"), ("tokenizer.json", "no")]
    text = download(tmp_path, "tiny", "--dry-run").check_success().out
    assert "2 files" in text
    assert demo_server.link("latest") in text
    assert not (tmp_path / "tiny").exists()
    assert not any(request.method == "GET" for request in demo_server.requests)
    listed = download(tmp_path, "--list").check_success()
    assert listed.err == ""
    for name in ("20B", "pythia-160m", "tiny", "lambada", "polyglot-ko-1.3b"):
        assert re.search(rf"^{name} ", listed.out, re.MULTILINE)
    content = json.loads(download(tmp_path, "--list", "--json").check_success().out)
    assert content["models"][0]["files"] == 95


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    files = {name: (DEMO / "tokenizer.json").read_bytes() for name in ("tokenizer.json", "config.json")}
    files["model.safetensors"] = (8).to_bytes(8, "little") + b"{}      "
    with HubServer({"EleutherAI/pythia-410m": HubRepository({"main": files, "step143000": files})}) as server:
        yield server


def test_a_revision_of_a_hub_model(hub: HubServer, tmp_path: Path) -> None:
    arguments = ("EleutherAI/pythia-410m", "--revision", "step143000")
    done = download(tmp_path, *arguments, HF_ENDPOINT=hub.url).check_success()
    folder = "pythia-410m-step143000"
    assert f"--checkpoint {folder} --tokenizer {folder}/tokenizer.json" in done.err
    record = json.loads((tmp_path / folder / "neoxrun.manifest.json").read_text(encoding="utf-8"))
    assert record["revision"] == hub.repositories["EleutherAI/pythia-410m"].commit("step143000")
    assert download(tmp_path, "--verify", folder).check_success().out == ""
    (tmp_path / folder / "model.safetensors").write_bytes(PAGE)
    repaired = download(tmp_path, "--repair", folder).check_success()  # the hub that they came from is recorded
    assert "1 file repaired: model.safetensors" in repaired.err
    download(tmp_path, "--verify", folder).check_success()


@pytest.fixture(scope="module")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = make_folder(tmp_path_factory.mktemp("hub") / "tiny", "pythia")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_any_repository_ends_with_the_command_that_runs_it(
    variant: str | None, tiny_repository: dict[str, bytes], tmp_path: Path
) -> None:
    marked = "model.safetensors" if variant is None else f"model.{variant}.safetensors"
    files = {name.replace("model.safetensors", marked): data for name, data in tiny_repository.items()}
    with HubServer({"acme/tiny": HubRepository({"main": files}, lfs=tuple(files))}) as server:
        if variant:
            download(tmp_path, "acme/tiny", HF_ENDPOINT=server.url).check_error(4, "--variant (fp16)")
        arguments = ("acme/tiny", "--variant", variant) if variant else ("acme/tiny",)
        done = download(tmp_path, *arguments, HF_ENDPOINT=server.url).check_success()
        weights = next(path for path in (tmp_path / "tiny").glob("*.safetensors"))
        weights.write_bytes(PAGE)
        download(tmp_path, "--repair", "tiny").check_success()
    assert done.err.splitlines()[-1] == "next: neoxrun generate ./tiny --prompt 'Once upon a time'"
    arguments = ("generate", "./tiny", "--prompt", "Once upon a time", "--maximum-tokens", "3")
    Running(*arguments, cwd=tmp_path, env=environment(tmp_path)).finish().check_success()


@pytest.mark.parametrize(
    ("files", "last"),
    [
        (
            {"config.json": b'{"model_type": "llama"}'},
            "warning: no command runs ./tiny as it is",
        ),
        ({"config.json": b'{"model_type": "gpt_neox"}'}, "next: neoxrun generate ./tiny --tokenizer FILE --prompt"),
        (
            {"config.json": b'{"model_type": "gpt_neox"}', "spiece.model": b"x"},
            "next: neoxrun generate ./tiny --prompt",
        ),
    ],
    ids=["foreign", "without a tokenizer", "SentencePiece"],
)
def test_the_last_line_says_what_can_be_done(files: dict[str, bytes], last: str, tmp_path: Path) -> None:
    files = {**files, "model.safetensors": (8).to_bytes(8, "little") + b"{}      "}
    with HubServer({"acme/tiny": HubRepository({"main": files})}) as server:
        done = download(tmp_path, "acme/tiny", HF_ENDPOINT=server.url).check_success()
    assert done.err.splitlines()[-1].startswith(last)
    assert (tmp_path / "tiny" / "spiece.model").exists() == ("spiece.model" in files)


def test_a_revision_that_is_not_there(hub: HubServer, tmp_path: Path, snapshot: Snapshot) -> None:
    done = download(tmp_path, "pythia-410m", "--revision", "step14300", HF_ENDPOINT=hub.url)
    snapshot(done.check_error(4, "step14300", "step143000"))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_shard_that_the_index_names_and_nobody_has(kind: str, tmp_path: Path, snapshot: Snapshot) -> None:
    name, ending = kind.split(".")
    shards = [f"{name}-0000{number}-of-00002.{ending}" for number in (1, 2)]
    shard = (8).to_bytes(8, "little") + b"{}      " if ending == "safetensors" else weights(1)
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    files = {f"{kind}.index.json": index, shards[0]: shard}
    with HubServer({"me/mine": HubRepository({"main": files, "whole": {**files, shards[1]: shard}}, lfs=())}) as server:
        done = download(tmp_path, "me/mine", HF_ENDPOINT=server.url)
        snapshot(done.check_error(3, "1 file", "me/mine", shards[1]), "fetched")
        verdict = download(tmp_path, "--verify", "mine")
        assert verdict.out.startswith(f"{shards[1]} ")
        snapshot(verdict.check_error(3, "1 file", out=verdict.out), "verified")
        snapshot(download(tmp_path, "--repair", "mine", HF_ENDPOINT=server.url).check_error(3), "repaired")
        whole = ("me/mine", "--revision", "whole", "--to", "mine")
        download(tmp_path, *whole, HF_ENDPOINT=server.url).check_success()
    download(tmp_path, "--verify", "mine").check_success()


def test_certificates_of_ones_own_hold_for_the_hub_too(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path / "own.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=me -keyout {path} -out {path}.crt "
        "-addext subjectAltName=IP:127.0.0.1".split(),
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    files = {"model.safetensors": (8).to_bytes(8, "little") + b"{}      "}
    with HubServer({"me/mine": HubRepository({"main": files}, lfs=())}, certificate=path) as server:
        secure = {"HF_ENDPOINT": server.url, "SSL_CERT_FILE": "", "REQUESTS_CA_BUNDLE": ""}
        download(tmp_path, "me/mine", **secure).check_error(4, "CERTIFICATE_VERIFY_FAILED", "--ca-bundle")
        download(tmp_path, "me/mine", "--ca-bundle", f"{path}.crt", **secure).check_success()
        shutil.rmtree(tmp_path / "mine")
        download(tmp_path, "me/mine", **{**secure, "REQUESTS_CA_BUNDLE": f"{path}.crt"}).check_success()
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_task_data_goes_where_evaluate_looks(tmp_path: Path) -> None:
    """Stand-ins for the published data, with their own checksums in the user's own list."""
    files = read_tree(write_hub_form(tmp_path / "stand-ins"))
    table = io.BytesIO()
    parquet.write_table(
        pyarrow.Table.from_pylist([{"text": f"a text of {n}", "domain": None} for n in range(9)]), table
    )
    files["cimec/lambada/test.parquet"] = table.getvalue()
    known = {
        name: {"urls": [NOWHERE], "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    piqa = "baber/piqa/validation.jsonl"
    tasks = {"piqa": {"files": {piqa: known.pop(piqa)}}, "lambada": {"files": known}}
    own_models(tmp_path, json.dumps({"tasks": tasks}))
    with FaultyServer(files) as server:
        done = download(tmp_path, "--tasks", "lambada", "piqa", "--mirror", server.url).check_success()
        folder = tmp_path / "share" / "neoxrun" / "data"
        for name, content in files.items():
            assert (folder / name).read_bytes() == content
        assert "next: neoxrun evaluate --tasks lambada piqa" in done.err
        asked = ("evaluate", "demo", "--tasks", "lambada", "piqa", "--limit", 2, "--tp", 1)
        scored = Running(*asked, env=environment(tmp_path), cwd=tmp_path).finish().check_success()
        assert "lambada_standard 2 of 9, piqa 2 of 32" in scored.out
        other = download(tmp_path, "--tasks", "piqa", "--mirror", server.url, "--to", "my data").check_success()
        assert other.err.splitlines()[-1] == "next: neoxrun evaluate --data-dir 'my data' --tasks piqa"
        server.files[piqa] = b"{}" + files[piqa][2:]
        (folder / piqa).unlink()
        wrong = download(tmp_path, "--tasks", "piqa", "--mirror", server.url)
    assert wrong.code in (3, 4)
    assert not (folder / piqa).exists()
    assert (folder / OWN).exists()


@pytest.mark.parametrize(
    "fault", [Fault("status", 404), Fault("redirect", text="file:///etc/passwd")], ids=["status", "redirect"]
)
def test_what_another_try_would_not_change(
    fault: Fault, demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot
) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest]}}}}")
    demo_server.faults["latest"] = [fault] * 9
    done = download(tmp_path, "tiny")
    snapshot(done.check_error(4, "latest", "--mirror"))
    assert "again later" not in done.err


def test_more_messages_say_what_was_no_hub(tmp_path: Path) -> None:
    with HubServer({}, page=PAGE) as server:
        done = download(tmp_path, "me/mine", "-v", HF_ENDPOINT=server.url)
    assert done.code == 4
    assert re.search(r"127\.0\.0\.1: \w+Error: ", done.err), done.err


WRONG_USAGE: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("pythia-160",), ("'pythia-160'", "pythia-160m")),
    (("--tasks", "lambda"), ("'lambda'",)),
    (("20B", "--tasks", "piqa"), ("MODEL", "--tasks")),
    (("--list", "--verify", "x"), ("--list", "--verify")),
    (("20B", "--revision", "step1", "--mirror", NOWHERE), ("20B", "revision")),
    (("--verify", "x", "--to", "y"), ("--to", "--verify")),
    (("--mirror", "ftp://host/"), ("ftp://host/",)),
    (("--jobs", "0"), ("--jobs", "1")),
    (("--verify", "a", "--repair", "b"), ("--verify", "--repair")),
    *(
        (("--mirror", NOWHERE, option, ""), (option, "empty"))
        for option in ("--verify", "--repair", "--to", "--manifest", "--ca-bundle", "--revision")
    ),
    (("", "--mirror", NOWHERE), ("MODEL", "empty")),
    (("--ca-bundle", "none.pem", "--mirror", NOWHERE), ("--ca-bundle", "none.pem")),
]


@pytest.mark.parametrize(("arguments", "facts"), WRONG_USAGE, ids=[" ".join(case[0]) for case in WRONG_USAGE])
def test_wrong_usage(arguments: tuple[str, ...], facts: tuple[str, ...], tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot(download(tmp_path, *arguments).check_error(2, *facts))
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_folder(tmp_path: Path, snapshot: Snapshot) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{NOWHERE}'], files: [a.pt]}}}}")
    snapshot(download(tmp_path, "tiny").check_error(4, NOWHERE), "no server")
    snapshot(download(tmp_path, "pythia-14m").check_error(4, "127.0.0.1", "HF_ENDPOINT"), "no hub")
    snapshot(download(tmp_path, "--verify", "none").check_error(4, "none"), "no folder")
    (tmp_path / "empty").mkdir()
    snapshot(download(tmp_path, "--verify", "empty").check_error(4, "empty"), "nothing in it")
    (tmp_path / "file").touch()
    snapshot(download(tmp_path, "tiny", "--to", "file").check_error(4, "file"), "a file")


def test_missing_weights_name_the_command(tmp_path: Path) -> None:
    def hint(name: str) -> str:
        done = Running("generate", name, "--prompt", "x", cwd=tmp_path, env=environment(tmp_path)).finish()
        assert done.code == 3, done.err
        return done.err.partition("hint: ")[2]

    assert "`neoxrun download pythia-160m`" in hint("pythia-160m")
    assert "`neoxrun download polyglot-ko-1.3b`" in hint("polyglot-ko-1.3b")
