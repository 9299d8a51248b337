"""What is measured: prompts of random ids, their lengths, and how many new tokens each gets. No torch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from neoxrun.config.precisions import DeviceKind

What = Literal["decode", "prefill", "mixed"]

_BATCHES: Final = (1, 16, 64)
_PROMPT: Final = 32  # ids of each prompt when decoding
_WARM_UP: Final = 8  # new tokens


@dataclass(frozen=True)
class Case:
    """Prompts that are answered together.

    Attributes:
        what: ``decode`` counts the new tokens while all sequences are past their prompts, ``prefill`` the ids of
            prompts, ``mixed`` the new tokens of everything from the first prompt to the last answer.
        prompts: the length of each prompt, in ids.
        new: the new tokens of each.
    """

    what: What
    prompts: tuple[int, ...]
    new: tuple[int, ...]

    @property
    def batch(self) -> int:
        """How many prompts there are."""
        return len(self.prompts)

    @property
    def counted(self) -> int:
        """What a run of the whole case is counted in: ids of prompts, or new tokens."""
        return sum(self.prompts if self.what == "prefill" else self.new)

    def draw(self, vocab_size: int, seed: int) -> list[list[int]]:
        """The prompts: random ids, so that no two begin alike; other ones with another seed."""
        chance = random.Random(seed)
        return [[chance.randrange(vocab_size) for _ in range(length)] for length in self.prompts]


@dataclass(frozen=True)
class _Sizes:
    """Of the cases on one kind of device, before a short context shortens them."""

    new: int
    prefill: tuple[int, int]  # prompts, ids of each
    mixed: int
    mixed_prompts: tuple[int, int]
    mixed_new: tuple[int, int]


# A CPU computes a thousand times fewer operations a second: its cases end within a minute for models of 400 million
# parameters.
_SIZES: Final[dict[DeviceKind, _Sizes]] = {
    "cuda": _Sizes(96, (16, 1024), 256, (20, 400), (8, 256)),
    "cpu": _Sizes(32, (4, 256), 64, (10, 100), (4, 64)),
}


def longest_sequence(kind: DeviceKind, context: int) -> int:
    """Most tokens of a sequence of any case, prompt and answer."""
    sizes = _SIZES[kind]
    wanted = max(_PROMPT + sizes.new, sizes.prefill[1] + 1, sizes.mixed_prompts[1] + sizes.mixed_new[1])
    return min(context, wanted)


def cases_for(kind: DeviceKind, context: int, fits: Callable[[int], int]) -> list[Case]:
    """The cases of a device, in the order in which they are measured.

    Args:
        kind: of the device.
        context: most tokens of a sequence.
        fits: how many sequences of a length fit at a time.
    """
    sizes = _SIZES[kind]
    prompt = max(1, min(_PROMPT, context // 4))
    new = min(sizes.new, context - prompt)
    most = fits(prompt + new)
    batches = sorted({batch for batch in _BATCHES if batch <= most} | {most})
    count, length = sizes.prefill
    return [
        *(Case("decode", (prompt,) * batch, (new,) * batch) for batch in batches),
        Case("prefill", (min(length, context - 1),) * count, (1,) * count),
        _mixed(sizes, context),
    ]


def _mixed(sizes: _Sizes, context: int) -> Case:
    chance = random.Random(0)

    def lengths(low: int, high: int) -> tuple[int, ...]:
        high = min(high, context // 2)
        return tuple(chance.randint(min(low, high), high) for _ in range(sizes.mixed))

    return Case("mixed", lengths(*sizes.mixed_prompts), lengths(*sizes.mixed_new))


def warm_up(case: Case, kind: DeviceKind) -> Case:
    """What to run before a case, unmeasured.

    On a GPU a matrix product of a new size takes longer the first time. So the batches are those of the case, and the
    mixed set is run whole.
    """
    if case.what == "mixed" and kind == "cuda":
        return case
    count = case.batch if case.what == "decode" and kind == "cuda" else min(case.batch, 4)
    new = tuple(min(tokens, _WARM_UP) for tokens in case.new[:count])
    return Case(case.what, case.prompts[:count], new)
