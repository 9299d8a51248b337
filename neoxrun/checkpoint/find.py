"""Finding a checkpoint's folder, as the configuration, ``latest`` and an iteration name it. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from neoxrun.checkpoint import layout
from neoxrun.checkpoint.content import (
    ARCHIVE,
    LEGACY,
    NOT_TORCH,
    check_archive,
    damaged_file,
    read_safetensors_header,
    refuse_other_content,
    unreadable_file,
)
from neoxrun.checkpoint.huggingface_files import has_hugging_face_files
from neoxrun.checkpoint.layout import Checkpoint, list_names
from neoxrun.checkpoint.missing import OTHER_FOLDER, download_hint
from neoxrun.config.foreign import refuse_foreign_folder
from neoxrun.config.settings import ModelConfig, Settings
from neoxrun.errors import CheckpointError, ConfigError
from neoxrun.terminal.words import failure, listing

_STEP = re.compile(r"global_step(\d+)")
_LONGEST_NAME = 255  # bytes of a file name


def find_configured_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint that a configuration names.

    Raises:
        ConfigError: it names none.
        CheckpointError: see ``find_checkpoint``.
    """
    if settings.checkpoint is None:
        raise ConfigError(
            "the configuration names no checkpoint",
            code="incomplete_configuration",
            hint="Set `load` in the configuration, or give --checkpoint DIR.",
        )
    folder = settings.checkpoint
    others = [path for path in settings.checkpoint_looked_in if path != folder]
    if others and not folder.exists():
        raise CheckpointError(
            f"the checkpoint folder {folder} does not exist, nor does {listing(others)}",
            code="missing_checkpoint",
            where=str(folder),
            hint=download_hint(folder),
        )
    chosen = any(path.is_dir() and path.absolute() == folder for path in settings.sources)
    return find_checkpoint(folder, settings.model, settings.iteration, chosen=chosen)


def find_whole_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint that a configuration names, none of whose files is cut short. Tensors are not read.

    Raises:
        ConfigError: as ``find_configured_checkpoint``.
        CheckpointError: as ``find_configured_checkpoint``, or a file is not whole.
    """
    checkpoint = find_configured_checkpoint(settings)
    for path in checkpoint.files:
        _check_whole(path)
    return checkpoint


def _check_whole(path: Path) -> None:
    """Prove by what a weights file says at its beginning and end that it is whole; the tensors are not read.

    Files of torch before 1.6 do not say it: they pass.

    Raises:
        CheckpointError: it is cut short, is not a weights file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
        refuse_other_content(path, start)
        if path.suffix == ".safetensors":
            read_safetensors_header(path)
        elif start.startswith(ARCHIVE):
            check_archive(path)
        elif not start.startswith(LEGACY):
            raise damaged_file(path, NOT_TORCH)
    except OSError as error:
        raise unreadable_file(path, error) from error


def find_checkpoint(
    folder: Path, config: ModelConfig, iteration: int | None = None, *, chosen: bool = False
) -> Checkpoint:
    """Find the checkpoint in ``folder`` and prove, by names and sizes, that it is complete.

    Args:
        folder: a GPT-NeoX ``load`` folder (with ``latest``), its ``global_step<N>`` folder, or a Hugging Face
            folder.
        config: the network that the checkpoint should hold.
        iteration: use ``global_step<iteration>`` instead of the one that ``latest`` names.
        chosen: the configuration comes from this folder, so that what differs from it was set on purpose.

    Raises:
        CheckpointError: there is no checkpoint, files are missing, or the files are another network's.
    """
    kind, holding = locate_checkpoint(folder, iteration)
    if kind == "neox":
        return layout.neox_checkpoint(holding, config)
    return layout.hugging_face_checkpoint(holding, config, chosen=chosen)


