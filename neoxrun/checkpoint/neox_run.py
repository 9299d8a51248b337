"""What GPT-NeoX has left in a checkpoint for its run to be continued, and whether it can be here. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.checkpoint.layout import Checkpoint, list_names
from neoxrun.checkpoint.missing import refuse_missing
from neoxrun.config.foreign import is_zero3
from neoxrun.config.saved_args import read_without_tensors
from neoxrun.config.settings import Settings
from neoxrun.errors import CheckpointError, UsageError
from neoxrun.terminal.words import counted

_RANK: Final = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_PART: Final = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_ADAM: Final = {"betas": "betas", "eps": "epsilon", "weight_decay": "weight_decay"}
_WEIGHTS_ONLY: Final = (
    "Set finetune: true (--set finetune=true) to train from the checkpoint's weights, from step 1, without that state."
)


@dataclass(frozen=True)
class NeoxRun:
    """A run of GPT-NeoX up to one of its checkpoints.

    Attributes:
        folder: the checkpoint, a ``global_step<N>`` folder.
        iteration: steps that it has behind it.
        ranks: the ``mp_rank`` file of each tensor-parallel rank.
        parts: with ZeRO, the files of each tensor-parallel rank's optimizer, in the order of the data-parallel ranks.
        schedule: of the learning rate, as GPT-NeoX saves it; empty if it has not.
        rows: of a step; None if the files do not tell.
        adam: what the files tell of AdamW's ``betas``, ``epsilon`` and ``weight_decay``.
    """

    folder: Path
    iteration: int
    ranks: tuple[Path, ...]
    parts: tuple[tuple[Path, ...], ...]
    schedule: Mapping[str, Any]
    rows: int | None = None
    adam: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tp(self) -> int:
        """Tensor-parallel size."""
        return len(self.ranks)

    def check_steps(self, steps: int) -> None:
        """Refuse to continue up to a step that was made already.

        Raises:
            UsageError: nothing is left to be trained.
        """
        if steps <= self.iteration:
            raise UsageError(
                f"GPT-NeoX's run has {counted(self.iteration, 'step')} already, and {steps} are asked for",
                code="conflicting_options",
                where=str(self.folder),
                hint=f"Give more than {self.iteration} with --steps. {_WEIGHTS_ONLY}",
            )

    def row_warnings(self, rows: int) -> list[str]:
        """What to tell people of other rows in a step than before."""
        if self.rows in (None, rows):
            return []
        return [
            f"the steps of GPT-NeoX's run had {counted(self.rows or 0, 'row')}, and these have {rows}: the data "
            f"continue from row {self.iteration * rows}, as GPT-NeoX has it"
        ]

    def check_split(self, tp: int) -> None:
        """Refuse another tensor-parallel size, by which the optimizer's state is divided.

        Raises:
            UsageError: it is another.
        """
        if tp != self.tp:
            raise UsageError(
                f"GPT-NeoX trained with model_parallel_size {self.tp}, by which its optimizer's state is divided, and "
                f"not with {tp}",
                code="conflicting_options",
                where=str(self.folder),
                hint=f"Give --tp {self.tp}. {_WEIGHTS_ONLY}",
            )


def find_neox_run(settings: Settings) -> NeoxRun | None:
    """The run whose checkpoint a configuration names; None if that has no optimizer's state.

    Raises:
        ConfigError: it names no checkpoint.
        CheckpointError: files are missing or damaged, or the state is not of a kind that can be continued here.
    """
    checkpoint = find_configured_checkpoint(settings)
    if checkpoint.kind == "huggingface":
        return None
    names = list_names(checkpoint.folder)
    ranks = {int(match[1]): checkpoint.folder / name for name in names if (match := _RANK.fullmatch(name))}
    parts: dict[tuple[int, int], Path] = {}
    for name in names:
        if match := _PART.fullmatch(name):
            key = int(match[2]), int(match[1])
            if key in parts:
                raise CheckpointError(
                    f"{parts[key].name} and {name} are both present: each is part {key[1]} of rank {key[0]}",
                    code="mixed_checkpoints",
                    where=str(checkpoint.folder),
                    hint="Move the files of one of the two runs elsewhere.",
                )
            parts[key] = checkpoint.folder / name
    saved = read_without_tensors(ranks[0]) if 0 in ranks else {}
    optimizer = saved.get("optimizer")
    if not parts and (not optimizer or (isinstance(optimizer, dict) and optimizer.get("state") == {})):
        return None
    tp = checkpoint.source_tp
    _check_kind(checkpoint, names, max(ranks, default=0) + 1, whole=None if parts else optimizer)
    refuse_missing(
        checkpoint.folder, [f"mp_rank_{rank:02d}_model_states.pt" for rank in range(tp) if rank not in ranks]
    )
    replicas = max((part for _, part in parts), default=-1) + 1
    if parts and isinstance(size := saved.get("dp_world_size"), int):
        replicas = max(replicas, size)
    refuse_missing(
        checkpoint.folder,
        [
            f"zero_pp_rank_{part}_mp_rank_{rank:02d}_optim_states.pt"
            for rank in range(tp)
            for part in range(replicas)
            if (rank, part) not in parts
        ],
    )
    schedule = saved.get("lr_scheduler")
    return NeoxRun(
        checkpoint.folder,
        _iteration(ranks[0], saved),
        tuple(ranks[rank] for rank in range(tp)),
        tuple(tuple(parts[rank, part] for part in range(replicas)) for rank in range(tp)) if parts else (),
        schedule if isinstance(schedule, dict) else {},
        _rows(saved),
        _adam(parts[0, 0], _zero_groups(parts[0, 0])) if parts else _adam(ranks[0], _part(optimizer, "param_groups")),
    )


def not_continued(reason: str, where: Path) -> CheckpointError:
    """The error for an optimizer's state that is present and cannot be used."""
    return CheckpointError(
        f"the state of GPT-NeoX's optimizer cannot be continued: {reason}",
        code="unsupported_checkpoint",
        where=str(where),
        hint=_WEIGHTS_ONLY,
    )


