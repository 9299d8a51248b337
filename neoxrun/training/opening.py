"""Whether a folder can be that of a run, and holding it. No torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from neoxrun.checkpoint.neox_run import NeoxRun
from neoxrun.errors import DataError, UsageError
from neoxrun.locks import held_folder
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted, listing
from neoxrun.training.differences import causes, differences
from neoxrun.training.folder import (
    CACHE,
    CHECKPOINT_NAME,
    SETTINGS,
    WRITING,
    WRITTEN,
    RunFolder,
    read_json,
    saved_checkpoints,
    unwritable_run,
    whole_checkpoints,
)

_EARLIER: Final = "earlier"


def check_run_folder(
    path: Path, made: Mapping[str, Any], *, resume: bool, anyway: bool, continued: NeoxRun | None = None
) -> list[str]:
    """Refuse a folder that a run cannot be written to, or continued in.

    Args:
        path: the folder, which need not exist.
        made: the settings of the run, as ``run_settings.describe_run`` gives them.
        resume: continue the run in it.
        anyway: even if its settings are different.
        continued: GPT-NeoX's run that is continued; its folder may be this one.

    Returns:
        What differs from the settings of the run that is continued.

    Raises:
        DataError: it holds something else, or a run that is not to be continued, that has other settings, or whose
            checkpoint was written at another tensor-parallel size, which ``anyway`` does not allow.
        UsageError: the run has more steps already than are asked for.
    """
    if path.exists() and not path.is_dir():
        raise DataError(
            f"{path} is not a folder", code="existing_target", where=str(path), hint="Name a folder with --output DIR."
        )
    if not (path / SETTINGS).is_file():
        others = [entry.name for entry in path.iterdir() if not _harmless(entry.name)] if path.exists() else []
        if continued is not None and others and continued.folder.parent.samefile(path):
            _check_neox_folder(path, others, continued)
            return []
        if whole_checkpoints(path):
            raise DataError(
                f"{path} holds a run without its {SETTINGS}, so that it cannot be continued",
                code="existing_target",
                where=str(path),
                hint="Put the file back, or name another folder with --output DIR. The weights of a whole model can be "
                f"trained in a new run: `neoxrun finetune {path} -o NEW`.",
            )
        if others:
            raise DataError(
                f"{path} holds something else than a run: {listing(sorted(others))}",
                code="existing_target",
                where=str(path),
                hint="Name another folder with --output DIR.",
            )
        return []
    saved, before = saved_checkpoints(path), read_json(path / SETTINGS)
    # The settings may be those of a start that has come to no checkpoint: they do not tell where this one begins.
    begun = 0 if continued is None else continued.iteration
    _check_others(path, [one.path.name for one in saved], saved[-1].step if saved else begun)
    if not resume and not saved:
        return []
    if not resume:
        raise DataError(
            f"{path} holds a run already",
            code="existing_target",
            where=str(path / SETTINGS),
            hint="Continue it with --resume, or name another folder with --output DIR.",
        )
    tp = made.get("split", {}).get("tp")
    if saved and (trained := saved[-1].facts.get("tp", tp)) != tp:
        raise DataError(
            f"the run was trained with --tp {trained}, by which the optimizer's state is divided, and not with --tp "
            f"{tp}",
            code="different_run",
            where=str(saved[-1].path),
            hint=f"Give --tp {trained}. The number of replicas and the ZeRO stage may change.",
        )
    if before.get("command") != made.get("command") and not anyway:
        raise DataError(
            f"{path / SETTINGS} is not what neoxrun writes there",
            code="bad_file",
            where=str(path / SETTINGS),
            hint="Put the run's own file back, name another folder with --output DIR, or continue with the settings of "
            "this command by --resume-anyway.",
        )
    changed = causes(before, made)
    if changed and not anyway:
        raise DataError(
            f"the run in {path} has other settings or data: {'; '.join(changed)}",
            code="different_run",
            where=str(path / SETTINGS),
            hint="Give the same settings, name another folder with --output DIR, or continue with the new ones by "
            "--resume-anyway.",
        )
    steps = made.get("training", {}).get("train_iters")
    if saved and steps is not None and steps < saved[-1].step:
        raise UsageError(
            f"the run has {counted(saved[-1].step, 'step')} already, more than the {steps} asked for",
            code="conflicting_options",
            where=str(saved[-1].path),
            hint=f"Give --steps {saved[-1].step} or more, or name another folder with --output DIR.",
        )
    return changed


def write_settings(folder: RunFolder, made: Mapping[str, Any]) -> None:
    """Write the settings of a run that begins or continues, with what was different up to its last checkpoint.

    Raises:
        DataError: the settings in the folder are damaged; or the system refuses.
    """
    settings, last = dict(made), folder.last
    if last is not None and (folder.path / SETTINGS).is_file():
        before = read_json(folder.path / SETTINGS)
        earlier = before.get(_EARLIER, [])
        settings["continued"] = before.get("continued")
        if changed := differences(before, made):
            earlier = [*earlier, {"until_step": last.step, "was": changed}]
        if earlier:
            settings[_EARLIER] = earlier
    folder.write_text(SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")


def check_not_in_use(path: Path) -> None:
    """Refuse a folder that another process holds; it need not exist.

    Raises:
        DataError: another process holds it; or the system refuses.
    """
    if path.is_dir():
        with _held(path):
            pass


@contextmanager
def open_run_folder(
    path: Path, made: Mapping[str, Any], *, resume: bool, anyway: bool, continued: NeoxRun | None = None
) -> Iterator[RunFolder]:
    """Hold the folder of a run; see ``check_run_folder``.

    The settings of a run from its first step are written now. A run that is continued calls ``write_settings`` once
    nothing can keep it from that.

    Raises:
        DataError: as ``check_run_folder``; another process holds the folder; or the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable_run(error, path) from error
    with _held(path):
        check_run_folder(path, made, resume=resume, anyway=anyway, continued=continued)
        folder = RunFolder(path)
        folder.clean()
        if folder.last is None:
            write_settings(folder, made)
        yield folder


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a folder's lock.

    Raises:
        DataError: another process holds it; or the system refuses.
    """
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(held_folder(path))
        except BlockingIOError as error:
            raise DataError(
                "another neoxrun is training into this folder",
                code="folder_in_use",
                where=str(path),
                hint="Wait for it to end, or stop it: its last checkpoint is kept.",
            ) from error
        except OSError as error:
            raise unwritable_run(error, path) from error
        if not held:
            log.debug(f"{path} is on a file system without locks")
        yield


def _check_neox_folder(path: Path, names: Collection[str], continued: NeoxRun) -> None:
    """Refuse to continue in GPT-NeoX's folder where that would overwrite what is in it.

    Its checkpoints are not those of a run of ours: they are neither counted nor removed.

    Raises:
        DataError: it would.
    """
    steps = {name: int(match[1]) for name in names if (match := CHECKPOINT_NAME.fullmatch(name))}
    taken = [name for name in names if name in WRITTEN or steps.get(name, 0) > continued.iteration]
    if taken:
        raise DataError(
            f"{path}, whose run is continued after step {continued.iteration}, holds already what would be written: "
            f"{listing(sorted(taken))}",
            code="existing_target",
            where=str(path),
            hint="Name another folder with --output DIR, or move these elsewhere.",
        )


def _check_others(path: Path, saved: Collection[str], begun: int) -> None:
    """Refuse a run's folder with checkpoints that cannot be continued, which the run would write over.

    Args:
        path: the folder.
        saved: the names of the run's whole checkpoints.
        begun: the step after which this run continues, up to which others' checkpoints may be there.

    Raises:
        DataError: it has such checkpoints.
    """
    found = [(CHECKPOINT_NAME.fullmatch(entry.name), entry.name) for entry in path.iterdir()]
    others = [name for match, name in found if match is not None and int(match[1]) > begun and name not in saved]
    if others:
        raise DataError(
            f"{path} holds what are not whole checkpoints of its run: {listing(sorted(others))}",
            code="existing_target",
            where=str(path),
            hint="Each lacks the file that tells what is in it. Move them elsewhere, or name another folder with "
            "--output DIR.",
        )


def _harmless(name: str) -> bool:
    """Whether a name may be in the folder before a run is: its cache, and what a killed process has left."""
    return name == CACHE or name.endswith(WRITING)
