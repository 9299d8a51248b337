"""Completions as ``LLM.generate`` gives them."""

from __future__ import annotations

import pytest

from neoxrun import LLM


def test_prompt_logprobs_without_the_most_likely_tokens(llm: LLM) -> None:
    with_top, plain = (llm.generate("import os", maximum_tokens=1, prompt_logprobs=count) for count in (1, 0))
    assert with_top.prompt_logprobs is not None
    assert plain.prompt_logprobs is not None
    assert len(plain.prompt_logprobs) == len(plain.prompt_tokens) > 1
    for entry, other in zip(plain.prompt_logprobs[1:], with_top.prompt_logprobs[1:], strict=True):
        assert entry is not None
        assert other is not None
        assert (entry["top"], len(other["top"])) == ([], 1)
        assert (entry["token"], entry["text"]) == (other["token"], other["text"])
        assert entry["logprob"] == pytest.approx(other["logprob"], abs=1e-5)
