"""Finding a checkpoint: which files there are, of which kind, and whether all of them are there.

Three kinds are told apart by their names: GPT-NeoX layer files (one file per layer and tensor-parallel rank),
GPT-NeoX sequential files (one file per rank; ``pipe_parallel_size: 0``) and Hugging Face folders. No torch:
names, sizes and small JSON files only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neoxrun.checkpoint import huggingface
from neoxrun.config.released import download_command
from neoxrun.config.settings import ModelConfig, Settings
from neoxrun.config.tensors import layer_numbers
from neoxrun.errors import CheckpointError, ConfigError
from neoxrun.terminal.words import listing

Kind = Literal["layers", "sequential", "huggingface"]

_LAYER = re.compile(r"layer_(\d+)(?:-model_(\d+))?-model_states\.pt")
_RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_STEP = re.compile(r"global_step(\d+)")
_LONGEST_NAME = 255  # bytes of a file name

# Hugging Face's names, best first: safetensors hold nothing but tensors.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there.

    Attributes:
        kind: which of the three kinds it is.
        folder: where the files are.
        tag: what to call it: ``global_step150000``, or the name of a Hugging Face folder.
        source_tp: tensor-parallel size that it was saved with; 1 for Hugging Face.
        files: every file that holds weights; for sequential files in the order of the ranks.
        total_bytes: their size on disk.
        layer_files: of layer files: each layer number's files in the order of the ranks.
        warnings: what the user should be told once.
    """

    kind: Kind
    folder: Path
    tag: str
    source_tp: int
    files: tuple[Path, ...]
    total_bytes: int
    layer_files: Mapping[int, tuple[Path, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _download_hint(
    folder: Path, otherwise: str = "name the folder that holds the checkpoint with --checkpoint DIR"
) -> str:
    """What to do about weights that are not in ``folder``; ``otherwise`` where its name tells no model."""
    command = download_command(folder)
    if command is None:
        return otherwise
    return f"get the weights with `{command}`, or name their folder with --checkpoint DIR"


def of(settings: Settings) -> Checkpoint:
    """The checkpoint that a configuration names.

    Raises:
        ConfigError: it names none.
        CheckpointError: see ``find``.
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
            f"the checkpoint folder {folder} does not exist, nor {listing(others)}",
            code="missing_checkpoint",
            where=str(folder),
            hint=_download_hint(folder),
        )
    return find(folder, settings.model, settings.iteration)


def find(folder: Path, config: ModelConfig, iteration: int | None = None) -> Checkpoint:
    """Find the checkpoint in ``folder`` and prove, by names and sizes, that it is whole.

    Args:
        folder: a GPT-NeoX ``load`` folder (with ``latest``), its ``global_step<N>`` folder, or a Hugging Face
            folder.
        config: the network that the checkpoint should hold.
        iteration: take ``global_step<iteration>`` instead of what ``latest`` says.

    Raises:
        CheckpointError: nothing there, something missing, or another network's files.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"the checkpoint folder {folder} {what}",
            code="missing_checkpoint",
            where=str(folder),
            hint=_download_hint(folder),
        )
    names = _names(folder)
    if not names:
        raise CheckpointError(
            f"the checkpoint folder {folder} is empty",
            code="missing_checkpoint",
            where=str(folder),
            hint=_download_hint(folder),
        )
    if any(_LAYER.fullmatch(name) or _RANK.fullmatch(name) or _is_zero3(name) for name in names):
        if iteration is not None and folder.absolute().name != f"global_step{iteration}":
            raise CheckpointError(
                f"iteration {iteration} was asked for, but {folder.name} itself holds the weights",
                code="missing_iteration",
                where=str(folder),
                hint="name the folder above it, or leave out `iteration`",
            )
        return _neox(folder, config)
    steps = sorted((name for name in names if _STEP.fullmatch(name)), key=lambda name: int(name[11:]))
    if "latest" in names or steps:
        return _neox(_step_folder(folder, steps, iteration), config)
    if {*_WHOLE, *_INDEX} & set(names):
        if iteration is not None:
            raise CheckpointError(
                f"iteration {iteration} was asked for, but a Hugging Face folder holds one model only",
                code="missing_iteration",
                where=str(folder),
                hint="leave out `iteration`",
            )
        return _hugging_face(folder, config, names)
    raise CheckpointError(
        f"no checkpoint in {folder}: neither `latest`, nor layer_*.pt or mp_rank_*.pt files, nor Hugging "
        f"Face weights (it holds {listing(names)})",
        code="missing_checkpoint",
        where=str(folder),
        hint=_download_hint(folder),
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(
            f"cannot read the folder {folder}: {error.strerror}", code="unreadable_checkpoint", where=str(folder)
        ) from error


def _step_folder(folder: Path, steps: list[str], iteration: int | None) -> Path:
    there = f"{folder} has {listing(steps)}" if steps else f"{folder} has no global_step folder"
    if iteration is not None:
        chosen = folder / f"global_step{iteration}"
        if not chosen.is_dir():
            raise CheckpointError(
                f"there is no checkpoint of iteration {iteration}",
                code="missing_iteration",
                where=str(chosen),
                hint=there,
            )
        return chosen
    latest = folder / "latest"
    if not latest.exists():
        # GPT-NeoX insists on `latest`; with one candidate there is nothing to choose.
        if len(steps) == 1:
            return folder / steps[0]
        raise CheckpointError(
            f"{folder} has no file `latest` that says which of {listing(steps)} to take",
            code="missing_iteration",
            where=str(latest),
            hint=f"choose one with --set iteration={steps[-1][11:]}, or write its name into {latest}",
        )
    try:
        tag = latest.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read `latest`: {error}", code="unreadable_checkpoint", where=str(latest)
        ) from error
    if not tag:
        raise CheckpointError("the file `latest` is empty", code="missing_iteration", where=str(latest), hint=there)
    if not tag.isprintable() or len(tag.encode()) > _LONGEST_NAME:
        raise CheckpointError(
            "the file `latest` does not hold the name of a folder",
            code="missing_iteration",
            where=str(latest),
            hint="write it there; " + there,
        )
    if not (folder / tag).is_dir():
        raise CheckpointError(
            f"`latest` names {tag!r}, and there is no such folder",
            code="missing_iteration",
            where=str(latest),
            hint=f"{there}; put its weights there, or correct `latest`",
        )
    return folder / tag


def _is_zero3(name: str) -> bool:
    return name.startswith("zero_pp_rank_") and name.endswith("model_states.pt")


def _neox(folder: Path, config: ModelConfig) -> Checkpoint:
    """The checkpoint in a global_step folder: layer files, or else sequential files."""
    layers: dict[tuple[int, int], Path] = {}
    ranks: dict[int, Path] = {}
    zero3 = False
    for name in _names(folder):
        path = folder / name
        zero3 |= _is_zero3(name)
        if match := _LAYER.fullmatch(name):
            key = int(match[1]), int(match[2] or 0)
            if key in layers:
                raise CheckpointError(
                    f"{layers[key].name} and {name} are both there: both are rank {key[1]} of layer {key[0]}",
                    code="mixed_checkpoints",
                    where=str(folder),
                    hint="move the files of one of the two checkpoints elsewhere",
                )
            layers[key] = path
        elif match := _RANK.fullmatch(name):
            ranks[int(match[1])] = path
    if layers:
        return _layer_files(folder, layers, config)
    if zero3:
        raise CheckpointError(
            "the checkpoint was saved with ZeRO stage 3, whose zero_pp_rank_* files hold no whole tensors",
            code="unsupported_checkpoint",
            where=str(folder),
            hint="save it from GPT-NeoX with zero_optimization.stage 2 or less",
        )
    if ranks:
        source_tp = max(ranks) + 1
        _refuse_missing(
            folder, [f"mp_rank_{rank:02d}_model_states.pt" for rank in range(source_tp) if rank not in ranks]
        )
        files = tuple(ranks[rank] for rank in range(source_tp))
        return Checkpoint("sequential", folder, folder.absolute().name, source_tp, files, _sizes(files))
    raise CheckpointError(
        f"{folder} holds neither layer_*-model_states.pt nor mp_rank_*_model_states.pt files",
        code="missing_checkpoint",
        where=str(folder),
        hint=_download_hint(folder.parent),
    )


def _layer_files(folder: Path, layers: Mapping[tuple[int, int], Path], config: ModelConfig) -> Checkpoint:
    check_layers({number for number, _ in layers}, config, folder)
    source_tp = max(rank for _, rank in layers) + 1
    expected = layer_numbers(config.num_layers, config.tie_embeddings)
    unnumbered = all("-model_0" not in path.name for path in layers.values())
    missing = []
    for number in expected:
        for rank in range(source_tp):
            if (number, rank) not in layers:
                shard = "" if unnumbered else f"-model_{rank:02d}"
                missing.append(f"layer_{number:02d}{shard}-model_states.pt")
    _refuse_missing(folder, missing)
    table = {number: tuple(layers[number, rank] for rank in range(source_tp)) for number in expected}
    files = tuple(path for paths in table.values() for path in paths)
    return Checkpoint("layers", folder, folder.absolute().name, source_tp, files, _sizes(files), table)


def check_layers(found: set[int], config: ModelConfig, where: Path) -> None:
    """Refuse the layer numbers of a whole checkpoint of another depth, or with the other kind of output
    layer.

    Layer numbers that are merely missing pass: the caller knows what to name.

    Raises:
        CheckpointError: the numbers belong to another network.
    """
    expected = set(layer_numbers(config.num_layers, config.tie_embeddings))
    for tied, above in ((False, 4), (True, 3)):
        depth = max(found) - above
        if depth != config.num_layers and depth > 0 and found == set(layer_numbers(depth, tied)):
            raise CheckpointError(
                f"the checkpoint has {depth} transformer layers, the configuration says {config.num_layers}",
                code="mismatched_configuration",
                where=str(where),
                hint="use the configuration of this checkpoint, or name another with --checkpoint DIR",
            )
    head = config.num_layers + 4
    if config.tie_embeddings and found - expected == {head}:
        raise CheckpointError(
            f"the checkpoint has its own output layer ({head}), the configuration ties it to the embedding",
            code="mismatched_configuration",
            where=str(where),
            hint="set no_weight_tying: true",
        )
    if not config.tie_embeddings and expected - found == {head}:
        raise CheckpointError(
            f"the checkpoint has no output layer: layer_{head:02d} is missing",
            code="missing_shard",
            where=str(where),
            hint="get the missing files; or, if the embedding is the output layer, no_weight_tying: false",
        )
    if unexpected := sorted(found - expected):
        raise CheckpointError(
            f"the checkpoint has layer numbers that a model of {config.num_layers} layers does not have: "
            f"{listing(unexpected)}",
            code="mismatched_configuration",
            where=str(where),
            hint="use the configuration that belongs to this checkpoint",
        )


def _hugging_face(folder: Path, config: ModelConfig, names: list[str]) -> Checkpoint:
    if "config.json" not in names:
        raise CheckpointError(
            "the folder holds Hugging Face weights but no config.json",
            code="missing_shard",
            where=str(folder / "config.json"),
            hint="get config.json from where the weights came from",
        )
    warning = huggingface.check_config(folder, config)
    shards: Iterable[str]
    for whole, index in zip(_WHOLE, _INDEX, strict=True):
        if whole in names:
            shards = (whole,)
            break
        if index in names:
            table = huggingface.read_json(folder / index).get("weight_map")
            if not isinstance(table, dict) or not table:
                raise CheckpointError(f"{index} has no weight_map", code="damaged_file", where=str(folder / index))
            shards = sorted({str(name) for name in table.values()})
            break
    _refuse_missing(folder, [name for name in shards if not (folder / name).is_file()])
    files = tuple(folder / name for name in shards)
    warnings = (warning,) if warning else ()
    return Checkpoint("huggingface", folder, folder.absolute().name, 1, files, _sizes(files), warnings=warnings)


def _refuse_missing(folder: Path, missing: list[str]) -> None:
    if missing:
        count = "1 file is" if len(missing) == 1 else f"{len(missing)} files are"
        raise CheckpointError(
            f"{count} missing from the checkpoint: {listing(missing)}",
            code="missing_shard",
            where=str(folder),
            hint=_download_hint(folder, "copy or download the missing files again"),
        )


def _sizes(files: Iterable[Path]) -> int:
    total = 0
    for path in files:
        if path.is_symlink() and not path.exists():
            raise CheckpointError(
                f"{path.name} is a link to {path.readlink()}, which is not there",
                code="missing_shard",
                where=str(path),
                hint=_download_hint(path.parent, "copy or download the missing file again"),
            )
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(
                f"{path.name} is empty (0 bytes)",
                code="damaged_file",
                where=str(path),
                hint="copy or download the file again",
            )
        total += size
    return total
