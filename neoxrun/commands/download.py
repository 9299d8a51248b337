"""``neoxrun download``: weights, tokenizers and task data that arrive whole."""

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

from neoxrun.commands import common
from neoxrun.config import reader as config
from neoxrun.download import catalog, listing, manifest, show, tasks, verify
from neoxrun.download import order as orders
from neoxrun.download.catalog import Catalog, Model
from neoxrun.download.fetch import folder_lock
from neoxrun.download.http import Options
from neoxrun.download.manifest import Manifest
from neoxrun.download.order import Order
from neoxrun.errors import Interrupted, NeoxrunError, UsageError
from neoxrun.evaluation.local_data import default_data_dir
from neoxrun.terminal.log import log
from neoxrun.terminal.words import counted

_JOBS = 4
_CHECKS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun download``."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="What to download: a name that --list shows, or OWNER/NAME of the Hugging Face hub. Default: 20B, the "
        "slim weights of GPT-NeoX-20B (41 GB).",
    )
    what = parser.add_argument_group("what, and where to")
    what.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="Download the data of these tasks, into the folder where evaluate looks, instead of a model. "
        "Default: none.",
    )
    what.add_argument(
        "--revision",
        metavar="R",
        help="Branch, tag or commit of a hub repository, such as step1000 of Pythia. Default: main.",
    )
    what.add_argument(
        "--to",
        type=common.path,
        metavar="DIR",
        help="Download into this folder. Default: where the model's configuration looks, for example "
        "./20B_checkpoints; evaluate's data folder with --tasks.",
    )
    what.add_argument("--list", action="store_true", help="Show every model and task that has a name, and stop.")
    what.add_argument("--dry-run", action="store_true", help="Show files, sizes and where they come from, and stop.")
    what.add_argument("--json", action="store_true", help="Print the result as one JSON object.")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="URL",
        help="Try this folder of a web server first; for a hub model, ask this hub instead, without your token. "
        "May be repeated. Default: the model's own mirrors.",
    )
    how.add_argument(
        "--jobs",
        type=common.positive,
        metavar="N",
        help=f"Files at a time. Default: {_JOBS}; to check a folder one a core, at most {_CHECKS}.",
    )
    how.add_argument(
        "--manifest",
        type=common.path,
        metavar="FILE",
        help="Check against the SHA-256 sums of this file: a neoxrun.manifest.json, or what sha256sum writes. "
        "Default: what is published, or what the first download recorded.",
    )
    how.add_argument(
        "--ca-bundle",
        type=common.path,
        metavar="FILE",
        help="Trust the certificates of this file. Default: the usual ones, or those of REQUESTS_CA_BUNDLE.",
    )
    again = parser.add_argument_group("a folder that is there already").add_mutually_exclusive_group()
    again.add_argument(
        "--verify",
        type=common.path,
        metavar="DIR",
        help="Check every file of this folder again, and fetch nothing. Default: none.",
    )
    again.add_argument(
        "--repair",
        type=common.path,
        metavar="DIR",
        help="Check every file of this folder, and fetch just those that are not right. Default: none.",
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    _check_usage(args)
    known = catalog.load()
    if args.list:
        _print(args, show.catalog_json(known), show.catalog_table(known))
        return 0
    given = manifest.read(args.manifest) if args.manifest else None
    mirrors = [catalog.mirror(url) for url in args.mirror]
    try:
        if args.verify or (args.repair and args.model is None):
            return _check_folder(args, known, given, mirrors)
        return _download(args, known, given, mirrors)
    except KeyboardInterrupt:  # while no file was under way
        raise Interrupted(
            "interrupted", hint="What has arrived is kept: give the same command again, and it goes on."
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
            f"{' and '.join(chosen)} do not go together", code="conflicting_options", hint="give one of them at a time"
        )
    for option in ("revision", "to", "dry_run"):
        if getattr(args, option) and (args.verify or args.repair or args.list):
            raise UsageError(f"--{option.replace('_', '-')} does not go with {chosen[0]}", code="conflicting_options")
    for name, value in (("MODEL", args.model), ("--revision", args.revision)):
        if value == "":
            raise UsageError(f"{name} is empty; is a shell variable not set?", code="invalid_value")
    if args.revision and args.tasks:
        raise UsageError(
            "--revision goes with a model of the Hugging Face hub, not with --tasks", code="conflicting_options"
        )


def _options(args: argparse.Namespace) -> Options:
    return Options(ca_bundle=args.ca_bundle)


def _download(args: argparse.Namespace, known: Catalog, given: Manifest | None, mirrors: list[str]) -> int:
    options, model = _options(args), None
    if args.tasks:
        folder = args.to.expanduser() if args.to else default_data_dir()
        order = tasks.of_tasks([known.task(name) for name in args.tasks], folder, options, mirrors)
        order = replace(order, files=tuple(orders.with_checksums(order.files, order.source, folder, given)))
    else:
        model = known.model(catalog.DEFAULT_MODEL if args.model is None else args.model)
        place = args.to or args.repair
        folder = place.expanduser() if place else orders.default_folder(model, args.revision)
        order = orders.of_model(model, folder, options, revision=args.revision, mirrors=mirrors, given=given)
    if args.dry_run:
        sizes = listing.told_sizes(order.files, order.options)
        _print(args, show.order_json(order, sizes), show.order_table(order, sizes))
        return 0
    size = show.total(file.size for file in order.files) or order.size
    about = "" if size is None else f"{show.human(size)}, "
    log.info(f"{order.name}: {counted(len(order.files), 'file')}, {about}into {folder}")
    done = orders.carry_out(order, jobs=args.jobs or _JOBS, show=args.verbosity >= 0)
    following = _next(order, model, args.tasks)
    if args.json:
        _write(json.dumps(show.done_json(order, done, following), indent=2))
        return 0
    there = len(done.arrivals) - len(done.fetched)
    fetched = show.human(sum(arrival.size for arrival in done.fetched))
    log.info(
        f"{counted(len(done.arrivals), 'file')} whole in {folder}: {len(done.fetched)} fetched ({fetched} in "
        f"{done.seconds:.0f} s), {there} there already; checksums in {done.manifest}"
    )
    if following:
        log.info(f"next: {following}")
    return 0


def _check_folder(args: argparse.Namespace, known: Catalog, given: Manifest | None, mirrors: list[str]) -> int:
    folder = (args.verify or args.repair).expanduser()
    # What is found wrong must still be wrong when it is fetched, and the manifest the one that was read.
    with folder_lock(folder) if args.repair and folder.is_dir() else nullcontext():
        return _check_held(args, folder, known, given, mirrors)


def _check_held(
    args: argparse.Namespace, folder: Path, known: Catalog, given: Manifest | None, mirrors: list[str]
) -> int:
    recorded = manifest.of_folder(folder)
    expected = given or recorded
    verdict = verify.verify(
        folder, expected, jobs=args.jobs or min(_CHECKS, os.cpu_count() or 1), show=args.verbosity >= 0
    )
    right = f"{counted(len(verdict.right), 'file')} right ({show.human(show.size_of(folder, verdict.right))})"
    if verdict.unrecorded:
        right += f", {len(verdict.unrecorded)} of them whole as far as they tell themselves: no checksum is recorded"
    log.info(f"{folder}: {right}, {len(verdict.wrong)} not right")
    if args.repair and verdict.wrong:
        # The folder's own manifest says where from, and the one given how it should be.
        base = recorded or manifest.Manifest()
        source = verify.Source(
            replace(base, files={**base.files, **given.files}) if given else base, known, mirrors, _options(args)
        )
        repaired = verify.repair(verdict, source, jobs=args.jobs or _JOBS, show=args.verbosity >= 0)
        left = [name for name in verdict.wrong if name not in repaired]
        _print(args, show.verdict_json(verdict, repaired), "")
        if repaired:
            log.info(f"{counted(len(repaired), 'file')} repaired: {', '.join(repaired[:5])}")
        if left:
            sys.stdout.flush()
            raise verify.left_alone(left, folder)
        return 0
    _print(args, show.verdict_json(verdict), show.verdict_table(verdict))
    if verdict.wrong:
        sys.stdout.flush()
        raise verify.refusal(verdict)
    return 0


def _next(order: Order, model: Model | None, task_names: list[str] | None) -> str | None:
    """The command to type next, where one can be known."""
    if task_names:
        elsewhere = order.folder.resolve() != default_data_dir().resolve()
        data = ["--data-dir", str(order.folder)] if elsewhere else []
        return shlex.join(["neoxrun", "evaluate", *data, "--tasks", *task_names])
    if model is None or model.config is None:
        return None
    words = ["neoxrun", "generate", model.config]
    try:
        looks_in = config.load([model.config]).checkpoint
    except NeoxrunError:  # one of the user's own that does not exist yet
        looks_in = None
    if looks_in is None or looks_in.resolve() != order.folder.resolve():
        words += ["--checkpoint", str(order.folder), "--tokenizer", str(order.folder / model.tokenizer)]
    return shlex.join([*words, "--prompt", "Once upon a time"])


def _print(args: argparse.Namespace, content: dict[str, Any], text: str) -> None:
    _write(json.dumps(content, indent=2) if args.json else text.removesuffix("\n"))


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text + "\n")
