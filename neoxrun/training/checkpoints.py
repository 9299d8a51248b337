"""Checkpoints of a run: the weights in the form in which they are used, and what training needs to continue.

The optimizer's state is kept for each parameter, whole within a tensor-parallel rank, so that it does not matter how
many data-parallel ranks there are, nor what ZeRO divides over them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neoxrun.checkpoint.files import read_safetensors
from neoxrun.checkpoint.merge import Rule, rule_of
from neoxrun.checkpoint.neox_optimizer import StateKind
from neoxrun.config.tensors import TensorKey
from neoxrun.conversion.safetensors_file import SafetensorsFile, Written
from neoxrun.conversion.workplace import Workplace
from neoxrun.errors import DataError, NeoxrunError, RankError
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel.mesh import Mesh
from neoxrun.parallel.together import together
from neoxrun.training.folder import EVALUATED, WRITING, RunFolder, SavedCheckpoint, saved_checkpoints, unwritable_run
from neoxrun.training.optimizer_state import KINDS, OptimizerState
from neoxrun.training.rows import Rows
from neoxrun.training.ways_on import after_divergence, state_file
from neoxrun.training.weight_files import WeightFiles

NewFiles = Callable[[Workplace, int], WeightFiles]
"""Makes the files of the weights in a checkpoint's folder, for a step."""


class Checkpoints:
    """Writes and reads the checkpoints of a run, on all ranks together.

    Args:
        stage: the network.
        state: the optimizer's.
        path: the run's folder, which all ranks see.
        folder: the same, held by rank 0; None on the other ranks.
        new_files: makes the files of the weights; None where only an adapter is trained.
        evaluated: what is evaluated, see ``run_settings.evaluation_digest``.
    """

    def __init__(
        self,
        stage: Stage,
        state: OptimizerState,
        path: Path,
        folder: RunFolder | None,
        new_files: NewFiles | None,
        evaluated: str,
    ) -> None:
        self._stage, self._state, self._path, self._folder = stage, state, path, folder
        self._new_files, self._evaluated = new_files, evaluated

    @property
    def _mesh(self) -> Mesh:
        return self._stage.mesh

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self._path / f"global_step{step}"

    def save(self, step: int, facts: Mapping[str, Any], keep: int | None, extra: Callable[[Path], object]) -> None:
        """Write a checkpoint, and remove those that are no longer kept.

        Args:
            step: steps that were made.
            facts: to be noted with it, as JSON values.
            keep: how many to keep next to the best; None: all.
            extra: writes further files into the checkpoint's folder, on rank 0.

        Raises:
            DataError: the system refuses, on any rank; the checkpoint before it is kept.
            RankError: weights are not numbers, on any rank; the same.
        """
        try:
            self._together(lambda: self._begin(step))
            if not self._state.steps:  # fp16 has left out all of them
                self._state.prepare(0)
            # Not within `_together`: the ranks wait for each other here.
            written = self._write(self._path / f"global_step{step}{WRITING}", step)
            self._together(written.raise_first)
            noted = {"tp": self._mesh.tp, "applied": self._state.steps, "scaler": self._state.get_scaler()}
            noted[EVALUATED] = self._evaluated
            self._together(lambda: self._publish(step, {**facts, **noted}, keep, extra))
        except NeoxrunError:
            if self._folder is not None:
                self._folder.abandon(step)
            raise

    def amend(self, step: int, facts: Mapping[str, Any], keep: int | None, *, measured: bool) -> None:
        """Note more with the checkpoint of a step, by which another may be the best; all ranks call it.

        Args:
            step: of the checkpoint.
            facts, keep: as for ``save``.
            measured: the loss of an evaluation in them is of the data of this run.

        Raises:
            DataError: the system refuses.
        """
        noted = {**facts, EVALUATED: self._evaluated} if measured else facts

        def note() -> None:
            if self._folder is not None:
                self._folder.amend(step, noted)
                self._folder.prune(keep)

        self._together(note)

    def restore(self, saved: SavedCheckpoint) -> None:
        """Continue from a checkpoint: its weights and the optimizer's state; all ranks call it.

        Raises:
            DataError: other parameters were trained.
            CheckpointError: a file is damaged.
        """
        tensors = together(lambda: read_safetensors(state_file(saved.path, self._mesh.tp_rank)), self._mesh.rank)
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != self._state_shapes():
            raise DataError(
                "other parameters were trained in this run than are to be trained now",
                code="different_run",
                where=str(saved.path),
                hint="Give the same --lora and --lora-* flags, or name another folder with --output DIR.",
            )
        self._state.prepare(int(saved.facts["applied"]))
        for _, name, parameter in self._trained():
            for kind in KINDS:
                self._state.set(parameter, kind, tensors[f"{name}.{kind}"].to(self._mesh.device))
        self._state.set_scaler(dict(saved.facts["scaler"]))

    def _trained(self) -> Iterator[tuple[TensorKey, str, nn.Parameter]]:
        """The trained parameters, layer by layer, with their names in the network."""
        names = {id(parameter): name for name, parameter in self._stage.named_parameters()}
        for key, parameter in self._by_layer():
            if parameter.requires_grad:
                yield key, names[id(parameter)], parameter

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of this rank's file of the optimizer's state."""
        return {f"{name}.{kind}": _shape(parameter) for _, name, parameter in self._trained() for kind in KINDS}

    def _begin(self, step: int) -> None:
        if self._folder is not None:
            self._folder.begin(step)

    def _publish(self, step: int, facts: Mapping[str, Any], keep: int | None, extra: Callable[[Path], object]) -> None:
        if (folder := self._folder) is not None:
            growing = self._path / f"global_step{step}{WRITING}"
            extra(growing)
            shutil.rmtree(growing / WRITING, ignore_errors=True)
            folder.publish(step, facts)
            folder.prune(keep)

    def _write(self, path: Path, step: int) -> _Postponing:
        """Write this rank's files. The replicas but the first only take part in collecting the state.

        A rank that cannot write takes part to the end, since the others wait for it; what is returned has the error.
        """
        writing = _Postponing()
        files: list[_RankFiles] = []
        if self._mesh.replica == 0:
            writing(lambda: files.append(self._open_files(path, step)))
        for key, parameter in self._by_layer():
            states = self._states(parameter)
            weight = None if self._new_files is None else self._weight(key, parameter, states)
            for rank_files in files:
                if states and not states["master"].isfinite().all():
                    writing(partial(self._refuse, step, key))
                writing(partial(rank_files.add, key, parameter, states, weight))
        for rank_files in files:
            writing(rank_files.finish)
        return writing

    def _refuse(self, step: int, key: TensorKey) -> None:
        found = saved_checkpoints(self._path)
        raise RankError(
            f"after step {step} weights are not numbers: {key.name} of layer {key.layer}, on rank {self._mesh.rank}",
            code="diverged",
            hint=f"Lower --lr. {after_divergence(found[-1].path if found else None)}",
        )

    def _open_files(self, path: Path, step: int) -> _RankFiles:
        header = {name: Written(shape, torch.float32) for name, shape in self._state_shapes().items()}
        names = {id(parameter): name for name, parameter in self._stage.named_parameters()}
        file = state_file(path, self._mesh.tp_rank)
        file.parent.mkdir(exist_ok=True)
        weights = None if self._new_files is None else self._new_files(Workplace(path, False), step)
        return _RankFiles(SafetensorsFile(file, header), weights, names)

    def _states(self, parameter: nn.Parameter) -> dict[StateKind, Tensor]:
        """All of a trained parameter's state, on every data-parallel rank; nothing for a frozen one."""
        return {kind: self._state.get(parameter, kind) for kind in KINDS} if parameter.requires_grad else {}

    def _weight(self, key: TensorKey, parameter: nn.Parameter, states: Mapping[StateKind, Tensor]) -> Tensor:
        """What this rank's files of weights hold of a parameter.

        A bias that only the first tensor-parallel rank adds and trains is zeros in the others' files where GPT-NeoX's
        ranks add theirs up, and the same where GPT-NeoX expects it to be.
        """
        weight = states["master"] if states else torch.zeros(_shape(parameter), device=self._mesh.device)
        if rule_of(key.name, self._stage.config) is Rule.ONE:
            self._mesh.broadcast_from_first(weight)
        return weight

    def _by_layer(self) -> list[tuple[TensorKey, nn.Parameter]]:
        return sorted(self._stage.keyed_parameters().items(), key=lambda item: item[0].layer)

    def _together(self, work: Callable[[], object]) -> None:
        """Do one's part; what the system refuses to one rank ends all, with what is kept of the run."""

        def reworded() -> list[object]:
            try:
                return [work()]
            except OSError as error:
                raise unwritable_run(error, self._path) from error
            except NeoxrunError as error:
                if isinstance(error.__cause__, OSError):
                    raise unwritable_run(error.__cause__, self._path) from error
                raise

        together(reworded, self._mesh.rank)


