"""The Python API: answers and scores in the order of the prompts, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neoxrun import LLM, SamplingParams
from neoxrun.config.reader import load_settings
from neoxrun.errors import ConfigError, DataError, UsageError
from support.paths import DEMO
from support.python_api import PARAMS, TEXTS, plain


@pytest.fixture(scope="module")
def right() -> list[dict]:
    with LLM("demo", device="cpu") as llm:
        return [plain(json.loads(record.to_json())) for record in llm.generate(TEXTS, PARAMS)]


def test_one_process(right: list[dict[str, Any]]) -> None:
    assert [record["context"] for record in right] == TEXTS
    with LLM("demo", device="cpu") as llm:
        assert llm.generate([]) == []
        for size in (1, 2):
            records = llm.generate(TEXTS, PARAMS, batch_size=size)
            assert [plain(json.loads(record.to_json())) for record in records] == right
        configured = load_settings(["demo"]).generation.sampling
        (record,), (same,) = llm.generate(TEXTS[:1]), llm.generate(TEXTS[:1], configured)
        assert record.text == same.text, "without parameters, the configuration's are taken"
        (record,) = llm.generate(["x" * 3000], SamplingParams(maximum_tokens=3))
        assert (record.finish_reason, record.text) == ("error", None)
        (record,) = llm.generate(["x" * 3000], SamplingParams(maximum_tokens=3), truncate="left")
        assert record.length == 3
        with pytest.raises(UsageError, match="temperature"):
            llm.generate(TEXTS, SamplingParams(temperature=-1.0))
        with pytest.raises(DataError, match="Unicode"):
            llm.generate(["\ud83c"])
    with pytest.raises(ConfigError, match="no-such-model"):
        LLM("no-such-model")


def test_scores_are_those_of_generated_tokens() -> None:
    with LLM("demo", device="cpu") as llm:
        (record,) = llm.generate(["import os"], SamplingParams(maximum_tokens=6, logprobs=1))
        total = sum(step["logprob"] for step in record.logprobs)
        encode = llm.session.tokenizer.encode
        assert encode("import os" + record.text) == encode("import os") + record.tokens, (
            "the text is cut in other tokens"
        )
        scored, other, start = llm.score([("import os", record.text), ("import os", " 1"), ("", "import")])
        assert scored.logprob == pytest.approx(total, abs=1e-4)
        assert (scored.greedy, other.greedy) == (True, False)
        assert start.logprob < 0
        assert llm.score([]) == []
        wrong = {("x", ""): "no tokens of its own", ("x", " y" * 3000): "at most", ("\ud83c", "x"): "Unicode"}
        for pair, says in wrong.items():
            with pytest.raises(DataError, match=says):
                llm.score([pair])


def test_a_tokenizer_that_makes_a_text_longer(tmp_path: Path) -> None:
    """GPT-NeoX-20B's does: NFC writes some characters as two, so that tokens can be more than bytes."""
    content = json.loads((DEMO / "tokenizer.json").read_text())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content | {"normalizer": {"type": "NFC"}}))
    text = "\u0958" * 60
    with LLM("demo", tokenizer=str(path), device="cpu") as llm:
        alone = llm.generate([text], SamplingParams(maximum_tokens=5))
        together = llm.generate([text, "x" * 400], SamplingParams(maximum_tokens=5))
    assert alone[0].length == 5, alone[0].message
    assert together[0].text == alone[0].text
