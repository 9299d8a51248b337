"""What GPUs do in a second, by their names: a table from the vendor's data sheets. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from neoxrun.config.settings import Precision
from neoxrun.planning.devices import Device


@dataclass(frozen=True)
class Link:
    """How ranks reach each other.

    Attributes:
        name: of the kind of link.
        seconds: of a small all-reduce of two ranks, within a step.
        bytes_per_second: of a large one: bytes of the numbers that are added, not of what travels.
    """

    name: str
    seconds: float
    bytes_per_second: float


# Measured on two H100 (2026-11-26): a kernel that sums over both takes 7 us for one token in a CUDA graph, and 150 GB/s
# fits what tensor parallelism loses while prompts are read (docs/performance.md).
NVLINK: Final = Link("NVLink", 7e-6, 150e9)
# Not measured, and meant to be low: through the host's memory, as between cards that cannot reach each other's.
PCIE: Final = Link("PCIe", 60e-6, 5e9)
# Not measured either: what TCP over 10 Gbit/s gives.
NETWORK: Final = Link("network", 150e-6, 1e9)


@dataclass(frozen=True)
class Speed:
    """What the data sheet of a GPU promises.

    Attributes:
        name: short name of the product.
        bytes_per_second: of its memory.
        half_flops: multiplications and additions a second in fp16, summed in fp32, without sparsity.
        full_flops: the same in fp32.
        link: to the other GPUs of its host.
        bf16: whether it multiplies bf16 as fast as fp16; else as fast as fp32.
    """

    name: str
    bytes_per_second: float
    half_flops: float
    full_flops: float
    link: Link = PCIE
    bf16: bool = True

    def flops(self, precision: Precision) -> float:
        """Operations a second in a number format."""
        half = precision == "fp16" or (precision == "bf16" and self.bf16)
        return self.half_flops if half else self.full_flops


# Data sheets of NVIDIA. The words are those of NVML's names; the first entry whose words are all in a name counts.
_LISTED: Final = {
    ("b200",): Speed("B200", 7.7e12, 2250e12, 75e12, NVLINK),
    ("h200",): Speed("H200", 4.8e12, 989e12, 67e12, NVLINK),
    ("h100", "pcie"): Speed("H100 PCIe", 2.0e12, 756e12, 51e12),
    ("h100", "nvl"): Speed("H100 NVL", 3.9e12, 835e12, 60e12),
    ("h100",): Speed("H100", 3.35e12, 989e12, 67e12, NVLINK),
    ("a100", "80gb", "pcie"): Speed("A100 80GB PCIe", 1.935e12, 312e12, 19.5e12),
    ("a100", "80gb"): Speed("A100 80GB", 2.039e12, 312e12, 19.5e12, NVLINK),
    ("a100", "pcie"): Speed("A100 40GB PCIe", 1.555e12, 312e12, 19.5e12),
    ("a100",): Speed("A100 40GB", 1.555e12, 312e12, 19.5e12, NVLINK),
    ("a40",): Speed("A40", 0.696e12, 149.7e12, 37.4e12),
    ("a30",): Speed("A30", 0.933e12, 165e12, 10.3e12),
    ("a10",): Speed("A10", 0.6e12, 125e12, 31.2e12),
    ("a10g",): Speed("A10G", 0.6e12, 70e12, 35e12),
    ("a6000",): Speed("RTX A6000", 0.768e12, 154.8e12, 38.7e12),
    ("a5000",): Speed("RTX A5000", 0.768e12, 111e12, 27.8e12),
    ("6000", "ada"): Speed("RTX 6000 Ada", 0.96e12, 364e12, 91.1e12),
    ("l40s",): Speed("L40S", 0.864e12, 362e12, 91.6e12),
    ("l40",): Speed("L40", 0.864e12, 181e12, 90.5e12),
    ("l4",): Speed("L4", 0.3e12, 121e12, 30.3e12),
    ("v100", "pcie"): Speed("V100 PCIe", 0.9e12, 112e12, 14e12, bf16=False),
    ("v100",): Speed("V100", 0.9e12, 125e12, 15.7e12, NVLINK, bf16=False),
    ("t4",): Speed("T4", 0.32e12, 65e12, 8.1e12, bf16=False),
    ("5090",): Speed("RTX 5090", 1.792e12, 209.5e12, 104.8e12),
    ("4090",): Speed("RTX 4090", 1.008e12, 165.2e12, 82.6e12),
    ("3090",): Speed("RTX 3090", 0.936e12, 71e12, 35.6e12),
}

# GiB of each, as sold; V100 also came with 32.
_SOLD: Final = {
    "B200": 180,
    "H200": 141,
    "H100 PCIe": 80,
    "H100 NVL": 94,
    "H100": 80,
    "A100 80GB PCIe": 80,
    "A100 80GB": 80,
    "A100 40GB PCIe": 40,
    "A100 40GB": 40,
    "A40": 48,
    "A30": 24,
    "A10": 24,
    "A10G": 24,
    "RTX A6000": 48,
    "RTX A5000": 24,
    "RTX 6000 Ada": 48,
    "L40S": 48,
    "L40": 48,
    "L4": 24,
    "V100 PCIe": 16,
    "V100": 16,
    "T4": 16,
    "RTX 5090": 32,
    "RTX 4090": 24,
    "RTX 3090": 24,
}

# Words of a product's name that are the same card's, or its memory.
_MAKE: Final = re.compile(r"nvidia|tesla|geforce|rtx|generation|sxm\d?|pcie|hbm\d?e?|\d+gb")
_SIZE: Final = re.compile(r"\b(\d+)gb\b")

# For any other name: the least memory, and a common GPU of that size, not the fastest one.
_BY_MEMORY: Final = (
    (120e9, ("h200",)),
    (60e9, ("a100", "80gb")),
    (44e9, ("a6000",)),
    (36e9, ("a100",)),
    (20e9, ("3090",)),
    (0, ("t4",)),
)


def listed_names() -> dict[str, int]:
    """The cards that are listed, with the bytes of their memory."""
    return {name: size * 2**30 for name, size in _SOLD.items()}


def card_of(name: str) -> tuple[str, int] | None:
    """A listed card and the bytes of its memory, by a product's name as NVML gives it; None: it is another one.

    ``NVIDIA H100 80GB HBM3`` and ``Tesla V100-SXM2-32GB`` are an H100 and a V100, of the memory that the name says.
    ``A100`` alone may have 40 or 80 GB, and is none.
    """
    words = _words(name)
    key = _listed_key(words)
    if key is None or not all(_MAKE.fullmatch(word) for word in words.difference(key)):
        return None
    card = _LISTED[key].name
    stated, needed = _SIZE.search(name.lower()), _SIZE.search(card.lower())
    if needed and (stated is None or stated[1] != needed[1]):
        return None
    return card, (int(stated[1]) if stated else _SOLD[card]) * 2**30


def is_listed(device: Device) -> bool:
    """Whether the speed of a GPU is known, by its name."""
    return _listed_key(_words(device.name)) is not None


def speed_of(device: Device) -> Speed:
    """The listed speed of a GPU; of a common one with as much memory where its name is not listed.

    Whether NVLink is there counts, where the driver tells.
    """
    words = _listed_key(_words(device.name)) or next(key for least, key in _BY_MEMORY if device.total_bytes >= least)
    speed = _LISTED[words]
    if device.nvlink is None:
        return speed
    return replace(speed, link=NVLINK if device.nvlink else PCIE)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def _listed_key(words: set[str]) -> tuple[str, ...] | None:
    return next((key for key in _LISTED if words.issuperset(key)), None)


def slowest(devices: Iterable[Device]) -> Speed:
    """The speed at which GPUs of several kinds work together: the least of each number."""
    speeds = [speed_of(device) for device in devices]
    return Speed(
        min(speeds, key=lambda speed: speed.bytes_per_second).name,
        min(speed.bytes_per_second for speed in speeds),
        min(speed.half_flops for speed in speeds),
        min(speed.full_flops for speed in speeds),
        max((speed.link for speed in speeds), key=lambda link: link.seconds),
        all(speed.bf16 for speed in speeds),
    )
