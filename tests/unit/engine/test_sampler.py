"""Choosing tokens: against the distribution that the parameters describe, worked out token by token."""

from __future__ import annotations

import collections
import itertools
import math
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.sampler import Sampled, Sampler

CPU = torch.device("cpu")


@st.composite
def rows(draw: st.DrawFn, least: int = 2, most: int = 12) -> list[float]:
    """Logits with no two alike."""
    steps = draw(st.lists(st.floats(0.02, 3), min_size=least, max_size=most))
    return draw(st.permutations(list(itertools.accumulate(steps, initial=draw(st.floats(-20, 10))))))


def chances(logits: list[float], params: SamplingParams) -> list[float]:
    """The probability of each token: temperature, then top-k, then top-p and min-p, one after the other."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if params.temperature == 0:
        order = order[:1]
    if params.top_k:
        order = order[: params.top_k]
    warmth = params.temperature or 1
    weights = {token: math.exp((logits[token] - logits[order[0]]) / warmth) for token in order}
    whole = sum(weights.values())
    weights = {token: weight / whole for token, weight in weights.items()}
    if 0 < params.top_p < 1:
        kept, reached = {}, 0.0
        for token in order:
            assume(abs(reached - params.top_p) > 1e-9)
            if reached < params.top_p:
                kept[token] = weights[token]
            reached += weights[token]
        weights = kept
    least = params.min_p * max(weights.values())
    assume(all(abs(weight - least) > 1e-12 for weight in weights.values()))
    weights = {token: weight for token, weight in weights.items() if weight >= least}
    whole = sum(weights.values())
    return [weights.get(token, 0) / whole for token in range(len(logits))]


class Ladder(random.Random):
    """Not random: goes through (0, 1) in equal steps, so that counts show probabilities exactly."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._numbers = ((step + 0.5) / steps for step in range(steps))

    def random(self) -> float:
        return next(self._numbers)


class Requests:
    """Requests in the rows of a sampler, in the order in which they are given, each with its own stream."""

    def __init__(self, vocab_size: int, *requests: tuple[SamplingParams, list[int]], rows: int | None = None) -> None:
        self._sampler = Sampler(rows or len(requests), vocab_size, CPU)
        self._params = [params for params, _ in requests]
        self._streams = [random.Random(params.seed) for params in self._params]
        for row, (params, prompt) in enumerate(requests):
            self._sampler.admit(row, prompt, 0, params)

    def sample(self, logits: torch.Tensor, rows: Sequence[int] | None = None) -> list[Sampled]:
        rows = range(len(logits)) if rows is None else rows
        draws = [self._streams[row].random() if self._params[row].temperature > 0 else 0.0 for row in rows]
        return self._sampler.choose(logits, rows, draws).read()


def chosen(logits: torch.Tensor, params: SamplingParams, point: float) -> int:
    """The token of one row by a given uniform number."""
    sampler = Sampler(1, len(logits), CPU)
    sampler.admit(0, [0], 0, params)
    return int(sampler.choose(logits[None], [0], [point]).tokens)


@given(
    logits=rows(),
    params=st.builds(
        SamplingParams,
        temperature=st.just(0.0) | st.floats(0.05, 5),
        top_k=st.integers(0, 14),
        top_p=st.just(0.0) | st.just(1.0) | st.floats(0.01, 0.99),
        min_p=st.just(0.0) | st.floats(0.001, 0.9),
    ),
)
def test_tokens_come_as_often_as_the_parameters_say(logits: list[float], params: SamplingParams) -> None:
    right = chances(logits, params)
    steps = 100
    stream = Ladder(steps)
    row = torch.tensor(logits, dtype=torch.float64)
    counts = collections.Counter(chosen(row, params, stream.random()) for _ in range(steps))
    for token, chance in enumerate(right):
        assert abs(counts[token] - steps * chance) <= 1 + 1e-9, f"token {token} has probability {chance}"
        assert chance or not counts[token], f"token {token} was filtered out"


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, {1}), (0.49, {1}), (0.51, {1, 3}), (0.79, {1, 3}), (0.81, {0, 1, 3}), (0.99, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    stream = Ladder(200)
    params = SamplingParams(temperature=1, top_p=top_p)
    assert {chosen(logits, params, stream.random()) for _ in range(200)} == kept


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-53])
def test_a_token_that_was_filtered_out_is_never_chosen(drawn: float) -> None:
    """Not even by the smallest and the largest number that a stream gives."""
    params = SamplingParams(temperature=1, min_p=0.5)
    assert chosen(torch.tensor([-9.0, 1.0, -9.0]), params, drawn) == 1


@given(logits=rows(), seed=st.integers(0, 2**63 - 1), warmth=st.floats(1e-320, 1e6))
def test_top_k_of_one_is_the_most_likely(logits: list[float], seed: int, warmth: float) -> None:
    best = max(range(len(logits)), key=logits.__getitem__)
    request = (SamplingParams(temperature=warmth, top_k=1, seed=seed), [0])
    assert Requests(len(logits), request).sample(torch.tensor([logits]))[0].token == best


@given(logits=rows(), seed=st.integers(0, 2**63 - 1))
@pytest.mark.parametrize("warmth", [5e-324, 1e-300, 1e-6])
def test_hardly_any_temperature_is_greedy(logits: list[float], seed: int, warmth: float) -> None:
    best = max(range(len(logits)), key=logits.__getitem__)
    request = (SamplingParams(temperature=warmth, seed=seed), [0])
    assert Requests(len(logits), request).sample(torch.tensor([logits]))[0].token == best


