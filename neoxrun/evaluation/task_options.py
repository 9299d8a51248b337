"""Checks of task files against what lm-eval knows: options, metrics, aggregations, filters.

lm-eval reports a wrong one by a TypeError without a file, or only when all documents have been scored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from lm_eval.api import metrics as metrics  # registers them
from lm_eval.api.registry import aggregation_registry, filter_registry, metric_agg_registry, metric_registry
from lm_eval.api.task import ALL_OUTPUT_TYPES
from lm_eval.config.group import GroupConfig
from lm_eval.config.task import TaskConfig

from neoxrun.config.yaml_source import TaggedText
from neoxrun.errors import DataError
from neoxrun.evaluation.task_files import line_of, read_task_file
from neoxrun.evaluation.task_values import wrong_option
from neoxrun.terminal.words import did_you_mean

# Of a task file, but not of lm-eval's TaskConfig.
_STRUCTURE: Final = {"class", "group", "include", "tag", "task_list"}
_TASK: Final = {field.name for field in fields(TaskConfig)}
_GROUP: Final = {field.name for field in fields(GroupConfig)}
_NEEDED: Final = ("dataset_path", "doc_to_text", "doc_to_target")


def check_options(name: str, file: Path) -> None:
    """Check a task file for what lm-eval would fail on. Tasks that are classes check themselves.

    Raises:
        DataError: an option is unknown, missing or wrong; the error has its file and line.
    """
    values = read_task_file(file)
    if "class" in values:
        return
    _check_known(f"the task {name}", values, _TASK, file)
    _check_needed(name, values, file)
    _check_name(name, "output_type", values.get("output_type", ALL_OUTPUT_TYPES[-1]), ALL_OUTPUT_TYPES, file)
    repeats = values.get("repeats", 1)
    if type(repeats) is not int or repeats < 1:
        raise wrong_option(name, "repeats", f"{repeats!r} is not a whole number of 1 or more", file)
    if values.get("metric_list") is not None:
        _check_metrics(name, values, file)
    if any(isinstance(value, TaggedText) for value in values.values()):
        return  # the module of a function may add filters to lm-eval's
    for one in _mappings(name, "filter_list", values.get("filter_list") or [], "name", file):
        for function in _mappings(name, "filter_list", one.get("filter") or [], "function", file):
            _check_name(name, "filter_list", function["function"], filter_registry.keys(), file)


def check_group(name: str, file: Path) -> None:
    """Check a group's file, and the settings in it of its members, for options that neither groups nor tasks have.

    Raises:
        DataError: an option is unknown.
    """
    values = read_task_file(file)
    _check_known(f"the group {name}", values, _TASK | _GROUP, file)
    members = values.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, Mapping) and "class" not in member:
            _check_known(f"a member of the group {name}", member, _TASK | _GROUP, file)


def _check_known(whose: str, values: Mapping[str, Any], known: set[str], file: Path) -> None:
    for option in map(str, values):
        if option not in known | _STRUCTURE:
            raise DataError(
                f"{whose} has an unknown option {option}",
                code="bad_task",
                where=line_of(file, option),
                hint=did_you_mean(option, known, 1) or f"The options are {', '.join(sorted(known))}.",
            )


def _check_needed(name: str, values: Mapping[str, Any], file: Path) -> None:
    needed = [option for option in _NEEDED if option != "dataset_path" or not values.get("custom_dataset")]
    if values.get("output_type") == "multiple_choice":
        needed.append("doc_to_choice")
    if values.get("use_prompt"):
        needed = [option for option in needed if not option.startswith("doc_to_")]
    missing = next((option for option in needed if values.get(option) is None), None)
    if missing is not None:
        raise wrong_option(name, missing, "it is missing", file, "lm-eval's guide to new tasks explains the options.")


def _check_metrics(name: str, values: Mapping[str, Any], file: Path) -> None:
    for one in _mappings(name, "metric_list", values["metric_list"], "metric", file):
        metric = one["metric"]
        if "aggregation" in one:
            _check_name(name, "metric_list", one["aggregation"], aggregation_registry.keys(), file)
        elif values.get("process_results") is None:
            _check_name(name, "metric_list", metric, metric_agg_registry.keys(), file)
        elif not isinstance(metric, TaggedText) and metric not in metric_agg_registry:
            what = f"the metric {metric} has no aggregation, and there is no default for it"
            raise wrong_option(name, "metric_list", what, file, "Add one, as in `aggregation: mean`.")


def check_metrics(name: str, task: Any, file: Path | None) -> None:
    """Check that a task that was built has a function for each of its metrics, which lm-eval also looks for elsewhere.

    Raises:
        DataError: one was not found.
    """
    functions = getattr(task, "_metric_fn_list", {})
    if getattr(task.config, "process_results", None) is None:
        for metric, function in functions.items():
            if function is None:
                _check_name(name, "metric_list", metric, metric_registry.keys(), file)


def _mappings(name: str, option: str, value: Any, key: str, file: Path) -> list[Mapping[str, Any]]:
    """The mappings in a list, each of which needs ``key``."""
    if not isinstance(value, list) or not all(isinstance(one, Mapping) and key in one for one in value):
        raise wrong_option(name, option, f"each entry must be a mapping with `{key}`", file)
    return value


def _check_name(name: str, option: str, value: Any, known: Collection[str], file: Path | None) -> None:
    """Refuse a name that lm-eval does not know; a function of the task's own passes."""
    if isinstance(value, TaggedText) or value in known:
        return
    hint = did_you_mean(str(value), known, 1) or f"There are {', '.join(sorted(known))}."
    raise wrong_option(name, option, f"{value!r} is not known to lm-eval", file, hint)
