"""`neoxrun convert`: write a checkpoint as another kind of folder, and prove that it is the same model."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from neoxrun.checkpoint.find import find_checkpoint, find_configured_checkpoint
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import read_vocab_rows
from neoxrun.checkpoint.source import LayerSource
from neoxrun.checkpoint.writers import check_split
from neoxrun.config.huggingface import read_json
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import ModelConfig, Precision, Settings
from neoxrun.config.tensors import FIRST_LAYER, Parameter, TensorKey, parameters
from neoxrun.conversion.configurations import (
    config_json,
    neox_options,
    refuse_for_hugging_face,
    vocabulary_divisor,
    yaml_text,
)
from neoxrun.conversion.folding import find_final_norm, merge_for_files
from neoxrun.conversion.logits import PROMPTS, compare_logits, prompt_ids, stream_logits
from neoxrun.conversion.options import RECEIPT_NAME, ConvertOptions
from neoxrun.conversion.proof import Comparison, check_finite, checksums, main_dtype, short_name
from neoxrun.conversion.shares import Division, stored_dtypes
from neoxrun.conversion.targets import (
    HuggingFaceTarget,
    NeoxTarget,
    Target,
    missing_bytes,
    relative_files,
    written_tensors,
)
from neoxrun.conversion.tokenizer_files import (
    check_tokenizer,
    copy_tokenizer,
    tokenizer_files,
    write_generation_config,
    write_tokenizer_config,
)
from neoxrun.conversion.workplace import Workplace, open_workplace
from neoxrun.model.dtypes import DTYPES
from neoxrun.terminal.log import log
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted, human_bytes
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from neoxrun.version import __version__

_NEOX_YAML: Final = "config.yml"
_STEP: Final = re.compile(r"global_step\d+")


@dataclass(frozen=True)
class _Source:
    """What is converted, and the number format of each tensor to be written."""

    division: Division
    checkpoint: Checkpoint
    config: ModelConfig
    table: Mapping[TensorKey, Parameter]
    dtypes: Mapping[TensorKey, torch.dtype]
    rows: int
    tokenizer: Tokenizer | None
    tag: str
    new_names: bool


def convert(options: ConvertOptions) -> dict[str, Any]:
    """Write the folder, prove it, and give it its name.

    Returns:
        The receipt, as it is in the folder.

    Raises:
        CheckpointError: the source is missing, damaged or not that of its configuration; or the proof failed.
        ConfigError: the target cannot hold such a network.
        DataError: the target exists, or the system refuses to write.
        UsageError: the model does not divide over so many ranks.
    """
    source = _open_source(options)
    if options.kind == "huggingface":
        refuse_for_hugging_face(source.config)
    check_split(source.config, options.tp)
    job = _job(options, source)
    with open_workplace(options.target, job) as work:
        if work.resumed:
            log.info(f"continuing in {work.folder}")
        written = _write_weights(options, source, work)
        settings = _write_configuration(options, source, work, written)
        receipt = _prove(options, source, work, settings) | {"job": job}
        work.write_json(RECEIPT_NAME, receipt)
        work.publish(options.target.absolute())
    log.info(_how_it_went(options.target, receipt))
    return receipt


def _open_source(options: ConvertOptions) -> _Source:
    settings = options.settings
    checkpoint = find_configured_checkpoint(settings)
    for warning in checkpoint.warnings:
        log.warning(warning)
    rows = read_vocab_rows(checkpoint, settings.model)
    tokenizer = None
    if settings.tokenizer.vocab_file is None:
        log.warning("no tokenizer was found, so none is written: give it with --tokenizer FILE")
    else:
        tokenizer = load_tokenizer(settings.tokenizer)
    layers = LayerSource(checkpoint, settings.model)
    table = parameters(settings.model, rows)
    tag, new_names = checkpoint.tag, True
    if checkpoint.kind == "huggingface":
        tag, new_names = _before(checkpoint.folder)
    else:
        tag = tag if _STEP.fullmatch(tag) else "global_step0"
        new_names = any("mlp.linear1." in stored.name for stored in layers.read_layer(FIRST_LAYER)[0].values())
    dtypes = stored_dtypes(layers, table)
    if options.dtype is not None:
        dtypes = dict.fromkeys(table, DTYPES[options.dtype])
    merge = merge_for_files(settings.model, settings.merge)
    folds = merge == "fold" and checkpoint.source_tp != options.tp
    final = find_final_norm(layers, dtypes, folds=folds)
    division = Division(checkpoint, settings.model, table, options.tp, merge, final)
    return _Source(division, checkpoint, settings.model, table, dtypes, rows, tokenizer, tag, new_names)


def _before(folder: Path) -> tuple[str, bool]:
    """The tag and the kind of names that a Hugging Face folder's weights had as GPT-NeoX files, if its receipt says."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        receipt = json.loads((folder / RECEIPT_NAME).read_text(encoding="utf-8"))
        tag, new_names = receipt["source"]["tag"], receipt["source"]["new_names"]
        if _STEP.fullmatch(tag):
            return tag, bool(new_names)
    return "global_step0", True


