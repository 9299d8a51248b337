"""From a command's plan to the job that its ranks get, and what people are told of the plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from neoxrun.checkpoint import fingerprint
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.config.settings import Settings
from neoxrun.download.origin import origin_of
from neoxrun.generation.lines import state_of
from neoxrun.launch.job import Job
from neoxrun.planning.decision import SplitRule
from neoxrun.planning.explain import explain_notes, explain_reason
from neoxrun.planning.plan import Plan
from neoxrun.terminal.log import log


def log_plan(plan: Plan) -> None:
    """Say what differs from what was asked for, and why this split was chosen if that is not obvious."""
    for note in explain_notes(plan):
        log.info(note)
    if plan.decision.rule is SplitRule.FASTEST:
        log.info(explain_reason(plan))


def describe_weights(args: argparse.Namespace, settings: Settings, plan: Plan) -> dict[str, Any]:
    """The description of the model that a command runs; see ``fingerprint.describe_checkpoint``.

    Weights that neoxrun has downloaded also have their ``repository`` and ``commit``.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found = None if args.random_weights else find_configured_checkpoint(settings)
    described = fingerprint.describe_checkpoint(
        settings,
        found,
        tp=plan.tp,
        pp=plan.pp,
        device_kind=plan.device_kind,
        dtype=plan.dtype,
    )
    return described | ({} if found is None else origin_of(found))


def job_for(
    args: argparse.Namespace,
    command: str,
    settings: Settings,
    plan: Plan,
    options: Any,
    *,
    kept: str,
    records: Path | None = None,
    lock: Path | None = None,
    replaces: bool = False,
    interactive: bool = False,
) -> Job:
    """The job of a command, with what every command passes on from its command line.

    See ``Job`` for the others; ``replaces``: what is in the file of records is another run's, and goes.
    """
    return Job(
        command,
        settings,
        plan,
        options,
        random_weights=args.random_weights,
        eager=args.eager,
        stall_timeout=args.stall_timeout or None,
        verbosity=args.verbosity,
        as_json=args.log_format == "json",
        node_rank=args.node_rank,
        rendezvous=args.rdzv_endpoint,
        interactive=interactive,
        kept=kept,
        records=records,
        lock=lock,
        replaced=state_of(records) if replaces and records is not None else None,
    )
