"""The names of metrics in lm-eval's results, and how many documents they were measured on. No lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def metric_label(key: str) -> str:
    """``acc,none`` and ``acc,get-answer`` for people: ``acc``, ``acc (get-answer)``."""
    metric, _, filtered = key.partition(",")
    return metric if filtered in ("", "none") else f"{metric} ({filtered})"


def document_counts(document: Mapping[str, Any], task: str) -> tuple[int, int]:
    """How many documents of a task were scored, and how many it has; for a group, the sums over its tasks."""
    count = mapping_at(document, "n-samples").get(task)
    if isinstance(count, dict):
        return count.get("effective", 0), count.get("original", 0)
    scored, total = 0, 0
    for member in mapping_at(document, "group_subtasks").get(task, ()):
        more = document_counts(document, member)
        scored, total = scored + more[0], total + more[1]
    return scored, total


def mapping_at(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping within a file of results; empty if the file lacks it."""
    part = content.get(key)
    return part if isinstance(part, dict) else {}


def stderr_key(metric: str) -> str:
    """The key of a metric's standard error: ``acc_stderr,none`` for ``acc,none``, and ``acc_stderr`` for ``acc``."""
    name, comma, filtered = metric.partition(",")
    return f"{name}_stderr{comma}{filtered}"