def _job(options: ConvertOptions, source: _Source) -> dict[str, Any]:
    """What tells this conversion from others: an interrupted one continues only if all of it is the same."""
    stats = [(path, path.stat()) for path in source.checkpoint.files]
    return {
        "source": short_name(source.checkpoint.folder),
        "files": [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        "network": asdict(source.config),
        "to": options.kind,
        "tp": options.tp,
        "dtype": options.dtype,
        "merge": source.division.merge,
        "shard_size": options.shard_size if options.kind == "huggingface" else None,
        "version": __version__,
    }


def _write_weights(options: ConvertOptions, source: _Source, work: Workplace) -> Precision:
    """Write what is missing of the weights; returns the number format of most of them."""
    tensors = written_tensors(source.table, source.dtypes, options.tp)
    target: Target
    if options.kind == "neox":
        target = NeoxTarget(work, source.tag, source.table, options.tp, new_names=source.new_names)
    else:
        target = HuggingFaceTarget(work, tensors, source.config.num_layers, options.shard_size)
    total = missing_bytes(target, tensors)
    work.require(total)
    with Bar("converting", total, show=options.show_progress) as bar, ExitStack() as stack:
        stack.callback(target.abandon)
        for rank in range(target.ranks):
            wanted = target.wanted(rank)

            def assign(key: TensorKey, tensor: torch.Tensor, rank: int = rank) -> None:
                if key in source.table:  # these files have no place for the bias of a head
                    target.assign(rank, key, tensor)
                    bar.update(tensor.numel() * tensor.element_size())

            if wanted:
                dtype = None if options.dtype is None else DTYPES[options.dtype]
                source.division.read(assign, layers=wanted, rank=rank, dtype=dtype)
        target.finish()
    return main_dtype(source.dtypes)


def _write_configuration(options: ConvertOptions, source: _Source, work: Workplace, written: Precision) -> Settings:
    """Write the configuration and the tokenizer; returns what they describe, read from them."""
    tokenizer = copy_tokenizer(work, options.settings.tokenizer)
    if options.kind == "huggingface":
        ends = options.settings.end_ids
        if not ends and source.tokenizer is not None and source.tokenizer.eod is not None:
            ends = (source.tokenizer.eod,)
        content = config_json(source.config, source.rows, written, ends)
        if source.checkpoint.kind == "huggingface":
            # Its own words, but for what has changed.
            folder = source.checkpoint.folder
            same = load_settings([str(folder)]).model == source.config
            kept = ("torch_dtype", "vocab_size", "tie_word_embeddings") if same else tuple(content)
            content = read_json(folder / "config.json") | {key: content[key] for key in kept}
            content.pop("dtype", None)
        work.write_json("config.json", content)
        write_generation_config(work, ends)
        if source.tokenizer is not None:
            write_tokenizer_config(work, options.settings.tokenizer, source.tokenizer, source.config.max_context)
        return load_settings([str(work.folder)])
    padded = -(-source.rows // options.tp) * options.tp
    size = None if source.tokenizer is None else source.tokenizer.vocab_size
    divisor = vocabulary_divisor(padded, options.tp, size, source.config.make_vocab_size_divisible_by)
    config = replace(
        source.config, model_parallel_size=options.tp, pipe_parallel_size=1, make_vocab_size_divisible_by=divisor
    )
    network = neox_options(config, written)
    for name, above in ((_NEOX_YAML, ""), (f"{source.tag}/configs/{_NEOX_YAML}", "../../")):
        paths: dict[str, object] = {"load": above or "."}
        if tokenizer.vocab_file is not None:
            paths |= {"tokenizer_type": tokenizer.tokenizer_type, "vocab_file": above + tokenizer.vocab_file.name}
        if tokenizer.merge_file is not None:
            paths["merge_file"] = above + tokenizer.merge_file.name
        text = yaml_text(network | paths, "Written by neoxrun convert. Paths are relative to this file's folder.")
        work.write_text(name, text)
    return load_settings([str(work.folder / _NEOX_YAML)])


def _prove(options: ConvertOptions, source: _Source, work: Workplace, settings: Settings) -> dict[str, Any]:
    """Read both sides, compare them, and return the receipt."""
    encoded = []
    if source.tokenizer is not None:
        encoded = check_tokenizer(source.tokenizer, settings.tokenizer, work.folder, PROMPTS)
    target = find_checkpoint(work.folder, settings.model)
    others = [path for path in tokenizer_files(options.settings.tokenizer).values() if path.is_file()]
    others += [path for path in (source.checkpoint.folder / "config.json",) if path.is_file()]
    before = [*source.checkpoint.files, *others]
    names = [name for name in relative_files(work.folder) if not name.startswith((".writing", "neoxrun."))]
    after = [work.folder / name for name in names]
    total = source.checkpoint.total_bytes + target.total_bytes * 2
    with Bar("comparing", total, show=options.show_progress) as bar:
        comparison = Comparison(source.division, target, source.dtypes, bar.update)
        comparison.run()
        prompts = prompt_ids(encoded, source.rows, source.config.max_context)
        first = stream_logits(source.checkpoint, source.config, prompts)
        second = stream_logits(target, settings.model, prompts)
        largest, same, positions = compare_logits(first, second)
        check_finite(largest, work.folder)
        hashes = [
            {
                "folder": short_name(folder),
                "kind": checkpoint.kind,
                "tp": checkpoint.source_tp,
                "files": checksums(files, folder, bar.update),
            }
            for checkpoint, files, folder in (
                (source.checkpoint, before, source.checkpoint.folder),
                (target, after, work.folder),
            )
        ]
    hashes[0] |= {"tag": source.tag, "new_names": source.new_names}
    hashes[1]["folder"] = short_name(options.target)
    remains = comparison.remains()
    for text in remains:
        log.info(text)
    return {
        "equal": all(proof.exact for proof in comparison.tensors.values()),
        "remains": remains,
        "rules": comparison.summary(),
        "logits": {
            "largest_difference": largest,
            "same_most_likely_token": same,
            "positions": positions,
            "prompts": prompts,
        },
        "source": hashes[0],
        "target": hashes[1],
        "tensors": comparison.to_json(),
        "versions": {"neoxrun": __version__, "torch": str(torch.__version__)},
    }


def _how_it_went(target: Path, receipt: Mapping[str, Any]) -> str:
    files = receipt["target"]["files"]
    size = human_bytes(sum(file["bytes"] for file in files.values()))
    tensors = receipt["tensors"]
    equal = sum(tensor["equal"] for tensor in tensors)
    logits = receipt["logits"]
    return (
        f"{target}: {counted(len(files), 'file')}, {size}; {equal} of {len(tensors)} tensors are bit-identical to the "
        f"source; the logits of {counted(logits['positions'], 'token')} differ by "
        f"{logits['largest_difference']:.2g} at most; {RECEIPT_NAME} has the proof"
    )
