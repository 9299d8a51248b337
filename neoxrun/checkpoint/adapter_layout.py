"""The files of a PEFT adapter, and whether its tensors fit a model. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from neoxrun.checkpoint.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from neoxrun.checkpoint.content import read_safetensors_header
from neoxrun.config.huggingface import CONFIG_JSON
from neoxrun.config.settings import ModelConfig, Settings
from neoxrun.config.tensors import FIRST_LAYER, TensorKey, parameters
from neoxrun.errors import CheckpointError, UsageError
from neoxrun.terminal.words import listing

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
"""The file of an adapter's weights, as PEFT writes it."""

_STEP: Final = re.compile(r"global_step\d+")

LINEARS: Final = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
"""The linear layers of a transformer layer, each of which may have an adapter."""

_OLD_WEIGHTS: Final = "adapter_model.bin"
_NAME: Final = re.compile(
    rf"(?:base_model\.model\.)?((?:gpt_neox\.)?layers\.(\d+)\.({'|'.join(map(re.escape, LINEARS))}))"
    r"\.lora_([AB])\.weight"
)


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's folder.

    Attributes:
        folder: its path.
        config: its ``adapter_config.json``.
        weights: the file of its tensors.
    """

    folder: Path
    config: AdapterConfig
    weights: Path

    @property
    def paths(self) -> tuple[Path, Path]:
        """Both files."""
        return self.folder / ADAPTER_CONFIG, self.weights

    @property
    def total_bytes(self) -> int:
        """Size of both files on disk."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class Pair:
    """The two tensors of one linear layer.

    Attributes:
        a, b: their names in the file.
        scale: what ``B A`` is multiplied by.
    """

    a: str
    b: str
    scale: float


def hugging_face_name(key: TensorKey, part: str) -> str:
    """PEFT's name for the ``A`` or the ``B`` of a weight."""
    module = key.name.removesuffix(".weight")
    return f"base_model.model.gpt_neox.layers.{key.layer - FIRST_LAYER}.{module}.lora_{part}.weight"


