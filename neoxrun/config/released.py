"""Which released model belongs in a folder, by the folder's name, and the command that downloads it there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_ON_THE_HUB = re.compile(r"(pythia-[\d.]+[mb](?:-deduped)?|polyglot-ko-[\d.]+b)(?:-(step\d+))?")
_20B = ("20b", "20b_checkpoints", "gpt-neox-20b")


def is_20b(folder: Path) -> bool:
    """Whether a folder is named after the released GPT-NeoX-20B, whose files have no configuration with them."""
    return folder.absolute().name.lower() in _20B


def download_command(folder: Path) -> str | None:
    """The command that downloads the released model a folder is named after; None if it is not the name of a model.

    Only whole names count: a user's folder such as ``my-20b-run`` is not one to download into.
    """
    folder = folder.absolute()
    if folder.name.startswith("global_step"):
        folder = folder.parent
    name = folder.name.lower()
    words = ["neoxrun", "download"]
    if found := _ON_THE_HUB.fullmatch(name):
        words.append(found[1])
        default = found[0]
        if found[2]:
            words += ["--revision", found[2]]
    elif name in _20B:
        default = "20B_checkpoints"
    else:
        return None
    if folder != Path.cwd() / default:
        words += ["--to", str(folder)]
    return shlex.join(words)
