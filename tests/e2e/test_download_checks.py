"""What `neoxrun download` checks: --verify, --repair, manifests, and files that are not what they should be."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import torch

from neoxrun.config.names import MANIFEST_NAME
from support.download_command import download, own_models, read_tree, weights
from support.faulty_server import PAGE, FaultyServer
from support.paths import DEMO
from support.snapshots import Snapshot


def test_verify_says_what_is_wrong_and_repair_fetches_just_that(tree_20b: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "20B_checkpoints"
    step = "global_step150000"
    with FaultyServer(tree_20b) as server:
        download(tmp_path, "--mirror", server.url).check_success()
        whole = tree_20b[f"{step}/layer_02-model_00-model_states.pt"]
        (folder / step / "layer_02-model_00-model_states.pt").write_bytes(whole[:-300])
        (folder / step / "layer_03-model_00-model_states.pt").write_bytes(PAGE)
        other = bytearray(tree_20b[f"{step}/layer_04-model_00-model_states.pt"])
        other[len(other) // 2] ^= 1
        (folder / step / "layer_04-model_00-model_states.pt").write_bytes(other)
        # Whole in itself, but not the one that arrived.
        (folder / step / "layer_05-model_00-model_states.pt").write_bytes(whole)
        (folder / step / "layer_06-model_00-model_states.pt").unlink()
        (folder / "latest").unlink()
        bad = [f"{step}/layer_0{layer}-model_00-model_states.pt" for layer in range(2, 7)]
        verdict = download(tmp_path, "--verify", folder)
        lines = {line.split()[0]: line for line in verdict.out.splitlines()}
        assert list(lines) == [*bad, "latest"]
        assert "bytes instead of" in lines[bad[0]]
        assert "SHA-256" in lines[bad[3]]
        assert "missing" in lines[bad[4]]
        verdict.check_error(3, "6 files are missing or wrong", f"--repair {folder}", out=verdict.out)
        server.settle()
        before = len(server.requests)
        repaired = json.loads(download(tmp_path, "--repair", folder, "--json").check_success().out)
        assert repaired["repaired"] == [*bad, "latest"]
        assert sorted({request.path for request in server.requests[before:] if request.method == "GET"}) == bad
    assert read_tree(folder).items() >= tree_20b.items()
    assert json.loads(download(tmp_path, "--verify", folder, "--json").check_success().out)["wrong"] == {}


def test_a_folder_that_somebody_else_filled_is_checked_without_any_checksum(tmp_path: Path, snapshot: Snapshot) -> None:
    shutil.copytree(DEMO, tmp_path / "demo")
    # Of a training run: no loader of weights opens it.
    (tmp_path / "demo" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"DeepSpeed's own")
    done = download(tmp_path, "--verify", "demo").check_success()
    assert "no checksum" in done.err
    snapshot(done, "verified")
    path = next((tmp_path / "demo").rglob("layer_03*"))
    path.write_bytes(path.read_bytes()[:-1])
    done = download(tmp_path, "--verify", "demo", "-q")
    assert [line.split()[0] for line in done.out.splitlines()] == [str(path.relative_to(tmp_path / "demo"))]
    snapshot(done.check_error(3, path.name, out=done.out), "a file is cut")
    snapshot(download(tmp_path, "--repair", "demo", "-q").check_error(3, "--to demo"), "repaired")


def test_repair_leaves_the_users_own_files_alone(demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    download(tmp_path, "tiny", "-q").check_success()
    own = {"notes.json": b"not JSON", "link.pt": b"mine"}
    for name, content in {**own, "tokenizer.json": b"{}"}.items():
        (tmp_path / "tiny" / name).write_bytes(content)
    done = download(tmp_path, "--repair", "tiny")
    snapshot(done.check_error(3, "2 files", "link.pt, notes.json"))
    assert "1 file repaired: tokenizer.json" in done.err
    arrived = read_tree(tmp_path / "tiny")
    del arrived["neoxrun.manifest.json"]
    assert arrived == {**own, **{name: demo_server.files[name] for name in ("latest", "tokenizer.json")}}
    assert json.loads(download(tmp_path, "--repair", "tiny", "--json").out)["repaired"] == []


def test_the_users_checksums_decide(demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    sums = "".join(
        f"{hashlib.sha256(demo_server.files[name]).hexdigest()}  {name}\n" for name in ("latest", "tokenizer.json")
    )
    (tmp_path / "SHA256SUMS").write_text(sums, encoding="utf-8")
    download(tmp_path, "tiny", "--manifest", "SHA256SUMS", "-q").check_success()
    shutil.rmtree(tmp_path / "tiny")
    demo_server.files["latest"] = b"global_step9999"
    done = download(tmp_path, "tiny", "--manifest", "SHA256SUMS")
    snapshot(done.check_error(3, "checksum", "latest"))
    assert not (tmp_path / "tiny" / "latest").exists()
    assert (tmp_path / "tiny" / "latest.corrupt").read_bytes() == b"global_step9999"


def test_a_manifest_of_something_else_is_refused(demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    (tmp_path / "SHA256SUMS").write_text(f"{'ab' * 32}  tiny/latest\n", encoding="utf-8")
    done = download(tmp_path, "tiny", "--manifest", "SHA256SUMS")
    snapshot(done.check_error(4, "tiny/latest"))
    assert not (tmp_path / "tiny").exists()


def test_a_folders_manifest_without_files_may_go(demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    (tmp_path / "tiny").mkdir()
    path = tmp_path / "tiny" / MANIFEST_NAME
    path.write_text('{"format": 1}', encoding="utf-8")
    snapshot(download(tmp_path, "tiny").check_error(4, "`files`", where=f"tiny/{MANIFEST_NAME}"))
    path.unlink()
    download(tmp_path, "tiny").check_success()
    assert path.exists()


def test_what_first_arrived_is_what_must_arrive_again(
    demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot
) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    download(tmp_path, "tiny", "-q").check_success()
    (tmp_path / "tiny" / "latest").unlink()
    first, longer = demo_server.files["latest"], b"something that is longer"
    for other, code, facts in (
        (longer, 4, (str(len(longer)), str(len(first)))),
        (first[::-1], 3, ("checksum", "latest")),
    ):
        demo_server.files["latest"] = other
        done = download(tmp_path, "tiny", "-q")
        snapshot(done.check_error(code, *facts), f"{len(other)} bytes")
        assert not (tmp_path / "tiny" / "latest").exists()


def test_a_mirror_that_was_cut_costs_no_good_file(demo_server: FaultyServer, tmp_path: Path) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [tokenizer.json]}}}}")
    download(tmp_path, "tiny", "-q").check_success()
    whole = demo_server.files["tokenizer.json"]
    demo_server.files["tokenizer.json"] = whole[:3000]
    download(tmp_path, "tiny", "-q").check_success()
    assert {path.name: path.read_bytes() for path in (tmp_path / "tiny").glob("tok*")} == {"tokenizer.json": whole}


def test_a_mirror_that_was_cut_does_not_say_how_long_the_file_is(demo_server: FaultyServer, tmp_path: Path) -> None:
    whole = weights(1)
    with FaultyServer({"a.pt": whole[:2000]}) as cut:
        demo_server.files["a.pt"] = whole
        own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{cut.url}', '{demo_server.url}'], files: [a.pt]}}}}")
        assert json.loads(download(tmp_path, "tiny", "--dry-run", "--json").check_success().out)["size"] == 2000
        download(tmp_path, "tiny").check_success()
    assert (tmp_path / "tiny" / "a.pt").read_bytes() == whole


def test_a_file_with_code_in_it_is_refused(demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path("executed"),)

    buffer = io.BytesIO()
    torch.save({"a": Evil()}, buffer)
    demo_server.files["a.pt"] = buffer.getvalue()
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [a.pt]}}}}")
    done = download(tmp_path, "tiny")
    snapshot(done.check_error(3, "a.pt"))
    assert {path.name for path in tmp_path.rglob("*")} & {"a.pt", "executed"} == set()
