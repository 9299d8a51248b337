"""The configurations that come with neoxrun."""

from __future__ import annotations

from pathlib import Path


def shipped_dir() -> Path:
    """The folder of the shipped configurations: in the installed package or in the checkout."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def shipped_names() -> list[str]:
    """The names of the shipped configurations, sorted."""
    return sorted(path.stem for path in shipped_dir().glob("*.yml"))
