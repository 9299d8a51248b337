"""Which released model a folder is meant for, by its name, and the command that gets it there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_ON_THE_HUB = re.compile(r"(pythia-[\d.]+[mb](?:-deduped)?|polyglot-ko-[\d.]+b)(?:-(step\d+))?")
_20B = ("20b", "20b_checkpoints", "gpt-neox-20b")


def download_command(folder: Path) -> str | None:
    """The command that downloads a released model into a folder; None where its name tells none.

    Only whole names count: a folder of the user's own, such as ``my-20b-run``, is nothing to download into.
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
