"""The file of records that ``generate`` and ``score`` write: what makes it, and what is never written over."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from neoxrun.checkpoint import fingerprint
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import Settings
from neoxrun.generation import provenance, records
from neoxrun.generation.provenance import Provenance
from neoxrun.planning.plan import Plan


def sampling_keys(params: SamplingParams) -> dict[str, Any]:
    """Sampling parameters for a provenance, the seed next to them."""
    values = dict(vars(params))
    return {"seed": values.pop("seed"), "sampling": values}


def work_of(
    args: argparse.Namespace,
    command: str,
    settings: Settings,
    plan: Plan,
    input_checksum: str,
    how: Mapping[str, Any],
    model: str | None = None,
) -> Provenance:
    """What makes the records of this command line.

    Args:
        args: the command line.
        command: the command's name.
        settings: the configuration.
        plan: how the model runs.
        input_checksum: a checksum of the input.
        how: the options that the records depend on.
        model: tells the model from others; None: its files do.

    Raises:
        CheckpointError: a file of the checkpoint cannot be read.
    """
    where = " with ".join(str(folder) for folder in (settings.checkpoint, settings.adapter) if folder is not None)
    model = model or fingerprint.tell_apart(settings, random_weights=args.random_weights)
    if args.random_weights:
        where = fingerprint.random_name(settings, tp=plan.tp, pp=plan.pp, device_kind=plan.device_kind)
        model = hashlib.sha256(f"{model} {where}".encode()).hexdigest()[:16]
    return provenance.provenance_of(
        command,
        model=model,
        checkpoint=where,
        dtype=plan.dtype,
        input_checksum=input_checksum,
        how={"merge": settings.merge, **how},
    )


def check_work(
    args: argparse.Namespace,
    output: Path,
    made: Provenance,
    source: str | None,
    wanted: int,
    unfinished: Path | None = None,
    answered: Collection[str | int] = (),
) -> Provenance | None:
    """Refuse to replace or continue what other work has made, and warn of what is replaced.

    Args:
        args: the command line.
        output: the file of records.
        made: the work that is asked for.
        source: the input, if it has a name.
        wanted: how many records there are when all is done.
        unfinished: where records are as long as they are not all there, if it is another file.
        answered: ids of the prompts that have all their records.

    Returns:
        What the file's records will have been made by; None for a stream.

    Raises:
        NeoxrunError: other work made the records, an earlier run has left a part of them, or the file that tells it
            cannot be used.
    """
    if output.exists() and not output.is_file():
        return None
    if args.resume:
        anyway = getattr(args, "resume_anyway", None)
        hint = "Give the same options as before, or name another file with -o."
        if anyway is not None:
            hint += " --resume-anyway continues this one all the same."
        return provenance.check_continuing(
            output, made, source, unfinished, answered=answered, anyway=bool(anyway), hint=hint
        )
    if not args.overwrite:
        provenance.check_replacing(output, made, source, unfinished)
        records.refuse_unfinished(unfinished or output, wanted)
    records.warn_of_replacing(output)
    return made