class _Postponing:
    """Does one thing after the other until one fails, and nothing from then on."""

    def __init__(self) -> None:
        self._error: OSError | NeoxrunError | None = None

    def __call__(self, work: Callable[[], object]) -> None:
        if self._error is None:
            try:
                work()
            except (OSError, NeoxrunError) as error:
                self._error = error

    def raise_first(self) -> None:
        """Raise what has gone wrong, if anything has."""
        if self._error is not None:
            raise self._error


class _RankFiles:
    """What one rank writes into a checkpoint.

    Args:
        states: the file of the optimizer's state.
        weights: the files of the weights, if there are any.
        names: of the parameters, by their ids.
    """

    def __init__(self, states: SafetensorsFile, weights: WeightFiles | None, names: Mapping[int, str]) -> None:
        self._states, self._weights, self._names = states, weights, names

    def add(
        self, key: TensorKey, parameter: nn.Parameter, states: Mapping[StateKind, Tensor], weight: Tensor | None
    ) -> None:
        """Write a parameter's state, if it is trained, and its weight, if weights are written."""
        for kind, tensor in states.items():
            self._states.write(f"{self._names[id(parameter)]}.{kind}", tensor.cpu())
        if self._weights is not None and weight is not None:
            self._weights.add(key, weight)

    def finish(self) -> None:
        """Everything has come."""
        self._states.close()
        if self._weights is not None:
            self._weights.finish()


def rows_checksum(rows: Rows, start: int, stop: int) -> str:
    """What tells these rows from others, as those of changed data."""
    seen = hashlib.sha256()
    for number in range(start, stop):
        row = rows[number]
        seen.update(row.ids.tobytes())
        seen.update(row.learned.tobytes())
    return seen.hexdigest()


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The whole shape of a parameter that ZeRO may have divided."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