def require_folder(folder: Path, otherwise: str = OTHER_FOLDER) -> None:
    """Refuse a folder of weights that does not exist.

    Args:
        folder: the folder.
        otherwise: the hint where it is not named after a released model.

    Raises:
        CheckpointError: it does not, or is something else.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"the checkpoint folder {folder} {what}",
            code="missing_checkpoint",
            where=str(folder),
            hint=download_hint(folder, otherwise),
        )


def locate_checkpoint(folder: Path, iteration: int | None = None) -> tuple[Literal["neox", "huggingface"], Path]:
    """Whose weights ``folder`` has, and the folder that holds them: itself, or a ``global_step<N>`` folder in it.

    Args:
        folder: as for ``find_checkpoint``.
        iteration: as for ``find_checkpoint``.

    Raises:
        CheckpointError: there is no checkpoint in it.
    """
    require_folder(folder)
    names = list_names(folder)
    if not names:
        raise CheckpointError(
            f"the checkpoint folder {folder} is empty",
            code="missing_checkpoint",
            where=str(folder),
            hint=download_hint(folder),
        )
    if layout.has_neox_files(names):
        if iteration is not None and folder.absolute().name != f"global_step{iteration}":
            raise CheckpointError(
                f"iteration {iteration} was requested, but {folder.name} itself holds the weights",
                code="missing_iteration",
                where=str(folder),
                hint="Name the folder above it, or leave out `iteration`.",
            )
        return "neox", folder
    steps = sorted((name for name in names if _STEP.fullmatch(name)), key=_step_number)
    if "latest" in names or steps:
        step = _step_folder(folder, steps, iteration)
        if not layout.has_neox_files(inside := list_names(step)):
            refuse_foreign_folder(step, inside)
        return "neox", step
    if has_hugging_face_files(names):
        if iteration is not None:
            raise CheckpointError(
                f"iteration {iteration} was requested, but a Hugging Face folder holds one model only",
                code="missing_iteration",
                where=str(folder),
                hint="Leave out `iteration`.",
            )
        return "huggingface", folder
    refuse_foreign_folder(folder, names)
    raise CheckpointError(
        f"no checkpoint in {folder}: neither `latest`, nor layer_*.pt or mp_rank_*.pt files, nor Hugging "
        f"Face weights (it holds {listing(names)})",
        code="missing_checkpoint",
        where=str(folder),
        hint=download_hint(folder),
    )


def _step_number(name: str) -> int:
    return int(name.removeprefix("global_step"))


def _step_folder(folder: Path, steps: list[str], iteration: int | None) -> Path:
    """The ``global_step<N>`` folder of ``iteration``, or else the one that ``latest`` names."""
    present = f"The folder {folder} has {listing(steps)}." if steps else f"The folder {folder} has no global_step<N>."
    if iteration is not None:
        named = folder / f"global_step{iteration}"
        if not named.is_dir():
            raise CheckpointError(
                f"there is no checkpoint of iteration {iteration}",
                code="missing_iteration",
                where=str(named),
                hint=present,
            )
        return named
    latest = folder / "latest"
    if not latest.exists():
        # GPT-NeoX insists on `latest`; with one candidate there is nothing to choose.
        if len(steps) == 1:
            return folder / steps[0]
        raise CheckpointError(
            f"{folder} has no file `latest` that chooses between {listing(steps)}",
            code="missing_iteration",
            where=str(latest),
            hint=f"Choose one with --set iteration={_step_number(steps[-1])}, or write its name into {latest}.",
        )
    try:
        tag = latest.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read `latest`: {failure(error)}",
            code="unreadable_checkpoint",
            where=str(latest),
        ) from error
    if not tag:
        raise CheckpointError("the file `latest` is empty", code="missing_iteration", where=str(latest), hint=present)
    if not tag.isprintable() or len(tag.encode()) > _LONGEST_NAME:
        raise CheckpointError(
            "the file `latest` does not hold the name of a folder",
            code="missing_iteration",
            where=str(latest),
            hint=f"Write the name of the checkpoint's folder into it. {present}",
        )
    if not (folder / tag).is_dir():
        raise CheckpointError(
            f"`latest` names {tag!r}, which is not a folder",
            code="missing_iteration",
            where=str(latest),
            hint=f"Correct `latest`, or move the weights into {folder / tag}. {present}",
        )
    return folder / tag
