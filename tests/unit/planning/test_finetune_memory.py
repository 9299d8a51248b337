"""Bytes of a fine-tuning, against sums done by hand and against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.config.settings import ModelConfig
from neoxrun.config.training import LoraConfig, ZeroConfig
from neoxrun.planning.finetune_memory import FinetuneSizing, Share
from support.plans import PUBLISHED

TWENTY = PUBLISHED["20B"][0].model
SIZING = FinetuneSizing(TWENTY, 50432, "bf16", "cuda", None, 2048)
ALONE = Share(tp=1, replicas=1, zero=ZeroConfig(1), micro=1, recompute=True)


def test_sixteen_bytes_a_parameter() -> None:
    """bf16 weights and gradients, fp32 weights and two averages: 2 + 2 + 12."""
    need = SIZING.rank_bytes(ALONE)
    assert SIZING.trained == SIZING.parameters == 20_554_567_680
    assert (need.weights, need.gradients, need.optimizer) == tuple(20_554_567_680 * size for size in (2, 2, 12))
    in_fp32 = replace(SIZING, precision="fp32").rank_bytes(ALONE)
    assert (in_fp32.weights, in_fp32.gradients, in_fp32.optimizer) == tuple(20_554_567_680 * n for n in (4, 4, 8))


@pytest.mark.parametrize(("stage", "divided"), [(0, ""), (1, "o"), (2, "og"), (3, "ogw")])
def test_what_zero_divides(stage: int, divided: str) -> None:
    one = SIZING.rank_bytes(ALONE)
    four = SIZING.rank_bytes(replace(ALONE, replicas=4, zero=ZeroConfig(stage)))
    assert four.optimizer == one.optimizer // (4 if "o" in divided else 1)
    assert four.gradients == one.gradients // (4 if "g" in divided else 1)
    assert four.weights == one.weights // (4 if "w" in divided else 1)
    assert four.host == 0


def test_what_is_offloaded_is_on_the_host() -> None:
    one = SIZING.rank_bytes(ALONE)
    optimizer = SIZING.rank_bytes(replace(ALONE, zero=ZeroConfig(1, True)))
    assert (optimizer.optimizer, optimizer.weights) == (0, one.weights)
    assert optimizer.host == one.optimizer + 4 * SIZING.trained
    both = SIZING.rank_bytes(replace(ALONE, zero=ZeroConfig(3, True, True)))
    assert both.weights == 2 * SIZING.parameters // 44 * 2, "two layers"
    assert (optimizer.gradients, both.gradients) == (one.gradients, 0)
    assert both.host == optimizer.host + one.weights


def test_on_a_cpu_there_is_no_other_memory() -> None:
    on_cpu = replace(SIZING, kind="cpu")
    offloaded = on_cpu.rank_bytes(replace(ALONE, zero=ZeroConfig(3, True, True)))
    assert offloaded == on_cpu.rank_bytes(replace(ALONE, zero=ZeroConfig(3)))
    assert offloaded.host == 0


def test_adapters() -> None:
    """Rank 16: 16 x (inputs + outputs) of the four linears, which are (1 + 3), (1 + 1), (1 + 4) and (4 + 1) widths."""
    sizing = replace(SIZING, lora=LoraConfig())
    assert sizing.trained == 44 * 16 * 6144 * (4 + 2 + 5 + 5)
    need = sizing.rank_bytes(ALONE)
    assert need.weights == 2 * (SIZING.parameters + sizing.trained)
    assert (need.gradients, need.optimizer) == (2 * sizing.trained, 12 * sizing.trained)
    # On two ranks B of column-parallel and A of row-parallel layers are divided, the others are not.
    halved = sizing.rank_bytes(replace(ALONE, tp=2))
    assert halved.gradients == 2 * 44 * 16 * 6144 * (2.5 + 1.5 + 3 + 3)
    one = replace(sizing, lora=LoraConfig(rank=8, targets=("dense",)))
    assert one.trained == 44 * 8 * 6144 * 2


def test_operations_of_a_token() -> None:
    """6 a trained parameter, 4 a frozen one, but none for embeddings that are looked up; and attention."""
    attention, embedding = 6 * 44 * 6144 * 2048, SIZING.vocab_size * 6144
    multiplied = SIZING.parameters - embedding
    assert SIZING.operations(recompute=False) == 6 * multiplied + attention
    assert SIZING.operations(recompute=True) == pytest.approx(8 * multiplied + attention * 4 / 3)
    sizing = replace(SIZING, lora=LoraConfig())
    assert sizing.operations(recompute=False) == 4 * multiplied + 6 * sizing.trained + attention
    tied = replace(SIZING, model=replace(SIZING.model, tie_embeddings=True))
    assert tied.operations(recompute=False) == 6 * tied.parameters + attention


def test_activations_by_hand() -> None:
    """One layer, one row of 4 tokens: 5 H + 6 H + 2 I numbers of 4 bytes a token, its logits, and on a CPU scores."""
    model = ModelConfig(1, 8, 2, 32, 4, 4, tie_embeddings=False)
    kept = 4 * (11 * 8 + 2 * 32) * 4
    logits = 4 * 128 * 16
    sizing = FinetuneSizing(model, 128, "fp32", "cuda", LoraConfig(rank=1), 4)
    share = Share(1, 1, ZeroConfig(0), 1, recompute=False)
    assert sizing.rank_bytes(share).activations == kept + logits
    on_cpu = replace(sizing, kind="cpu").rank_bytes(share)
    assert on_cpu.activations == kept + logits + 2 * 4 * 4 * 2 * 4
    assert on_cpu.runtime == 400 * 10**6


def test_a_step_of_the_optimizer_has_its_own_name() -> None:
    """8 bytes for each parameter that a rank updates: neither fewer rows nor shorter ones change them."""
    need = SIZING.rank_bytes(ALONE)
    assert need.step == 8 * SIZING.parameters > need.activations
    assert need.working == ("its step", need.step)
    assert need.total == need.weights + need.gradients + need.optimizer + need.step + need.runtime
    adapter = replace(SIZING, lora=LoraConfig()).rank_bytes(ALONE)
    assert adapter.working == ("activations", adapter.activations)
    assert adapter.activations > adapter.step > 0


@pytest.mark.parametrize(("stage", "more"), [(1, 4 * 2), (2, 4 - 2), (3, 4 - 2)])
def test_gradients_that_are_summed_in_fp32(stage: int, more: int) -> None:
    """Below stage 2 next to those of a pass, all of them; else instead of them, those of this replica."""
    sizing, share = replace(SIZING, precision="bf16", lora=None), Share(1, 2, ZeroConfig(stage), 1, recompute=True)
    summed = sizing.rank_bytes(replace(share, fp32_gradients=True)).gradients
    assert summed - sizing.rank_bytes(share).gradients == pytest.approx(more * sizing.trained / 2)
    other, same = (
        replace(sizing, precision="fp32").rank_bytes(replace(share, fp32_gradients=fp32)) for fp32 in (True, False)
    )
    assert other == same


@given(
    st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.booleans(), st.booleans()
)
def test_more_of_anything_never_needs_more(
    tp: int, replicas: int, stage: int, micro: int, recompute: bool, adapted: bool
) -> None:
    sizing = replace(SIZING, lora=LoraConfig() if adapted else None)
    share = Share(tp, replicas, ZeroConfig(stage), micro, recompute)
    need = sizing.rank_bytes(share)

    def without_runtime(other: Share) -> int:
        found = sizing.rank_bytes(other)
        return found.total - found.runtime

    mine = need.total - need.runtime
    assert without_runtime(replace(share, tp=2 * tp)) < mine
    assert without_runtime(replace(share, recompute=True)) <= mine
    assert without_runtime(replace(share, micro=micro + 1)) >= mine
    assert without_runtime(replace(share, zero=ZeroConfig(min(3, stage + 1)))) <= mine
