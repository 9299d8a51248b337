"""Where others keep the metrics of runs: Weights & Biases and TensorBoard. No torch."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from neoxrun.errors import DataError, UsageError
from neoxrun.terminal.log import log

_OFFLINE: Final = "WANDB_MODE=offline logs to a folder"


class Tracker(Protocol):
    """Takes metrics as they come."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step, by names such as ``train/loss``."""

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Sample texts, by their prompts."""

    def close(self, *, failed: bool) -> None:
        """The run has ended."""


class WandbTracker:
    """A run in Weights & Biases, which continues where the same folder has one.

    Args:
        project: its name.
        folder: of the run; Weights & Biases' own files go there, too.
        settings: of the run, for its page.
        run_id: that of the run to continue; None for a new one.

    Attributes:
        run_id: the run's id.

    Raises:
        DataError: Weights & Biases cannot be used.
    """

    def __init__(self, project: str, folder: Path, settings: Mapping[str, Any], run_id: str | None) -> None:
        try:
            import wandb

            self._table, self._teardown = wandb.Table, wandb.teardown
            self._run = wandb.init(
                project=project,
                dir=str(folder),
                id=run_id,
                resume="allow",
                job_type="finetune",
                config=dict(settings),
                settings=wandb.Settings(console="off", silent=True),
            )
            self.run_id: str = self._run.id
            # Not wandb's own count, below which nothing is taken: a run that was killed repeats steps.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except Exception as error:  # from wandb and the libraries that it uses
            raise DataError(
                f"Weights & Biases cannot be used: {type(error).__name__}: {error}",
                code="failed_logging",
                hint=f"Check `wandb login` and the network; {_OFFLINE}.",
            ) from error
        self._lost = False

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """As ``Tracker`` says. Training does not stop where this fails: a warning says so, once."""
        self._try(lambda: self._run.log({"step": step, **values}))

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """As ``Tracker`` says: a table of prompts and texts."""
        rows = [[step, prompt, text] for prompt, text in texts.items()]
        self._try(lambda: self._run.log({"step": step, "samples": self._table(["step", "prompt", "text"], rows)}))

    def close(self, *, failed: bool) -> None:
        """As ``Tracker`` says."""
        self._try(lambda: self._run.finish(exit_code=int(failed)))
        self._try(self._teardown)  # its process may write the last metrics only now, after which this one ends

    def _try(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # from wandb and the libraries that it uses
            if not self._lost:
                log.warning(f"Weights & Biases does not take the metrics: {type(error).__name__}: {error}")
            self._lost = True


class TensorBoardTracker:
    """TensorBoard's event files.

    Args:
        folder: where they go; a run that is continued adds a file.

    Raises:
        OSError: the system refuses.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary, self._tensor = event_pb2.Event, summary_pb2, tensor_pb2.TensorProto
        one = tensor_shape_pb2.TensorShapeProto.Dim(size=1)
        self._shape = tensor_shape_pb2.TensorShapeProto(dim=[one])
        self._writer = EventFileWriter(str(folder))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """As ``Tracker`` says."""
        parts = [self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step, parts)

    def add_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """As ``Tracker`` says."""
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        metadata = self._summary.SummaryMetadata(plugin_data=plugin)
        parts = []
        for number, (prompt, text) in enumerate(texts.items()):
            content = [f"{prompt}{text}".encode()]
            tensor = self._tensor(dtype="DT_STRING", string_val=content, tensor_shape=self._shape)
            parts.append(self._summary.Summary.Value(tag=f"samples/{number}", metadata=metadata, tensor=tensor))
        self._write(step, parts)

    def close(self, *, failed: bool) -> None:
        """As ``Tracker`` says."""
        self._writer.close()

    def _write(self, step: int, parts: list[Any]) -> None:
        summary = self._summary.Summary(value=parts)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()


def check_trackers(*, wandb: bool, tensorboard: bool) -> None:
    """Refuse trackers whose packages are missing, before anything is loaded.

    Raises:
        UsageError: naming what to install.
    """
    for asked, name in ((wandb, "wandb"), (tensorboard, "tensorboard")):
        if asked and importlib.util.find_spec(name) is None:
            raise UsageError(
                f"--{name} needs {name}, which is not installed",
                code="missing_package",
                hint=f"Install it: pip install 'neoxrun[{name}]'",
            )
