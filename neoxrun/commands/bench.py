"""``neoxrun bench``: measure what this machine gives."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

from neoxrun.benchmark.options import BenchOptions, check_comparison
from neoxrun.benchmark.reading import cached_share
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.commands import common, jobs
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Settings
from neoxrun.errors import UsageError
from neoxrun.generation.lines import AGAIN
from neoxrun.launch import launcher
from neoxrun.planning.plan import Plan
from neoxrun.planning.request import TYPICAL_PROMPTS
from neoxrun.terminal import streams
from neoxrun.terminal.plots import check_plot


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked now, then hand the job to the ranks. Does not return.

    Raises:
        NeoxrunError: the command line, the configuration, the checkpoint or the output are wrong.
    """
    started = _process_start()
    streams.check_stdout()
    if (args.replicas or 1) > 1:
        raise UsageError(
            "bench measures one replica",
            code="conflicting_options",
            hint="Leave out --replicas: each of several replicas is as fast, unless they share cores or a disk.",
        )
    args.replicas = 1
    if args.plot is not None:
        check_plot(args.plot)
    settings = common.settings_from_args(args)
    plan = common.plan_from_args(args, settings, common.devices_from_args(args), TYPICAL_PROMPTS)
    if args.compare is not None:
        check_comparison(settings.model, plan.world_size)
    if args.random_weights and plan.vocab_assumed:
        settings = _without_tokenizer(settings, plan)
    common.check_files(settings, random_weights=args.random_weights)
    if common.is_first(args):
        jobs.log_plan(plan)
    launcher.run_job(
        jobs.job_for(
            args,
            "bench",
            settings,
            plan,
            _options(args, settings, plan, started),
            kept=AGAIN,
        )
    )


def _options(args: argparse.Namespace, settings: Settings, plan: Plan, started: float) -> BenchOptions:
    checkpoint = None if args.random_weights else find_configured_checkpoint(settings)
    return BenchOptions(
        model=settings.title,
        parameters=plan.parameters,
        device=plan.devices[0].device_name,
        started=started,
        files=() if checkpoint is None else checkpoint.files,
        size=plan.weights_bytes if checkpoint is None else checkpoint.total_bytes,
        cached=0.0 if checkpoint is None else cached_share(checkpoint.files),
        eager=args.eager,
        json=args.json,
        plot=args.plot,
        compare=args.compare is not None,
    )


def _without_tokenizer(settings: Settings, plan: Plan) -> Settings:
    """The settings with the demo's tokenizer, and a vocabulary of the assumed size: no text is read or written."""
    multiple = plan.vocab_size // settings.model.model_parallel_size
    return replace(
        settings,
        model=replace(settings.model, make_vocab_size_divisible_by=multiple),
        tokenizer=load_settings(["demo"]).tokenizer,
    )


def _process_start() -> float:
    """When this process was started, in seconds since 1970."""
    values = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    since_boot = int(values[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
