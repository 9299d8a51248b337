"""Folders and tensors of other formats, told by their names, with the tool that runs or converts them. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Final

from neoxrun.config.huggingface import quantised_error, read_json
from neoxrun.errors import CheckpointError, ConfigError

_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
# Endings of tensors that only quantised layers have.
_QUANTISED: Final = {
    "qweight": "gptq or awq",
    "qzeros": "gptq or awq",
    "g_idx": "gptq",
    "SCB": "bitsandbytes",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
}


def refuse_quantised_tensor(name: str, path: Path) -> None:
    """Refuse a tensor that only a quantised model has.

    Raises:
        CheckpointError: it is one.
    """
    method = _QUANTISED.get(name.rpartition(".")[2])
    if method is not None:
        raise quantised_error(path, method)


def is_zero3(name: str) -> bool:
    """Whether a file of this name is one of ZeRO stage 3."""
    return name.startswith("zero_pp_rank_") and name.endswith("model_states.pt")


def zero3_error(folder: Path) -> CheckpointError:
    """The error for weights that ZeRO stage 3 has cut up."""
    return CheckpointError(
        "the checkpoint was saved with ZeRO stage 3, whose zero_pp_rank_* files hold no whole tensors",
        code="unsupported_checkpoint",
        where=str(folder),
        hint="Save it from GPT-NeoX with zero_optimization.stage 2 or lower.",
    )


def is_weights_file(path: Path) -> bool:
    """Whether a file's name is that of weights."""
    return path.suffix.lower() in _WEIGHTS


def refuse_weights_file(path: Path) -> None:
    """Refuse a file of weights in place of a configuration.

    Raises:
        ConfigError: its name is that of such a file.
    """
    if not is_weights_file(path):
        return
    folder = path.parent if path.parent.name else path.absolute().parent
    raise ConfigError(
        f"{path} is a file of weights, not a configuration",
        code="unreadable_configuration",
        where=str(path),
        hint="Weights for llama.cpp (GGUF) are not supported: name the original ones, in Hugging Face's files."
        if path.suffix.lower() == ".gguf"
        else f"Name its folder instead, `{folder if len(folder.parts) > 1 else f'./{folder}'}`.",
    )


def is_adapter(name: str) -> bool:
    """Whether a file of this name belongs to an adapter, as peft writes it."""
    return name.startswith(("adapter_config.json", "adapter_model."))


def refuse_foreign_folder(folder: Path, names: Collection[str]) -> None:
    """Refuse a folder without weights that neoxrun reads, if its files tell what it is.

    Args:
        folder: the folder.
        names: all names in it.

    Raises:
        CheckpointError: it holds an adapter, GGUF, quantised weights or those of ZeRO stage 3.
    """
    if adapter := sorted(filter(is_adapter, names)):
        about = folder / adapter[0]
        base = read_json(about).get("base_model_name_or_path") if about.suffix == ".json" else None
        raise CheckpointError(
            "the folder holds an adapter (LoRA), not a model" + (f": its model is {base}" if base else ""),
            code="unsupported_checkpoint",
            where=str(about),
            hint=f"Name its model instead, and the adapter with --adapter {shlex.quote(str(folder))}; "
            "`neoxrun convert` merges the two, for what needs one model.",
        )
    if "quantize_config.json" in names:
        raise quantised_error(folder / "quantize_config.json", "gptq")
    if any(map(is_zero3, names)):
        raise zero3_error(folder)
    for name in names:
        if name.endswith(".gguf") or name.startswith("ggml-"):
            raise CheckpointError(
                f"{name} is a model for llama.cpp (GGUF), which neoxrun does not read",
                code="unsupported_checkpoint",
                where=str(folder / name),
                hint="Run it with llama.cpp, or name the original weights, in Hugging Face's or GPT-NeoX's files.",
            )
