"""Reading the state of GPT-NeoX's optimizer, which DeepSpeed has written: whole, or in ZeRO's flat parts.

The files are read as those of weights are: nothing in them is executed. The objects of DeepSpeed's own classes that
they hold become stand-ins.

Without ZeRO the parameters are numbered in the order in which GPT-NeoX puts the network's modules into two groups,
those that decay and the others (megatron/model/utils.py, get_params_for_weight_decay_optimization). With ZeRO 1 and 2
each group is one flat row of numbers, cut into equal parts for the data-parallel ranks; ``param_shapes`` of the mp_rank
file tells the order (deepspeed/utils/zero_to_fp32.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from neoxrun.checkpoint.files import StandIn, read_pickle
from neoxrun.checkpoint.neox_run import NeoxRun, not_continued
from neoxrun.config.tensors import Parameter, TensorKey, canonical, local_shape
from neoxrun.errors import CheckpointError

StateKind = Literal["master", "exp_avg", "exp_avg_sq"]
"""The parameter in fp32, which of GPT-NeoX's files only ZeRO's hold, and Adam's two means."""
SCALER: Final = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's scaling of fp16's loss remembers."""

_MEANS: Final[tuple[StateKind, ...]] = ("exp_avg", "exp_avg_sq")
_NAME: Final = re.compile(r"(?:sequential\.)?(\d+)\.(.+)|tied_modules\.embed\.(.+)")
# DeepSpeed's classes of which its files hold objects. Some versions of Python write a member of an enumeration as
# getattr(class, name).
_CLASSES: Final = (
    "builtins.getattr",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
_STAGES: Final = (1, "optimizer_states", 2, "gradients")
"""ZeRO's stages 1 and 2, by value or by name."""


class SavedSpan(NamedTuple):
    """A tensor's numbers among the flat parts of a group: those from ``start`` on, as a tensor of this shape."""

    parts: Sequence[Tensor]
    start: int
    shape: tuple[int, ...]

    @torch.no_grad()
    def read(self) -> Tensor:
        """The tensor, fp32."""
        begin, end, found = self.start, self.start + math.prod(self.shape), []
        for part in self.parts:
            if begin < len(part) and end > 0:
                found.append(part[max(0, begin) : end])
            begin, end = begin - len(part), end - len(part)
        return torch.cat(found).view(self.shape).float()


@dataclass(frozen=True)
class SavedOptimizer:
    """The optimizer's state of one tensor-parallel rank.

    Attributes:
        steps: that were applied.
        spans: where the state of each of the network's parameters is.
        scaler: of fp16's loss, under DeepSpeed's names; empty if it does not adapt.
    """

    steps: int
    spans: Mapping[TensorKey, Mapping[StateKind, SavedSpan]]
    scaler: Mapping[str, float]


def open_optimizer(run: NeoxRun, rank: int, table: Mapping[TensorKey, Parameter]) -> SavedOptimizer:
    """The state that a tensor-parallel rank of GPT-NeoX has saved. Tensors are mapped, and read when asked for.

    Args:
        run: the files.
        rank: which rank's.
        table: the tensors of the whole network, in the order of its layers.

    Raises:
        CheckpointError: a file is damaged or unsafe, or the state is not that of the network.
    """
    path = run.ranks[rank]
    shapes = {key: local_shape(key.name, entry, run.tp) for key, entry in table.items()}
    saved = read_pickle(path)
    try:
        found = _flat(run.parts[rank], saved, shapes) if run.parts else _whole(path, saved["optimizer"], shapes)
        steps = found.steps or int(saved["global_steps"]) - int(saved["skipped_steps"])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise not_continued(f"DeepSpeed's files have another form than is known here ({error!r})", path) from error
    if lacking := [key for key, entry in table.items() if entry.used and key not in found.spans]:
        raise not_continued(f"it lacks {lacking[0].name} of layer {lacking[0].layer}", path)
    if steps < 0:
        raise not_continued(f"it tells of {steps} steps", path)
    return replace(found, steps=steps)


def _whole(path: Path, saved: Mapping[str, Any], shapes: Mapping[TensorKey, tuple[int, ...]]) -> SavedOptimizer:
    state, groups = saved["state"], saved["param_groups"]
    exempt = [key for key in shapes if key.name.endswith("bias") or "norm" in key.name]
    keys = [[key for key in shapes if key not in exempt], exempt] if len(groups) > 1 else [list(shapes)]
    numbers = [group["params"] for group in groups]
    if [len(group) for group in numbers] != [len(group) for group in keys]:
        raise not_continued(f"it has groups of {[len(group) for group in numbers]} parameters", path)
    spans: dict[TensorKey, dict[StateKind, SavedSpan]] = {}
    for number, key in zip(chain.from_iterable(numbers), chain.from_iterable(keys), strict=True):
        if number in state:  # what the network does not use has no state
            for kind in _MEANS:
                tensor = _checked(state[number][kind], path)
                if tuple(tensor.shape) != shapes[key]:
                    raise _unlike(key, tuple(tensor.shape), shapes[key], path)
                spans.setdefault(key, {})[kind] = SavedSpan((tensor.flatten(),), 0, shapes[key])
    return SavedOptimizer(_steps(state.values(), groups), spans, {})


