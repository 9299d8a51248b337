"""DeepSpeed's engine over the data-parallel ranks; nothing else imports it.

DeepSpeed's defaults are not all what a user would expect, and these are avoided here: it compiles an extension when it
starts on a CPU, it logs to stdout, it clips gradients unless told otherwise, and in 16 bits without ZeRO its optimizer
makes one step before the first.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from neoxrun.config.settings import Precision
from neoxrun.config.training import TrainingConfig
from neoxrun.engine.pulse import Pulse
from neoxrun.errors import UsageError
from neoxrun.parallel.mesh import Mesh
from neoxrun.training.fp16 import check_fp16
from neoxrun.training.network import LanguageModel
from neoxrun.training.optimizer import build_optimizer


class MicroBatch(NamedTuple):
    """Rows of one pass on this rank's device.

    Attributes:
        number: in the run, over all data-parallel ranks; dropout follows from it.
        ids, targets: int64 ``[B, T]``.
        weights: fp32 ``[B, T]``; see ``LanguageModel``.
    """

    number: int
    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


class Update(NamedTuple):
    """What an optimizer step did.

    Attributes:
        loss: fp32 scalar on the host, the mean over all data-parallel ranks and micro-batches.
        grad_norm: global L2 norm of the gradients, before clipping; NaN where one of them is not finite.
        applied: False where one is not finite, so that the step was left out and, in fp16, the loss scale lowered.
        exhausted: the step was left out in fp16, although the loss scale can fall no further.
        parts: on the host, the losses of this rank's micro-batches, each the mean over its learned tokens.
    """

    loss: torch.Tensor
    grad_norm: float
    applied: bool
    exhausted: bool
    parts: torch.Tensor


@dataclass(frozen=True)
class _ModelParallelUnit:
    """The groups of a rank, as DeepSpeed asks for them; without, tensor-parallel ranks would count as data-parallel."""

    tensor: dist.ProcessGroup
    data: dist.ProcessGroup

    def get_model_parallel_rank(self) -> int:
        """Within the tensor-parallel group."""
        return dist.get_rank(self.tensor)

    def get_model_parallel_world_size(self) -> int:
        """Of the tensor-parallel group."""
        return dist.get_world_size(self.tensor)

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """The tensor-parallel group."""
        return self.tensor

    def get_data_parallel_rank(self) -> int:
        """Within the data-parallel group."""
        return dist.get_rank(self.data)

    def get_data_parallel_world_size(self) -> int:
        """Of the data-parallel group."""
        return dist.get_world_size(self.data)

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """The data-parallel group."""
        return self.data


class DeepSpeedEngine:
    """A model, its optimizer, and what ZeRO divides of them.

    Args:
        model: with the parameters that are trained requiring gradients; on its device.
        mesh: this rank among the others; all ranks make their engine together.
        data_group: of ``parallel.mesh.data_parallel_group``.
        training: the settings.

    Attributes:
        model: the module; with ZeRO stage 3 its parameters are divided.
        stage: of ZeRO, as used: 16 bits need at least 1.
        pulse: around each pass through the network, with what in it waits for other ranks or a device.

    Raises:
        UsageError: DeepSpeed is not installed, or this CPU has no fp16.
    """

    def __init__(
        self, model: LanguageModel, mesh: Mesh, data_group: dist.ProcessGroup, training: TrainingConfig
    ) -> None:
        self.model, self._data_group, self._clipping = model, data_group, training.gradient_clipping
        self.pulse = Pulse()
        precision = model.stage.precisions.weights
        self.stage = training.zero.stage if precision == "fp32" else max(1, training.zero.stage)
        deepspeed = _import_deepspeed(mesh.device)
        check_fp16(precision, mesh.device.type)
        self._mpu = _ModelParallelUnit(mesh.tp_group or data_group, data_group)
        optimizer = build_optimizer(model, training, fused=mesh.device.type == "cuda")
        self._engine: Any = deepspeed.initialize(
            args=SimpleNamespace(device_rank=mesh.device.index or 0),
            model=model,
            optimizer=optimizer,
            mpu=self._mpu,
            dist_init_required=False,
            config=_deepspeed_config(training, mesh, precision, self.stage),
        )[0]
        if precision == "fp16":
            # At the least scale it would raise a plain Exception, of which ``Update.exhausted`` tells.
            self._engine.optimizer.loss_scaler.raise_error_at_min_scale = False

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's optimizer; at stage 0 torch's own."""
        return self._engine.optimizer

    @property
    def loss_scale(self) -> float | None:
        """With which fp16 is computed; None for other formats."""
        fp16 = self.model.stage.precisions.weights == "fp16"
        return float(self._engine.optimizer.loss_scaler.cur_scale) if fp16 else None

    def step(self, batches: Iterable[MicroBatch], rate: float) -> Update:
        """One optimizer step, at this learning rate, on as many micro-batches as the settings say."""
        engine, norm, at_least_scale = self._engine, None, self._at_least_scale
        losses: list[torch.Tensor] = []
        learned: list[torch.Tensor] = []
        self._engine.train()
        for batch in batches:
            with self.pulse:
                losses.append(self._pass(batch).detach())
                learned.append(batch.weights.sum())
                # The gradients of the whole step are summed over the ranks in the last backward pass.
                last = engine.is_gradient_accumulation_boundary()
                if last:
                    for group in engine.optimizer.param_groups:
                        group["lr"] = rate
                    norm = self._clip() if self.stage == 0 else None
                engine.step()
        assert last, "fewer micro-batches than a step has"
        if norm is None:
            norm = engine.get_global_grad_norm()
        applied = bool(engine.was_step_applied())
        weighted, weights = torch.stack(losses), torch.stack(learned)
        parts = torch.where(weights > 0, weighted / weights, weighted)
        with self.pulse:
            loss, parts = self.mean(weighted.mean()).cpu(), parts.cpu()
        exhausted = at_least_scale and not applied
        return Update(loss, float(norm) if applied else float("nan"), applied, exhausted, parts)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[MicroBatch]) -> torch.Tensor:
        """The losses of micro-batches, without dropout, fp32 ``[batches]`` on the host.

        They are means over the data-parallel ranks.
        """
        self._engine.eval()
        losses = []
        for batch in batches:
            with self.pulse:
                losses.append(self._engine(batch.ids, batch.targets, batch.weights))
        with self.pulse:
            return self.mean(torch.stack(losses)).cpu()

    @torch.no_grad()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """This rank's logits of the token after ``ids``, int64 ``[1, T]``: ``[1, V / tp]``."""
        self._engine.eval()
        with self.pulse:
            logits: torch.Tensor = self._engine(ids)
        return logits

    @contextmanager
    def whole(self, *parameters: torch.nn.Parameter) -> Iterator[None]:
        """Within this, the parameters have all their numbers on every rank, which with ZeRO stage 3 they else do not.

        All ranks enter it together.
        """
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(list(parameters), enabled=self.stage == 3):
            yield

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the data-parallel ranks."""
        dist.all_reduce(x, group=self._data_group)
        return x / dist.get_world_size(self._data_group)

    @property
    def _at_least_scale(self) -> bool:
        """Whether fp16's loss scale, if it adapts, cannot fall at the next overflow."""
        if self.loss_scale is None:
            return False
        scaler = self._engine.optimizer.loss_scaler
        lowers = scaler.dynamic and 1 in (scaler.delayed_shift, scaler.cur_hysteresis)
        return bool(lowers and scaler.cur_scale <= scaler.min_scale)

    def _pass(self, batch: MicroBatch) -> torch.Tensor:
        form = self.model.stage.form
        assert form is not None
        form.dropout.begin(batch.number)
        loss: torch.Tensor = self._engine(batch.ids, batch.targets, batch.weights)
        self._engine.backward(loss)
        return loss

    def _clip(self) -> float:
        """Clip the gradients at stage 0, where DeepSpeed's engine would do the same and not tell their norm."""
        from deepspeed.runtime.utils import clip_grad_norm_

        return float(clip_grad_norm_(self.model.parameters(), self._clipping or math.inf, mpu=self._mpu))


