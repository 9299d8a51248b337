"""The first look at a fine-tuning, before anything is loaded: what it trains, on what, how long, in how much memory."""

from __future__ import annotations

from neoxrun.config.training import DataConfig, TrainingConfig
from neoxrun.planning.explain import two_digits
from neoxrun.planning.finetune import FinetunePlan, zero_words
from neoxrun.terminal.words import counted, human_bytes

_MINUTE, _HOUR = 60, 3600


def describe_training(found: FinetunePlan) -> str:
    """``whole model: 1,011,781,632 parameters in bf16``, or how many of them an adapter has."""
    sizing = found.sizing
    if sizing.lora is None:
        return f"the whole model, {sizing.parameters:,} parameters in {sizing.precision}"
    adapter = f"an adapter of rank {sizing.lora.rank}, {sizing.trained:,} parameters"
    return f"{adapter}, of a model of {sizing.parameters:,} in {sizing.precision}"


def describe_split(found: FinetunePlan) -> str:
    """``tensor parallel 1 x replicas 2, ZeRO 1; 8 rows of 2048 tokens a step, in passes of 2``."""
    share, batch = found.share, found.batch
    again = ", activations computed twice" if share.recompute else ""
    passes = batch.share // share.micro
    each = f"{passes} pass{'es' * (passes != 1)} of {share.micro}"
    replicas = " on each replica" if share.replicas > 1 else ""
    return (
        f"tensor parallel {share.tp} x replicas {share.replicas}, {zero_words(share.zero)}{again}; "
        f"{counted(batch.rows, 'row')} of {found.sizing.seq_length} tokens a step, in {each}{replicas}"
    )


def describe_memory(found: FinetunePlan) -> str:
    """``12.3 GB of 80.0 GB free on each GPU: weights 2.0 GB, ...``."""
    need, free = found.need, found.plan.devices[0].free_bytes
    parts = {
        "weights": need.weights,
        "gradients": need.gradients,
        "optimizer": need.optimizer,
        need.working[0]: need.working[1],
        "runtime": need.runtime,
    }
    listed = ", ".join(f"{name} {human_bytes(size)}" for name, size in parts.items() if size)
    device = "GPU" if found.sizing.kind == "cuda" else "rank"
    host = f"; {human_bytes(need.host)} of host memory for each" if need.host else ""
    return f"{human_bytes(need.total)} of {human_bytes(free)} free on each {device}: {listed}{host} (estimated)"


def describe_data(documents: int, tokens: int, epoch_rows: int, valid_rows: int) -> str:
    """``44 documents, 8,603 tokens, 134 rows; 12 rows to evaluate on``."""
    text = f"{_counted(documents, 'document')} of {_counted(tokens, 'token')}, {_counted(epoch_rows, 'row')}"
    return f"{text}; {_counted(valid_rows, 'row')} to evaluate on" if valid_rows else text


def data_warnings(data: DataConfig, documents: int, epoch_rows: int, valid_rows: int, rows: int) -> list[str]:
    """What of the data is unlikely to be meant.

    Args:
        data: as configured.
        documents: that are trained on.
        epoch_rows: rows that they make once.
        valid_rows: rows to evaluate on.
        rows: of a step.
    """
    warnings = []
    if data.split is not None and data.split[1] and not valid_rows:
        found = _counted(documents, "document")
        warnings.append(f"split leaves none of {found} to evaluate on: it divides documents, and these are too few")
    if rows > epoch_rows:
        warnings.append(
            f"a step has {_counted(rows, 'row')}, and the data make {epoch_rows:,}: each step sees them "
            f"{rows / epoch_rows:.3g} times; a lower --batch-size changes that"
            + (", and a lower --seq-length makes more rows" if data.packed else "")
        )
    return warnings


def describe_length(training: TrainingConfig, epoch_rows: int, seq_length: int) -> str:
    """``16 steps, 0.96 epochs, 65,536 tokens; learning rate 1e-05, ...``."""
    rows = training.train_iters * training.train_batch_size
    schedule = training.schedule
    warmup = schedule.warmup_iters
    rising = f", {warmup:.4g} step{'s' * (warmup != 1)} of warm-up" if warmup else ""
    falling = "" if schedule.style == "constant" else f", {schedule.style} to {schedule.min_lr:.3g}"
    return (
        f"{counted(training.train_iters, 'step')}, {rows / epoch_rows:.2f} epochs, {rows * seq_length:,} tokens; "
        f"learning rate {schedule.lr:.3g}{falling}{rising}"
    )


def describe_speed(found: FinetunePlan, training: TrainingConfig | None = None, done: int = 0) -> str | None:
    """``about 3,900 tokens/s, 2.1 hours with 11 evaluations (estimated)``; None where the speed is not known.

    Args:
        found: the plan.
        training: the run; None: only the speed.
        done: steps that it has behind it.
    """
    rate = found.tokens_per_second
    if rate is None:
        return None
    text = f"about {two_digits(rate)} tokens/s"
    if training is not None:
        step = training.train_batch_size * found.sizing.seq_length
        evaluations = _evaluations(training, done)
        # Forward is a third of a step, and half of one in which most weights are frozen.
        forward = 1 / 3 if found.sizing.lora is None else 1 / 2
        tokens = step * (training.train_iters - done + evaluations * training.eval_iters * forward)
        text += f", {_duration(tokens / rate)}"
        text += f" with {counted(evaluations, 'evaluation')}" if evaluations else ""
    return f"{text} (estimated)"


def _evaluations(training: TrainingConfig, done: int) -> int:
    """How many there are: before the first step, after the last, and between."""
    if not training.eval_iters or done >= training.train_iters:
        return 0
    between = 0
    if training.eval_interval:
        between = (training.train_iters - 1) // training.eval_interval - done // training.eval_interval
    return (2 if done == 0 else 1) + between


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} minutes"
    return f"{seconds / _HOUR:.1f} hours"
