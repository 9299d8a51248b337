"""The engine on a GPU: what a request gets depends neither on its neighbours nor on graphs, chunks, pages or cache."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import Precision
from neoxrun.engine.replica import Replica
from neoxrun.engine.runner import Runner
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel.mesh import single_rank_mesh
from support.ranks import run_engine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible")

GPU = torch.device("cuda", 0)
VOCABULARY = 512
CONTEXT = 8192
CACHE_BYTES = 2**30
# Rounding differs between sizes of a matrix product; wide enough apart, the logits choose the same tokens.
SPREAD = 0.3


def replica_of(
    layers: int = 3,
    heads: int = 4,
    head_dim: int = 64,
    *,
    dtype: Precision = "fp32",
    cache_bytes: int = CACHE_BYTES,
    eager: bool = False,
) -> Replica:
    changes = [f"num_layers={layers}", f"num_attention_heads={heads}", f"hidden_size={heads * head_dim}"]
    changes += [f"seq_length={CONTEXT}", f"max_position_embeddings={CONTEXT}"]
    config = load_settings(["demo"], changes).model
    stage = Stage(config, single_rank_mesh(GPU), VOCABULARY, GPU, precisions_for(dtype, "cuda"))
    stage.randomize(seed=2)
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            if name.endswith("weight") and parameter.dim() == 2:
                parameter.normal_(0, SPREAD, generator=torch.Generator(GPU).manual_seed(len(name)))
    return Replica(Runner(stage, cache_bytes, eager=eager))


def prompts_of(lengths: list[int]) -> list[list[int]]:
    chance = random.Random(7)
    return [[chance.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


def answers(replica: Replica, prompts: list[list[int]], *, slots: int, tokens: int = 12) -> list[list[int]]:
    params = [SamplingParams(maximum_tokens=tokens, temperature=0.7 * (i % 2), seed=i) for i in range(len(prompts))]
    return run_engine(replica, prompts, params, slots=slots)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_a_batch_on_and_off_the_captured_sizes(head_dim: int) -> None:
    prompts = prompts_of([5, 300, 33, 1, 64, 257, 31, 900, 12, 12, 40])
    alone = answers(replica_of(head_dim=head_dim, eager=True), prompts, slots=1)
    for slots in (3, 8, 11):
        assert answers(replica_of(head_dim=head_dim), prompts, slots=slots) == alone


def test_long_prompts_in_chunks_among_others() -> None:
    """Together they take more than a step holds, so that they are cut where they would not be alone."""
    prompts = prompts_of([3000, 20, 3000, 7, 2500, 4000])
    alone = answers(replica_of(), prompts, slots=1)
    assert answers(replica_of(), prompts, slots=6) == alone


def test_beginnings_that_were_computed_before() -> None:
    shared = prompts_of([700])[0]
    prompts = [shared + prompt for prompt in prompts_of([3, 50, 31, 32])]
    alone = [answers(replica_of(), [prompt], slots=1)[0] for prompt in prompts[:1]]
    replica = replica_of()
    first = answers(replica, prompts[:1], slots=1)
    assert first == alone
    assert answers(replica, prompts[:1], slots=1) == alone, "from the cache"
    assert answers(replica, prompts, slots=4) == answers(replica_of(), prompts, slots=4)


def test_sequences_that_are_put_back_for_want_of_pages() -> None:
    prompts = prompts_of([500] * 8)
    plenty = answers(replica_of(), prompts, slots=8, tokens=200)
    page_bytes = 3 * 2 * 4 * 32 * 64 * 4
    replica = replica_of(cache_bytes=page_bytes * (CONTEXT // 32 + 2) // 2)
    assert answers(replica, prompts, slots=8, tokens=200) == plenty
    assert replica.runner.pages < 8 * 700 // 32, "too few for all of them"


def test_at_most_ten_kernels_a_layer() -> None:
    """Of a decode step, at the shape of the 20B's layers; what is outside the layers falls out of the difference."""
    counts = []
    for layers in (4, 8):
        replica = replica_of(layers, 64, 96, dtype="fp16", cache_bytes=2**32)
        engine = replica.start_engine(slots=1, length=CONTEXT, ends=())
        engine.add(0, [1] * 300, SamplingParams(maximum_tokens=40))
        for _ in range(10):
            engine.step()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            for _ in range(5):
                engine.step()
            torch.cuda.synchronize()
        engine.close()
        kernels = Counter(event.name for event in profiled.events() if event.device_type.name == "CUDA")
        counts.append(sum(kernels.values()) / 5)
    a_layer = (counts[1] - counts[0]) / 4
    print(f"{a_layer:.2f} kernels a layer")
    assert 4 <= a_layer <= 10
