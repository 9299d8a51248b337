"""What is asked of a training, and what becomes of it once replicas, data and memory are known. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from neoxrun.config.settings import Precision
from neoxrun.config.training import (
    DecayStyle,
    LossAverage,
    LossScaleConfig,
    ScheduleConfig,
    TrainingConfig,
    ZeroConfig,
)
from neoxrun.config.training_batch import BatchRequest
from neoxrun.errors import ConfigError

PARTS: Final = 10
"""Evaluations and checkpoints of a run where nothing says how many."""

MOST_EVAL_BATCHES: Final = 100


class RunSize(NamedTuple):
    """What the plan and the data decide.

    Attributes:
        steps: optimizer steps.
        rows: of a step.
        micro: rows of a pass on one replica.
        checkpoint_activations: whether activations are computed twice.
        valid_rows: rows to evaluate on; 0: none.
    """

    steps: int
    rows: int
    micro: int
    checkpoint_activations: bool
    valid_rows: int


@dataclass(frozen=True)
class TrainingRequest:
    """What a configuration and flags say; None: nothing, where the plan or the data decide then.

    Attributes:
        steps: ``train_iters``.
        epochs: passes over the data where ``steps`` is None.
        batch: rows of a step and of a pass.
        lr, min_lr, style: of the learning rate.
        warmup: share of the decay in which it rises.
        warmup_stated: the configuration gives it.
        decay_iters, decay_fraction: steps of the decay, or their share of all.
        betas, epsilon, weight_decay, gradient_clipping, loss_scale, fp32_gradients: as in ``TrainingConfig``.
        zero: None: as the precision and the replicas need.
        checkpoint_activations: None: if it does not fit otherwise.
        attention_dropout, hidden_dropout: probabilities.
        eval_interval, eval_iters: as in ``TrainingConfig``.
        save_interval, save_iters, save_powers: steps between checkpoints, further ones, and the base of those whose
            powers have one.
        keep: checkpoints besides the best; None: all.
        is_training: the configuration sets an optimizer, as GPT-NeoX needs it for training.
        loss_average, deterministic, stop_at_spike, seed: as in ``TrainingConfig``.
    """

    steps: int | None
    epochs: int
    batch: BatchRequest
    lr: float
    min_lr: float
    style: DecayStyle
    warmup: float
    warmup_stated: bool
    decay_iters: int | None
    decay_fraction: float | None
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    gradient_clipping: float
    loss_scale: LossScaleConfig
    fp32_gradients: bool
    zero: ZeroConfig | None
    checkpoint_activations: bool | None
    attention_dropout: float
    hidden_dropout: float
    eval_interval: int | None
    eval_iters: int | None
    save_interval: int | None
    save_iters: tuple[int, ...]
    save_powers: int | None
    keep: int | None
    is_training: bool
    seed: int
    loss_average: LossAverage = "tokens"
    deterministic: bool = False
    stop_at_spike: bool = True

    def zero_for(self, replicas: int, precision: Precision) -> ZeroConfig:
        """What is divided and offloaded.

        In 16 bits at least stage 1: at stage 0 DeepSpeed's optimizer takes a step on zero gradients first.
        """
        least = int(precision != "fp32")
        if self.zero is None:
            return ZeroConfig(max(least, int(replicas > 1)))
        return ZeroConfig(max(least, self.zero.stage), self.zero.offload_optimizer, self.zero.offload_parameters)

    def settle(self, size: RunSize, zero: ZeroConfig) -> tuple[TrainingConfig, list[str]]:
        """The training, and warnings about it.

        Raises:
            ConfigError: its learning rate is not possible.
        """
        schedule, warnings = self._schedule(size.steps)
        part = max(1, size.steps // PARTS)
        eval_iters = self.eval_iters
        if eval_iters is None:
            eval_iters = min(MOST_EVAL_BATCHES, max(1, size.valid_rows // size.rows))
        training = TrainingConfig(
            train_iters=size.steps,
            train_batch_size=size.rows,
            micro_batch_size=size.micro,
            schedule=schedule,
            betas=self.betas,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            gradient_clipping=self.gradient_clipping,
            loss_average=self.loss_average,
            zero=zero,
            loss_scale=self.loss_scale,
            fp32_gradients=self.fp32_gradients,
            checkpoint_activations=size.checkpoint_activations,
            attention_dropout=self.attention_dropout,
            hidden_dropout=self.hidden_dropout,
            eval_interval=part if self.eval_interval is None else self.eval_interval,
            eval_iters=eval_iters if size.valid_rows else 0,
            save_interval=part if self.save_interval is None else self.save_interval,
            save_iters=self._save_iters(size.steps),
            keep=self.keep,
            seed=self.seed,
            deterministic=self.deterministic,
            stop_at_spike=self.stop_at_spike,
        )
        return training, warnings

    def _schedule(self, steps: int) -> tuple[ScheduleConfig, list[str]]:
        decay = self.decay_iters
        if decay is None:
            decay = steps if self.decay_fraction is None else max(1, math.floor(steps * self.decay_fraction))
        rising, warnings = self.warmup * decay, []
        if 0 < rising < 1:
            if self.warmup_stated:
                warnings.append(
                    f"the warm-up is {rising:.2g} steps, for which GPT-NeoX would use {1 / rising:.3g} times the "
                    "learning rate in the first step; it is 1 step"
                )
            rising = 1.0
        if rising >= steps > 1:
            warnings.append(
                f"the learning rate never reaches its peak: it rises for {rising:.6g} steps, and the run has {steps}; "
                "--set lr_decay_iters=null fits the schedule to the run"
            )
        elif decay < steps and self.style == "cosine":
            warnings.append(
                f"past step {decay} the learning rate rises again, as the cosine of GPT-NeoX does, until step {steps}; "
                "--set lr_decay_iters=null fits the schedule to the run"
            )
        return ScheduleConfig(self.lr, self.min_lr, self.style, rising, decay), warnings

    def _save_iters(self, steps: int) -> tuple[int, ...]:
        further = {step for step in self.save_iters if 0 < step <= steps}
        power = self.save_powers
        while power is not None and power <= steps:
            further.add(power)
            power *= self.save_powers or 1
        return tuple(sorted(further))


def check_rates(lr: float, min_lr: float, where: str | None) -> None:
    """Refuse a learning rate below its own bound, as GPT-NeoX does.

    Raises:
        ConfigError: it is.
    """
    if min_lr > lr:
        raise ConfigError(
            f"min_lr {min_lr:g} is above the learning rate {lr:g}",
            code="conflicting_options",
            where=where,
            hint="Lower --min-lr, or raise --lr.",
        )
