"""The cache's slots, and the numbers in them."""

from __future__ import annotations

import torch

from neoxrun.model.kv_cache import KVCache
from support.tiny_models import CPU


def test_a_move_copies_one_slot_and_no_other() -> None:
    cache = KVCache(layers=2, slots=3, heads=2, length=5, head_dim=4, device=CPU, dtype=torch.float32)
    for layer in range(2):
        for number, store in enumerate(cache.layer(layer, 0, 3)):
            assert store.shape == (3, 2, 5, 4)
            assert not store.any(), "masked positions must hold finite numbers"
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
