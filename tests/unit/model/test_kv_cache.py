"""The cache's slots, and an engine that has less memory than it was asked for."""

from __future__ import annotations

import pytest
import torch

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine
from neoxrun.errors import RankError
from neoxrun.model.kv_cache import KVCache, cache_dtype
from support.ranks import run_engine
from support.tiny_models import CPU, successor

BYTES_A_TOKEN = 2 * 64 * 4  # keys and values, hidden 64, fp32, one layer


def test_a_move_copies_one_slot_and_no_other():
    cache = KVCache(layers=2, slots=3, heads=2, length=5, head_dim=4, device=CPU, dtype=torch.float32)
    for layer in range(2):
        for number, store in enumerate(cache.layer(layer, 0, 3)):
            assert store.shape == (3, 2, 5, 4)
            assert not store.any(), "masked places must hold finite numbers"
            store.copy_(torch.arange(store.numel()).view(store.shape) + 1000 * layer + 500 * number)
    before = [[store.clone() for store in cache.layer(layer, 0, 3)] for layer in range(2)]
    cache.move(source=2, target=0, length=3)
    for layer in range(2):
        for store, old in zip(cache.layer(layer, 0, 3), before[layer], strict=True):
            assert torch.equal(store[0, :, :3], old[2, :, :3])
            assert torch.equal(store[0, :, 3:], old[0, :, 3:])
            assert torch.equal(store[1:], old[1:])
    keys, values = cache.layer(1, first_slot=1, count=2)
    assert torch.equal(keys, before[1][0][1:])
    assert torch.equal(values, before[1][1][1:])


def test_half_precision_is_cached_in_fp32_on_the_cpu_only():
    assert cache_dtype(CPU, torch.bfloat16) == torch.float32
    assert cache_dtype(torch.device("cuda"), torch.bfloat16) == torch.bfloat16


@pytest.mark.parametrize(("fits", "slots"), [(1, 1), (2, 2), (3.9, 3), (100, 4)])
def test_the_engine_takes_as_many_at_a_time_as_fit(fits, slots):
    length = 12
    runner = successor(lambda t: t + 1 & 63, 64, length, cache_bytes=int(fits * length * BYTES_A_TOKEN))
    engine = Engine(runner, slots=4, length=length, eos=None)
    assert engine.free == slots
    params = [SamplingParams(maximum_tokens=count) for count in (3, 1, 5, 2, 4)]
    tokens = run_engine(runner, [[10 * n] * (n + 1) for n in range(5)], params, slots=4)
    assert tokens == [[10 * n + i + 1 for i in range(own.maximum_tokens)] for n, own in enumerate(params)]


def test_no_room_for_one_sequence_is_an_error():
    runner = successor(lambda t: t, 64, 12, cache_bytes=12 * BYTES_A_TOKEN - 1)
    with pytest.raises(RankError, match="one sequence of 12 tokens") as caught:
        Engine(runner, slots=4, length=12, eos=None)
    assert "--maximum-tokens" in (caught.value.hint or "")
    assert Engine(runner, slots=4, length=11, eos=None).free == 1, "a shorter one fits"
