"""lm-eval begins texts and writes chats with neoxrun's model as with its own ``hf``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from neoxrun.errors import DataError
from neoxrun.evaluation.registered import RegisteredLM
from support.chat_model import TEMPLATE, write_chat_model

_LINES = [{"context": f"The weights of model {n} are", "target": f" in file {n}."} for n in range(4)]
_ENDS = {"output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}]}
_WHOLE = {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]}
_TASKS: dict[str, dict[str, Any]] = {
    "after_a_context": {**_ENDS, "doc_to_text": "{{context}}", "doc_to_target": "{{target}}"},
    "without_a_context": {**_ENDS, "doc_to_text": "", "doc_to_target": "{{target}}"},
    "whole": {**_WHOLE, "doc_to_text": "", "doc_to_target": "{{context}}{{target}}"},
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in _LINES))
    for name, task in _TASKS.items():
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **source, **task}))
    return folder


def test_beginnings_and_chats(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chat = write_chat_model(tmp_path / "model")
    ours = RegisteredLM(str(chat.config), device="cpu")
    reference = HFLM(pretrained=str(chat.folder), dtype="float32", device="cpu", batch_size=1)
    for template, names in ((False, list(_TASKS)), (True, list(_TASKS)[:2])):
        found = [
            simple_evaluate(
                model=model,
                tasks=names,
                task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
                apply_chat_template=template,
                bootstrap_iters=0,
            )
            for model in (ours, reference)
        ]
        for name in names:
            mine, theirs = (
                {key: value for key, value in results["results"][name].items() if "perplexity," in key}
                for results in found
            )
            assert mine == {key: pytest.approx(value, rel=1e-4) for key, value in theirs.items()} != {}


def test_chats_as_by_hf(tmp_path: Path) -> None:
    chat = write_chat_model(tmp_path)
    ours = RegisteredLM(str(chat.config), device="cpu")
    reference = HFLM(pretrained=str(chat.folder), dtype="float32", device="cpu", batch_size=1)
    assert ours.chat_template(True) == reference.chat_template(True) == TEMPLATE
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}
    answer = {"role": "assistant", "content": "Well,"}
    for messages, prompt in (([user], True), ([system, user], True), ([user, answer], False)):
        text = ours.apply_chat_template(messages, add_generation_prompt=prompt)
        assert text == reference.apply_chat_template(messages, add_generation_prompt=prompt)
        assert ours.tok_encode(text) == reference.tok_encode(text)
    assert (ours.prefix_token_id, ours.eot_token_id) == (reference.prefix_token_id, reference.eot_token_id) == (400, 0)
    with pytest.raises(DataError) as caught:
        ours.apply_chat_template([])
    assert caught.value.code == "bad_prompt"


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        RegisteredLM("demo", device="cpu").chat_template(True)
    assert caught.value.code == "no_chat_template"
