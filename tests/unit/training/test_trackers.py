"""Weights & Biases (offline) and TensorBoard: what a run has written can be read back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from neoxrun.errors import DataError, UsageError
from neoxrun.training.folder import RunFolder
from neoxrun.training.report import open_trackers
from neoxrun.training.trackers import TensorBoardTracker, WandbTracker, check_trackers


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoardTracker(tmp_path)
    for step in (1, 2):
        tracker.add(step, {"train/loss": 3.0 - step, "train/lr": 0.5})
    tracker.add_texts(2, {"To be": " or not"})
    tracker.close(failed=False)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
    assert found.Scalars("train/lr")[0].value == 0.5
    (text,) = found.Tensors("samples/0")
    assert (text.step, text.tensor_proto.string_val[0]) == (2, b"To be or not")
    assert found.SummaryMetadata("samples/0").plugin_data.plugin_name == "text"


def test_wandb_writes_a_folder_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tracker,) = open_trackers(RunFolder(tmp_path), {"lr": 0.5}, wandb="mine", tensorboard=False)
    tracker.add(1, {"train/loss": 2.0})
    tracker.add_texts(1, {"To be": " or not"})
    tracker.close(failed=False)
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in written.read_bytes()
    named = json.loads((tmp_path / "wandb.json").read_text())
    assert isinstance(tracker, WandbTracker)
    assert named == {"project": "mine", "id": tracker.run_id}
    assert named["id"] in written.name
    (again,) = open_trackers(RunFolder(tmp_path), {"lr": 0.5}, wandb="mine", tensorboard=False)
    again.close(failed=True)
    assert isinstance(again, WandbTracker)
    assert again.run_id == tracker.run_id


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a file of wandb's: 7 bytes, then LevelDB's log format, in blocks of 32 KiB."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # too little room in the block for a header
            at += 2**15 - at % 2**15
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_takes_the_steps_that_a_killed_run_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = WandbTracker("mine", tmp_path, {}, None)
    for step in (1, 2, 3, 2, 3, 4):
        tracker.add(step, {"train/loss": 1.0 / step})
    tracker.close(failed=False)
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = [Record.FromString(data) for data in leveldb_records(written.read_bytes())]
    logged = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [(line["step"], line["train/loss"]) for line in logged] == [
        (step, 1.0 / step) for step in (1, 2, 3, 2, 3, 4)
    ]
    axes = {record.metric.glob_name or record.metric.name: record.metric.step_metric for record in records}
    assert axes["*"] == "step"


def test_a_failure_of_wandb_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setattr("wandb.init", lambda **how: 1 / 0)
    with pytest.raises(DataError, match="ZeroDivisionError") as error:
        WandbTracker("mine", tmp_path, {}, None)
    assert error.value.code == "failed_logging"
    assert "WANDB_MODE=offline" in str(error.value.hint)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(wandb=False, tensorboard=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--tensorboard needs tensorboard") as error:
        check_trackers(wandb=False, tensorboard=True)
    assert error.value.hint == "Install it: pip install 'neoxrun[tensorboard]'"
