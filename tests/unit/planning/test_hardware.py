"""Speeds by the names that NVML gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neoxrun.planning.devices import Device
from neoxrun.planning.hardware import NVLINK, PCIE, slowest, speed_of
from support.plans import gpus

NAMES = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA A100-PCIE-40GB": "A100 40GB PCIe",
    "NVIDIA A100 80GB PCIe": "A100 80GB PCIe",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA A40": "A40",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 3090 Ti": "RTX 3090",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "Tesla V100-SXM2-32GB": "V100",
    "Tesla V100-PCIE-16GB": "V100 PCIe",
    "Tesla T4": "T4",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_recognized(name: str) -> None:
    assert speed_of(gpus(1, name, 7)[0]).name == NAMES[name]


@pytest.mark.parametrize(
    ("gigabytes", "name"),
    [(141, "H200"), (80, "A100 80GB"), (48, "RTX A6000"), (40, "A100 40GB"), (24, "RTX 3090"), (16, "T4"), (1, "T4")],
)
def test_an_unknown_name_counts_as_a_common_gpu_of_its_memory(gigabytes: int, name: str) -> None:
    assert speed_of(gpus(1, f"{gigabytes} GB", gigabytes)[0]).name == name


@pytest.mark.parametrize(("name", "link"), [("NVIDIA H100 80GB HBM3", NVLINK), ("NVIDIA RTX A6000", PCIE)])
def test_what_the_driver_tells_of_nvlink_counts(name: str, link: object) -> None:
    (gpu,) = gpus(1, name, 80)
    assert speed_of(gpu).link == link
    assert speed_of(replace(gpu, nvlink=True)).link == NVLINK
    assert speed_of(replace(gpu, nvlink=False)).link == PCIE


def test_formats_that_a_gpu_has_no_instructions_for_are_as_slow_as_fp32() -> None:
    (old,), (new,) = gpus(1, "Tesla V100-SXM2-32GB", 32), gpus(1, "NVIDIA H100 80GB HBM3", 80)
    assert speed_of(old).flops("bf16") == speed_of(old).flops("fp32") < speed_of(old).flops("fp16")
    assert speed_of(new).flops("bf16") == speed_of(new).flops("fp16") > speed_of(new).flops("fp32")


def test_gpus_of_several_kinds_are_as_slow_as_the_slowest() -> None:
    several: list[Device] = [*gpus(1, "NVIDIA H100 80GB HBM3", 80), *gpus(1, "Tesla V100-SXM2-32GB", 32)]
    together, old = slowest(several), speed_of(several[1])
    assert together == old
    assert slowest([*several, *gpus(1, "Tesla T4", 16)]).link == PCIE
