"""`neoxrun download` that is interrupted, or that is not alone in its folder."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download import manifest
from support.command import Running
from support.download_command import NOWHERE, download, environment, own_models
from support.faulty_server import Fault, FaultyServer, wait_until
from support.snapshots import Snapshot


def test_ctrl_c_keeps_what_has_arrived(demo_server: FaultyServer, tmp_path: Path) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [latest, tokenizer.json]}}}}")
    demo_server.faults["tokenizer.json"] = [Fault("drip", 5000)]
    running = Running("download", "tiny", cwd=tmp_path, env=environment(tmp_path))
    part = tmp_path / "tiny" / ".tokenizer.json.part"
    assert wait_until(lambda: part.exists() and part.stat().st_size >= 5000 and (tmp_path / "tiny" / "latest").exists())
    start = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    done = running.finish(timeout=20)
    assert time.monotonic() - start < 2
    done.check_error(130)
    assert part.stat().st_size >= 5000
    record = json.loads((tmp_path / "tiny" / "neoxrun.manifest.json").read_text(encoding="utf-8"))
    assert list(record["files"]) == ["latest"], "what first arrived is recorded whatever comes after"
    download(tmp_path, "tiny").check_success()
    assert (tmp_path / "tiny" / "tokenizer.json").read_bytes() == demo_server.files["tokenizer.json"]
    assert demo_server.gets("tokenizer.json")[-1].start >= 5000, "the rest only"


def test_ctrl_c_while_a_server_is_silent(tmp_path: Path, snapshot: Snapshot) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        own_models(tmp_path, f"models: {{tiny: {{mirrors: ['http://127.0.0.1:{silent.getsockname()[1]}']}}}}")
        running = Running("download", "tiny", cwd=tmp_path, env=environment(tmp_path))
        asked, _ = silent.accept()
        with asked:
            time.sleep(0.2)
            running.process.send_signal(signal.SIGINT)
            snapshot(running.finish(timeout=20).check_error(130))


def test_two_at_a_time_do_not_fight(demo_server: FaultyServer, tmp_path: Path, snapshot: Snapshot) -> None:
    own_models(tmp_path, f"models: {{tiny: {{mirrors: ['{demo_server.url}'], files: [tokenizer.json]}}}}")
    demo_server.faults["tokenizer.json"] = [Fault("stall", 5000)]
    first = Running("download", "tiny", cwd=tmp_path, env=environment(tmp_path))
    try:
        assert wait_until(lambda: (tmp_path / "tiny" / ".tokenizer.json.part").exists())
        second = download(tmp_path, "tiny")
        own_id = str(first.process.pid)
        pid = {f"process {own_id} on {socket.gethostname()}": "process PID on HOST"}
        snapshot(second.check_error(4, own_id), replace=pid)
        # Another model and a repair are refused before they change anything, the manifest above all.
        record = manifest.Manifest({"latest": manifest.ManifestEntry(1, "0" * 64)}, "tiny", mirrors=(demo_server.url,))
        before = manifest.write_manifest(record, tmp_path / "tiny").read_bytes()
        for arguments in (("20B", "--mirror", NOWHERE, "--to", "tiny"), ("--repair", "tiny")):
            snapshot(download(tmp_path, *arguments).check_error(4, own_id), arguments[0], replace=pid)
        assert (tmp_path / "tiny" / MANIFEST_NAME).read_bytes() == before
        assert not (tmp_path / "tiny" / "latest").exists()
    finally:
        first.process.send_signal(signal.SIGINT)
        first.finish(timeout=20)
