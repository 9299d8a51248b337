"""What the optimizer keeps of each trained parameter, whole, whatever ZeRO divides over the data-parallel ranks.

DeepSpeed's own functions for this (``deepspeed.utils.safe_get_full_optimizer_state``) do without stage 0, know only the
first group of parameters at stages 1 and 2, and at stage 3 cannot set a parameter that does not divide evenly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neoxrun.checkpoint.neox_optimizer import SCALER, StateKind

KINDS: Final[tuple[StateKind, ...]] = get_args(StateKind)
"""The parameter in fp32, and AdamW's two means."""


class OptimizerState:
    """Access to the optimizer's state, which all data-parallel ranks use together.

    Args:
        optimizer: DeepSpeed's; at stage 0 torch's own.
        stage: of ZeRO.
    """

    def __init__(self, optimizer: Any, stage: int) -> None:
        self._outer, self._stage = optimizer, stage
        self._inner: Any = optimizer.optimizer if stage else optimizer

    @property
    def steps(self) -> int:
        """Steps that were applied: without those that fp16 left out."""
        states = [self._inner.state[part] for part in self._parts() if part in self._inner.state]
        return int(states[0]["step"]) if states else 0

    def prepare(self, steps: int) -> None:
        """Make room for the state, which there is none of before the first step.

        Args:
            steps: that were applied.
        """
        fused = any(group.get("fused") for group in self._inner.param_groups)
        for part in self._parts():
            self._inner.state[part] = {
                "step": torch.tensor(float(steps), device=part.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(part),
                "exp_avg_sq": torch.zeros_like(part),
            }

    def get(self, parameter: nn.Parameter, kind: StateKind) -> Tensor:
        """A parameter's state, fp32 and whole, on its device."""
        found: Tensor
        if self._stage == 0:
            found = parameter if kind == "master" else self._inner.state[parameter][kind]
            return found.detach().float()
        if self._stage == 3:
            found = self._outer.get_full_hp_param(parameter, None if kind == "master" else kind)
            return found.detach()
        found = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
        for own, start in self._fragment(parameter, kind):
            found.view(-1)[start : start + own.numel()].copy_(own)
        dist.all_reduce(found, group=parameter._dp_group)  # type: ignore[attr-defined]
        return found

    @torch.no_grad()
    def set(self, parameter: nn.Parameter, kind: StateKind, value: Tensor) -> None:
        """Set a parameter's state, of which each rank has all; with ``master`` the parameter itself, too."""
        if kind == "master" and self._stage < 3:
            parameter.copy_(value)
        if self._stage == 0:
            if kind != "master":
                self._inner.state[parameter][kind].copy_(value)
            return
        if self._stage == 3:
            self._set_divided(parameter, None if kind == "master" else kind, value)
            return
        for own, start in self._fragment(parameter, kind):
            own.copy_(value.flatten()[start : start + own.numel()])

    def get_scaler(self) -> dict[str, float]:
        """The state of fp16's loss scaling; empty for other formats."""
        scaler = self._scaler()
        return {} if scaler is None else {name: getattr(scaler, name) for name in SCALER}

    def set_scaler(self, values: dict[str, float]) -> None:
        """Set what ``get_scaler`` gave; nothing where this run scales no loss, or by a fixed factor."""
        if (scaler := self._scaler()) is not None:
            for name, value in values.items():
                setattr(scaler, name, value)

    def _scaler(self) -> Any:
        """DeepSpeed's loss scaler, if it adapts; else None."""
        scaler = getattr(self._outer, "loss_scaler", None)
        return scaler if getattr(scaler, "dynamic", False) else None

    def _parts(self) -> Iterator[Tensor]:
        """The tensors that the inner optimizer keeps state of."""
        if self._stage == 3:
            yield from self._outer.fp32_partitioned_groups_flat
        elif self._stage:
            yield from self._flat()
        else:
            for group in self._inner.param_groups:
                yield from group["params"]

    def _flat(self) -> list[Tensor]:
        """At stages 1 and 2: this rank's part of each group of parameters, fp32.

        Stage 1 with gradients in fp32 has an optimizer of its own in DeepSpeed.
        """
        outer = self._outer
        parts: list[Tensor] = (
            getattr(outer, "fp32_groups_flat_partition", None) or outer.single_partition_of_fp32_groups
        )
        return parts

    def _fragment(self, parameter: Any, kind: StateKind) -> Iterator[tuple[Tensor, int]]:
        """At stages 1 and 2: this rank's part of a parameter's state, if it has one, and where in it that begins."""
        mapping = parameter._hp_mapping
        if mapping is not None:
            flat: Tensor = self._flat()[mapping.param_group_index]
            source = flat.detach() if kind == "master" else self._inner.state[flat][kind]
            at = mapping.hp_fragment_address
            yield source[at.start : at.start + at.numel], mapping.lp_fragment_address.start

    def _set_divided(self, parameter: Any, key: str | None, value: Tensor) -> None:
        own: Tensor = self._outer._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=key
        )[0]
        start = own.numel() * self._outer._get_param_partition_rank(parameter)
        part = value.flatten()[start : start + own.numel()]
        own[: part.numel()].copy_(part)
        if key is None:
            parameter.ds_tensor[: part.numel()].copy_(part)
            if parameter.numel() == value.numel():  # a small one, which stays whole on each rank
                parameter.copy_(value)
