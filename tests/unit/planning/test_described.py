"""Devices as people write them."""

from __future__ import annotations

import pytest

from neoxrun.errors import UsageError
from neoxrun.planning.described import parse_devices
from neoxrun.planning.hardware import is_listed, listed_names, speed_of


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("2x48GB", [48 * 2**30] * 2),
        ("80GiB", [80 * 2**30]),
        ("1X24gb", [24 * 2**30]),
        ("2 x 1.5 GB", [3 * 2**29] * 2),
        ("3*512MiB", [2**29] * 3),
        ("2x24G, 1x80GB", [24 * 2**30, 24 * 2**30, 80 * 2**30]),
    ],
)
def test_sizes_that_people_write(text: str, sizes: list[int]) -> None:
    devices = parse_devices(text)
    assert [device.total_bytes for device in devices] == sizes
    assert [device.free_bytes for device in devices] == sizes
    assert [device.index for device in devices] == list(range(len(sizes)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "two",
        "x48GB",
        "2x0GB",
        "2x48",
        "2xH99",
        "A100",
        "NVIDIA A100-SXM4-64GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "2x48GB,",
        "2x48 parsecs",
        "9" * 400 + "GB",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a count and a memory size") as caught:
        parse_devices(text)
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize(
    "text", ["0x48GB", "-1x48GB", "-2xH100", "0xH100", "10000xH100", "100000x1GB", "9" * 99 + "x1GB"]
)
def test_a_number_of_devices_that_cannot_be(text: str) -> None:
    size = "small" if text.startswith(("0", "-")) else "large"
    with pytest.raises(UsageError, match=f"{text.split('x')[0]} is too {size} a number of devices") as caught:
        parse_devices(text)
    assert caught.value.hint == "Give a number from 1 to 9999."
    assert len(parse_devices("9999xH100")) == 9999


def test_the_cpu_is_one_device() -> None:
    assert parse_devices("64GB", "cpu")[0].kind == "cpu"
    with pytest.raises(UsageError, match="the CPU is one") as caught:
        parse_devices("2x64GB", "cpu")
    assert caught.value.code == "invalid_value"
    with pytest.raises(UsageError, match="not the size of a host's memory, which --device cpu needs") as caught:
        parse_devices("H100", "cpu")
    assert "leave --device cpu out" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["2xA100-80GB", "2 x a100 80gb", "2xA100_80GB"])
def test_names_of_cards(text: str) -> None:
    devices = parse_devices(text)
    assert [(device.name, device.free_bytes) for device in devices] == [("A100 80GB", 80 * 2**30)] * 2


PRINTED = {
    "NVIDIA H100 80GB HBM3": ("H100", 80),
    "H100 80GB": ("H100", 80),
    "H100 96GB HBM3": ("H100", 96),
    "NVIDIA A100-SXM4-40GB": ("A100 40GB", 40),
    "NVIDIA A100-PCIE-40GB": ("A100 40GB PCIe", 40),
    "NVIDIA A100 80GB PCIe": ("A100 80GB PCIe", 80),
    "NVIDIA RTX A6000": ("RTX A6000", 48),
    "NVIDIA RTX 6000 Ada Generation": ("RTX 6000 Ada", 48),
    "NVIDIA GeForce RTX 3090": ("RTX 3090", 24),
    "Tesla V100-SXM2-32GB": ("V100", 32),
    "Tesla T4": ("T4", 16),
}


@pytest.mark.parametrize("name", PRINTED)
def test_names_that_nvidia_smi_prints(name: str) -> None:
    card, size = PRINTED[name]
    devices = parse_devices(f"2x {name}")
    assert [(device.name, device.total_bytes) for device in devices] == [(card, size * 2**30)] * 2


def test_every_listed_card_can_be_named() -> None:
    for name in listed_names():
        (device,) = parse_devices(name.replace(" ", "-"))
        assert is_listed(device)
        assert speed_of(device).name == name
    assert parse_devices("3090")[0].name == "RTX 3090"
    assert not is_listed(parse_devices("2x24GB")[0])
