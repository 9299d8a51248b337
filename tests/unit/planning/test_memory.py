"""Numbers of parameters and bytes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from neoxrun.config.precisions import DeviceKind
from neoxrun.config.settings import Precision
from neoxrun.planning.memory import kv_cache_bytes, model_parameters, paging_of, stage_parameters
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
    positions = plan.max_batch * plan.max_context + 32  # with the page that no sequence may have
    assert plan.devices[0].kv_cache_bytes == positions * plan.kv_bytes_per_token // 2
    layer = 12 * 6144 * 6144 // 2 * 2
    assert layer < plan.host_peak_bytes < layer + 2e9


@pytest.mark.parametrize(
    ("kind", "length", "size", "of_sequence", "fitting", "held"),
    [
        ("cuda", 70, None, 3, 9, 320),  # 329 positions are 10 pages of 32
        ("cuda", 64, None, 2, 9, 320),
        ("cuda", 64, 16, 4, 19, 320),
        ("cpu", 70, None, 1, 4, 280),
        ("cpu", 70, 16, 5, 20, 320),
    ],
)
def test_pages(kind: DeviceKind, length: int, size: int | None, of_sequence: int, fitting: int, held: int) -> None:
    """In a cache of 329 positions of 5 bytes: pages of a sequence, pages that fit, and positions with all of them."""
    paging = paging_of(kind, length, size)
    assert paging.pages_of(length) == of_sequence
    assert paging.pages_in(329 * 5, 5) == fitting
    assert paging.positions(fitting) == held


@pytest.mark.parametrize("devices", ["1x80GB", "2x24GB", "8x80GB", "1x48GB"])
def test_the_margin_has_room_for_cuda_graphs(devices: str) -> None:
    """All of a rank's graphs took less than 0.5 GB with the 20B on an H100."""
    for rank in planned("20B", devices).devices:
        assert rank.free_bytes - rank.total_bytes > 0.5e9
