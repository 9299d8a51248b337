"""Repositories of the hub, asked of a server on loopback that speaks the hub's API, through huggingface_hub itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download import hub, manifest, order
from neoxrun.download.catalog import Model
from neoxrun.download.http import HttpOptions
from neoxrun.errors import CheckpointError, NetworkError, UsageError
from support.faulty_server import Fault
from support.hub_server import HubRepository, HubServer, git_blob

WEIGHTS = (8).to_bytes(8, "little") + b"{}      "
CONFIG = b'{"model_type": "gpt_neox"}'
FILES = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same weights again",
    "README.md": b"# Read me",
    "onnx/config.json": b"{}",
}
NAME = "EleutherAI/pythia-14m"
WANTED = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(hub, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read at import: another test may have had it set then
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with HubServer(
        {NAME: HubRepository({"main": FILES, "step1000": {**FILES, "config.json": b'{"step": 1000}'}})}
    ) as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        yield one


def fetched(server: HubServer, folder: Path, revision: str | None = None) -> order.Downloaded:
    model = Model("pythia-14m", "pythia-14m", hub=NAME)
    options = HttpOptions(tries=3, backoff=0.01, stall_timeout=1)
    return order.carry_out_order(order.order_model(model, folder, options, revision=revision), jobs=2, show=False)


def refused(revision: str = "main", name: str = NAME) -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        hub.look_up_repository(name, revision)
    return caught.value


def test_what_a_model_needs_is_found_with_sizes_and_checksums(server: HubServer) -> None:
    found = hub.look_up_repository(NAME, "main")
    assert [file.name for file in found.files] == WANTED
    assert found.commit == server.repositories[NAME].commit("main")
    weights = found.files[1]
    assert weights.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert weights.urls == (f"{server.url}/{NAME}/resolve/{found.commit}/model.safetensors",)
    assert [file.size for file in found.files] == [len(FILES[name]) for name in WANTED]
    assert found.blobs == {name: git_blob(FILES[name]) for name in ("config.json", "tokenizer.json")}


def test_a_repository_arrives_whole_and_is_recorded(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "pythia-14m"
    done = fetched(server, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST_NAME} == {
        name: FILES[name] for name in WANTED
    }
    assert len(done.fetched) == 3
    record = manifest.read_folder_manifest(folder)
    assert record is not None
    assert (record.hub, record.revision) == (NAME, server.repositories[NAME].commit("main"))
    assert record.files["tokenizer.json"].sha256 == hashlib.sha256(b"{}").hexdigest()
    again = fetched(server, folder)
    assert again.fetched == []


def test_another_revision_replaces_what_differs_only(server: HubServer, tmp_path: Path) -> None:
    fetched(server, tmp_path / "a")
    done = fetched(server, tmp_path / "a", "step1000")
    assert [arrival.name for arrival in done.fetched] == ["config.json"]
    assert (tmp_path / "a" / "config.json").read_bytes() == b'{"step": 1000}'
    record = manifest.read_folder_manifest(tmp_path / "a")
    assert record is not None
    assert record.revision == server.repositories[NAME].commit("step1000")


def test_the_token_reaches_the_hub_and_nobody_else(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repositories[NAME].token = "hf_secret"
    assert "does not show it to you" in refused().message
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched(server, tmp_path / "a")
    assert server.asked("/resolve/") == ["Bearer hf_secret"] * len(server.asked("/resolve/"))
    assert server.cdn.requests
    assert all("Authorization" not in request.headers for request in server.cdn.requests)
    assert "hf_secret" not in (tmp_path / "a" / MANIFEST_NAME).read_text(encoding="utf-8")
    assert "hf_secret" not in repr(hub.look_up_repository(NAME, "main"))


def test_a_mirror_of_the_hub_does_not_see_the_token(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    found = hub.look_up_repository(NAME, "main", endpoint=server.url)
    assert found.credentials == {}
    assert server.asked("") == [None]


def cached(server: HubServer, name: str) -> Path:
    """Have another program put a file into the hub's cache."""
    program = f"import huggingface_hub; print(huggingface_hub.hf_hub_download({NAME!r}, {name!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_CACHE": constants.HF_HUB_CACHE},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def test_what_is_in_the_hubs_cache_is_not_fetched(server: HubServer, tmp_path: Path) -> None:
    file = cached(server, "config.json")
    large = file.with_name("model.safetensors")
    large.write_bytes(WEIGHTS)
    before = len(server.requests)
    done = fetched(server, tmp_path / "a")
    assert {arrival.name for arrival in done.fetched} == {"tokenizer.json"}
    assert not [path for path, _ in server.requests[before:] if path.endswith("/config.json") and "/resolve/" in path]
    assert (tmp_path / "a" / "model.safetensors").samefile(large)
    (tmp_path / "a" / "config.json").write_bytes(b"edited")
    assert file.read_bytes() == CONFIG, "the cache is not ours to change"


