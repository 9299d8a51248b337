"""The devices of this machine: GPUs as NVML sees them, and the host's memory and cores. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neoxrun.config.precisions import DeviceKind
from neoxrun.errors import UsageError

_ROOT = Path("/")


@dataclass(frozen=True)
class Device:
    """One GPU, or the host.

    Attributes:
        kind: ``cuda`` or ``cpu``.
        index: number of the GPU among the visible ones, in PCI bus order (``CUDA_DEVICE_ORDER=PCI_BUS_ID``).
        name: the product's name.
        total_bytes: its memory.
        free_bytes: how much of it is free.
        cores: cores this process may use (``cpu`` only); 0 where that is not known.
        native_bf16: the CPU has instructions for bf16; False where that is not known.
        nvlink: whether the GPU is connected through NVLink; None where that is not known.
    """

    kind: DeviceKind
    index: int
    name: str
    total_bytes: int
    free_bytes: int
    cores: int = 0
    native_bf16: bool = False
    nvlink: bool | None = None


def visible_gpus(gpus: Sequence[int] | None = None) -> list[Device]:
    """The GPUs that CUDA would show this process, through NVML; none where there is no driver.

    Args:
        gpus: keep these only, counted among the visible ones.

    Raises:
        UsageError: one of ``gpus`` does not exist, or the driver was updated under the running system.
    """
    devices = _nvml_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if gpus is None:
        return devices
    for index in gpus:
        if not 0 <= index < len(devices):
            raise UsageError(
                f"GPU {index} was asked for, and {_counted(len(devices))} visible",
                code="no_gpu",
                hint="See nvidia-smi and CUDA_VISIBLE_DEVICES; --gpus counts the visible ones from 0.",
            )
    return [devices[index] for index in dict.fromkeys(gpus)]


def _nvml_gpus(visible: str | None) -> list[Device]:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            count = pynvml.nvmlDeviceGetCount()
            every = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            uuids = chosen_uuids([_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in every], visible)
            handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
            return [_gpu(handle, index) for index, handle in enumerate(handles)]
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return []
    except pynvml.NVMLError as error:
        raise UsageError(
            f"the NVIDIA driver cannot list the GPUs: {error}",
            code="no_gpu",
            hint="Run nvidia-smi to find out why (a new driver may need a reboot), or use --device cpu.",
        ) from None


def driver_versions() -> tuple[str, tuple[int, int]] | None:
    """The NVIDIA driver's version, and that of the CUDA that it has; None where it does not tell."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
            return _text(pynvml.nvmlSystemGetDriverVersion()), (cuda // 1000, cuda % 1000 // 10)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _counted(count: int) -> str:
    return f"{count or 'no'} GPU{'s are' if count > 1 else ' is'}"


def chosen_uuids(uuids: Sequence[str], visible: str | None) -> list[str]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` names, in its order; None names all.

    As CUDA has it, the list ends at the first entry that names no GPU, and naming one twice hides all.

    Args:
        uuids: the machine's GPUs, in PCI bus order.
        visible: the variable's value. Slices of a GPU (``MIG-...``) are used as given.
    """
    if visible is None:
        return list(uuids)
    chosen: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            found = list(uuids[int(entry) : int(entry) + 1])
        elif entry.startswith("MIG-"):
            found = [entry]
        else:
            found = [uuid for uuid in uuids if entry and uuid.startswith(entry)]
        if found and found[0] in chosen:
            return []
        if len(found) != 1:
            break
        chosen += found
    return chosen


def _gpu(handle: Any, index: int) -> Device:
    import pynvml

    name = _text(pynvml.nvmlDeviceGetName(handle))
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError_NotSupported:  # GPUs that share the host's memory report none
        host = cpu_device()
        total, free = host.total_bytes, host.free_bytes
    return Device("cuda", index, name, total, free, nvlink=_has_nvlink(handle))


def _has_nvlink(handle: Any) -> bool | None:
    """Whether an NVLink of a GPU is active; None where the driver does not tell."""
    import pynvml

    states = []
    try:
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            states.append(pynvml.nvmlDeviceGetNvLinkState(handle, link))
    except pynvml.NVMLError:  # beyond the last one
        pass
    return pynvml.NVML_FEATURE_ENABLED in states if states else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def cpu_device(root: Path = _ROOT) -> Device:
    """This host: memory that is still free and cores that may be used, within its container's limits.

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    meminfo = dict(re.findall(r"^(\w+):\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE))
    total = int(meminfo["MemTotal"]) * 1024
    free = int(meminfo["MemAvailable"]) * 1024
    cores = len(os.sched_getaffinity(0))
    for group in _cgroups(root, "memory"):
        limit = _number(group, "memory.max", "memory.limit_in_bytes")
        used = _number(group, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            total = min(total, limit)
            free = min(free, max(0, limit - used + _reclaimable(group)))
    for group in _cgroups(root, "cpu"):
        quota = _cpu_quota(group)
        if quota is not None:
            cores = min(cores, max(1, int(quota)))
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return Device("cpu", 0, model[1].strip() if model else "CPU", total, free, cores, native_bf16=_has_bf16(cpuinfo))


def _has_bf16(cpuinfo: str) -> bool:
    """Whether the processor has instructions for bf16: AVX-512 or AMX on x86, the extension of that name on Arm."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags[1].split())


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those above it, for version 1 and 2.

    Inside a container the kernel may give the host's path, which does not exist there; the mount point does.
    """
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = top / path.lstrip("/")
        yield from (level for level in (folder, *folder.parents) if level.is_relative_to(top) and level.is_dir())


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _number(group: Path, *names: str) -> int | None:
    """The first of the files ``names`` that holds a number; ``max`` means no limit."""
    texts = (_read(group / name) for name in names)
    return next((int(text) for text in texts if text and text.strip().isdecimal()), None)


def _reclaimable(group: Path) -> int:
    """Page cache that the kernel drops before it runs out: it counts as used but is not lost."""
    match = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(group / "memory.stat") or "", re.MULTILINE)
    return int(match[1]) if match else 0


def _cpu_quota(group: Path) -> float | None:
    """Cores' worth of time that the group may use, None without a limit."""
    text = _read(group / "cpu.max")  # version 2: "<quota or max> <period>"
    if text is not None:
        quota, period = text.split()
        return None if quota == "max" else int(quota) / int(period)
    quota_v1, period_v1 = _number(group, "cpu.cfs_quota_us"), _number(group, "cpu.cfs_period_us")
    return quota_v1 / period_v1 if quota_v1 is not None and period_v1 else None
