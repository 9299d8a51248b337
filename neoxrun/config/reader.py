"""GPT-NeoX YAML, unchanged, or a model's folder, to typed settings. No torch.

Precedence: GPT-NeoX's default < folders < configuration files in order < ``--set key=value`` < named flags. Only the
weights of a folder that is named are its own, whatever a file says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from neoxrun.config.architecture import read_architecture, refuse_unsupported
from neoxrun.config.end_ids import read_end_ids
from neoxrun.config.folders import FORMATS, find_folder, partial_error, put_over, read_folder, with_tokenizer
from neoxrun.config.foreign import refuse_weights_file
from neoxrun.config.huggingface import CONFIG_JSON, read_json
from neoxrun.config.known import check_names
from neoxrun.config.names import SUFFIXES, bare_name
from neoxrun.config.released import is_20b
from neoxrun.config.sampling import SamplingParams, sampling_value
from neoxrun.config.settings import GenerationConfig, Precision, Settings, TokenizerConfig
from neoxrun.config.shipped import shipped_dir, shipped_names
from neoxrun.config.tokenizer_names import find_tokenizer
from neoxrun.config.typed import ConfigOptions
from neoxrun.config.yaml_source import ConfigEntry, read_override, read_yaml_file
from neoxrun.errors import ConfigError, UsageError
from neoxrun.terminal.words import did_you_mean

_REQUIRED: Final = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "seq_length",
    "max_position_embeddings",
)
_SAMPLING: Final = (
    "maximum_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "stop",
)
_PRECISIONS: Final[dict[str, Precision]] = {
    "fp16": "fp16",
    "float16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp32": "fp32",
    "float32": "fp32",
}
# What a shipped name may follow: `20B`, `configs/20B` and, as the hub has it, `EleutherAI/pythia-160m`.
_SHIPPED_UNDER: Final = (Path(), Path("configs"), Path("EleutherAI"))
# Files that mark a checkpoint folder of any kind: GPT-NeoX's, one step of it, or Hugging Face's.
_CHECKPOINT_FILES: Final = (
    "latest",
    "global_step*",
    "*_model_states.pt",
    "*-model_states.pt",
    "*.safetensors*",
    "*.bin*",
)


def load_settings(
    sources: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
) -> Settings:
    """The settings of ``load_configuration``."""
    return load_configuration(sources, overrides, checkpoint=checkpoint, tokenizer=tokenizer)[0]


def load_configuration(
    sources: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
) -> tuple[Settings, ConfigOptions]:
    """Read and merge configuration files: the settings, and all merged options, for whoever needs others of them.

    Args:
        sources: paths or names of shipped configurations, folders of models, or names of downloaded repositories;
            where two set the same option, the later wins, and files win over folders.
        overrides: ``key=value`` texts of ``--set``, values in YAML; they win over all files.
        checkpoint: ``--checkpoint``, which replaces ``load``.
        tokenizer: ``--tokenizer``, which replaces ``vocab_file``.

    Raises:
        ConfigError: a file is missing or not YAML, or an option is unknown, impossible or unsupported.
        CheckpointError: a folder's config.json is damaged, or describes a model that is not supported.
        UsageError: an override is not ``key=value``.
    """
    found = [_find_configuration(source) for source in sources]
    if len(models := [str(path) for path in found if path.is_dir()]) > 1:
        raise ConfigError(
            f"{' and '.join(models)} are folders of several models",
            code="conflicting_options",
            hint="Name one folder; YAML files next to it win over what it says.",
        )
    given = [read_override(text) for text in overrides]
    iteration = next((entry.value for entry in reversed(given) if entry.key == "iteration"), None)
    folders = [
        read_folder(path, iteration, shipped_dir() / "20B.yml" if is_20b(path) else None, alone=len(found) == 1)
        for path in found
        if path.is_dir()
    ]
    entries: dict[str, ConfigEntry] = {}
    for model in folders:
        entries = put_over(entries, model.entries)
    for path in found:
        if not path.is_dir():
            entries = put_over(entries, read_yaml_file(path))
    for model in folders:
        entries["load"] = model.entries["load"]
    entries = put_over(entries, {entry.key: entry for entry in given})
    for model in folders:
        if model.partial and len(found) == len(folders) and "pos_emb" not in entries:
            raise partial_error(model)
        entries = with_tokenizer(entries, model, tokenizer)
    if checkpoint is not None:
        entries["load"] = ConfigEntry("load", checkpoint, "--checkpoint")
    if tokenizer is not None:
        entries["vocab_file"] = ConfigEntry("vocab_file", tokenizer, "--tokenizer")
    ignored = check_names(entries)
    hugging_face = any((model.folder / CONFIG_JSON).is_file() for model in folders)
    passed_over = {key for model in folders for key in model.passed_over}

    options = ConfigOptions(entries)
    _check_required(options, found)
    refuse_unsupported(options)
    folder, searched = options.path("load", _holds_checkpoint)
    seed = _seed(options)
    settings = Settings(
        model=read_architecture(options),
        tokenizer=_tokenizer(options, folders[-1].folder if folders else None),
        checkpoint=folder,
        iteration=options.integer("iteration", None, low=0),
        precision=_precision(options),
        precision_stated=any(options.get(name) is not None for name in FORMATS) or not hugging_face,
        generation=_generation(options, seed),
        seed=seed,
        sources=tuple(found),
        ignored=tuple(sorted(ignored)),
        unread=tuple(sorted(passed_over)),
        checkpoint_looked_in=searched,
        end_ids=() if folder is None else read_end_ids(folder),
    )
    return settings, options


def with_tokenizer_of(folder: Path, settings: Settings) -> Settings:
    """``settings`` with the tokenizer in a folder of weights, unless they name another one that exists."""
    named, found = settings.tokenizer.vocab_file, find_tokenizer(folder.absolute())
    if not found or (named is not None and named.exists()):
        return settings
    merges = found.get("merge_file")
    return replace(
        settings,
        tokenizer=TokenizerConfig(
            found["tokenizer_type"], Path(found["vocab_file"]), None if merges is None else Path(merges)
        ),
    )


def _find_configuration(source: str) -> Path:
    """The file or the folder that a CONFIG argument names."""
    path = Path(source)
    candidates = [path] if path.suffix in SUFFIXES else [path, *(Path(source + suffix) for suffix in SUFFIXES)]
    try:
        if source != path.name and (path / CONFIG_JSON).is_file():  # not model.yml next to the folder ./model
            return path
        for candidate in candidates:
            if candidate.is_file():
                refuse_weights_file(candidate)
                return path.parent if _is_hugging_face(candidate) else candidate
        if path.is_dir() and source != path.name:
            return path
        # A bare name is first that of a shipped configuration: `pythia-160m` is downloaded into a folder of that name.
        name = bare_name(path)
        if path.parent in _SHIPPED_UNDER:
            for shipped in shipped_names():
                if shipped.lower() == name.lower():
                    return shipped_dir() / f"{shipped}.yml"
        if (folder := find_folder(source)) is not None:
            return folder
    except OSError as error:  # a name too long for the file system, a folder that may not be entered
        raise ConfigError(f"{source} cannot be read: {error.strerror}", code="unreadable_configuration") from error
    if path.exists():  # a pipe, for example /dev/stdin
        return path
    raise ConfigError(
        f"there is no configuration {source}",
        code="missing_configuration",
        hint=did_you_mean("20B" if is_20b(path) else name, shipped_names(), 1)
        or f"Give a path, a model's folder, or one of: {', '.join(shipped_names())}.",
    )


def _is_hugging_face(path: Path) -> bool:
    """Whether a file that is named as a configuration is a Hugging Face folder's config.json."""
    return path.name == CONFIG_JSON and "model_type" in read_json(path)


