"""Devices in words: counts, sizes and names of cards, as people write and buy them. No torch."""

from __future__ import annotations

import re
from typing import Final

from neoxrun.config.precisions import DeviceKind
from neoxrun.errors import UsageError
from neoxrun.planning.devices import Device
from neoxrun.planning.hardware import card_of, listed_names

# Of cards and of hosts, "GB" means 2**30 bytes: a card of 24 GB has 24 GiB.
_UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_COUNT: Final = r"\s*(?:(-?\d{1,99})\s*[x*]\s*)?"
_MOST: Final = 9999  # of a kind
_SIZE: Final = re.compile(_COUNT + r"(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt])i?b?\s*", re.IGNORECASE)
_NAME: Final = re.compile(_COUNT + r"([a-z0-9][\w -]*?)\s*", re.IGNORECASE)


def parse_devices(text: str, kind: DeviceKind = "cuda") -> list[Device]:
    """Devices written as count x memory or count x name: ``2x48GB``, ``4x24GB,2x80GB``, ``2xH100``; ``64GB``, a host.

    Names are the product's short ones, or those that nvidia-smi prints: ``NVIDIA A100-SXM4-40GB``.

    Memory is as it is sold: ``24GB`` and ``24GiB`` are both 24 x 2**30 bytes.

    Raises:
        UsageError: ``text`` is not of that form, names a card that is not listed, or several hosts.
    """
    devices: list[Device] = []
    for part in text.split(","):
        count, name, size = _parsed(part, text, kind)
        devices += [Device(kind, len(devices) + i, name, size, size) for i in range(count)]
    if kind == "cpu" and len(devices) > 1:
        raise UsageError(
            f"--devices {text!r} names {len(devices)} devices, but the CPU is one",
            code="invalid_value",
            hint="Give the host's memory, as in --device cpu --devices 64GB.",
        )
    return devices


def _parsed(part: str, text: str, kind: DeviceKind) -> tuple[int, str, int]:
    """How many, their name, and the bytes of each."""
    if match := _SIZE.fullmatch(part):
        size = int(float(match[2]) * _UNITS[match[3].upper()])
        if size:
            return _counted(match[1], text), f"{match[2]} {match[3].upper()}iB", size
    elif kind == "cuda" and (match := _NAME.fullmatch(part)):
        cards = {_plain(name): (name, size) for name, size in listed_names().items()}
        wanted = _plain(match[2])
        found = cards.get(wanted) or cards.get(f"rtx{wanted}") or card_of(match[2])
        if found:
            return _counted(match[1], text), *found
    if kind == "cpu":
        raise UsageError(
            f"--devices {text!r} is not the size of a host's memory, which --device cpu needs",
            code="invalid_value",
            hint="Give the host's memory, as in --device cpu --devices 64GB, or leave --device cpu out.",
        )
    names = ", ".join(name.replace(" ", "-") for name in listed_names())
    raise UsageError(
        f"--devices {text!r} is not a count and a memory size, nor the name of a GPU that is known",
        code="invalid_value",
        hint="Write count x memory, as in 2x48GB, 80GiB or 4x24GB,2x80GB, or count x name, as in 2xH100. Known names: "
        f"{names}.",
    )


def _counted(count: str | None, text: str) -> int:
    """How many devices a part names: one where it does not say."""
    number = int(count or 1)
    if not 0 < number <= _MOST:
        raise UsageError(
            f"--devices {text!r}: {number} is too {'small' if number < 1 else 'large'} a number of devices",
            code="invalid_value",
            hint=f"Give a number from 1 to {_MOST}.",
        )
    return number


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
