"""`neoxrun download` as a user runs it, away from the public hub and from what the user has configured."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from support.command import Result, Running

NOWHERE = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of the user's own, and no way to the public hub."""
    return {
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "share"),
        "HF_HOME": str(home / "hf"),
        "HF_TOKEN": "",
        "HF_ENDPOINT": NOWHERE,
        **dict.fromkeys(PROXIES, ""),
        **more,
    }


def download(folder: Path, *arguments: object, timeout: float = 60, **more: str) -> Result:
    return Running("download", *arguments, cwd=folder, env=environment(folder, **more)).finish(timeout=timeout)


def weights(seed: int) -> bytes:
    buffer = io.BytesIO()
    torch.manual_seed(seed)
    torch.save({"input_layernorm.weight": torch.randn(500).half()}, buffer)
    return buffer.getvalue()


def own_models(home: Path, text: str) -> None:
    path = home / "config" / "neoxrun" / "models.yml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