def _import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # or it looks for GPUs, and says on stdout that there are none
    os.environ.setdefault("LOCAL_RANK", "0")  # it insists, although it is told the device
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # of what it calls
    try:
        import deepspeed
        from deepspeed.utils.logging import logger
    except ImportError as error:
        raise UsageError(
            "fine-tuning needs DeepSpeed and megatron-core, which are not installed",
            code="missing_package",
            hint="Install them: pip install 'neoxrun[finetune]'.",
        ) from error
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stderr  # setStream would flush what may be closed by now
    logger.setLevel("ERROR")
    # An all-reduce through shared memory, which would be compiled when the engine starts.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It prints the memory that is in use to stdout.
    deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda *_, **__: None
    return deepspeed


def _deepspeed_config(training: TrainingConfig, mesh: Mesh, precision: Precision, stage: int) -> dict[str, Any]:
    host = {"device": "cpu", "pin_memory": mesh.device.type == "cuda"}
    zero: dict[str, Any] = {"stage": stage}
    scale = training.loss_scale
    if training.zero.offload_optimizer and stage:
        zero["offload_optimizer"] = host
    if training.zero.offload_parameters and stage == 3:
        zero["offload_param"] = host
    accumulation = training.accumulation_steps(mesh.replicas)
    fp32 = training.fp32_gradients and precision == "bf16" and accumulation > 1
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "data_types": {"grad_accum_dtype": "fp32"} if fp32 else {},
        "gradient_clipping": training.gradient_clipping if stage else 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {
            "enabled": precision == "fp16",
            "loss_scale": scale.fixed,
            "initial_scale_power": scale.initial_power,
            "loss_scale_window": scale.window,
            "hysteresis": scale.hysteresis,
            "min_loss_scale": scale.least,
        },
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled
    }
