"""``neoxrun download``: weights, tokenizers and task data, each file complete and checked."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from neoxrun.config.reader import load_settings
from neoxrun.download import catalog, following, listing, manifest, models_file, show, tasks, urls, verify
from neoxrun.download import order as orders
from neoxrun.download.catalog import Catalog, Model
from neoxrun.download.fetch import folder_lock
from neoxrun.download.http import HttpOptions
from neoxrun.download.manifest import Manifest
from neoxrun.download.order import Order
from neoxrun.errors import Interrupted, NeoxrunError, UsageError
from neoxrun.evaluation.local_data import default_data_dir
from neoxrun.flags.download import CHECKS, JOBS
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted


def run(args: argparse.Namespace) -> int:
    """List, download, check or repair, as the arguments say.

    Raises:
        NeoxrunError: the command line is wrong, a file cannot be fetched, or a checked file is missing or wrong.
    """
    _check_usage(args)
    known = models_file.load_catalog()
    if args.list:
        _print(args, show.catalog_json(known), show.catalog_table(known))
        return 0
    given = manifest.read_manifest(args.manifest) if args.manifest else None
    mirrors = [urls.mirror_url(url) for url in args.mirror]
    try:
        if args.verify or (args.repair and args.model is None):
            return _check_folder(args, known, given, mirrors)
        return _download(args, known, given, mirrors)
    except KeyboardInterrupt:  # while no file was being downloaded
        raise Interrupted(
            "interrupted", hint="What has arrived is kept: run the same command again to resume."
        ) from None


def _check_usage(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    wanted = {
        "MODEL": args.model is not None and not args.repair,
        "--tasks": args.tasks is not None,
        "--list": args.list,
        "--verify": args.verify is not None,
        "--repair": args.repair is not None,
    }
    chosen = [name for name, given in wanted.items() if given]
    if len(chosen) > 1:
        raise UsageError(
            f"{' and '.join(chosen)} cannot be combined",
            code="conflicting_options",
            hint="Give one of them at a time.",
        )
    for option in ("revision", "variant", "to", "dry_run"):
        if getattr(args, option) and (args.verify or args.repair or args.list):
            flag = f"--{option.replace('_', '-')}"
            raise UsageError(
                f"{flag} cannot be combined with {chosen[0]}",
                code="conflicting_options",
                hint=f"Leave out {flag}.",
            )
    for name, value in (("MODEL", args.model), ("--revision", args.revision), ("--variant", args.variant)):
        if value == "":
            raise UsageError(
                f"{name} is empty",
                code="invalid_value",
                hint="Check that the shell variable in it is set.",
            )
    for flag, value in (("--revision", args.revision), ("--variant", args.variant)):
        if value and args.tasks:
            raise UsageError(
                f"{flag} is for models of the Hugging Face hub, not for --tasks",
                code="conflicting_options",
                hint=f"Leave out {flag}.",
            )


def _options(args: argparse.Namespace) -> HttpOptions:
    return HttpOptions(ca_bundle=args.ca_bundle)


def _download(args: argparse.Namespace, known: Catalog, given: Manifest | None, mirrors: list[str]) -> int:
    options, model = _options(args), None
    if args.tasks:
        folder = args.to.expanduser() if args.to else default_data_dir()
        order = tasks.order_tasks([known.task(name) for name in args.tasks], folder, options, mirrors)
        order = replace(order, files=tuple(orders.with_checksums(order.files, order.source, folder, given)))
    else:
        model = known.model(catalog.DEFAULT_MODEL if args.model is None else args.model)
        chosen = args.to or args.repair
        folder = chosen.expanduser() if chosen else orders.default_folder(model, args.revision)
        order = orders.order_model(
            model, folder, options, revision=args.revision, variant=args.variant, mirrors=mirrors, given=given
        )
    if args.dry_run:
        sizes = listing.ask_sizes(order.files, order.options)
        _print(args, show.order_json(order, sizes), show.order_table(order, sizes))
        return 0
    size = show.total_size(file.size for file in order.files) or order.size
    about = "" if size is None else f"{show.human_size(size)}, "
    log.info(f"{order.name}: {counted(len(order.files), 'file')}, {about}into {folder}")
    done = orders.carry_out_order(order, jobs=args.jobs or JOBS, show=args.verbosity >= 0)
    if args.json:
        _write(json.dumps(show.done_json(order, done, _next(order, model, args.tasks)), indent=2))
        return 0
    present = len(done.arrivals) - len(done.fetched)
    fetched = show.human_size(sum(arrival.size for arrival in done.fetched))
    log.info(
        f"{counted(len(done.arrivals), 'file')} complete in {folder}: {len(done.fetched)} downloaded ({fetched} in "
        f"{done.seconds:.0f} s), {present} already present; checksums in {done.manifest}"
    )
    if command := _next(order, model, args.tasks):
        log.info(f"next: {command}")
    return 0


def _check_folder(args: argparse.Namespace, known: Catalog, given: Manifest | None, mirrors: list[str]) -> int:
    folder = (args.verify or args.repair).expanduser()
    # Locked from the check to the repair, so that files and manifest do not change in between.
    with folder_lock(folder) if args.repair and folder.is_dir() else nullcontext():
        return _check_held(args, folder, known, given, mirrors)


def _check_held(
    args: argparse.Namespace, folder: Path, known: Catalog, given: Manifest | None, mirrors: list[str]
) -> int:
    recorded = manifest.read_folder_manifest(folder)
    expected = given or recorded
    verdict = verify.verify_folder(
        folder, expected, jobs=args.jobs or min(CHECKS, os.cpu_count() or 1), show=args.verbosity >= 0
    )
    size = show.human_size(show.size_on_disk(folder, verdict.right))
    log.info(f"{folder}: {counted(len(verdict.right), 'file')} correct ({size}), {len(verdict.wrong)} missing or wrong")
    if verdict.unrecorded:
        log.info(
            f"no checksum is recorded for {counted(len(verdict.unrecorded), 'file')}: complete, by their own contents"
        )
    # The folder's own manifest says where the files come from, the given one what they should be.
    base = recorded or manifest.Manifest()
    source = verify.RepairSource(
        replace(base, files={**base.files, **given.files}) if given else base, known, mirrors, _options(args)
    )
    if args.repair and verdict.wrong:
        repaired = verify.repair_folder(verdict, source, jobs=args.jobs or JOBS, show=args.verbosity >= 0)
        left = [name for name in verdict.wrong if name not in repaired]
        _print(args, show.verdict_json(verdict, repaired), "")
        if repaired:
            log.info(f"{counted(len(repaired), 'file')} repaired: {', '.join(repaired[:5])}")
        if left:
            sys.stdout.flush()
            raise verify.left_alone_error(left, folder)
        return 0
    _print(args, show.verdict_json(verdict), show.verdict_table(verdict))
    if verdict.wrong:
        sys.stdout.flush()
        raise verify.wrong_files_error(verdict, source)
    return 0


def _next(order: Order, model: Model | None, task_names: list[str] | None) -> str | None:
    """The command to type next; None if no command runs what has been downloaded, which a warning explains."""
    if task_names:
        elsewhere = order.folder.resolve() != default_data_dir().resolve()
        data = ["--data-dir", str(order.folder)] if elsewhere else []
        return shlex.join(["neoxrun", "evaluate", *data, "--tasks", *task_names])
    if model is None:
        return None
    if model.config is None:
        words = following.words_for_folder(order.folder, order.name)
    else:
        words = [model.config]
        try:
            looks_in = load_settings([model.config]).checkpoint
        except NeoxrunError:  # the user's configuration does not exist yet
            looks_in = None
        if looks_in is None or looks_in.resolve() != order.folder.resolve():
            words += ["--checkpoint", str(order.folder), "--tokenizer", str(order.folder / model.tokenizer)]
    return shlex.join(["neoxrun", "generate", *words, "--prompt", "Once upon a time"]) if words else None


def _print(args: argparse.Namespace, content: dict[str, Any], text: str) -> None:
    _write(json.dumps(content, indent=2) if args.json else text.removesuffix("\n"))


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text + "\n")
