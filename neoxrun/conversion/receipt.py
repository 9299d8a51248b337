"""The receipt of a conversion: both sides read again and compared, with the checksums of their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from neoxrun.checkpoint.adapter import Adapter
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.config.huggingface import CONFIG_JSON
from neoxrun.config.settings import Settings
from neoxrun.conversion.logits import PROMPTS, compare_logits, prompt_ids, stream_logits
from neoxrun.conversion.opened import OpenedSource
from neoxrun.conversion.options import RECEIPT_NAME, ConvertOptions
from neoxrun.conversion.proof import Comparison, check_finite, checksums, short_name
from neoxrun.conversion.targets import relative_files
from neoxrun.conversion.tokenizer_files import check_tokenizer, tokenizer_files
from neoxrun.conversion.workplace import Workplace
from neoxrun.terminal.log import log
from neoxrun.terminal.progress import Bar
from neoxrun.terminal.words import counted, human_bytes
from neoxrun.version import __version__


def prove(options: ConvertOptions, source: OpenedSource, work: Workplace, settings: Settings) -> dict[str, Any]:
    """Read both sides, compare them, and return the receipt.

    Args:
        options: the conversion.
        source: what was converted.
        work: the folder that it was written into.
        settings: what the configuration in that folder describes.

    Raises:
        CheckpointError: a file is damaged, or the sides are not the same model.
    """
    encoded = []
    if source.tokenizer is not None:
        encoded = check_tokenizer(source.tokenizer, settings.tokenizer, work.folder, PROMPTS)
    target = find_checkpoint(work.folder, settings.model)
    others = [path for path in tokenizer_files(options.settings.tokenizer).values() if path.is_file()]
    others += [path for path in (source.checkpoint.folder / CONFIG_JSON,) if path.is_file()]
    before = [*source.checkpoint.files, *others]
    names = [name for name in relative_files(work.folder) if not name.startswith((".writing", "neoxrun."))]
    after = [work.folder / name for name in names]
    total = source.checkpoint.total_bytes + target.total_bytes * 2
    if source.division.adapter is not None:
        total += source.division.adapter.files.total_bytes
    with Bar("comparing", total, show=options.show_progress) as bar:
        comparison = Comparison(source.division, target, source.dtypes, bar.update)
        comparison.run()
        prompts = prompt_ids(encoded, source.rows, source.config.max_context)
        adapter = source.division.adapter
        # Only with an adapter, which is of weights whose norms are merged so: otherwise averages would not be seen.
        merge = "fold" if adapter is None else source.division.merge
        first = stream_logits(source.checkpoint, source.config, prompts, adapter=adapter, merge=merge)
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
        added = {} if adapter is None else {"adapter": _describe(adapter, bar.update)}
    hashes[0] |= {"tag": source.tag, "new_names": source.new_names}
    hashes[1]["folder"] = short_name(options.target)
    remains = comparison.remains()
    for text in remains:
        log.info(text)
    return {
        "equal": all(proof.exact for proof in comparison.tensors.values()),
        "remains": remains,
        "rules": comparison.summary(),
        "vocabulary": {"rows": source.own_rows, "padding": source.rows + source.division.padding - source.own_rows},
        "logits": {
            "largest_difference": largest,
            "same_most_likely_token": same,
            "positions": positions,
            "prompts": prompts,
        },
        "source": hashes[0],
        **added,
        "target": hashes[1],
        "tensors": comparison.to_json(),
        **({"config_json": dict(source.words)} if options.kind == "neox" and source.words else {}),
        "versions": {"neoxrun": __version__, "torch": str(torch.__version__)},
    }


def _describe(adapter: Adapter, progress: Callable[[int], None]) -> dict[str, Any]:
    """What was added to the weights, and how."""
    files = adapter.files
    return {
        "folder": short_name(files.folder),
        "base_model": files.config.base_model,
        "rule": "W + scale B A, in fp32 and rounded once",
        "scales": sorted({low_rank.scale for low_rank in adapter.low_rank.values()}),
        "files": checksums(files.paths, files.folder, progress),
    }


def describe_receipt(target: Path, receipt: Mapping[str, Any]) -> str:
    """The receipt in a sentence, for people."""
    files = receipt["target"]["files"]
    size = human_bytes(sum(file["bytes"] for file in files.values()))
    tensors = receipt["tensors"]
    equal = sum(tensor["equal"] for tensor in tensors)
    logits = receipt["logits"]
    padding = receipt["vocabulary"]["padding"]
    padded = f"its vocabulary ends with {counted(padding, 'zero row')}, which a softmax includes; " if padding else ""
    return (
        f"{target}: {counted(len(files), 'file')}, {size}; {equal} of {len(tensors)} tensors are bit-identical to the "
        f"source; the logits of {counted(logits['positions'], 'token')} differ by "
        f"{logits['largest_difference']:.2g} at most; {padded}{RECEIPT_NAME} has the proof"
    )
