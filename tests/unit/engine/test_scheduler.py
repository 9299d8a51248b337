"""Scheduler and pages together, against a device that only remembers what was written where."""

from __future__ import annotations

import os
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.pages import Pages
from neoxrun.engine.scheduler import LEAST_GROUP, Planned, Request, Scheduler
from neoxrun.engine.steps import Step

EOS = 0
ENDS = (EOS, 9)  # a model may have several
STEPS = 100_000 if os.environ.get("NEOXRUN_THOROUGH") else 50_000


def next_token(ids: tuple[int, ...]) -> int:
    """The token after ``ids``: few are the end, and none depends on anything else."""
    return random.Random(hash(ids)).choice([*ENDS, 1, 1, 2, 2, 3, 3, 3, 3, 3])


def whole_answer(prompt: list[int], most: int, length: int) -> list[int]:
    output: list[int] = []
    while len(output) < most and len(prompt) + len(output) < length:
        output.append(next_token((*prompt, *output)))
        if output[-1] in ENDS:
            break
    return output


@dataclass
class Device:
    """Tables and pages as a rank keeps them; each position of a page holds a token and its position."""

    size: int
    tables: dict[int, list[int]] = field(default_factory=dict)
    cache: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)

    def run(self, step: Step) -> list[int]:
        """Write all spans, then let each sampled one look at everything before it."""
        for admission in step.admitted:
            self.tables[admission.row] = list(admission.pages)
        assert len({span.row for span in step.spans}) == len(step.spans), "a row is in a step once"
        for span in step.spans:
            table = self.tables[span.row]
            table += span.pages
            assert len(table) * self.size < span.start + span.count + self.size, "more than a page is reserved"
            for position, token in enumerate(span.ids or [self.newest[span.row]], start=span.start):
                self.cache[table[position // self.size], position % self.size] = (position, token)
        for admission in step.admitted:
            if admission.copied is not None:
                source, count = admission.copied
                assert not admission.pages
                for at in range(count):
                    self.cache[self.tables[admission.row][0], at] = self.cache[source, at]
        tokens = []
        for span in step.spans:
            table = self.tables[span.row]
            seen = [self.cache[table[at // self.size], at % self.size] for at in range(span.start + span.count)]
            assert [position for position, _ in seen] == list(range(span.start + span.count))
            if span.sampled:
                tokens.append(next_token(tuple(token for _, token in seen)))
                self.newest[span.row] = tokens[-1]
        return tokens


@pytest.mark.parametrize(("ahead", "groups"), [(0, 1), (1, 1), (2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize(
    ("rows", "length", "budget", "pages", "size", "block"),
    [
        (4, 24, 8, 9, 4, 4),
        (8, 40, 16, 14, 4, 4),
        (3, 16, 64, 16, 1, 1),
        (6, 32, 12, 6, 32, 32),
        (16, 24, 40, 1000, 3, 3),
        (6, 32, 12, 6, 32, 4),
        (5, 24, 60, 5, 40, 1),
        (1, 32, 40, 1, 32, 4),
        (4, 24, 30, 12, 24, 3),
    ],
)
def test_every_request_gets_its_own_tokens(
    monkeypatch: pytest.MonkeyPatch,
    ahead: int,
    groups: int,
    rows: int,
    length: int,
    budget: int,
    pages: int,
    size: int,
    block: int,
) -> None:
    monkeypatch.setattr("neoxrun.engine.scheduler.LEAST_GROUP", 1)
    chance = random.Random(f"{ahead} {groups} {rows} {pages}")
    book = Pages(pages, size, block)
    scheduler = Scheduler(rows, length, budget, book, ENDS, groups=groups)
    device = Device(size)
    under_way: deque[tuple[Planned, list[int]]] = deque()
    expected: dict[int, list[int]] = {}
    got: dict[int, list[int]] = {}
    cancelled: set[int] = set()
    beginnings = [[chance.choice([1, 2, 3]) for _ in range(length - 2)] for _ in range(3)]
    added = 0
    steps = STEPS // 45
    for number in range(steps):
        if number < steps - 200 and chance.random() < 0.4:
            prompt = [*chance.choice(beginnings)[: chance.randint(1, length - 2)], chance.choice([1, 2, 3])]
            params = SamplingParams(maximum_tokens=chance.choice([1, 2, 5, 30]), temperature=chance.choice([0.0, 1.0]))
            scheduler.add(Request(added, prompt, params))
            expected[added] = whole_answer(prompt, params.maximum_tokens, length)
            got[added] = []
            added += 1
        if added and chance.random() < 0.05:
            victim = chance.randrange(max(0, added - 12), added)
            scheduler.cancel(victim)
            if expected[victim] != got[victim]:
                cancelled.add(victim)
        planned = scheduler.plan()
        if planned is not None:
            under_way.append((planned, device.run(planned.step)))
            assert sum(span.count for span in planned.step.spans) <= budget
            if groups > 1:
                assert all(span.ids for span in planned.step.spans), "no token is fed back between stages"
        if under_way and (planned is None or len(under_way) > ahead):
            done, tokens = under_way.popleft()
            for request, token, reason in scheduler.take(done, tokens):
                got[request.request_id].append(token)
                if reason is not None:
                    assert got[request.request_id] == expected[request.request_id]
    while scheduler.busy or under_way:
        planned = scheduler.plan()
        if planned is not None:
            under_way.append((planned, device.run(planned.step)))
        done, tokens = under_way.popleft()
        for request, token, _ in scheduler.take(done, tokens):
            got[request.request_id].append(token)
    assert added > 100
    for number, tokens in expected.items():
        if number in cancelled:
            assert got[number] == tokens[: len(got[number])]
        else:
            assert got[number] == tokens
    assert book.available == pages, "a page is lost"
    assert scheduler.free == rows


def test_groups_take_turns() -> None:
    """With two groups each step has half of the sequences, and the other half can be planned meanwhile."""
    many = 2 * LEAST_GROUP
    scheduler = Scheduler(many, 64, 1000, Pages(10 * many, 16), ENDS, groups=2)
    for number in range(many):
        scheduler.add(Request(number, [1, 2], SamplingParams(maximum_tokens=50)))
    first = scheduler.plan()
    assert first is not None
    assert scheduler.plan() is None, "all prompts are in the first step"
    scheduler.take(first, [3] * many)
    under_way = [scheduler.plan(), scheduler.plan()]
    rows = [sorted(span.row for span in planned.step.spans) for planned in under_way if planned is not None]
    assert [len(one) for one in rows] == [LEAST_GROUP] * 2
    assert {*rows[0], *rows[1]} == set(range(many))
    assert scheduler.plan() is None
    for _ in range(5):
        done = under_way.pop(0)
        assert done is not None
        scheduler.take(done, [3] * LEAST_GROUP)
        under_way.append(scheduler.plan())
        assert [span.row for span in under_way[-1].step.spans] == [span.row for span in done.step.spans]


def test_few_sequences_stay_together() -> None:
    scheduler = Scheduler(4, 64, 64, Pages(100, 4), ENDS, groups=2)
    for number in range(4):
        scheduler.add(Request(number, [1, 2], SamplingParams(maximum_tokens=50)))
    first = scheduler.plan()
    assert first is not None
    scheduler.take(first, [3] * 4)
    second = scheduler.plan()
    assert second is not None
    assert len(second.step.spans) == 4
    assert scheduler.plan() is None
    scheduler.add(Request(4, [1, 2], SamplingParams(maximum_tokens=50)))
    scheduler.cancel(0)
    third = scheduler.plan()
    assert third is not None, "a prompt is read meanwhile"
    assert len(third.step.spans) == 1


@pytest.mark.parametrize(("pages", "size", "block"), [(1000, 16, 16), (64, 2048, 16)])
def test_samples_of_one_prompt_compute_it_once(pages: int, size: int, block: int) -> None:
    book = Pages(pages, size, block)
    scheduler = Scheduler(64, 2048, 2048, book, ENDS)
    device = Device(size)
    prompt = [1 + (n % 3) for n in range(1500)]
    for number in range(64):
        scheduler.add(Request(number, prompt, SamplingParams(maximum_tokens=2, seed=number)))
    computed = 0
    while scheduler.busy:
        planned = scheduler.plan()
        assert planned is not None
        computed += sum(span.count for span in planned.step.spans if span.count > 1)
        scheduler.take(planned, device.run(planned.step))
    assert computed <= 1500 + 64 * 16


def test_a_later_request_takes_what_an_earlier_one_computed() -> None:
    book = Pages(20, 4)
    scheduler = Scheduler(2, 40, 40, book, ENDS)
    device = Device(4)
    for number, prompt in enumerate(([1] * 18, [1] * 18 + [2] * 3)):
        scheduler.add(Request(number, prompt, SamplingParams(maximum_tokens=1)))
        planned = scheduler.plan()
        assert planned is not None
        [span] = planned.step.spans
        assert span.start == (0, 16)[number]
        scheduler.take(planned, device.run(planned.step))
        assert not scheduler.busy


def test_a_page_is_taken_over_where_there_is_no_other_to_copy_to() -> None:
    book = Pages(1, 40, 4)
    scheduler = Scheduler(1, 40, 40, book, ENDS)
    device = Device(40)
    for prompt, start in (([1] * 18, 0), ([1] * 18 + [2] * 3, 16), ([1] * 9, 8), ([1] * 18, 8), ([2] * 9, 0)):
        scheduler.add(Request(0, prompt, SamplingParams(maximum_tokens=1)))
        planned = scheduler.plan()
        assert planned is not None
        [span] = planned.step.spans
        [admission] = planned.step.admitted
        assert span.start == start, "later blocks of the page are forgotten where it was taken over"
        assert admission.copied is None
        scheduler.take(planned, device.run(planned.step))


def test_what_is_copied_stays_until_the_step_is_done() -> None:
    """The page that others copy from is the first one that would be taken for new contents."""
    book = Pages(3, 40, 4)
    scheduler = Scheduler(3, 40, 200, book, ENDS)
    device = Device(40)

    def run(*prompts: list[int]) -> list[int]:
        for number, prompt in enumerate(prompts):
            scheduler.add(Request(number, prompt, SamplingParams(maximum_tokens=1)))
        starts = []
        while scheduler.busy:
            planned = scheduler.plan()
            assert planned is not None
            starts += [span.start for span in sorted(planned.step.spans, key=lambda span: span.row)]
            scheduler.take(planned, device.run(planned.step))
        return starts

    assert run([1] * 18) == [0]
    assert run([2] * 9, [3] * 9) == [0, 0]
    assert sorted(run([1] * 17 + [2], [4] * 9, [5] * 9)) == [0, 0, 16]
    assert book.available == 3


def test_cancel_is_idempotent() -> None:
    scheduler = Scheduler(1, 8, 8, Pages(2, 4), ENDS)
    for number in range(3):
        scheduler.add(Request(number, [1], SamplingParams(maximum_tokens=4)))
    planned = scheduler.plan()
    assert planned is not None
    for number in (0, 2, 2, 0, 7):
        scheduler.cancel(number)
    assert scheduler.take(planned, [1]) == []
    scheduler.cancel(1)
    assert not scheduler.busy
    assert scheduler.free == 1
