"""The cache's pages."""

from __future__ import annotations

import torch

from neoxrun.model.kv_cache import KVCache
from support.tiny_models import CPU


def test_each_layer_has_its_own_keys_and_values() -> None:
    cache = KVCache(layers=2, pages=3, heads=2, page_size=5, head_dim=4, device=CPU, dtype=torch.float32)
    assert (cache.pages, cache.page_size) == (3, 5)
    stores = [store for layer in range(2) for store in cache.layer(layer)]
    for number, store in enumerate(stores):
        assert store.shape == (3, 2, 5, 4)
        assert not store.any(), "masked positions must hold finite numbers"
        store.fill_(1 + number)
    assert [int(store.unique()) for store in stores] == [1, 2, 3, 4]
