"""The files of a checkpoint folder, by kind, and the proof that none is missing.

The three kinds differ in their files' names: GPT-NeoX layer files (one file per layer and tensor-parallel rank),
GPT-NeoX sequential files (one file per rank; ``pipe_parallel_size: 0``) and Hugging Face folders. No torch: only
names, sizes and small JSON files are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neoxrun.checkpoint import huggingface
from neoxrun.checkpoint.content import damaged_file
from neoxrun.checkpoint.huggingface_files import has_index, hugging_face_files
from neoxrun.checkpoint.missing import download_hint, refuse_missing
from neoxrun.config.foreign import is_adapter, is_zero3, zero3_error
from neoxrun.config.huggingface import CONFIG_JSON
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import layer_numbers
from neoxrun.errors import CheckpointError
from neoxrun.terminal.words import listing

CheckpointKind = Literal["layers", "sequential", "huggingface"]

_LAYER = re.compile(r"layer_(\d+)(?:-model_(\d+))?-model_states\.pt")
_RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all present.

    Attributes:
        kind: which of the three kinds it is.
        folder: where the files are.
        tag: its name: ``global_step150000``, or that of a Hugging Face folder.
        source_tp: tensor-parallel size that it was saved with; 1 for Hugging Face.
        files: every file that holds weights; sequential files in the order of the ranks.
        total_bytes: their size on disk.
        layer_files: for layer files, the files of each layer number in the order of the ranks.
        warnings: messages to show to the user once.
    """

    kind: CheckpointKind
    folder: Path
    tag: str
    source_tp: int
    files: tuple[Path, ...]
    total_bytes: int
    layer_files: Mapping[int, tuple[Path, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def list_names(folder: Path) -> list[str]:
    """The names in a folder, sorted.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(
            f"cannot read the folder {folder}: {error.strerror}",
            code="unreadable_checkpoint",
            where=str(folder),
        ) from error


def layer_and_rank(name: str) -> tuple[int | None, int] | None:
    """The layer number and the tensor-parallel rank of a GPT-NeoX file of this name; None for any other file.

    A sequential file holds all layers: its layer number is None.
    """
    if match := _LAYER.fullmatch(name):
        return int(match[1]), int(match[2] or 0)
    if match := _RANK.fullmatch(name):
        return None, int(match[1])
    return None


def has_neox_files(names: Collection[str]) -> bool:
    """Whether a folder with these names holds GPT-NeoX weights."""
    return any(layer_and_rank(name) or is_zero3(name) for name in names)


def neox_checkpoint(folder: Path, config: ModelConfig) -> Checkpoint:
    """The checkpoint in a ``global_step<N>`` folder: layer files, or else sequential files.

    Raises:
        CheckpointError: files are missing or empty, or the files are another network's.
    """
    layers: dict[tuple[int, int], Path] = {}
    ranks: dict[int, Path] = {}
    zero3 = False
    for name in list_names(folder):
        path = folder / name
        zero3 |= is_zero3(name)
        found = layer_and_rank(name)
        if found is None:
            continue
        layer, rank = found
        if layer is None:
            ranks[rank] = path
            continue
        if (layer, rank) in layers:
            raise CheckpointError(
                f"{layers[layer, rank].name} and {name} are both present: each is rank {rank} of layer {layer}",
                code="mixed_checkpoints",
                where=str(folder),
                hint="Move the files of one of the two checkpoints elsewhere.",
            )
        layers[layer, rank] = path
    if layers:
        return _layer_files(folder, layers, config)
    if zero3:
        raise zero3_error(folder)
    if ranks:
        source_tp = max(ranks) + 1
        refuse_missing(
            folder, [f"mp_rank_{rank:02d}_model_states.pt" for rank in range(source_tp) if rank not in ranks]
        )
        files = tuple(ranks[rank] for rank in range(source_tp))
        return Checkpoint("sequential", folder, folder.absolute().name, source_tp, files, _total_bytes(files))
    raise CheckpointError(
        f"{folder} holds neither layer_*-model_states.pt nor mp_rank_*_model_states.pt files",
        code="missing_checkpoint",
        where=str(folder),
        hint=download_hint(folder.parent),
    )


def _layer_files(folder: Path, layers: Mapping[tuple[int, int], Path], config: ModelConfig) -> Checkpoint:
    check_layer_numbers({number for number, _ in layers}, config, folder)
    source_tp = max(rank for _, rank in layers) + 1
    expected = layer_numbers(config.num_layers, config.tie_embeddings)
    unnumbered = all("-model_0" not in path.name for path in layers.values())
    missing = []
    for number in expected:
        for rank in range(source_tp):
            if (number, rank) not in layers:
                shard = "" if unnumbered else f"-model_{rank:02d}"
                missing.append(f"layer_{number:02d}{shard}-model_states.pt")
    refuse_missing(folder, missing)
    table = {number: tuple(layers[number, rank] for rank in range(source_tp)) for number in expected}
    files = tuple(path for paths in table.values() for path in paths)
    return Checkpoint("layers", folder, folder.absolute().name, source_tp, files, _total_bytes(files), table)


def check_layer_numbers(found: set[int], config: ModelConfig, where: Path) -> None:
    """Refuse layer numbers of a model with another depth or the other kind of output layer.

    Layer numbers that are merely missing pass: the caller knows which files to name.

    Raises:
        CheckpointError: the numbers belong to another network.
    """
    expected = set(layer_numbers(config.num_layers, config.tie_embeddings))
    for tied, above in ((False, 4), (True, 3)):
        depth = max(found) - above
        if depth != config.num_layers and depth > 0 and found == set(layer_numbers(depth, tied)):
            raise CheckpointError(
                f"the checkpoint has {depth} transformer layers, but num_layers is {config.num_layers}",
                code="mismatched_configuration",
                where=str(where),
                hint="Use the configuration of this checkpoint, or name another checkpoint with --checkpoint DIR.",
            )
    head = config.num_layers + 4
    if config.tie_embeddings and found - expected == {head}:
        raise CheckpointError(
            f"the checkpoint has an output layer (layer_{head:02d}), but the configuration ties it to the embedding",
            code="mismatched_configuration",
            where=str(where),
            hint="Set no_weight_tying: true in the configuration.",
        )
    if not config.tie_embeddings and expected - found == {head}:
        raise CheckpointError(
            f"the checkpoint has no output layer: layer_{head:02d} is missing",
            code="missing_shard",
            where=str(where),
            hint="Get the missing files. If the embedding is the output layer, set no_weight_tying: false.",
        )
    if unexpected := sorted(found - expected):
        raise CheckpointError(
            f"the checkpoint has layer numbers that a model of {config.num_layers} layers does not have: "
            f"{listing(unexpected)}",
            code="mismatched_configuration",
            where=str(where),
            hint="Use the configuration that belongs to this checkpoint.",
        )


def hugging_face_checkpoint(folder: Path, config: ModelConfig, *, chosen: bool = False) -> Checkpoint:
    """The checkpoint in a Hugging Face folder: its first form of weights, without a variant if there is one.

    Args:
        folder: the folder.
        config: the network that it should hold.
        chosen: the configuration comes from this folder, so that what differs from it was set on purpose.

    Raises:
        CheckpointError: files are missing or empty, or config.json describes another network.
    """
    names = list_names(folder)
    if CONFIG_JSON not in names:
        raise CheckpointError(
            "the folder holds Hugging Face weights but no config.json",
            code="missing_shard",
            where=str(folder / CONFIG_JSON),
            hint="Copy config.json from where the weights came from.",
        )
    warnings = [*huggingface.check_config_json(folder, config, chosen=chosen)]
    found = hugging_face_files(folder, names)
    if len(found) > 1 and not has_index(names):
        warnings.append(f"{folder} has no index of its {len(found)} files of weights, which all are present")
    if adapter := next((name for name in names if is_adapter(name)), None):
        warnings.append(f"{folder / adapter} belongs to an adapter (LoRA), which --adapter applies")
    files = tuple(folder / name for name in found)
    size = _total_bytes(files)
    return Checkpoint("huggingface", folder, folder.absolute().name, 1, files, size, warnings=tuple(warnings))


def _total_bytes(files: Iterable[Path]) -> int:
    """Size of the files on disk; each of them exists and is not empty."""
    total = 0
    for path in files:
        if path.is_symlink() and not path.exists():
            raise CheckpointError(
                f"{path.name} is a link to {path.readlink()}, which does not exist",
                code="missing_shard",
                where=str(path),
                hint=download_hint(path.parent, "Copy or download the missing file again."),
            )
        size = path.stat().st_size
        if size == 0:
            raise damaged_file(path, "is empty (0 bytes)")
        total += size
    return total