def _holds_checkpoint(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in _CHECKPOINT_FILES)


def _check_required(options: ConfigOptions, paths: Sequence[Path]) -> None:
    missing = dict.fromkeys(options.written(name) for name in _REQUIRED if options.get(name) is None)
    if missing:
        raise ConfigError(
            f"the configuration does not set {', '.join(missing)}",
            code="incomplete_configuration",
            where=", ".join(str(path) for path in paths) or None,
            hint="Name the file that describes the model first: several files are merged, and a later one wins.",
        )


def _precision(options: ConfigOptions) -> Precision:
    """``precision``, or the enabled one of the blocks ``fp16`` and ``bf16``, or fp32."""
    asked: dict[str, Precision] = {}
    entry = options.get("precision")
    if entry is not None:
        asked["precision"] = _PRECISIONS[cast(str, options.choice("precision", None, _PRECISIONS))]
        if entry.folder is None:  # --set wins over the files
            return asked["precision"]
    for name, meaning in (("fp16", "fp16"), ("bf16", "bf16")):
        block = options.get(name)
        if block is None:
            continue
        value = block.value
        enabled = value.get("enabled", value.get(name)) if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(enabled, bool):
            raise options.refusal(name, "a mapping with enabled: true or false")
        if enabled:
            # Until 2023 this block was bfloat16's too: Pythia 1B has {"enabled": true, "type": "bfloat16"}.
            asked[name] = "bf16" if value.get("type") == "bfloat16" else cast(Precision, meaning)
    if len(set(asked.values())) > 1:
        raise ConfigError(
            "the precision options disagree: " + ", ".join(f"{name} asks for {wish}" for name, wish in asked.items()),
            code="conflicting_options",
            where=options.where(*asked),
            hint="Keep one of them, or override them all, for example with --set precision=bf16.",
        )
    return next(iter(asked.values()), "fp32")


def _seed(options: ConfigOptions) -> int:
    return int(_sampling_value(options, "seed", SamplingParams.seed))


def _generation(options: ConfigOptions, seed: int) -> GenerationConfig:
    defaults = SamplingParams()
    values = {name: _sampling_value(options, name, getattr(defaults, name)) for name in _SAMPLING}
    input_file, _ = options.path("sample_input_file")
    output_file = options.text("sample_output_file", None)
    kind = options.choice("text_gen_type", None, ("unconditional", "input-file", "interactive"))
    if kind is None:
        kind = "unconditional" if input_file is None else "input-file"
    return GenerationConfig(
        sampling=SamplingParams(seed=seed, **values),
        text_gen_type=cast(Literal["unconditional", "input-file", "interactive"], kind),
        prompt_end=options.text("prompt_end", "\n"),
        num_samples=options.integer("num_samples", None),
        sample_input_file=input_file if kind == "input-file" else None,
        sample_output_file=None if output_file is None else Path(output_file).absolute(),
    )


def _sampling_value(options: ConfigOptions, name: str, default: object) -> Any:
    entry = options.get(name)
    if entry is None:
        return default
    try:
        return sampling_value(name, entry.value)
    except UsageError as error:
        raise ConfigError(error.message, code="invalid_value", where=entry.where) from error


def _tokenizer(options: ConfigOptions, folder: Path | None) -> TokenizerConfig:
    vocab_file, searched = options.path("vocab_file")
    merge_file, _ = options.path("merge_file")
    return TokenizerConfig(
        tokenizer_type=options.text("tokenizer_type", "GPT2BPETokenizer"),
        vocab_file=vocab_file,
        merge_file=merge_file,
        looked_in=searched,
        folder=folder if vocab_file is None else None,
    )