def test_a_stream_is_uniform_and_its_own() -> None:
    """Chi-square of 1500 tokens of one request, 9 degrees of freedom: 27.9 is passed once in a thousand."""
    logits = torch.randn(10, generator=torch.Generator().manual_seed(0))
    count = 1500
    params = [SamplingParams(temperature=1, seed=seed) for seed in (5, 5, 6)]
    made = Requests(10, *((own, [0]) for own in params))
    tokens = [[s.token for s in made.sample(logits.expand(3, -1))] for _ in range(count)]
    first, twin, other = zip(*tokens, strict=True)
    assert first == twin, "the same seed gives the same tokens"
    assert sum(a == b for a, b in zip(first, other, strict=True)) < count / 2, "another seed gives others"
    counts = collections.Counter(first)
    right = count * logits.softmax(-1)
    assert sum((counts[t] - float(right[t])) ** 2 / float(right[t]) for t in range(10)) < 27.9


@given(
    logits=rows(least=6),
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    output=st.lists(st.integers(0, 5), max_size=6),
    repetition=st.floats(0.2, 5),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
    bias=st.dictionaries(st.integers(0, 5), st.floats(-50, 50), max_size=3),
)
def test_penalties_and_biases(
    logits: list[float],
    prompt: list[int],
    output: list[int],
    repetition: float,
    frequency: float,
    presence: float,
    bias: dict[int, float],
) -> None:
    right = list(logits)
    for token in range(len(logits)):
        if token in prompt or token in output:
            right[token] = right[token] / repetition if right[token] > 0 else right[token] * repetition
        if token in output:
            right[token] -= frequency * output.count(token) + presence
        right[token] += bias.get(token, 0)
    params = SamplingParams(
        repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence, logit_bias=bias
    )
    sampler = Sampler(2, len(logits), CPU)
    sampler.admit(1, prompt + output, len(output), params)
    given_logits = torch.tensor([logits], dtype=torch.float64)
    untouched = given_logits.clone()
    assert sampler._adjust(given_logits, [1], [params])[0].tolist() == pytest.approx(right, abs=1e-4)
    assert torch.equal(given_logits, untouched)


def test_penalties_follow_the_output_and_hold_for_greedy_too() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, -5.0]])
    made = Requests(4, (SamplingParams(frequency_penalty=1.5), [0]))
    # 3 2 1, then 1.5 2 1, then 1.5 0.5 1, then 0 0.5 1, then 0 0.5 -0.5
    assert [made.sample(logits)[0].token for _ in range(5)] == [0, 1, 0, 2, 1]
    assert Requests(4, (SamplingParams(repetition_penalty=2.0), [0])).sample(logits)[0].token == 1
    assert Requests(4, (SamplingParams(logit_bias={3: 9}), [0])).sample(logits)[0].token == 3


@given(st.data())
def test_a_request_does_not_see_its_neighbours(data: st.DataObject) -> None:
    """Requests in one batch, in any order and with others at each step, get the tokens that each gets alone."""
    kinds = st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.7, 2.0]),
        top_k=st.sampled_from([0, 3]),
        top_p=st.sampled_from([0.0, 0.8]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        presence_penalty=st.sampled_from([0.0, 1.0]),
        logprobs=st.sampled_from([None, 2]),
        seed=st.integers(0, 9),
    )
    requests = data.draw(st.lists(st.tuples(kinds, st.lists(st.integers(0, 7), min_size=1)), min_size=3, max_size=5))
    steps = 4
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    logits = 2 * torch.randn(steps, len(requests), 8, generator=generator)
    alone = []
    for number, request in enumerate(requests):
        made = Requests(8, request)
        alone.append([made.sample(logits[step, number : number + 1])[0] for step in range(steps)])
    together = Requests(8, *requests, rows=9)
    for step in range(steps):
        order = data.draw(st.permutations(range(len(requests) - step % 2)))  # the last one rests now and then
        if step % 2:
            alone[-1].insert(step, alone[-1][step])
            logits[step + 1 :, -1] = logits[step:-1, -1].clone()
        assert together.sample(logits[step, order], order) == [alone[number][step] for number in order]


@pytest.mark.parametrize("top", [0, 1, 3, 100])
@pytest.mark.parametrize("warmth", [0.0, 1.0])
def test_log_probabilities_are_the_models_own(top: int, warmth: float) -> None:
    row = torch.randn(6, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(temperature=warmth, logprobs=top, logit_bias={2: 5.0}, top_k=2)
    (sampled,) = Requests(6, (params, [0])).sample(row[None])
    right = [float(value) - math.log(sum(math.exp(float(other)) for other in row)) for value in row]
    assert sampled.logprob == pytest.approx(right[sampled.token], abs=1e-5)
    best = sorted(range(6), key=lambda token: -right[token])[:top]
    assert [token for token, _ in sampled.top] == best
    assert [value for _, value in sampled.top] == pytest.approx([right[token] for token in best], abs=1e-5)


@pytest.mark.parametrize("bad", [[0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [-math.inf] * 3])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=1, top_k=2, top_p=0.5, min_p=0.1),
        SamplingParams(logit_bias={0: 1}),
    ],
    ids=["greedy", "sampled", "biased"],
)
def test_what_is_not_a_number_is_noted(bad: list[float], params: SamplingParams) -> None:
    """It must never become a token: overflow in fp16 would go unseen."""
    rows = torch.tensor([[0.0, 1.0, 2.0], bad])
    made = Requests(3, (SamplingParams(), [0]), (params, [0]))
    assert [sampled.finite for sampled in made.sample(rows)] == [True, False]
