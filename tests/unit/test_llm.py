"""The Python API: answers and scores in the order of the prompts, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neoxrun import LLM, SamplingParams
from neoxrun.config.reader import load_settings
from neoxrun.errors import ConfigError, DataError, UsageError
from neoxrun.planning.devices import cpu_device
from support.paths import DEMO
from support.python_api import PARAMS, TEXTS, plain


@pytest.fixture(scope="module")
def right() -> list[dict]:
    with LLM("demo", device="cpu", dtype="fp32") as llm:
        return [plain(json.loads(record.to_json())) for record in llm.generate(TEXTS, PARAMS)]


def test_one_process(right: list[dict[str, Any]]) -> None:
    assert [record["context"] for record in right] == TEXTS
    with LLM("demo", device="cpu", dtype="fp32") as llm:
        assert llm.generate([]) == []
        assert [plain(json.loads(record.to_json())) for record in llm.generate(TEXTS[0], PARAMS)] == right[:1]
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
        with pytest.raises(UsageError, match="temperature") as caught:
            llm.generate(TEXTS, SamplingParams(temperature=-1.0))
        assert caught.value.code == "invalid_value"
        with pytest.raises(DataError, match="Unicode") as caught:
            llm.generate(["\ud83c"])
        assert caught.value.code == "not_text"
    with pytest.raises(ConfigError, match="no-such-model") as caught:
        LLM("no-such-model")
    assert caught.value.code == "missing_configuration"


@pytest.mark.parametrize("native", [True, False])
def test_number_format_of_a_cpu(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = replace(cpu_device(), native_bf16=native)
    monkeypatch.setattr("neoxrun.llm.cpu_device", lambda: host)
    with LLM("demo", device="cpu") as llm:
        assert llm.session.replica.stage.precisions.weights == ("bf16" if native else "fp32")
        (record,) = llm.generate(["import os"], SamplingParams(maximum_tokens=3))
        assert record.length == 3


def test_scores_are_those_of_generated_tokens() -> None:
    with LLM("demo", device="cpu", dtype="fp32") as llm:
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
        codes = []
        for pair, says in wrong.items():
            with pytest.raises(DataError, match=says) as caught:
                llm.score([pair])
            codes.append(caught.value.code)
        assert codes == ["no_tokens", "too_long", "not_text"]


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


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ({"dtype": "float16"}, "invalid_value", "dtype must be fp32, fp16, bf16 or None, not 'float16'"),
        ({"device": "gpu"}, "invalid_value", "device must be cuda, cpu or None, not 'gpu'"),
        ({"tp": 0}, "invalid_value", "tp must be a whole number of 1 or more, not 0"),
        ({"pp": 1.0}, "invalid_value", "pp must be a whole number of 1 or more, not 1.0"),
        ({"tp": 2, "pp": 3}, "wrong_number_of_ranks", "tp 2 x pp 3 is 6, but the number of processes is 1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        LLM("demo", **{"device": "cpu"} | arguments)
    assert caught.value.code == code


def test_the_sizes_must_be_those_of_the_processes_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="tp 1 x pp 1 is 1, but the number of processes is 2") as caught:
        LLM("demo", device="cpu")
    assert caught.value.code == "wrong_number_of_ranks"
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'") as caught:
        LLM("demo", device="cpu")
    assert caught.value.code == "bad_environment"


def test_a_gpu_that_is_asked_for_and_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU is visible") as caught:
        LLM("demo", device="cuda")
    assert caught.value.code == "no_gpu"
