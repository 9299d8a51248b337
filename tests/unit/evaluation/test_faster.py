"""lm-eval in less time, and exactly the same results."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from lm_eval import utils
from lm_eval.api import metrics

from neoxrun.evaluation.faster import bootstrap_stderr, faster_lm_eval

NUMBERS = [random.Random(5).gauss(-4, 2) for _ in range(37)]


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.mark.parametrize(
    ("statistic", "values"),
    [
        (metrics.perplexity, NUMBERS),
        (metrics.median, NUMBERS),
        (metrics.nanmean, [*NUMBERS, math.nan]),
        (metrics.matthews_corrcoef, [(number % 2, number % 3 == 0) for number in range(20)]),
        (metrics.chrf, [("the right words", "the wrong words"), ("a", "b"), ("one more", "one more")]),
    ],
)
def test_same_standard_errors(statistic: Callable[[Sequence[Any]], float], values: list[Any]) -> None:
    assert bootstrap_stderr(statistic, values, 30) == metrics.bootstrap_stderr(statistic, values, 30)


def test_same_standard_errors_over_several_random_streams() -> None:
    ours = bootstrap_stderr(metrics.perplexity, NUMBERS, 3500)
    assert ours == metrics.bootstrap_stderr(metrics.perplexity, NUMBERS, 3500)
    assert ours != bootstrap_stderr(metrics.perplexity, NUMBERS, 2000)


def test_lm_eval_uses_them(capsys: pytest.CaptureFixture[str]) -> None:
    originals = metrics.bootstrap_stderr, utils.env.from_string
    with faster_lm_eval():
        faster = metrics.stderr_for_metric(metrics.perplexity, 200)(NUMBERS)
    assert not capsys.readouterr().out  # where lm-eval's own says "bootstrapping"
    assert faster == metrics.stderr_for_metric(metrics.perplexity, 200)(NUMBERS)
    assert "bootstrapping" in capsys.readouterr().out
    assert (metrics.bootstrap_stderr, utils.env.from_string) == originals


def test_templates_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% set n = namespace(seen=0) %}{% for c in text %}{% set n.seen = n.seen + 1 %}{% endfor %}{{n.seen}}"
    documents = [{"text": "abc"}, {"text": "a"}, {"text": "abc", "n": 7}]
    separately = [utils.apply_template(template, document) for document in documents]
    compiled = []
    compile_source = utils.env.compile

    def count(source: str, *arguments: Any, **options: Any) -> Any:
        compiled.append(source)
        return compile_source(source, *arguments, **options)

    monkeypatch.setattr(utils.env, "compile", count)
    with faster_lm_eval():
        assert [utils.apply_template(template, document) for document in documents] == separately == ["3", "1", "3"]
    assert compiled == [template]
