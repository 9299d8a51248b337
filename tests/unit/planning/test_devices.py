"""What is seen of the machine: CUDA's environment variable, limits of containers."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neoxrun.errors import UsageError
from neoxrun.planning.devices import Device, chosen_uuids, cpu_device, visible_gpus

UUIDS = ["GPU-aa11", "GPU-aa22", "GPU-bb33"]


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),
        ("0,-1,1", [0]),
        ("GPU-bb", [2]),
        ("GPU-aa22,0", [1, 0]),
        ("GPU-aa", []),
        ("0,0", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(visible: str | None, chosen: list[int]) -> None:
    """CUDA's own answers, as torch.cuda.device_count() gave them on a GPU."""
    assert chosen_uuids(UUIDS, visible) == [UUIDS[index] for index in chosen]


def test_a_slice_of_a_gpu_is_taken_at_its_word() -> None:
    assert chosen_uuids(UUIDS, "MIG-1234") == ["MIG-1234"]


HAS_DRIVER = Path("/dev/nvidiactl").exists()


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has an NVIDIA driver")
def test_no_driver_means_no_gpus() -> None:
    assert visible_gpus() == []
    with pytest.raises(UsageError, match="GPU 0 was asked for, and no GPU is visible") as caught:
        visible_gpus([0])
    assert caught.value.code == "no_gpu"


@pytest.mark.skipif(not HAS_DRIVER, reason="this machine has no NVIDIA driver")
def test_gpus_are_those_that_torch_sees() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch is built without CUDA")
    gpus = visible_gpus()
    seen = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert sorted(gpu.name for gpu in gpus) == sorted(seen)
    assert all(0 < gpu.free_bytes <= gpu.total_bytes for gpu in gpus)


GIB = 2**30


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine of 32 GiB, 30 of them available, with these control-group files."""
    tree = {
        "proc/meminfo": f"MemTotal: {32 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {30 * 2**20} kB\n",
        "proc/self/cgroup": cgroup,
        **{f"sys/fs/cgroup/{name}": content for name, content in files.items()},
    }
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "total", "free"),
    [
        pytest.param("", {}, 32, 30, id="no control groups"),
        pytest.param("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, 32, 30, id="v2 without limit"),
        pytest.param(
            "0::/\n",
            {"memory.max": f"{8 * GIB}\n", "memory.current": f"{3 * GIB}\n"},
            8,
            5,
            id="v2 container",
        ),
        pytest.param(
            "0::/\n",
            {
                "memory.max": f"{8 * GIB}\n",
                "memory.current": f"{7 * GIB}\n",
                "memory.stat": f"anon 5\ninactive_file {4 * GIB}\nactive_file 7\n",
            },
            8,
            5,
            id="page cache is not lost",
        ),
        pytest.param(
            "0::/user.slice/job\n",
            {
                "user.slice/memory.max": f"{6 * GIB}\n",
                "user.slice/memory.current": f"{2 * GIB}\n",
                "user.slice/job/memory.max": "max\n",
                "user.slice/job/memory.current": f"{GIB}\n",
            },
            6,
            4,
            id="v2, limit of a group above",
        ),
        pytest.param(
            "4:memory:/job\n0::/\n",
            {
                "memory/job/memory.limit_in_bytes": f"{8 * GIB}\n",
                "memory/job/memory.usage_in_bytes": f"{GIB}\n",
            },
            8,
            7,
            id="v1",
        ),
        pytest.param(
            "4:memory:/docker/0123\n",
            {"memory/memory.limit_in_bytes": f"{8 * GIB}\n", "memory/memory.usage_in_bytes": f"{GIB}\n"},
            8,
            7,
            id="v1, the host's path",
        ),
        pytest.param(
            "4:memory:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "5\n"},
            32,
            30,
            id="v1 without limit",
        ),
    ],
)
def test_memory_is_what_the_container_leaves(
    tmp_path: Path, cgroup: str, files: dict[str, Any], total: int, free: int
) -> None:
    device = cpu_device(machine(tmp_path, cgroup, files))
    assert (device.total_bytes, device.free_bytes) == (total * GIB, free * GIB)


@pytest.mark.parametrize(
    ("cgroup", "files", "most"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 10**6),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 10**6),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cores_are_those_that_may_be_used(tmp_path: Path, cgroup: str, files: dict[str, Any], most: int) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert cpu_device(machine(tmp_path, cgroup, files)).cores == min(allowed, most)


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("Features\t: fp asimd sha512\n", False),
        ("model name\t: bf16\n", False),
    ],
)
def test_processors_with_bf16(tmp_path: Path, cpuinfo: str, native: bool) -> None:
    root = machine(tmp_path, "0::/\n", {})
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\n{cpuinfo}\n")
    assert cpu_device(root).native_bf16 is native


def test_this_host() -> None:
    device = cpu_device()
    assert 0 < device.free_bytes <= device.total_bytes
    assert 1 <= device.cores <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("states", "expected"),
    [([1, 1, 0], True), ([0, 0], False), ([], None), ([1] * 99, True)],
)
def test_nvlink_is_what_the_driver_says(
    states: list[int], expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for a link beyond the last one is an error, and for the first one where there can be none."""
    import pynvml

    def state(handle: object, link: int) -> int:
        if link >= len(states):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return states[link]

    memory = SimpleNamespace(total=80 * 10**9, free=79 * 10**9)
    for name, answer in (
        ("nvmlInit", lambda: None),
        ("nvmlShutdown", lambda: None),
        ("nvmlDeviceGetCount", lambda: 1),
        ("nvmlDeviceGetHandleByIndex", str),
        ("nvmlDeviceGetHandleByUUID", str),
        ("nvmlDeviceGetUUID", lambda handle: "GPU-1"),
        ("nvmlDeviceGetName", lambda handle: b"NVIDIA H100 80GB HBM3"),
        ("nvmlDeviceGetMemoryInfo", lambda handle: memory),
        ("nvmlDeviceGetNvLinkState", state),
    ):
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == [
        Device("cuda", 0, "NVIDIA H100 80GB HBM3", 80 * 10**9, 79 * 10**9, nvlink=expected),
    ]