def _flat(
    paths: Sequence[Path], saved: Mapping[str, Any], shapes: Mapping[TensorKey, tuple[int, ...]]
) -> SavedOptimizer:
    parts = [read_pickle(path, stand_ins=_CLASSES)["optimizer_state_dict"] for path in paths]
    stage = parts[0].get("zero_stage", 1)
    if (stage.arguments[-1] if isinstance(stage, StandIn) else stage) not in _STAGES:
        raise not_continued("it was saved with ZeRO stage 3", paths[0])
    spans: dict[TensorKey, dict[StateKind, SavedSpan]] = {}
    for number, group in enumerate(saved["param_shapes"]):
        flat: dict[StateKind, list[Tensor]] = {
            "master": [_checked(part["single_partition_of_fp32_groups"][number], paths[0], flat=True) for part in parts]
        }
        for kind in _MEANS:
            flat[kind] = [_checked(_state_of(part, number)[kind], paths[0], flat=True) for part in parts]
        paddings = (parts[0].get("param_alignment_paddings") or {number: [0] * len(group)})[number]
        start = 0
        for (name, shape), padding in zip(group.items(), paddings, strict=True):
            key = _key(name, paths[0])
            if tuple(shape) != shapes.get(key):
                raise _unlike(key, tuple(shape), shapes.get(key), paths[0])
            spans[key] = {kind: SavedSpan(tensors, start, tuple(shape)) for kind, tensors in flat.items()}
            start += math.prod(shape) + max(0, padding)
        # Behind the last parameter there may be padding, which the fp32 weights have without theirs.
        spare = sum(part["group_paddings"][number] for part in parts)
        for kind, tensors in flat.items():
            if not 0 <= sum(map(len, tensors)) - start <= spare:
                raise not_continued(f"{kind} of group {number} has not as many numbers as its parameters", paths[0])
    states = [_state_of(parts[0], number) for number in range(len(saved["param_shapes"]))]
    base = parts[0]["base_optimizer_state"]
    groups = base["param_groups"] if isinstance(base, Mapping) else []
    return SavedOptimizer(_steps(states, groups), spans, _scaler(parts[0].get("loss_scaler")))


def _state_of(part: Mapping[str, Any], group: int) -> Mapping[str, Any]:
    """The state of a group's flat part: of torch's form, or, without its paddings, a list of the groups."""
    base = part["base_optimizer_state"]
    found: Mapping[str, Any]
    if isinstance(base, Mapping):
        found = base["state"][base["param_groups"][group]["params"][0]]
    else:
        found = base[group]
    return found


def _steps(states: Any, groups: Sequence[Mapping[str, Any]]) -> int:
    """The steps of all parameters, or of the groups, as fused optimizers have it; 0 if neither says it."""
    counts = {int(entry["step"]) for entry in [*states, *groups] if "step" in entry}
    if len(counts) > 1:
        raise ValueError(f"steps {sorted(counts)}")
    return counts.pop() if counts else 0


def _scaler(saved: object) -> dict[str, float]:
    """The numbers of a loss scaler that adapts, which has all of them."""
    values = {name: getattr(saved, name, None) for name in SCALER}
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    if not all(map(math.isfinite, numbers.values())) or numbers.get("cur_scale", 1) <= 0:
        raise ValueError(f"loss scaling by {numbers}")
    return numbers if len(numbers) == len(values) else {}


def _key(name: str, path: Path) -> TensorKey:
    """The key of a parameter of GPT-NeoX's network, by its name in it."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise not_continued(f"{name} is not the name of a parameter of GPT-NeoX", path)
    return TensorKey(0, match[3]) if match[3] else TensorKey(int(match[1]), canonical(match[2]))


def _checked(tensor: object, path: Path, *, flat: bool = False) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or not tensor.is_floating_point():
        raise not_continued(f"a {type(tensor).__name__} takes the position of its numbers", path)
    if flat and tensor.dim() != 1:
        raise not_continued(f"a tensor of shape {list(tensor.shape)} takes the position of a flat part", path)
    return tensor


def _unlike(key: TensorKey, found: tuple[int, ...], wanted: tuple[int, ...] | None, path: Path) -> CheckpointError:
    name = f"{key.name} of layer {key.layer}"
    if wanted is None:
        return not_continued(f"it has {name}, which the configuration does not", path)
    return not_continued(f"{name} has shape {list(found)} in it, and {list(wanted)} in the network", path)
