"""The driver has to have the CUDA that torch is built for."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.errors import UsageError
from neoxrun.planning import devices
from neoxrun.planning.driver import OLDEST_DRIVERS, TorchBuild, check_driver, torch_build

CUDA_13 = """from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '2.13.0+cu130'
debug = False
cuda: Optional[str] = '13.0'
hip: Optional[str] = None
"""


def driver(monkeypatch: pytest.MonkeyPatch, cuda: int | None) -> None:
    import pynvml

    def version() -> int:
        if cuda is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        return cuda

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: b"550.54.15")
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion_v2", version)


def test_what_torch_is_built_for(tmp_path: Path) -> None:
    import torch

    assert torch_build() == TorchBuild(torch.__version__, torch.version.cuda)
    assert torch_build(tmp_path) is None
    (tmp_path / "version.py").write_text(CUDA_13)
    assert torch_build(tmp_path) == TorchBuild("2.13.0+cu130", "13.0")


@pytest.mark.parametrize("cuda", [12040, 12080])
def test_an_old_driver_is_told_with_the_one_that_is_needed(cuda: int, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, cuda)
    with pytest.raises(UsageError) as caught:
        check_driver(TorchBuild("2.13.0+cu130", "13.0"))
    assert caught.value.code == "old_driver"
    assert f"the NVIDIA driver 550.54.15 has CUDA 12.{cuda % 1000 // 10}, but" in caught.value.message
    assert "torch 2.13.0+cu130 is built for CUDA 13.0, which needs driver 580 or later" in caught.value.message
    assert "--device cpu" in str(caught.value.hint)


@pytest.mark.parametrize("build", [TorchBuild("2.13.0", "13.2"), TorchBuild("2.10.0+cu126", "12.6"), None])
def test_a_driver_runs_its_own_major_version_and_older_ones(
    build: TorchBuild | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(monkeypatch, 13000)
    assert devices.driver_versions() == ("550.54.15", (13, 0))
    check_driver(build)


def test_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, 13000)
    with pytest.raises(UsageError, match=r"torch 2.13.0\+cpu is built without CUDA") as caught:
        check_driver(TorchBuild("2.13.0+cpu", None))
    assert caught.value.code == "no_gpu"


def test_a_driver_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, None)
    check_driver(TorchBuild("2.13.0+cpu", None))


def test_the_readme_names_the_oldest_driver() -> None:
    from support.paths import ROOT

    assert f"driver {OLDEST_DRIVERS[13]} or later" in " ".join((ROOT / "README.md").read_text().split())
