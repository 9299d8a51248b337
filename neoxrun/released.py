"""Which released model a folder is meant for, by its name, and the command that gets it there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_ON_THE_HUB = re.compile(r"(pythia-[\d.]+[mb](?:-deduped)?|polyglot-ko-[\d.]+b)(?:-(step\d+))?")


def download_command(folder: Path, file: str = "") -> str | None:
    """The command that downloads a released model into a folder; None where the names tell none.

    Args:
        folder: where the model should be.
        file: the name of a file that is missing there.
    """
    folder = folder.absolute()
    if folder.name.startswith("global_step"):
        folder = folder.parent
    name = "/".join((*folder.parts[-2:], file)).lower()
    words = ["neoxrun", "download"]
    if found := _ON_THE_HUB.search(name):
        words.append(found[1])
        default = found[0]
        if found[2]:
            words += ["--revision", found[2]]
    elif "20b" in name:
        default = "20B_checkpoints"
    else:
        return None
    if folder != Path.cwd() / default:
        words += ["--to", str(folder)]
    return shlex.join(words)
