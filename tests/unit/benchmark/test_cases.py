"""Cases fit the context and the cache, and their prompts are new each time and the same in each run."""

from __future__ import annotations

import pytest

from neoxrun.benchmark.cases import Case, cases_for, longest_sequence, warm_up
from neoxrun.config.precisions import DeviceKind

KINDS: tuple[DeviceKind, ...] = ("cuda", "cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [8, 64, 512, 2048])
def test_every_sequence_fits_the_context(kind: DeviceKind, context: int) -> None:
    cases = cases_for(kind, context, lambda length: 20)
    longest = max(prompt + new for case in cases for prompt, new in zip(case.prompts, case.new, strict=True))
    assert longest <= longest_sequence(kind, context) <= context
    assert min(min(*case.prompts, *case.new) for case in cases if case.batch > 1) >= 1


@pytest.mark.parametrize(
    ("fits", "batches"), [(1, [1]), (7, [1, 7]), (16, [1, 16]), (64, [1, 16, 64]), (225, [1, 16, 64, 225])]
)
def test_batches_end_with_what_fits(fits: int, batches: list[int]) -> None:
    asked = []

    def fitting(length: int) -> int:
        asked.append(length)
        return fits

    cases = cases_for("cuda", 2048, fitting)
    assert [case.batch for case in cases if case.what == "decode"] == batches
    assert asked == [32 + 96]


def test_the_sets_on_a_gpu_are_those_of_the_published_results() -> None:
    *_, prefill, mixed = cases_for("cuda", 2048, lambda length: 1)
    assert (prefill.what, prefill.prompts, prefill.new) == ("prefill", (1024,) * 16, (1,) * 16)
    assert (mixed.what, mixed.batch) == ("mixed", 256)
    assert 20 <= min(mixed.prompts) < 40 < 380 < max(mixed.prompts) <= 400
    assert 8 <= min(mixed.new) < 20 < 240 < max(mixed.new) <= 256
    assert mixed == cases_for("cuda", 2048, lambda length: 9)[-1], "the same set in each run"


def test_prompts_are_new_with_each_seed_and_the_same_in_each_run() -> None:
    case = Case("decode", (12, 3, 12), (1, 1, 1))
    prompts = case.draw(1000, seed=1)
    assert list(map(len, prompts)) == [12, 3, 12]
    assert prompts == case.draw(1000, seed=1)
    begun = {tuple(prompt[:3]) for seed in (1, 2) for prompt in case.draw(1000, seed)}
    assert len(begun) == 6, "no two begin alike"
    assert max(map(max, prompts)) < 1000


def test_what_a_case_is_counted_in() -> None:
    assert Case("prefill", (5, 6), (1, 1)).counted == 11
    assert Case("mixed", (5, 6), (3, 4)).counted == 7


def test_warm_up_has_on_a_gpu_every_batch_that_will_occur() -> None:
    decode, mixed = Case("decode", (32,) * 16, (96,) * 16), Case("mixed", (20,) * 256, (99,) * 256)
    assert warm_up(decode, "cuda") == Case("decode", (32,) * 16, (8,) * 16)
    assert warm_up(decode, "cpu") == Case("decode", (32,) * 4, (8,) * 4)
    assert warm_up(mixed, "cuda") == mixed
    assert warm_up(mixed, "cpu") == Case("mixed", (20,) * 4, (8,) * 4)
