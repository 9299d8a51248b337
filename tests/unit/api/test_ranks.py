"""The plan of ranks that a program starts, and what it is told of it."""

from __future__ import annotations

import logging

import pytest

from neoxrun.api import ranks
from neoxrun.planning.devices import Device
from neoxrun.serving.local import ModelArguments


@pytest.mark.parametrize(("gigabytes", "context"), [(23, 992), (40, 2048)])
def test_a_context_that_does_not_fit_is_a_warning(
    gigabytes: int, context: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = gigabytes << 30
    gpus = [Device("cuda", index, "a GPU", size, size - (1 << 29)) for index in range(2)]
    monkeypatch.setattr(ranks, "visible_gpus", lambda _: gpus)
    arguments = ModelArguments(("20B",), tp=2, random_weights=True)
    with caplog.at_level(logging.INFO, "neoxrun"):
        job = ranks._job(arguments, arguments.settings, None)
    assert job.plan.max_context == context
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warned == ([] if context == 2048 else ["context: 2048 -> 992, what fits"])
    assert "vocabulary: 50432 assumed, no tokenizer file found" in caplog.messages
