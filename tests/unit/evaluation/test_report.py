"""The table and notes that show a results file."""

from __future__ import annotations

from neoxrun.evaluation import report
from neoxrun.evaluation.report import results_table
from support.results import results


def test_documents_that_may_not_be_the_published_ones_are_named() -> None:
    file = {"path": "valid.jsonl", "sha256": "", "published": None}
    document = results(0.77, limited=None)
    document["neoxrun"]["data"] = {"baber/piqa": {"splits": {"validation": {"documents": 5, "files": [file]}}}}
    assert report.result_notes(document) == [
        "local data: baber/piqa validation was read from valid.jsonl, which may differ from the published data."
    ]
    file["published"] = True
    assert report.result_notes(document) == []
    document["results"]["piqa"] = {"alias": "piqa"}
    assert report.result_notes(document) == ["no results: no metric is defined for piqa."]


def test_table_shows_groups_first_and_counts_in_every_row() -> None:
    document = results(0.77, scored=40)
    document["results"] = {"piqa": document["results"]["piqa"], "all": {"alias": "all", "acc,none": 0.5}}
    document["group_subtasks"] = {"all": ["piqa"]}
    lines = results_table(document).splitlines()
    assert [line.split()[0] for line in lines] == ["task", "all", "piqa"]
    assert all(line.endswith("40 of 100") for line in lines[1:])
