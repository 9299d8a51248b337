"""``neoxrun plan``: what will run where, and what it needs."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from neoxrun.checkpoint.find import find_whole_checkpoint
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.commands import common, plan_finetune, plan_json
from neoxrun.config.settings import Settings
from neoxrun.errors import NeoxrunError, UsageError
from neoxrun.planning.cost import Rate
from neoxrun.planning.decision import Forecast
from neoxrun.planning.described import parse_devices
from neoxrun.planning.explain import explain_notes, explain_reason, two_digits
from neoxrun.planning.memory import MARGIN
from neoxrun.planning.plan import Plan, RankMemory
from neoxrun.planning.request import TYPICAL_PROMPTS, TYPICAL_TEXTS, Work
from neoxrun.terminal import streams
from neoxrun.terminal.words import counted, human_bytes

_WIDTH = 100
_HEADINGS = ("stage", "layers", "weights", "KV cache", "workspace", "total")


def run(args: argparse.Namespace) -> int:
    """Print the plan on stdout.

    Raises:
        NeoxrunError: there is no such plan, or, after it, what is wrong with the checkpoint's files.
    """
    streams.check_stdout()
    if args.devices is None:
        found = common.devices_from_args(args)
    elif args.gpus is not None:
        raise UsageError(
            "--gpus chooses among the GPUs of this machine, but --devices describes another",
            code="conflicting_options",
        )
    else:
        found = parse_devices(args.devices, args.device or "cuda")
    plan_finetune.check_flags(args)
    if args.finetune:
        with _refusal_as_json(args):
            sys.stdout.write(plan_finetune.describe(args, found) + "\n")
        return 0
    settings = common.settings_from_args(args)
    work = _work(args, settings.model.max_context)
    with _refusal_as_json(args):
        plan = common.plan_from_args(args, settings, found, work, exact=args.score)
    checkpoint, problem = _look_at_checkpoint(settings)
    absent = problem is not None and problem.code in ("missing_checkpoint", "incomplete_configuration")
    notes = [] if checkpoint is None else _notes_on_norms(settings, checkpoint.source_tp, plan.tp)
    if problem is not None and absent and _is_named(args, settings):
        notes.append(f"weights: {problem.message}")
    if args.json:
        text = json.dumps(plan_json.to_json(plan, notes), indent=2)
    else:
        text = render(plan, settings.title, notes)
    sys.stdout.write(text + "\n")
    if problem is not None and not absent:  # a plan needs no weights
        sys.stdout.flush()
        raise problem
    return 0


@contextmanager
def _refusal_as_json(args: argparse.Namespace) -> Iterator[None]:
    """With ``--json`` a refusal is an object on stdout, too."""
    try:
        yield
    except UsageError as error:
        if args.json:
            sys.stdout.write(json.dumps(plan_json.refusal_json(error), indent=2) + "\n")
        raise


def _work(args: argparse.Namespace, context: int) -> Work:
    if args.score and args.maximum_tokens:
        raise UsageError("--score and --maximum-tokens cannot be combined", code="conflicting_options")
    for option, tokens in (("--prompt-tokens", args.prompt_tokens), ("--maximum-tokens", args.maximum_tokens)):
        if tokens and tokens >= context:
            raise UsageError(
                f"{option} {tokens}: the context holds {context} tokens, prompt and answer together",
                code="invalid_value",
            )
    work = TYPICAL_TEXTS if args.score else TYPICAL_PROMPTS
    return Work(
        args.prompts or work.prompts,
        args.prompt_tokens or work.prompt_tokens,
        args.maximum_tokens or work.new_tokens,
        args.maximum_tokens or work.longest_answer,
    )


def _look_at_checkpoint(settings: Settings) -> tuple[Checkpoint | None, NeoxrunError | None]:
    """The checkpoint, if it is here, and what `generate` would refuse of its files, as far as that is quick to see."""
    try:
        return find_whole_checkpoint(settings), None
    except NeoxrunError as error:
        return None, error


def _is_named(args: argparse.Namespace, settings: Settings) -> bool:
    """Whether weights are expected: their folder exists or was named, unlike that of a model one only thinks about."""
    return args.checkpoint is not None or (settings.checkpoint is not None and settings.checkpoint.exists())


def _notes_on_norms(settings: Settings, source_tp: int, tp: int) -> list[str]:
    """What loading does with norms that may differ between ranks: a note, if the checkpoint has another tp.

    Whether they differ is in the files, whose tensors a plan does not read.
    """
    if source_tp in (1, tp):
        return []
    where = f"where the checkpoint's {source_tp} tensor-parallel ranks differ"
    if settings.merge == "average":
        return [f"norms: averaged {where}, which changes the results a little; --merge fold does not"]
    tied = "; the final norm is averaged, as the head is tied" if settings.model.tie_embeddings else ""
    return [f"norms: folded into the weights that read them {where}, which is exact but for rounding{tied}"]


def render(plan: Plan, name: str, more_notes: Sequence[str] = ()) -> str:
    """The plan for people.

    Args:
        plan: what to show.
        name: what to call the model.
        more_notes: besides the plan's.
    """
    noun = "GPU" if plan.device_kind == "cuda" else "CPU rank"
    where = counted(plan.world_size, noun) + (f" of {plan.nnodes} hosts" if plan.nnodes > 1 else "")
    facts = [
        ("context", f"{plan.max_context} tokens at most"),
        ("batch", f"{counted(plan.max_batch, 'sequence')} of that length at most, in each replica"),
        ("KV cache", f"{human_bytes(plan.kv_bytes_per_token * plan.max_context)} for each such sequence"),
        ("margin", f"{MARGIN:.0%} of the free memory is left unused"),
        ("host memory", f"{human_bytes(plan.host_peak_bytes)} at most for each rank while it loads"),
    ]
    if plan.decision.forecast is not None:
        facts.append(("speed", _speed(plan.decision.forecast, plan)))
        if rates := plan.decision.forecast.rates:
            facts.append(("expected", _expected(rates)))
    if plan.device_kind == "cpu":
        ranks = plan.world_size // plan.nnodes
        free = f"{human_bytes(plan.devices[0].free_bytes * ranks)} free, shared by {counted(ranks, 'rank')}"
        facts.append(("", free))
    notes = [*explain_notes(plan), *more_notes]
    lines = [
        f"{name}: {plan.parameters:,} parameters in {plan.dtype}",
        f"tensor parallel {plan.tp} x pipeline {plan.pp} x replicas {plan.replicas}, on {where}",
        "",
        *_table(plan),
        "",
        *(f"{label:<13}{text}" for label, text in facts),
        "",
        *(f"note: {note}" for note in notes),
        *([""] if notes else []),
        textwrap.fill(explain_reason(plan), _WIDTH),
    ]
    return "\n".join(lines)


def _speed(forecast: Forecast, plan: Plan) -> str:
    speed = forecast.speed
    bandwidth, operations = speed.bytes_per_second / 1e12, speed.flops(plan.precisions.compute) / 1e12
    whose = f"as listed for the {speed.name}" if forecast.listed else f"assumed to be those of the {speed.name}"
    return f"{bandwidth:.3g} TB/s and {operations:.3g} TFLOP/s, {whose}; {speed.link.name}"


def _expected(rates: Sequence[Rate]) -> str:
    """``about 69 tokens/s for 1 sequence at a time, 1,100 for 16``: two digits, since it is an estimate."""
    texts = [f"{two_digits(rate.tokens_per_second)} for {rate.sequences}" for rate in rates[1:]]
    first = f"about {two_digits(rates[0].tokens_per_second)} tokens/s for {counted(rates[0].sequences, 'sequence')}"
    return ", ".join([f"{first} at a time", *texts]) + " (estimated)"


def _table(plan: Plan) -> list[str]:
    device = "device" if plan.replicas == 1 else "device of replica 1"
    free = "free" if plan.device_kind == "cuda" else "share of free"
    rows = [("rank", device, *_HEADINGS, free), *(_row(plan, device) for device in plan.devices)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(plan: Plan, rank: RankMemory) -> tuple[str, ...]:
    device = f"GPU {rank.device}" if plan.device_kind == "cuda" else "CPU"
    device += f", {rank.device_name}"
    if plan.nnodes > 1:
        device = f"host {rank.node}, {device}"
    return (
        str(rank.rank),
        device,
        str(rank.stage),
        f"{rank.first_layer}-{rank.first_layer + rank.num_layers - 1}",
        human_bytes(rank.weights_bytes),
        human_bytes(rank.kv_cache_bytes),
        human_bytes(rank.workspace_bytes),
        human_bytes(rank.total_bytes),
        human_bytes(rank.free_bytes),
    )