def _check_kind(checkpoint: Checkpoint, names: list[str], ranks: int, *, whole: object) -> None:
    """Refuse states of kinds that are not read; ``whole`` is that of an mp_rank file, None with ZeRO."""
    if any(map(is_zero3, names)):
        raise not_continued("it was saved with ZeRO stage 3", checkpoint.folder)
    if ranks > checkpoint.source_tp:
        raise not_continued("it was saved with several pipeline stages (pipe_parallel_size)", checkpoint.folder)
    if whole is not None and not (isinstance(whole, dict) and whole.get("state") and whole.get("param_groups")):
        raise not_continued("it was saved in 16 bits without ZeRO", checkpoint.folder)


def _iteration(path: Path, saved: Mapping[str, Any]) -> int:
    """Under the names that GPT-NeoX looks for."""
    found = saved.get("iteration") or saved.get("total_iters")
    if not isinstance(found, int) or found < 1:
        raise not_continued("its file does not tell the iteration", path)
    return found


def _rows(saved: Mapping[str, Any]) -> int | None:
    """Rows of a step, as DeepSpeed has counted them."""
    samples, steps = saved.get("global_samples"), saved.get("global_steps")
    if not isinstance(samples, int) or not isinstance(steps, int) or min(samples, steps) < 1:
        return None
    return samples // steps


def _zero_groups(path: Path) -> object:
    """The groups of parameters in a file of ZeRO's; its elastic form, for other numbers of replicas, has none."""
    return _part(_part(read_without_tensors(path).get("optimizer_state_dict"), "base_optimizer_state"), "param_groups")


def _part(mapping: object, name: str) -> object:
    return mapping.get(name) if isinstance(mapping, dict) else None


def _adam(path: Path, groups: object) -> dict[str, Any]:
    """AdamW's settings in the groups of parameters, with which DeepSpeed continues, whatever the configuration says.

    Raises:
        CheckpointError: they are not possible.
    """
    found = [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    told: dict[str, Any] = {}
    for key, name in _ADAM.items():
        values = [group[key] for group in found if key in group]
        for value in values:
            numbers = value if key == "betas" and isinstance(value, list | tuple) else [value]
            below = 1 if key == "betas" else math.inf
            possible = all(isinstance(number, int | float) and 0 <= number < below for number in numbers)
            if not possible or len(numbers) != 1 + (key == "betas"):
                raise not_continued(f"{key} of its groups of parameters is {value!r}", path)
        if values:  # of the two groups that of biases and norms does not decay
            told[name] = max(values) if key == "weight_decay" else values[0]
    return told | ({"betas": tuple(told["betas"])} if "betas" in told else {})
