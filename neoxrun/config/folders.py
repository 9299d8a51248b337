"""A model's folder where a configuration is expected: which one a name means, and the options that it holds. No torch.

A folder is Hugging Face's (with config.json), or that of a GPT-NeoX run: its ``save`` folder with ``latest``, or one
``global_step<N>`` of it, in which GPT-NeoX keeps its configuration files under ``configs/``, and a few options in the
mp_rank files. Without ``configs/``, the one YAML file next to GPT-NeoX's files that describes a network counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neoxrun.config import neox_keys
from neoxrun.config.foreign import refuse_foreign_folder
from neoxrun.config.huggingface import CONFIG_JSON, read_config_json, read_json
from neoxrun.config.known import with_present_names
from neoxrun.config.names import MANIFEST_NAME, SUFFIXES
from neoxrun.config.saved_args import read_saved_args
from neoxrun.config.tokenizer_names import SPIECE_TYPE, find_tokenizer, is_spiece
from neoxrun.config.typed import ConfigOptions
from neoxrun.config.yaml_source import ConfigEntry, read_yaml_file
from neoxrun.errors import ConfigError
from neoxrun.terminal.log import log
from neoxrun.terminal.words import listing

FORMATS: Final = ("precision", "fp16", "bf16")
"""The options that state a number format."""

_STEP = re.compile(r"global_step(\d+)")


@dataclass(frozen=True)
class ModelFolder:
    """What a model's folder says.

    Attributes:
        folder: the folder, as an absolute path.
        entries: GPT-NeoX's options, by name; ``load`` is the folder itself.
        tokenizer: the options of the tokenizer in the folder; empty if there is none.
        passed_over: the keys of config.json that are not read.
        partial: the options come from mp_rank files, which do not hold all of them.
    """

    folder: Path
    entries: Mapping[str, ConfigEntry]
    tokenizer: Mapping[str, ConfigEntry]
    passed_over: tuple[str, ...] = ()
    partial: bool = False


def find_folder(source: str) -> Path | None:
    """The folder that a CONFIG argument names: a path, or the name of a repository that was downloaded here.

    ``neoxrun download OWNER/NAME`` puts the files into ./NAME, with a record of where they came from.

    Raises:
        ConfigError: ./NAME comes from another repository.
        CheckpointError: the record in it is damaged.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    owner, slash, name = source.partition("/")
    if not slash or not owner or not name or "/" in name or not Path(name).is_dir():
        return None
    record = Path(name) / MANIFEST_NAME
    origin = read_json(record).get("hub") if record.is_file() else None
    if isinstance(origin, str) and origin.lower() != source.lower():
        raise ConfigError(
            f"{source} is not on this machine: the folder {name} is from {origin}",
            code="missing_configuration",
            where=str(record),
            hint=f"Get it with `neoxrun download {source} --to DIR`, and name DIR.",
        )
    if origin is None:
        log.warning(f"{source}: the folder {name} is used, which does not say where its files come from")
    return Path(name)


def read_folder(
    folder: Path, iteration: object = None, released: Path | None = None, *, alone: bool = True
) -> ModelFolder:
    """The options that a model's folder holds.

    Args:
        folder: of Hugging Face, or of a GPT-NeoX run.
        iteration: the ``global_step<iteration>`` whose options count; None: the one that ``latest`` names.
        released: the configuration of the released model that the folder is named after, for a folder without one.
        alone: no files are named next to it, so that it has to hold options.

    Raises:
        ConfigError: the folder holds no options, or they cannot be read.
        CheckpointError: as ``read_config_json`` and ``read_saved_args``.
    """
    folder = folder.absolute()
    path = folder / CONFIG_JSON
    if path.exists() or path.is_symlink():  # where it is not a file, reading it says so
        config = read_config_json(folder)
        return ModelFolder(
            folder,
            _entries({**config.options, "load": str(folder)}, path, config.keys),
            _tokenizer(folder),
            config.passed_over,
        )
    step = _step(folder, iteration)
    entries: dict[str, ConfigEntry] = {}
    files = _files(step / "configs", SUFFIXES)
    ranks = sorted(step.glob("mp_rank_*_model_states.pt"))
    around = [] if files else _yaml_files(folder, step)
    networks = [path for path in around if _describes_network(path)]
    if len(networks) == 1 and any(step.glob("*model_states.pt")):
        files = networks
        log.debug(f"{folder} has no configs/: its configuration is {networks[0]}")
    if not files and released is not None:
        files = [released]
    for path in files:
        entries |= read_yaml_file(path)
    if not files and ranks:
        args = {key: value for key, value in read_saved_args(ranks[0]).items() if key in neox_keys.KNOWN}
        if args:
            args.setdefault("seq_length", args.get("max_position_embeddings"))
            entries = _entries(args, ranks[0])
    if not entries:
        for place in dict.fromkeys((folder, step)):
            refuse_foreign_folder(place, [path.name for path in place.iterdir()])
    if not entries and alone:
        raise ConfigError(
            f"{folder} is a folder without a configuration: it has no config.json, as Hugging Face's folders do, and "
            "no configs/, as those of GPT-NeoX's runs do",
            code="missing_configuration",
            hint=_name_files(around),
        )
    entries |= _entries({"load": str(folder)}, folder)
    entries.pop("iteration", None)  # of the run that was continued
    tokenizer = next(filter(None, map(_tokenizer, (folder, step, step.parent))), {})
    return ModelFolder(folder, entries, tokenizer, partial=not files)


