"""The network calls its linear layers: no product bypasses them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from neoxrun.config.precisions import precisions_for
from neoxrun.config.settings import ModelConfig
from neoxrun.engine.messages import Reserve
from neoxrun.engine.runner import Runner
from neoxrun.engine.scoring import ScoreRequest, pack_rows
from neoxrun.engine.steps import Span, Step
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from neoxrun.parallel.mesh import single_rank_mesh

CPU = torch.device("cpu")
ROWS = 32
PARALLEL = ModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    intermediate_size=64,
    seq_length=8,
    max_position_embeddings=8,
    pos_emb="rotary",
    gpt_j_residual=True,
    tie_embeddings=False,
    gelu="tanh",
)
SEQUENTIAL = ModelConfig(**{**vars(PARALLEL), "gpt_j_residual": False, "gelu": "erf", "tie_embeddings": True})


def random_stage(config: ModelConfig) -> Stage:
    stage = Stage(config, single_rank_mesh(CPU), ROWS, CPU, precisions_for("fp32", "cpu"))
    generator = torch.Generator().manual_seed(0)
    for key, shape in stage.targets().items():
        stage.assign(key, torch.randn(shape, generator=generator) / 4)
    return stage


def called_modules(stage: Stage) -> list[str]:
    """Names of the modules that must be called once a pass."""
    kinds = (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding)
    return [name for name, module in stage.named_modules() if isinstance(module, kinds)]


def pass_through(stage: Stage) -> list[float]:
    """One pass over all positions of three requests; their scores."""
    requests = [ScoreRequest((1, 2, 3), (4, 5)), ScoreRequest((1, 2, 3), (6,)), ScoreRequest((9,), (3, 3))]
    rows = [row for row, _ in pack_rows(requests, 64)]
    return [scored.logprob for scored in Runner(stage, 2**20).score(rows)]


@pytest.mark.parametrize("config", [PARALLEL, SEQUENTIAL], ids=["parallel", "sequential"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_linear_is_called_once_a_pass(config: ModelConfig, dtype: torch.dtype) -> None:
    stage = random_stage(config)
    for key, shape in stage.targets().items():
        stage.assign(key, torch.zeros(shape, dtype=dtype))
    stage.pack()
    fired: Counter[str] = Counter()
    names = called_modules(stage)
    for name in names:
        stage.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: fired.update([name]))
    pass_through(stage)
    assert len(names) == 4 * config.num_layers + 1 + (not config.tie_embeddings)
    assert fired == Counter(names)


@pytest.mark.parametrize("config", [PARALLEL, SEQUENTIAL], ids=["parallel", "sequential"])
def test_a_linear_of_another_kind_takes_effect(config: ModelConfig) -> None:
    """As adapters and quantised weights will be: they replace a linear layer."""
    right = pass_through(random_stage(config))
    for name in called_modules(random_stage(config)):
        stage = random_stage(config)
        module = stage.get_submodule(name)
        module.__class__ = type("Doubled", (type(module),), {"forward": doubled})
        assert pass_through(stage) != right, f"{name} was bypassed"


def doubled(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Twice the output of the module's class."""
    out: torch.Tensor = type(self).__mro__[1].forward(self, x)  # type: ignore[attr-defined]
    return 2 * out


@pytest.mark.parametrize("config", [PARALLEL, SEQUENTIAL], ids=["parallel", "sequential"])
def test_parameters_are_frozen(config: ModelConfig) -> None:
    stage = random_stage(config)
    stage.pack()
    assert not [name for name, parameter in stage.named_parameters() if parameter.requires_grad]


def test_each_precision_is_used_where_it_belongs() -> None:
    """Half precision on the CPU: parameters and activations have its type, the cache is fp32."""
    stage = Stage(PARALLEL, single_rank_mesh(CPU), ROWS, CPU, precisions_for("bf16", "cpu"))
    stage.randomize(0)
    assert {parameter.dtype for parameter in stage.parameters()} == {torch.bfloat16}
    runner = Runner(stage, 2**20)
    runner.execute(Reserve(2, 8))
    assert runner.cache is not None
    assert runner.cache.layer(0)[0].dtype == torch.float32
    assert runner.batcher is not None
    with torch.inference_mode():
        for span in (Span(0, 0, (1, 2, 3), (0,), sampled=True), Span(0, 3, (4,), sampled=True)):
            runner.batcher.take_pages(Step([span]))
            assert runner.forward(runner.batcher.batch_of(Step([span]))).dtype == torch.bfloat16
