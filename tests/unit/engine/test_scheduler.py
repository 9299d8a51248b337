"""The scheduler, driven through its messages with a plain record of what each cache slot holds."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from neoxrun.config.limits import PREFILL_TOKENS
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.messages import Decode, Move, Prefill
from neoxrun.engine.scheduler import Request, Scheduler

EOS = 0
OTHER = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will happen to one request."""

    prompt: int
    maximum_tokens: int
    eos_after: int
    ignore_eos: bool
    dropped_after: int | None


plans = st.builds(
    Plan,
    prompt=st.integers(1, 12) | st.integers(1000, 4500),
    maximum_tokens=st.integers(1, 8),
    eos_after=st.integers(1, 10),
    ignore_eos=st.booleans(),
    dropped_after=st.none() | st.integers(0, 4),
)


def right_end(plan: Plan, room: int) -> tuple[int, str]:
    """After how many tokens a request ends, and why."""
    ends = [(plan.maximum_tokens, 1, "length"), (room, 2, "context")]
    if not plan.ignore_eos:
        ends.append((plan.eos_after, 0, "stop"))
    if plan.dropped_after is not None:
        ends.append((plan.dropped_after, 3, "dropped"))
    count, _, reason = min(ends)
    return count, reason


class Machine:
    """Carries out the scheduler's messages on lists instead of tensors."""

    def __init__(self, scheduler: Scheduler, slots: int, tokens: dict[int, list[int]]) -> None:
        self.scheduler, self.slots, self.tokens = scheduler, slots, tokens
        self.cache: dict[int, list[int]] = {}
        self.owners: list[int] = []
        self.admitted: list[int] = []

    def prefill(self, message: Prefill, requests: list[Request]) -> None:
        assert message.first_slot == len(self.owners), "new sequences join at the end"
        lengths = [len(prompt) for prompt in message.prompts]
        assert len(lengths) == 1 or max(lengths) * len(lengths) <= PREFILL_TOKENS
        for request, prompt in zip(requests, message.prompts, strict=True):
            self.admitted.append(request.request_id)
            self.cache[len(self.owners)] = list(prompt)
            self.owners.append(request.request_id)
        assert len(self.owners) <= self.slots

    def decode(self, message: Decode, requests: list[Request]) -> None:
        assert [request.request_id for request in requests] == self.owners, "all run, in the order of slots"
        for slot, (token, position) in enumerate(zip(message.tokens, message.positions, strict=True)):
            assert position == len(self.cache[slot]), "the new token comes after what the cache holds"
            self.cache[slot].append(token)
            assert self.cache[slot] == self.tokens[self.owners[slot]], "the slot holds its own sequence"

    def remove(self, request_id: int) -> None:
        move = self.scheduler.remove(request_id)
        if request_id not in self.owners:
            assert move is None, "what waits has no slot"
            return
        slot, last = self.owners.index(request_id), len(self.owners) - 1
        assert (move is None) == (slot == last)
        if move is not None:
            assert (move.source, move.target) == (last, slot), "the last slot fills the gap"
            self.cache[slot] = self.cache[last][: move.length]
            self.owners[slot] = self.owners[last]
        self.owners.pop()
        assert self.scheduler.remove(request_id) is None, "what is gone is not there a second time"


@given(
    requests=st.lists(plans, min_size=1, max_size=12),
    slots=st.integers(1, 5),
    later=st.integers(0, 6),
    length=st.sampled_from([14, 20, 4600]),
)
def test_every_request_runs_once_to_its_own_end(requests: list[Plan], slots: int, later: int, length: int) -> None:
    """``later``: how many requests come only while others run."""
    requests = [dataclasses.replace(plan, prompt=min(plan.prompt, length - 1)) for plan in requests]
    scheduler = Scheduler(slots, length, EOS)
    tokens = {number: [OTHER + number] * plan.prompt for number, plan in enumerate(requests)}
    machine = Machine(scheduler, slots, tokens)
    ended: dict[int, tuple[int, str]] = {}

    def add(number: int) -> None:
        free = scheduler.free_slots
        params = SamplingParams(maximum_tokens=requests[number].maximum_tokens, ignore_eos=requests[number].ignore_eos)
        scheduler.add(Request(number, list(tokens[number]), params))
        assert scheduler.free_slots == free - 1

    def drop_if_due(number: int, made: int) -> None:
        if number not in ended and requests[number].dropped_after == made:
            ended[number] = (made, "dropped")
            machine.remove(number)

    waiting = list(range(len(requests)))
    for number in waiting[: max(1, len(requests) - later)]:
        add(number)
        drop_if_due(number, 0)
    del waiting[: max(1, len(requests) - later)]
    while True:
        message, running = scheduler.next()
        if message is None and not waiting:
            break
        if isinstance(message, Prefill):
            machine.prefill(message, running)
        elif isinstance(message, Decode):
            machine.decode(message, running)
        for request in running:
            number = request.request_id
            made = len(request.output) + 1
            token = EOS if made == requests[number].eos_after else OTHER
            request.output.append(token)
            tokens[number].append(token)
            reason = scheduler.finish_reason(request)
            if reason is not None:
                assert number not in ended
                ended[number] = (made, reason)
                machine.remove(number)
            else:
                drop_if_due(number, made)
        assert scheduler.free_slots <= slots - len(machine.owners)
        if waiting:
            add(waiting[0])
            drop_if_due(waiting.pop(0), 0)
    right = {n: right_end(plan, length - plan.prompt) for n, plan in enumerate(requests)}
    assert ended == right
    assert scheduler.free_slots == slots
    assert machine.admitted == sorted(machine.admitted), "first come, first served"


def test_prefill_passes_are_as_full_as_they_may_be() -> None:
    scheduler = Scheduler(slots=6, length=5000, eos=None)
    for number, prompt in enumerate([1500, 1000, 1300, 4900, 10, 20, 30]):
        scheduler.add(Request(number, [OTHER] * prompt, SamplingParams()))
    passes = []
    for _ in range(4):
        message, running = scheduler.next()
        for request in running:
            request.output.append(OTHER)
        passes.append((type(message), [request.request_id for request in running]))
    # Three times 1500 are too many; a prompt that is too long for any pass has one for itself; six slots.
    assert passes == [
        (Prefill, [0, 1]),
        (Prefill, [2]),
        (Prefill, [3]),
        (Prefill, [4, 5]),
    ]
    assert scheduler.free_slots == -1
    assert scheduler.remove(0) == Move(source=5, target=0, length=21)
    assert scheduler.next()[1][0].request_id == 6
    assert scheduler.remove(99) is None, "it never was there"
    scheduler.clear()
    assert scheduler.next() == (None, [])
    assert scheduler.free_slots == 6
