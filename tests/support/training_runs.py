"""Whole runs of a fine-tuning of a small model: in this process, or by this file on a split of ranks."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neoxrun.checkpoint.files import read_safetensors
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Precision, Settings
from neoxrun.config.tensors import parameters
from neoxrun.config.training import DataConfig, LoraConfig, ScheduleConfig, TrainingConfig
from neoxrun.conversion.configurations import neox_options, yaml_text
from neoxrun.engine.pulse import Pulse
from neoxrun.errors import NeoxrunError
from neoxrun.parallel import mesh as meshes
from neoxrun.planning.plan import Plan
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.run import run_finetuning
from support.checkpoints import TINY
from support.paths import DEMO
from support.plans import planned
from support.ranks import CPU, torchrun
from support.tiny_models import demo_tokenizer

STEPS = 6
TRAINING = TrainingConfig(
    train_iters=STEPS,
    train_batch_size=4,
    micro_batch_size=1,
    schedule=ScheduleConfig(lr=1e-2, min_lr=1e-3, style="cosine", warmup_iters=2.0, decay_iters=STEPS),
    save_interval=2,
    eval_interval=2,
    eval_iters=1,
)
_MODEL = replace(TINY, hidden_size=32, intermediate_size=128, seq_length=16, max_position_embeddings=16)


@dataclass(frozen=True)
class RunCase:
    """One run: of the model and the texts that ``prepare`` has put into ``place``, into the folder ``name`` of it.

    It begins with the weights of the model, or of ``checkpoint``.
    """

    place: Path
    name: str = "run"
    training: TrainingConfig = TRAINING
    tp: int = 1
    replicas: int = 1
    dtype: Precision = "fp32"
    lora: LoraConfig | None = None
    eval_stream: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    copied: tuple[str, int] | None = None
    checkpoint: Path | None = None

    @property
    def folder(self) -> Path:
        return self.place / self.name

    @property
    def settings(self) -> Settings:
        settings = load_settings([str(self.place / "model" / "config.yml")])
        return settings if self.checkpoint is None else replace(settings, checkpoint=self.checkpoint)

    @property
    def plan(self) -> Plan:
        split = {"tp": self.tp, "pp": 1, "replicas": self.replicas}
        return replace(planned("pythia-14m", "1x80GB"), precisions=precisions_for(self.dtype, "cpu"), **split)

    @property
    def options(self) -> FinetuneOptions:
        files = ((self.place / "train.jsonl",), (self.place / "valid.jsonl",))
        data = DataConfig(*files, eval_stream=self.eval_stream, seq_length=16)
        return FinetuneOptions(self.training, data, self.lora, self.folder, **self.more)

    def resumed(self, name: str, until: int, **changes: Any) -> RunCase:
        """The same run, continued after the step ``until`` in a copy of its folder."""
        return replace(self, name=name, more=self.more | {"resume": True}, copied=(self.name, until), **changes)

    def begin(self) -> None:
        """Copy the folder, where the run continues in a copy."""
        if self.copied is None or self.folder.exists():
            return
        name, until = self.copied
        shutil.copytree(self.place / name, self.folder)
        for path in self.folder.glob("global_step*"):
            if int(path.name.removeprefix("global_step")) > until:
                shutil.rmtree(path)


def prepare(place: Path, *, gpt_j_residual: bool = True) -> None:
    """Write a random model and texts."""
    tokenizer, config = demo_tokenizer(), replace(_MODEL, gpt_j_residual=gpt_j_residual)
    rows = config.padded_vocab_size(tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: torch.randn(entry.shape, generator=generator) * 0.1 + ("norm" in key.name and "weight" in key.name)
        for key, entry in parameters(config, rows).items()
    }
    model = place / "model"
    save_layer_files(tensors, model, tp=1, config=config, tag="global_step1")
    shutil.copy(DEMO / "tokenizer.json", model)
    paths = {"load": ".", "tokenizer_type": "HFTokenizer", "vocab_file": "tokenizer.json"}
    (model / "config.yml").write_text(yaml_text(neox_options(config, "fp32") | paths))
    words, drawn = ["to", "be", "or", "not", "that", "is", "the", "question"], random.Random(0)
    for name, count in (("train", 30), ("valid", 8)):
        texts = [" ".join(drawn.choices(words, k=20)) for _ in range(count)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def run_here(case: RunCase, watch: Callable[[Pulse], AbstractContextManager[object]] = nullcontext) -> None:
    """A run of a single rank, in this process."""
    mesh = meshes.single_rank_mesh(CPU)
    case.begin()
    try:
        run_finetuning(case.settings, mesh, case.plan, case.options, sys.stdout, False, lambda: None, watch)
    finally:
        meshes.disconnect_ranks()


def run_on_ranks(cases: list[RunCase], place: Path, program: str = __file__) -> None:
    """Runs on the same split, one after the other; one start of the ranks for all."""
    asked = place / "cases.pkl"
    asked.write_bytes(pickle.dumps(cases))
    torchrun(program, asked, ranks=cases[0].tp * cases[0].replicas)


def final_state(case: RunCase) -> dict[str, Tensor]:
    """The weights and the optimizer's state after the last step, of all ranks."""
    folder = case.folder / f"global_step{case.training.train_iters}" / "training"
    return {
        f"{path.name} {name}": tensor.clone()
        for path in sorted(folder.iterdir())
        for name, tensor in read_safetensors(path).items()
    }


def metrics(case: RunCase) -> list[dict[str, Any]]:
    """Its metrics, without those that depend on the time."""
    lines = map(json.loads, (case.folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def assert_same_run(case: RunCase, other: RunCase) -> None:
    """Two runs have the same metrics, and bit for bit the same weights and state at the end."""
    expected, found = final_state(case), final_state(other)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert metrics(case) == metrics(other)


def main() -> None:
    cases: list[RunCase] = pickle.loads(Path(sys.argv[1]).read_bytes())
    code = 0
    try:
        mesh = meshes.connect_ranks(cases[0].tp, 1, cases[0].replicas, CPU)
        for case in cases:
            if mesh.rank == 0:
                case.begin()
            run_finetuning(case.settings, mesh, case.plan, case.options, sys.stdout, False, lambda: None)
    except NeoxrunError as error:
        code = error.exit_code
        if mesh.rank == 0:
            print(error.render(verbose=True), file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # Under its own name, so that the saved cases are of the class that the tests know.
    from support.training_runs import main as run_rank

    run_rank()
