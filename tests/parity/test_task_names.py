"""The names of tasks are all of lm-eval's."""

from __future__ import annotations

import pytest

from neoxrun.evaluation.catalog import TaskCatalog


@pytest.mark.slow
def test_names_are_all_of_lm_evals() -> None:
    import lm_eval.tasks

    catalog = TaskCatalog()
    theirs = lm_eval.tasks.TaskManager().task_index
    assert catalog.names == sorted(theirs)
    selection = catalog.select(catalog.names)
    for name, entry in theirs.items():
        ours = selection.known[name]
        assert (ours.kind == "tag") == (entry.kind.name == "TAG")
        assert (ours.kind == "group") == (entry.kind.name == "GROUP")
        assert ours.path == entry.yaml_path
        assert entry.kind.name != "TAG" or set(ours.tasks) == entry.tags
