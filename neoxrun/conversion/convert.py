"""`neoxrun convert`: write a checkpoint as another kind of folder, and prove that it is the same model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from neoxrun.checkpoint.merge import ADAPTER, describe_approximations
from neoxrun.checkpoint.writers import check_split
from neoxrun.config.settings import Precision
from neoxrun.config.tensors import TensorKey
from neoxrun.conversion.companions import write_companions
from neoxrun.conversion.configurations import refuse_for_hugging_face
from neoxrun.conversion.opened import OpenedSource, open_source
from neoxrun.conversion.options import RECEIPT_NAME, ConvertOptions
from neoxrun.conversion.proof import main_dtype, short_name
from neoxrun.conversion.receipt import describe_receipt, prove
from neoxrun.conversion.targets import HuggingFaceTarget, NeoxTarget, Target, missing_bytes, written_tensors
from neoxrun.conversion.workplace import Workplace, open_workplace
from neoxrun.model.dtypes import DTYPES
from neoxrun.terminal.log import log
from neoxrun.terminal.progress import Bar
from neoxrun.version import __version__


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
    source = open_source(options)
    if options.kind == "huggingface":
        refuse_for_hugging_face(source.config)
    check_split(source.config, options.tp)
    named = options.settings.checkpoint or source.checkpoint.folder  # a run's folder, or a step's
    if named.resolve() in options.target.resolve().parents:
        log.warning(f"{options.target} is inside the folder of the source, {named}")
    job = _job(options, source)
    with open_workplace(options.target, job) as work:
        if work.resumed:
            log.info(f"continuing in {work.folder}")
        written = _write_weights(options, source, work)
        settings = write_companions(options, source, work, written)
        receipt = prove(options, source, work, settings) | {"job": job}
        work.write_json(RECEIPT_NAME, receipt)
        work.publish(options.target.absolute())
    log.info(describe_receipt(options.target, receipt))
    return receipt


def _job(options: ConvertOptions, source: OpenedSource) -> dict[str, Any]:
    """What tells this conversion from others: an interrupted one continues only if all of it is the same."""
    adapter = source.division.adapter
    return {
        "source": short_name(source.checkpoint.folder),
        "files": [_identity(path) for path in source.checkpoint.files],
        **({} if adapter is None else {"adapter": [_identity(path) for path in adapter.files.paths]}),
        "network": asdict(source.config),
        "to": options.kind,
        "tp": options.tp,
        "rows": source.rows,
        "dtype": options.dtype,
        "merge": source.division.merge,
        "shard_size": options.shard_size if options.kind == "huggingface" else None,
        "version": __version__,
    }


def _identity(path: Path) -> list[str | int]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _write_weights(options: ConvertOptions, source: OpenedSource, work: Workplace) -> Precision:
    """Write what is missing of the weights; returns the number format of most of them."""
    tensors = written_tensors(source.table, source.dtypes, options.tp)
    target: Target
    if options.kind == "neox":
        target = NeoxTarget(work, source.tag, source.table, options.tp, new_names=source.new_names)
    else:
        target = HuggingFaceTarget(work, tensors, source.config.num_layers, options.shard_size)
    total = missing_bytes(target, tensors)
    work.require(total)
    approximated: set[str] = set()
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
                approximated |= source.division.read(assign, layers=wanted, rank=rank, dtype=dtype)
        target.finish()
    if ADAPTER in approximated:
        source_tp, merge = source.checkpoint.source_tp, source.division.merge
        log.warning(describe_approximations([ADAPTER], source_tp, merge, native=False)[0])
    return main_dtype(source.dtypes)
