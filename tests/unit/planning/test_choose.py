"""Which split is chosen, as a table: models x devices x flags."""

from __future__ import annotations

import pytest

from support.plans import PUBLISHED, planned

# (model, devices, flags) -> (tp, pp, replicas)
ON_GPUS = [
    ("20B", "2x48GB", {}, (2, 1, 1)),
    ("20B", "1x80GB", {}, (1, 1, 1)),
    ("20B", "1x48GB", {}, (1, 1, 1)),
    ("20B", "2x80GB", {}, (1, 1, 2)),
    ("20B", "4x40GB", {}, (2, 1, 2)),
    ("20B", "8x24GB", {}, (4, 1, 2)),
    ("20B", "8x24GiB", {}, (4, 1, 2)),
    ("20B", "5x24GB", {}, (4, 1, 1)),
    ("20B", "3x24GB", {}, (1, 3, 1)),
    ("20B", "16x16GB", {}, (8, 1, 2)),
    ("20B", "2x24GiB", {}, (2, 1, 1)),
    ("20B", "2x24GB", {"nnodes": 2}, (2, 2, 1)),
    ("20B", "4x24GB", {"nnodes": 2}, (4, 1, 2)),
    ("20B", "1x80GB", {"nnodes": 3}, (1, 1, 3)),
    ("20B", "2x80GB", {"tp": 2}, (2, 1, 1)),
    ("20B", "4x48GB", {"tp": 2, "pp": 2}, (2, 2, 1)),
    ("20B", "8x80GB", {"replicas": 1}, (1, 1, 1)),
    ("20B", "8x80GB", {"tp": 2, "replicas": 3}, (2, 1, 3)),
    ("20B", "8x48GB", {"world_size": 4}, (2, 1, 2)),
    ("20B", "2x48GB", {"batch_size": 1}, (1, 1, 2)),
    ("20B", "2x80GB", {"batch_size": 40}, (2, 1, 1)),
    ("20B", "4x80GB", {"dtype": "fp32"}, (2, 1, 2)),
    ("pythia-12b", "2x24GB", {}, (2, 1, 1)),
    ("pythia-12b", "2x48GB", {}, (1, 1, 2)),
    ("pythia-1b", "8x24GB", {"tp": 8}, (8, 1, 1)),
    ("pythia-14m", "2x980MB", {}, (1, 1, 2)),  # splitting costs more than it saves
    *((name, "1x80GB", {}, (1, 1, 1)) for name in PUBLISHED),
    *((name, "4x80GB", {}, (1, 1, 4)) for name in PUBLISHED),
]


@pytest.mark.parametrize(("name", "devices", "flags", "expected"), ON_GPUS)
def test_split_on_gpus(name, devices, flags, expected) -> None:
    plan = planned(name, devices, **flags)
    assert (plan.tp, plan.pp, plan.replicas) == expected, plan.reason
    assert plan.max_context == 2048
    assert all(rank.total_bytes <= rank.free_bytes for rank in plan.devices)


# (model, host memory, cores, flags) -> (tp, pp, replicas, dtype)
ON_CPU = [
    ("pythia-160m", "16GB", 2, {}, (1, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 2, {}, (2, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 1, {}, (1, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 0, {}, (2, 1, 1, "fp32")),
    ("pythia-6.9b", "24GB", 2, {}, (2, 1, 1, "bf16")),
    ("pythia-6.9b", "24GB", 2, {"dtype": "fp16"}, (2, 1, 1, "fp16")),
    ("20B", "256GB", 16, {}, (2, 1, 1, "fp32")),
    ("20B", "256GB", 1, {}, (1, 1, 1, "fp32")),
    ("20B", "256GB", 2, {"tp": 4}, (4, 1, 1, "fp32")),
    ("20B", "256GB", 2, {"pp": 3, "replicas": 2}, (1, 3, 2, "fp32")),
    ("pythia-6.9b", "64GB", 2, {"nnodes": 2}, (2, 1, 2, "fp32")),
    ("pythia-160m", "16GB", 2, {"world_size": 3}, (1, 1, 3, "fp32")),
]


@pytest.mark.parametrize(("name", "memory", "cores", "flags", "expected"), ON_CPU)
def test_split_on_the_cpu(name, memory, cores, flags, expected) -> None:
    plan = planned(name, memory, "cpu", cores, **flags)
    assert (plan.tp, plan.pp, plan.replicas, plan.dtype) == expected, plan.reason
    assert plan.device_kind == "cpu"
    assert plan.gpus == ()