def test_damage_in_the_hubs_cache_is_noticed(server: HubServer, tmp_path: Path) -> None:
    file = cached(server, "config.json")
    file.write_bytes(CONFIG.replace(b"neox", b"weox"))
    done = fetched(server, tmp_path / "a")
    assert "config.json" in {arrival.name for arrival in done.fetched}
    assert (tmp_path / "a" / "config.json").read_bytes() == CONFIG
    assert file.read_bytes() != CONFIG, "the cache is not ours to change"


def test_small_files_are_checked_by_their_git_name(server: HubServer, tmp_path: Path) -> None:
    repository = server.repositories[NAME]
    found = order.order_model(Model("m", "m", hub=NAME), tmp_path / "a", HttpOptions(tries=2, backoff=0.01))
    repository.revisions["main"] = {**FILES, "config.json": CONFIG.replace(b"neox", b"weox")}
    with pytest.raises(CheckpointError, match=r"config\.json are not those that the hub has") as caught:
        order.carry_out_order(found, jobs=1, show=False)
    assert caught.value.code == "wrong_checksum"
    assert not (tmp_path / "a" / "config.json").exists()


def test_wrong_bytes_on_the_way_are_fetched_again(server: HubServer, tmp_path: Path) -> None:
    commit = server.repositories[NAME].commit("main")
    server.cdn.faults[f"{commit}/model.safetensors"] = [Fault("corrupt", 9), Fault("cut", 12)]
    fetched(server, tmp_path / "a")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == WEIGHTS


def test_an_unknown_revision_names_the_nearest(server: HubServer) -> None:
    error = refused("step100")
    assert "has no revision step100" in error.message
    assert str(error.hint).startswith("Did you mean step1000?")
    assert error.exit_code == 4


def test_an_unknown_repository_and_a_gated_one(server: HubServer) -> None:
    error = refused(name="EleutherAI/none")
    assert "has no repository EleutherAI/none" in error.message
    assert "HF_TOKEN" in str(error.hint)
    server.repositories["some/gated"] = HubRepository({"main": FILES}, token="x", gated=True)
    error = refused(name="some/gated")
    assert "some/gated is gated" in error.message
    assert "Request access on that page" in str(error.hint)


def test_a_repository_without_weights(server: HubServer) -> None:
    server.repositories["some/data"] = HubRepository({"main": {"README.md": b"", "data.csv": b""}})
    assert "has no weights" in refused(name="some/data").message


def test_what_passes_is_tried_again(server: HubServer) -> None:
    server.statuses += [503, 429]
    assert hub.look_up_repository(NAME, "main").files
    server.statuses += [500, 500, 500]
    assert "responds with error 500" in refused().message
    server.statuses += [403]
    assert "refuses access" in refused().message
    assert len(server.requests) == 7


def test_no_hub_there(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = refused()
    assert "127.0.0.1 cannot be reached" in error.message
    assert "HF_ENDPOINT" in str(error.hint)


def test_a_login_page_in_between(server: HubServer) -> None:
    server.page = b"<!DOCTYPE html><html>Please log in to the network</html>"
    assert "does not respond as a Hugging Face hub would" in refused().message


def test_offline_is_respected(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.close_session()
    try:
        assert "HF_HUB_OFFLINE is set" in refused().message
    finally:
        monkeypatch.undo()
        huggingface_hub.utils.close_session()
    assert server.requests == []


def test_a_name_that_leads_out_of_the_folder_is_refused(server: HubServer) -> None:
    server.repositories["evil/one"] = HubRepository({"main": {"global_step1/../../layer_00-model_states.pt": b"x"}})
    assert "leads out of the folder" in refused(name="evil/one").message


def test_what_cannot_be_a_hub_or_a_repository(server: HubServer, tmp_path: Path) -> None:
    for arguments in ({"endpoint": "nowhere"}, {"endpoint": "http://[x"}, {"ca_bundle": tmp_path / "none.pem"}):
        with pytest.raises(UsageError):
            hub.look_up_repository(NAME, "main", **arguments)
    with pytest.raises(UsageError, match="is not the name of a repository") as caught:
        hub.look_up_repository("some/a--b", "main")
    assert caught.value.code == "invalid_value"
    assert server.requests == []


def test_a_login_in_the_address_is_not_shown(server: HubServer) -> None:
    for address in ("http://me:hunter2@127.0.0.1:9", "http://me:hunter2@[bad"):
        with pytest.raises((NetworkError, UsageError)) as caught:
            hub.look_up_repository(NAME, "main", endpoint=address)
        assert "hunter2" not in caught.value.render()