def put_over(entries: dict[str, ConfigEntry], later: Mapping[str, ConfigEntry]) -> dict[str, ConfigEntry]:
    """``entries`` with the ``later`` ones, which win, under today's names.

    The number format has three keys: whichever is set replaces that of a config.json.
    """
    if any(name in later for name in FORMATS):
        entries = {
            key: entry for key, entry in entries.items() if key not in FORMATS or not entry.where.endswith(CONFIG_JSON)
        }
    return {**entries, **with_present_names(later)}


def partial_error(model: ModelFolder) -> ConfigError:
    """The error for options that come from mp_rank files alone, which fit several networks."""
    return ConfigError(
        f"the mp_rank files in {model.folder} hold the sizes of the network, not pos_emb, gpt_j_residual and others",
        code="incomplete_configuration",
        where=str(model.folder),
        hint=_name_files(_yaml_files(model.folder, model.folder)),
    )


def with_tokenizer(entries: dict[str, ConfigEntry], model: ModelFolder, chosen: str | None) -> dict[str, ConfigEntry]:
    """``entries`` with the tokenizer in a model's folder, unless they name another one that exists.

    A run's configuration names the file on the machine where it was trained.
    """
    if chosen is not None and "tokenizer_type" not in entries:
        kind = SPIECE_TYPE if is_spiece(chosen) else "HFTokenizer"
        return {**entries, "tokenizer_type": ConfigEntry("tokenizer_type", kind, "--tokenizer")}
    named = ConfigOptions(entries).path("vocab_file")[0]
    return {**entries, **model.tokenizer} if named is None or not named.exists() else entries


def _entries(
    options: Mapping[str, object], path: Path, written: Mapping[str, str] | None = None
) -> dict[str, ConfigEntry]:
    names = written or {}
    return {key: ConfigEntry(key, value, str(path), path.parent, names.get(key)) for key, value in options.items()}


def _tokenizer(folder: Path) -> dict[str, ConfigEntry]:
    options = find_tokenizer(folder)
    return _entries(options, Path(options["vocab_file"])) if options else {}


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in suffixes and path.is_file())


def _yaml_files(folder: Path, step: Path) -> list[Path]:
    """The YAML files in a run's folder or its step, from the folder above if a step was named."""
    places = (folder, step, step.parent) if _STEP.fullmatch(step.name) else (folder,)
    return next(filter(None, (_files(place, (".yml", ".yaml")) for place in places)), [])


def _name_files(around: list[Path]) -> str:
    """The hint where a folder does not say enough; ``around``: the YAML files in it."""
    which = f": one of {listing(around)}" if around else ""
    return f"Name the model's YAML file as well, after the folder, or with --config for convert and diff{which}."


def _describes_network(path: Path) -> bool:
    """Whether a file is a GPT-NeoX configuration with the sizes of a network, not one of paths or another program's."""
    try:
        return {"num_layers", "hidden_size"} <= with_present_names(read_yaml_file(path)).keys()
    except ConfigError:
        return False


def _step(folder: Path, iteration: object) -> Path:
    """The ``global_step<N>`` folder in a run's folder, or the folder itself if that is one.

    Which one holds the weights is for ``checkpoint.find`` to say, with its reasons; the configuration of a run is the
    same in all.
    """
    steps = [path for path in folder.glob("global_step*") if _STEP.fullmatch(path.name) and path.is_dir()]
    if not steps:
        return folder
    wanted = f"global_step{iteration}"
    if iteration is None and (folder / "latest").is_file():
        wanted = (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
    newest = max(steps, key=lambda path: int(path.name.removeprefix("global_step")))
    return next((path for path in steps if path.name == wanted), newest)
