"""Whether a folder can be that of a run, and holding it. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from neoxrun.errors import DataError
from neoxrun.terminal.log import log
from neoxrun.terminal.words import listing
from neoxrun.training.folder import CACHE, SETTINGS, WRITING, RunFolder, read_json, saved_checkpoints, unwritable_run
from neoxrun.training.run_settings import differences

_EARLIER: Final = "earlier"


def check_run_folder(path: Path, made: Mapping[str, Any], *, resume: bool, anyway: bool) -> list[str]:
    """Refuse a folder that a run cannot be written to, or continued in.

    Args:
        path: the folder, which need not exist.
        made: the settings of the run, as ``run_settings.describe_run`` gives them.
        resume: continue the run in it.
        anyway: even if its settings are different.

    Returns:
        What differs from the settings of the run that is continued.

    Raises:
        DataError: it holds something else, or a run that is not to be continued, that has other settings, or whose
            checkpoint was written at another tensor-parallel size, which ``anyway`` does not allow.
    """
    if path.exists() and not path.is_dir():
        raise DataError(
            f"{path} is not a folder", code="existing_target", where=str(path), hint="Name a folder with --output DIR."
        )
    if not (path / SETTINGS).is_file():
        others = [entry.name for entry in path.iterdir() if not _harmless(entry.name)] if path.exists() else []
        if others:
            raise DataError(
                f"{path} holds something else than a run: {listing(sorted(others))}",
                code="existing_target",
                where=str(path),
                hint="Name another folder with --output DIR.",
            )
        return []
    before = read_json(path / SETTINGS)
    if not resume:
        raise DataError(
            f"{path} holds a run already",
            code="existing_target",
            where=str(path / SETTINGS),
            hint="Continue it with --resume, or name another folder with --output DIR.",
        )
    saved = saved_checkpoints(path)
    tp = made.get("split", {}).get("tp")
    if saved and (trained := saved[-1].facts.get("tp", tp)) != tp:
        raise DataError(
            f"the run was trained with --tp {trained}, by which the optimizer's state is divided, and not with --tp "
            f"{tp}",
            code="different_run",
            where=str(saved[-1].path),
            hint=f"Give --tp {trained}. The number of replicas and the ZeRO stage may change.",
        )
    changed = differences(before, made)
    if changed and not anyway:
        raise DataError(
            f"the run in {path} has other settings: {'; '.join(changed)}",
            code="different_run",
            where=str(path / SETTINGS),
            hint="Give the same settings, name another folder with --output DIR, or continue with the new ones by "
            "--resume-anyway.",
        )
    return changed


@contextmanager
def open_run_folder(path: Path, made: Mapping[str, Any], *, resume: bool, anyway: bool) -> Iterator[RunFolder]:
    """Hold the folder of a run, with its settings written; see ``check_run_folder``.

    Raises:
        DataError: as ``check_run_folder``; another process holds the folder; or the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable_run(error, path) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                "another neoxrun is training into this folder",
                code="folder_in_use",
                where=str(path),
                hint="Wait for it to end, or stop it: its last checkpoint is kept.",
            ) from error
        except OSError:
            log.debug(f"{path} is on a file system without locks")
        changed = check_run_folder(path, made, resume=resume, anyway=anyway)
        folder = RunFolder(path)
        folder.clean()
        settings = dict(made)
        if (path / SETTINGS).is_file():
            earlier = read_json(path / SETTINGS).get(_EARLIER, [])
            if changed:
                found = folder.checkpoints()
                earlier = [*earlier, {"until_step": found[-1].step if found else 0, "was": changed}]
            if earlier:
                settings[_EARLIER] = earlier
        folder.write_text(SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        yield folder


def _harmless(name: str) -> bool:
    """Whether a name may be in the folder before a run is: its cache, and what a killed process has left."""
    return name == CACHE or name.endswith(WRITING)
