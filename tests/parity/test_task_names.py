"""The names of tasks are all of lm-eval's."""

from __future__ import annotations

import pytest

from neoxrun.evaluation.catalog import TaskCatalog


@pytest.mark.slow
def test_names_are_all_of_lm_evals() -> None:
    import lm_eval.tasks

    catalog = TaskCatalog()
    index = lm_eval.tasks.TaskManager().task_index
    assert catalog.names == sorted(index)
    selection = catalog.select(catalog.names)
    for name, entry in index.items():
        found = selection.known[name]
        assert (found.kind == "tag") == (entry.kind.name == "TAG")
        assert (found.kind == "group") == (entry.kind.name == "GROUP")
        assert found.path == entry.yaml_path
        assert entry.kind.name != "TAG" or set(found.tasks) == entry.tags
