"""The names of configuration files, and of the record of a download."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SUFFIXES: Final = (".yml", ".yaml", ".json")
"""Endings of a configuration file's name."""

MANIFEST_NAME: Final = "neoxrun.manifest.json"
"""A file in a downloaded folder that records what has arrived, and from where."""


def bare_name(path: Path) -> str:
    """The name of a configuration file without its ending, or of a model's folder."""
    return path.stem if path.suffix in SUFFIXES else path.name
