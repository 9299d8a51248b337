"""Whether this machine's NVIDIA driver runs the installed torch, found out before torch is imported."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neoxrun.errors import UsageError
from neoxrun.planning.devices import driver_versions

OLDEST_DRIVERS: Final = {11: "450", 12: "525", 13: "580"}
"""The oldest driver for each major version of CUDA, as NVIDIA's notes on minor version compatibility have it."""

_OTHER_BUILD: Final = "https://pytorch.org/get-started has the command that installs another build of torch."


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch.

    Attributes:
        version: as pip has it.
        cuda: the version of CUDA that it is built for; None: none.
    """

    version: str
    cuda: str | None


def torch_build(folder: Path | None = None) -> TorchBuild | None:
    """What the installed torch is built for, from its version.py; None where that cannot be read.

    Args:
        folder: of the package; None: the installed one.
    """
    if folder is None:
        found = importlib.util.find_spec("torch")
        if found is None or found.origin is None:
            return None
        folder = Path(found.origin).parent
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=]*= (?:'([\d.]+)'|None)", text, re.MULTILINE)
    return None if version is None or cuda is None else TorchBuild(version[1], cuda[1])


def check_driver(build: TorchBuild | None) -> None:
    """Refuse GPUs that the installed torch cannot use; the caller has seen that there are some.

    Raises:
        UsageError: torch is built without CUDA, or for a later one than the driver has.
    """
    versions = driver_versions()
    if build is None or versions is None:
        return
    if build.cuda is None:
        raise UsageError(
            f"a GPU is visible, but the installed torch {build.version} is built without CUDA",
            code="no_gpu",
            hint=f"{_OTHER_BUILD} --device cpu computes without the GPU.",
        )
    driver, (supported, minor) = versions
    major = int(build.cuda.partition(".")[0])
    if supported < major:
        oldest = OLDEST_DRIVERS.get(major)
        raise UsageError(
            f"the NVIDIA driver {driver} has CUDA {supported}.{minor}, but the installed torch {build.version} is "
            f"built for CUDA {build.cuda}" + (f", which needs driver {oldest} or later" if oldest else ""),
            code="old_driver",
            hint=f"Update the driver. {_OTHER_BUILD} --device cpu computes without the GPU.",
        )