def find_adapter(folder: Path) -> AdapterFiles:
    """The adapter in a folder.

    Raises:
        CheckpointError: the folder or a file is missing, or the adapter is of a kind that neoxrun does not have.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        whole = (folder / CONFIG_JSON).is_file()
        raise CheckpointError(
            f"there is no adapter in {folder}: it has no {ADAPTER_CONFIG}"
            if folder.is_dir()
            else f"there is no folder {folder}",
            code="missing_adapter",
            where=str(folder),
            hint="This is a whole model: give it as CONFIG, without --adapter."
            if whole
            else "Name the folder that PEFT's save_pretrained or `neoxrun finetune --lora` has written.",
        )
    config = read_adapter_config(folder)
    for name in (ADAPTER_WEIGHTS, _OLD_WEIGHTS):
        if (folder / name).is_file():
            return AdapterFiles(folder, config, folder / name)
    raise CheckpointError(
        f"the adapter has no {ADAPTER_WEIGHTS}",
        code="missing_adapter",
        where=str(folder),
        hint="Copy or download this file, too.",
    )


def use_adapter(settings: Settings, folder: str | None, *, random_weights: bool) -> Settings:
    """``settings`` with an adapter, which is checked as far as that is possible without torch: an old ``.bin`` is not.

    Args:
        settings: the configuration.
        folder: of the adapter, or of a run of `neoxrun finetune --lora`, whose newest one it is then; None: there is
            none, and the settings stay as they are.
        random_weights: no checkpoint is loaded.

    Raises:
        CheckpointError: as ``find_adapter`` and ``pair_tensors``, or the file is damaged.
        UsageError: there are no weights to merge it into.
    """
    if folder is None:
        return settings
    if random_weights:
        raise UsageError(
            "an adapter and random weights cannot be combined",
            code="conflicting_options",
            hint="Leave one of them out: an adapter means nothing without the model that it was trained on.",
        )
    files = find_adapter(_newest(Path(folder).expanduser().absolute()))
    if files.weights.name == ADAPTER_WEIGHTS:
        header = read_safetensors_header(files.weights)
        pair_tensors(files, {name: tensor.shape for name, tensor in header.items()}, settings.model)
    return replace(settings, adapter=files.folder)


def _newest(folder: Path) -> Path:
    """The checkpoint that ``latest`` names in the folder of a run; any other folder itself."""
    latest = folder / "latest"
    if (folder / ADAPTER_CONFIG).is_file() or not latest.is_file():
        return folder
    name = latest.read_text(encoding="utf-8", errors="replace").strip()
    return folder / name if _STEP.fullmatch(name) else folder


def pair_tensors(
    files: AdapterFiles, shapes: Mapping[str, tuple[int, ...]], model: ModelConfig
) -> dict[TensorKey, Pair]:
    """The tensors of each weight that the adapter changes.

    Args:
        files: the adapter.
        shapes: of all tensors in its file, by their names.
        model: the network that it is to change.

    Raises:
        CheckpointError: the adapter has other tensors than its configuration says, or does not fit the network.
    """
    found: dict[TensorKey, dict[str, str]] = {}
    modules: dict[TensorKey, str] = {}
    for name in shapes:
        match = _NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"the adapter has the tensor {name}: neoxrun has adapters of {', '.join(LINEARS)} only",
                code="unsupported_adapter",
                where=str(files.weights),
                hint="Merge it with PEFT's merge_and_unload, and use the folder that save_pretrained writes then.",
            )
        key = TensorKey(int(match[2]) + FIRST_LAYER, f"{match[3]}.weight")
        if match[4] in found.setdefault(key, {}):
            raise _mismatched(files, f"the tensors {found[key][match[4]]} and {name} are the same one")
        found[key][match[4]] = name
        modules[key] = match[1]
    table = parameters(model, 1)
    if beyond := sorted(key.layer - FIRST_LAYER for key in found if key not in table):
        raise _mismatched(
            files, f"the adapter has layer {beyond[-1]}, counted from 0, and the model has {model.num_layers} layers"
        )
    pairs = {}
    for key, names in found.items():
        if names.keys() != {"A", "B"}:
            raise _incomplete(files, [hugging_face_name(key, *({"A", "B"} - names.keys()))])
        (outputs, inputs), rank = table[key].shape, files.config.rank_of(modules[key])
        for part, wanted in (("A", (rank, inputs)), ("B", (outputs, rank))):
            if tuple(shapes[names[part]]) != wanted:
                raise _mismatched(
                    files,
                    f"{names[part]} has shape {list(shapes[names[part]])}, and rank {rank} at this model needs "
                    f"{list(wanted)}",
                )
        pairs[key] = Pair(names["A"], names["B"], files.config.scale_of(modules[key]))
    if missing := sorted(_wanted(files.config, model) - pairs.keys()):
        raise _incomplete(files, [hugging_face_name(key, "A") for key in missing])
    if not pairs:
        raise _incomplete(files, ["lora_A"])
    return dict(sorted(pairs.items()))


def _wanted(config: AdapterConfig, model: ModelConfig) -> set[TensorKey]:
    """The weights that an adapter changes, as far as its configuration lists them by name."""
    targets = [name for name in LINEARS if any(f".{name}".endswith(f".{target}") for target in config.targets or ())]
    layers = range(model.num_layers) if config.layers is None else config.layers
    return {TensorKey(layer + FIRST_LAYER, f"{name}.weight") for layer in layers for name in targets}


def _incomplete(files: AdapterFiles, names: list[str]) -> CheckpointError:
    return _mismatched(files, f"the adapter lacks {listing(names)}")


def _mismatched(files: AdapterFiles, what: str) -> CheckpointError:
    base = files.config.base_model
    return CheckpointError(
        what,
        code="mismatched_adapter",
        where=str(files.weights),
        hint=f"The adapter was trained on {base}: give that model."
        if base
        else "Give the model that the adapter was trained on, and a complete copy of the adapter.",
    )
