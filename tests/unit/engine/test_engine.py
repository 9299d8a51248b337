"""An engine that has less memory than it was asked for."""

from __future__ import annotations

import pytest

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine
from neoxrun.errors import RankError
from support.ranks import run_engine
from support.tiny_models import successor

BYTES_A_TOKEN = 2 * 64 * 4  # keys and values, hidden 64, fp32, one layer


@pytest.mark.parametrize(("fits", "slots"), [(1, 1), (2, 2), (3.9, 3), (100, 4)])
def test_the_engine_takes_as_many_at_a_time_as_fit(fits, slots) -> None:
    length = 12
    runner = successor(lambda t: t + 1 & 63, 64, length, cache_bytes=int(fits * length * BYTES_A_TOKEN))
    engine = Engine(runner, slots=4, length=length, eos=None)
    assert engine.free == slots
    params = [SamplingParams(maximum_tokens=count) for count in (3, 1, 5, 2, 4)]
    tokens = run_engine(runner, [[10 * n] * (n + 1) for n in range(5)], params, slots=4)
    assert tokens == [[10 * n + i + 1 for i in range(own.maximum_tokens)] for n, own in enumerate(params)]


def test_no_room_for_one_sequence_is_an_error() -> None:
    runner = successor(lambda t: t, 64, 12, cache_bytes=12 * BYTES_A_TOKEN - 1)
    with pytest.raises(RankError, match="one sequence of 12 tokens") as caught:
        Engine(runner, slots=4, length=12, eos=None)
    assert "--maximum-tokens" in (caught.value.hint or "")
    assert Engine(runner, slots=4, length=11, eos=None).free == 1, "a shorter one fits"
