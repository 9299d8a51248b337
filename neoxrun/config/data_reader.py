"""GPT-NeoX's keys of data to a ``DataConfig``. No torch.

``data_path`` is divided by ``split``; ``train_data_paths`` and ``valid_data_paths`` are whole files. The flags of
``finetune`` are set over them under the latter names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neoxrun.config.settings import Settings
from neoxrun.config.shipped import shipped_names
from neoxrun.config.training import DataConfig
from neoxrun.config.typed import ConfigOptions
from neoxrun.errors import ConfigError, DataError

INDEX: Final = ".idx"
"""Ending of the index of a ``.bin`` file. A configuration names both files by what comes before."""

_SPLIT: Final = "969, 30, 1"


def read_data(
    options: ConfigOptions, settings: Settings, *, packed: bool, column: str, document_end: str
) -> DataConfig:
    """The data that the options name.

    Args:
        options: the merged configuration, with what flags set over it.
        settings: of the same configuration.
        packed, column, document_end: as in ``DataConfig``.

    Raises:
        ConfigError: no data is named, or in contradictory ways.
        DataError: a file is missing.
    """
    options = options.without_nulls()
    whole = options.paths("train_data_paths", _is_data)
    parts = options.paths("data_path", _is_data)
    if whole and parts:
        raise ConfigError(
            "data_path and train_data_paths both name the data to train on",
            code="conflicting_options",
            where=options.where("train_data_paths"),
            hint="Keep one of them; --data replaces both.",
        )
    if not whole and not parts:
        raise ConfigError(
            "no data to train on is named",
            code="missing_option",
            hint="Give --data FILE, or a configuration with `data_path` or `train_data_paths`.",
        )
    valid = options.paths("valid_data_paths", _is_data)
    _check(options, "train_data_paths", whole)
    _check(options, "data_path", parts)
    _check(options, "valid_data_paths", valid)
    return DataConfig(
        train=whole or parts,
        valid=valid,
        weights=_weights(options, "train", whole),
        valid_weights=_weights(options, "valid", valid),
        eval_stream=_is_configured(options, *(("valid_data_paths",) if valid else ("train_data_paths", "data_path"))),
        split=_split(options) if not valid and _is_divided(options, parts) else None,
        seq_length=settings.model.seq_length,
        packed=packed,
        eod_mask_loss=options.flag("eod_mask_loss", False),
        seed=settings.seed,
        column=column,
        document_end=document_end,
    )


def _is_data(path: Path) -> bool:
    return path.is_file() or path.with_name(path.name + INDEX).is_file()


def _check(options: ConfigOptions, name: str, paths: Sequence[Path]) -> None:
    for path in paths:
        if not _is_data(path):
            raise DataError(
                _problem(path),
                code="missing_file",
                where=options.where(name),
                hint=_hint(path),
            )


def _problem(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder"
    if path.exists():
        return f"{path} is not a regular file"
    return f"there is no file {path}, and no {path.name}{INDEX}"


def _hint(path: Path) -> str:
    """What to do about data that do not exist."""
    if path.name in shipped_names():
        return f"To train {path.name}, name it before the options: they take all words that follow."
    if ":/" in str(path):  # as pathlib writes what is between a protocol and a host
        return "Download it first, and name the file."
    if path.name == "-" or (path.exists() and not path.is_dir()):
        return "Write the texts to a file: they are read more than once."
    return "Name a file of texts, or the .bin and .idx files of GPT-NeoX by what comes before these endings."


def _weights(options: ConfigOptions, which: str, paths: Sequence[Path]) -> tuple[float, ...] | None:
    """Shares of the files: equal ones where a configuration has none, as in GPT-NeoX.

    A single one has a share, too, since GPT-NeoX then cuts the rows of half a per cent more than are needed, which
    changes their order. Files of the command line are as long as they are.
    """
    name = f"{which}_data_weights"
    entry = options.get(name)
    if entry is None:
        return (1.0,) * len(paths) if _is_configured(options, f"{which}_data_paths") else None
    values = entry.value
    if not isinstance(values, list) or len(values) != len(paths) or not all(_is_weight(value) for value in values):
        raise options.refusal(name, f"{len(paths)} numbers greater than 0, one for each of {which}_data_paths")
    return tuple(map(float, values))


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_divided(options: ConfigOptions, parts: Sequence[Path]) -> bool:
    """Whether the documents are split: those of ``data_path`` always, others where the command line says so."""
    entry = options.get("split")
    return bool(parts) or (entry is not None and entry.folder is None)


def _is_configured(options: ConfigOptions, *names: str) -> bool:
    """Whether a configuration has one of the options, and not the command line."""
    return any(entry is not None and entry.folder is not None for entry in map(options.get, names))


def _split(options: ConfigOptions) -> tuple[float, float, float]:
    """Three shares that sum to 1, read as in GPT-NeoX: divided by commas or slashes, 0 where there are fewer."""
    entry = options.get("split")
    text = _SPLIT if entry is None else str(entry.value)
    try:
        values = [float(part) for part in text.split("," if "," in text else "/")]
    except ValueError:
        values = []
    if not values or min(values) < 0 or not values[0] > 0 or not sum(values) < math.inf:
        raise options.refusal("split", "up to three numbers, as in 969, 30, 1, of which the first is not 0")
    train, valid, test = (*values, 0.0, 0.0)[:3]
    whole = train + valid + test
    return train / whole, valid / whole, test / whole
