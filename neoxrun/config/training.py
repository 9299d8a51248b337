"""The typed, frozen settings of a fine-tuning, in GPT-NeoX's terms; ``config.training_reader`` makes them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DecayStyle = Literal["constant", "linear", "cosine", "exponential"]

LossAverage = Literal["tokens", "gpt-neox"]
"""``tokens``: the mean over all target tokens of a step. ``gpt-neox``: GPT-NeoX's mean of the micro-batches' means."""

LinearName = Literal["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over a run; ``training.schedule`` computes it.

    Attributes:
        lr: the peak.
        min_lr: below which it does not fall after the warm-up.
        style: how it falls.
        warmup_iters: steps until the peak, not rounded (GPT-NeoX's ``warmup * decay_iters``).
        decay_iters: steps until it has fallen.
    """

    lr: float
    min_lr: float
    style: DecayStyle
    warmup_iters: float
    decay_iters: int


@dataclass(frozen=True)
class ZeroConfig:
    """What DeepSpeed's ZeRO divides over the data-parallel ranks, and what it keeps in the host's memory.

    Attributes:
        stage: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too.
        offload_optimizer, offload_parameters: whether they are in the host's memory.
    """

    stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False


@dataclass(frozen=True)
class LossScaleConfig:
    """By what the loss is multiplied in fp16, so that small gradients do not become 0; as DeepSpeed has it.

    Attributes:
        fixed: the factor; 0: one that adapts, as the others say.
        initial_power: the first factor is 2 to this power.
        window: steps without an overflow until it doubles.
        hysteresis: overflows until it is halved.
        least: below which it does not fall.
    """

    fixed: float = 0.0
    initial_power: int = 16
    window: int = 1000
    hysteresis: int = 2
    least: float = 1.0


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al., 2021): ``W + (alpha / rank) B A``, with ``W`` frozen.

    Attributes:
        rank: rows of A and columns of B.
        alpha: the scale is ``alpha / rank``.
        dropout: probability, of the adapter's input.
        targets: the linear layers that have one, in all transformer layers, by their Hugging Face names.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[LinearName, ...] = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


@dataclass(frozen=True)
class DataConfig:
    """The rows that are trained on.

    Attributes:
        train, valid: files of texts, or prefixes of ``.bin`` and ``.idx`` pairs. ``valid`` may be empty.
        weights: of the files of ``train``, as GPT-NeoX's ``train_data_weights``; None: each as long as it is.
        valid_weights: of the files of ``valid``, in the same way.
        split: GPT-NeoX's ``split`` of the documents of ``train`` into train, valid and test; None: all are trained on.
        eval_stream: each evaluation takes the rows of ``valid`` that follow those of the one before, as in GPT-NeoX;
            otherwise all take the same.
        seq_length: tokens of a row that the network sees; a row has one more.
        packed: rows are cut from the documents one after the other, as GPT-NeoX does; otherwise one document a row.
        eod_mask_loss: the first token of a document, which follows an end of document, is not learned.
        seed: of the order.
        column: the key of a row that holds its text.
        document_end: what ends a document of a plain text; empty: the whole file is one.
    """

    train: tuple[Path, ...]
    valid: tuple[Path, ...] = ()
    weights: tuple[float, ...] | None = None
    valid_weights: tuple[float, ...] | None = None
    split: tuple[float, float, float] | None = None
    eval_stream: bool = False
    seq_length: int = 2048
    packed: bool = True
    eod_mask_loss: bool = False
    seed: int = 1234
    column: str = "text"
    document_end: str = ""


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        train_iters: optimizer steps.
        train_batch_size: rows of a step, over all data-parallel ranks and micro-batches.
        micro_batch_size: rows of a pass on one data-parallel rank.
        schedule: the learning rate.
        betas, epsilon, weight_decay: of AdamW.
        gradient_clipping: the largest global L2 norm of the gradients; 0: no bound.
        loss_average: what of a step's tokens the loss is the mean of.
        zero: what is divided and offloaded.
        loss_scale: of the loss, in fp16.
        fp32_gradients: in bf16, sum the gradients of a step's passes in fp32, and not in bf16.
        checkpoint_activations: compute the layers' activations again in the backward pass instead of keeping them.
        attention_dropout, hidden_dropout: probabilities.
        eval_interval: steps between evaluations; 0: only before the first step and after the last.
        eval_iters: batches of ``train_batch_size`` rows of an evaluation; 0: none.
        save_interval: steps between checkpoints; 0: only after the last step.
        save_iters: further steps after which there is one.
        keep: how many checkpoints are kept besides the best; None: all.
        seed: of dropout and of new adapters.
        deterministic: use deterministic kernels only.
        stop_at_spike: end the run where the loss jumps.
    """

    train_iters: int
    train_batch_size: int
    micro_batch_size: int
    schedule: ScheduleConfig
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    gradient_clipping: float = 1.0
    loss_average: LossAverage = "tokens"
    zero: ZeroConfig = ZeroConfig()
    loss_scale: LossScaleConfig = LossScaleConfig()
    fp32_gradients: bool = False
    checkpoint_activations: bool = False
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    eval_interval: int = 0
    eval_iters: int = 0
    save_interval: int = 0
    save_iters: tuple[int, ...] = ()
    keep: int | None = None
    seed: int = 1234
    deterministic: bool = False
    stop_at_spike: bool = True

    def accumulation_steps(self, data_parallel: int) -> int:
        """Micro-batches of a step on each of ``data_parallel`` ranks; the sizes are known to divide."""
        return self.train_batch_size // (self.micro_batch_size * data_parallel)
