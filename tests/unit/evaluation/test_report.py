"""What a results file is shown as."""

from __future__ import annotations

from neoxrun.evaluation import report
from neoxrun.evaluation.report import table
from support.results import results


def test_documents_that_may_be_others_are_said() -> None:
    file = {"path": "valid.jsonl", "sha256": "", "published": None}
    document = results(0.77, limited=None)
    document["neoxrun"]["data"] = {"baber/piqa": {"splits": {"validation": {"documents": 5, "files": [file]}}}}
    assert report.notes(document) == ["baber/piqa validation is valid.jsonl: it may not be what was published."]
    file["published"] = True
    assert report.notes(document) == []
    document["results"]["piqa"] = {"alias": "piqa"}
    assert report.notes(document) == ["no figures: piqa ask for no metric."]


def test_table_shows_groups_first_and_counts_in_every_row() -> None:
    document = results(0.77, scored=40)
    document["results"] = {"piqa": document["results"]["piqa"], "all": {"alias": "all", "acc,none": 0.5}}
    document["group_subtasks"] = {"all": ["piqa"]}
    lines = table(document).splitlines()
    assert [line.split()[0] for line in lines] == ["task", "all", "piqa"]
    assert all(line.endswith("40 of 100") for line in lines[1:])
