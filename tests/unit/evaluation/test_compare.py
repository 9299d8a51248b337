"""Results compared with reference results: what agrees, and what cannot be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import compare, references, report
from neoxrun.evaluation.metrics import metric_label
from support.results import results


@pytest.mark.parametrize(
    ("document", "errors", "verdict"),
    [
        (results(0.77), -0.42, "agrees"),
        (results(0.75), -2.42, "differs"),
        (results(0.80), 2.58, "differs"),
        (results(0.77, scored=40), -0.42, "agrees (limited: 40 of 100)"),
        (results(0.77, "N/A"), None, "unknown: no standard error"),
        (results(0.77, weights="random"), -0.42, "means nothing: random weights"),
        (results(0.77) | {"n-shot": {"piqa": 5}}, -0.42, "not comparable: 5-shot, reference 0-shot"),
    ],
)
def test_verdicts(document: dict, errors: float | None, verdict: str) -> None:
    one = references.published_results(load_settings(["20B"]).model)[0]
    (found,) = [each for each in compare.compare_results(document, [one]) if each.metric == "acc,none"]
    assert found.reference == 0.7742
    assert found.errors == (None if errors is None else pytest.approx(errors))
    assert found.verdict == verdict


def test_perplexities_are_compared_by_their_logarithms() -> None:
    """A model at 4 million compared with 3.67: the standard error of 4 million is 2 million."""
    document = results(0.5)
    document["results"]["piqa"] = {"perplexity,none": 4e6, "perplexity_stderr,none": 2e6}
    (found,) = compare.compare_results(document, [references.ReferenceResults("x", {"piqa": {"perplexity": 3.67}})])
    assert found.errors > 20
    assert found.verdict == "differs"


def test_published_results_are_those_of_the_sources() -> None:
    sources = references.published_results(load_settings(["20B"]).model)
    values = [(one.results["lambada_openai"], one.results["piqa"]) for one in sources]
    assert values == [
        ({"acc": 0.7209, "perplexity": 3.672}, {"acc": 0.7742, "acc_norm": 0.7807}),
        ({"acc": 0.7211, "perplexity": 3.676}, {"acc": 0.7748, "acc_norm": 0.7786}),
        ({"acc": 0.7223, "perplexity": 3.656}, {"acc": 0.7758, "acc_norm": 0.7856}),
    ]
    with pytest.raises(UsageError, match="no published results"):
        references.published_results(load_settings(["pythia-160m"]).model)


def test_an_earlier_results_file_can_be_compared_with(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(0.77)))
    (reference,) = references.read_reference_results(path)
    assert reference.results == {"piqa": {"acc,none": 0.77}}
    assert reference.errors == {"piqa": {"acc,none": 0.01}}
    assert reference.num_fewshot == {"piqa": 0}


def two_filters(tmp_path: Path, reference: dict, **content: Any) -> list[tuple[str, float, float, str]]:
    """The results of a task with two filters, compared with those in a file."""
    metrics = {"exact_match,strict": 0.0, "exact_match_stderr,strict": 0.1}
    metrics |= {"exact_match,loose": 0.5, "exact_match_stderr,loose": 0.1}
    document = results(0.5) | {"results": {"piqa": metrics}}
    path = tmp_path / "reference.json"
    path.write_text(json.dumps({"results": {"piqa": reference or metrics}, **content}))
    found = compare.compare_results(document, references.read_reference_results(path))
    return [(metric_label(one.metric), one.measured, one.reference, one.verdict) for one in found]


def test_metrics_of_one_filter_are_compared_with_no_other(tmp_path: Path) -> None:
    assert two_filters(tmp_path, {}) == [
        ("exact_match (strict)", 0.0, 0.0, "agrees"),
        ("exact_match (loose)", 0.5, 0.5, "agrees"),
    ]
    assert [row[:3] for row in two_filters(tmp_path, {"exact_match": 0.5})] == [
        ("exact_match (strict)", 0.0, 0.5),
        ("exact_match (loose)", 0.5, 0.5),
    ]


def test_reference_results_may_be_incomplete_too(tmp_path: Path) -> None:
    limited = {"n-samples": {"piqa": {"effective": 4, "original": 100}}}
    (one,) = two_filters(tmp_path, {"exact_match,loose": 0.5}, **limited)
    assert one[3] == "agrees (reference limited: 4 of 100)"
    (one,) = two_filters(tmp_path, {"exact_match,loose": 0.5}, neoxrun={"weights": "random"})
    assert one[3] == "means nothing: the reference has random weights"


def compared(tmp_path: Path, reference: dict, document: dict) -> list[compare.ComparedValue]:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(reference))
    return compare.compare_results(document, references.read_reference_results(path))


def test_both_sides_have_errors(tmp_path: Path) -> None:
    """acc 0.51 +- 0.035 against 0.46 +- 0.05: one and a half errors of the first, but not of the difference."""
    earlier = results(0.46, 0.05)
    (found,) = compared(tmp_path, earlier, results(0.51, 0.03))
    assert found.errors == pytest.approx(0.05 / (0.05**2 + 0.03**2) ** 0.5)
    assert (found.stderr, found.reference_stderr, found.verdict) == (0.03, 0.05, "agrees")
    assert found.to_dict()["theirs_stderr"] == 0.05
    (found,) = compared(tmp_path, {"results": {"piqa": {"acc": 0.46, "acc_stderr": 0.05}}}, results(0.51, "N/A"))
    assert found.errors == pytest.approx(1)
    table = report.comparison_table([found])
    assert "0.4600  0.0500  +1.0 stderr  agrees" in table
    assert table.endswith("\nagrees: within 2 standard errors of the difference.\n")


@pytest.mark.parametrize(("given", "stderr"), [(77.42, 1.0), ("77.42%", None), (" 77.42 %", None)])
def test_percentages_are_recognized(given: float | str, stderr: float | None, tmp_path: Path) -> None:
    reference = {"acc": given} | ({} if stderr is None else {"acc_stderr": stderr})
    (found,) = compared(tmp_path, {"results": {"piqa": reference}}, results(0.77))
    assert found.reference == pytest.approx(0.7742)
    assert found.reference_stderr == (None if stderr is None else pytest.approx(0.01))
    assert found.verdict == "agrees (reference in percent)"


def test_other_metrics_may_be_above_one(tmp_path: Path) -> None:
    document = results(0.77)
    document["results"]["piqa"] = {"perplexity,none": 0.9, "perplexity_stderr,none": 0.01}
    (found,) = compared(tmp_path, {"results": {"piqa": {"perplexity": 3.6}}}, document)
    assert (found.reference, found.verdict) == (3.6, "differs")


@pytest.mark.parametrize(
    ("measured", "reference", "verdict"),
    [
        (0.77, math.nan, "unknown: the reference value is NaN"),
        (math.nan, 0.77, "unknown: the measured value is NaN"),
        (0.77, math.inf, "unknown: the reference value is infinite"),
        (0.77, "see the appendix", "unknown: the reference value is text"),
        (0.77, None, "unknown: the reference value is text"),
        (0.77, True, "unknown: the reference value is text"),
        ("N/A", 0.77, "unknown: the measured value is text"),
    ],
)
def test_values_that_are_no_numbers_are_named(measured: Any, reference: Any, verdict: str, tmp_path: Path) -> None:
    (found,) = compared(tmp_path, {"results": {"piqa": {"acc": reference}}}, results(measured))
    assert (found.errors, found.verdict) == (None, verdict)
    table = report.comparison_table([found])
    assert str(reference if isinstance(reference, str) else "acc") in table
    assert "agrees" not in table


def test_what_is_not_compared_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(
        '{"source": "a\\u001b[2Jb", "results": {"piqa": {"acc": 0.7, "f1\\u001b": 0.5}, "boolq": {"acc": 1, "f1": 1}}}'
    )
    given = references.read_reference_results(path)
    (found,) = compare.compare_results(results(0.77), given)
    assert found.source == "a\\x1b[2Jb"
    assert compare.not_measured(results(0.77), given * 2) == ["piqa f1\\x1b"]
    assert compare.not_run(results(0.77), given * 2) == ["boolq (acc, f1)"]


@pytest.mark.parametrize(
    "content",
    [
        '{"results": {"piqa": {"acc": 1' + 400 * "0" + "}}}",
        '{"results": {"piqa": {"acc": 1}}, "group_subtasks": {"piqa": ["piqa"]}}',
        '{"results": {"piqa": {"acc": 1}}, "group_subtasks": {"piqa": 5}}',
        '{"results": {"piqa": {"acc": 1}}, "num_fewshot": true}',
        100_000 * "[",
    ],
    ids=["a huge number", "a group in itself", "a group of a number", "a word for a number", "no end of lists"],
)
def test_a_file_of_reference_results_that_is_odd(content: str, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        references.read_reference_results(path)
    assert caught.value.where == str(path)
    assert "The file must hold" in caught.value.hint


def test_a_group_is_limited_as_its_tasks_are() -> None:
    document = results(0.77, scored=40)
    document["results"]["all"] = document["results"]["piqa"]
    document |= {"group_subtasks": {"all": ["piqa"]}, "n-shot": {"piqa": 0, "all": 0}}
    (found,) = compare.compare_results(document, [references.ReferenceResults("x", {"all": {"acc": 0.77}})])
    assert found.verdict == "agrees (limited: 40 of 100)"
