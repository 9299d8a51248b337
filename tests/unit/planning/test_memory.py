"""Numbers of parameters and bytes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from neoxrun.config.settings import Precision
from neoxrun.planning.memory import kv_cache_bytes, model_parameters, stage_parameters
from neoxrun.planning.planner import vocab_size_for_planning
from support.plans import OPTIONS, PUBLISHED, planned, settings_for


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    settings, published = PUBLISHED[name]
    assert model_parameters(settings.model, vocab_size_for_planning(settings)[0]) == published


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "default")
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 3), (4, 2)])
def test_stage_parameters_are_those_of_the_network(options: dict[str, Any], tp: int, pp: int) -> None:
    torch = pytest.importorskip("torch")
    from neoxrun.config.precisions import precisions_for
    from neoxrun.model.gpt_neox import Stage
    from neoxrun.parallel.mesh import Mesh

    model = settings_for(3, 32, 4, **options).model
    vocab_size = 50  # not divisible by 4
    meta = torch.device("meta")
    counts = stage_parameters(model, vocab_size, tp, pp)
    assert len(counts) == pp
    for stage, tp_rank in itertools.product(range(pp), range(tp)):
        mesh = Mesh(tp, pp, 1, tp_rank, stage, 0, meta)
        network = Stage(model, mesh, vocab_size, meta, precisions_for("fp32", "cpu"))
        count = sum(parameter.numel() for parameter in network.parameters())
        assert counts[stage] == count, f"stage {stage}, rank {tp_rank}"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_cache_bytes_are_those_of_the_cache(precision: Precision) -> None:
    torch = pytest.importorskip("torch")
    from neoxrun.model.dtypes import DTYPES
    from neoxrun.model.kv_cache import KVCache

    model = settings_for(3, 32, 4).model
    cache = KVCache(2, 5, 4 // 2, 7, 8, torch.device("meta"), DTYPES[precision])
    held = sum(store.nbytes for layer in range(2) for store in cache.layer(layer))
    assert kv_cache_bytes(model, layers=2, tensor=2, tokens=5 * 7, precision=precision) == held


def test_memory_of_20b_on_two_gpus() -> None:
    plan = planned("20B", "2x48GB")
    assert [rank.weights_bytes / 1e9 for rank in plan.devices] == [pytest.approx(20.56, abs=0.01)] * 2
    assert plan.kv_bytes_per_token == 2 * 44 * 6144 * 2
    cache = plan.max_batch * plan.max_context * plan.kv_bytes_per_token // 2
    assert plan.devices[0].kv_cache_bytes == cache
    layer = 12 * 6144 * 6144 // 2 * 2
    assert layer < plan.host_peak_bytes < layer + 2e9
