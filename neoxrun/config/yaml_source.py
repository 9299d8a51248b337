"""YAML text as values that remember where they were written. Only plain data is built, never other objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from neoxrun.config import neox_keys
from neoxrun.config.training_keys import TRAINING
from neoxrun.errors import ConfigError, UsageError
from neoxrun.terminal.log import log

_TEXTS = (".jsonl", ".txt", ".csv", ".tsv", ".parquet", ".bin")


@dataclass(frozen=True)
class ConfigEntry:
    """One option as it was written.

    Attributes:
        key: the option's name, with underscores.
        value: plain data: None, bool, int, float, str, list or dict.
        where: ``file:line``, or the command-line flag.
        folder: the configuration file's folder; None for a flag.
        written: the name in the file, where that is another one: an old name, or a key of config.json.
        twice: the file gives it twice, with different values, of which this is the second.
    """

    key: str
    value: object
    where: str
    folder: Path | None = None
    written: str | None = None
    twice: bool = False


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that ``1e-5`` is a number, not text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class TaggedText(str):
    """The text of a value with a custom tag: ``!function utils.process`` in lm-eval's task files."""

    __slots__ = ()


class _ValuesLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The fastest loader available. A value with a custom tag, as in lm-eval's task files, stays text."""


_ValuesLoader.add_multi_constructor("!", lambda loader, suffix, node: TaggedText(node.value))

# PyYAML's constructors fail in different ways on an explicit tag with a wrong value (`!!int x`).
_YAML_FAILURES = (
    yaml.YAMLError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)


def read_yaml_file(path: Path) -> dict[str, ConfigEntry]:
    """Every top-level option of a YAML file; an empty file has none.

    Raises:
        ConfigError: the file cannot be read, is not YAML, is not a mapping, or names an option twice with values that
            differ and matter.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not a UTF-8 text file",
            code="unreadable_configuration",
            where=str(path),
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}",
            code="unreadable_configuration",
            where=str(path),
        ) from error

    root, loader = _compose(text, str(path))
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(
            "a configuration is a list of `option: value` pairs, but this file holds something else",
            code="invalid_yaml",
            where=f"{path}:{root.start_mark.line + 1}",
        )

    entries: dict[str, ConfigEntry] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in root.value:
        line = key_node.start_mark.line + 1
        where = f"{path}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError("an option's name must be a word", code="invalid_yaml", where=where)
        key = key_node.value.replace("-", "_")
        value = _construct(loader, value_node, where)
        twice = key in lines and _differs(entries[key], value, lines[key], line, where)
        lines[key] = line
        entries[key] = ConfigEntry(key, value, where, path.parent, twice=twice)
    return entries


def _differs(first: ConfigEntry, value: object, first_line: int, line: int, where: str) -> bool:
    """Whether an option that is given a second time has another value; the last one wins, as in PyYAML.

    Raises:
        ConfigError: it has, and so would the results of all commands.
    """
    if type(first.value) is type(value) and first.value == value:
        return False
    if first.key not in neox_keys.IGNORED:
        raise ConfigError(
            f"{first.key} is given twice, on line {first_line} and on line {line}",
            code="conflicting_options",
            where=where,
            hint="Remove one of the two lines.",
        )
    effect = "counts for finetune only" if first.key in TRAINING else "has no effect here"
    log.warning(f"{first.key} is given twice, with different values; it {effect} ({where})")
    return True


def read_override(text: str) -> ConfigEntry:
    """The option that one ``--set key=value`` sets; the value is read as YAML.

    Raises:
        UsageError: there is no ``=``.
        ConfigError: the value is not YAML.
    """
    where = f"--set {text}"
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise UsageError(
            f"--set needs KEY=VALUE, not {text!r}",
            code="invalid_value",
            hint="For example: --set seq_length=1024.",
        )
    node, loader = _compose(value, where)
    return ConfigEntry(key, None if node is None else _construct(loader, node, where), where)


def read_yaml_values(data: bytes) -> object:
    """The values of a YAML text without their line numbers: several times faster than ``read_yaml_file``.

    Raises:
        ConfigError: it is not YAML; ``where`` is ``:line`` of the text, where that is known.
    """
    try:
        value: object = yaml.load(data, Loader=_ValuesLoader)
    except _YAML_FAILURES as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        raise ConfigError(
            f"not valid YAML: {problem}",
            code="invalid_yaml",
            where=f":{mark.line + 1}" if mark else None,
        ) from error
    return value


def _compose(text: str, source: str) -> tuple[yaml.Node | None, _Loader]:
    """The one document of ``text`` as a tree of nodes with line numbers."""
    try:
        loader = _Loader(text)
        return loader.get_single_node(), loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        context = getattr(error, "context", None)
        problem = f"{context}, {problem}" if context else problem
        hint = None
        if "\\t" in problem:
            hint = "YAML does not allow tabs as indentation. Replace them with spaces."
        elif source.endswith(_TEXTS):
            hint = "A configuration is expected here. Texts follow an option: --data in finetune, -i elsewhere."
        where = f"{source}:{mark.line + 1}" if mark and not source.startswith("--set") else source
        raise ConfigError(f"not valid YAML: {problem}", code="invalid_yaml", where=where, hint=hint) from error
    except RecursionError as error:
        raise ConfigError("not valid YAML: it is nested too deeply", code="invalid_yaml", where=source) from error


def _construct(loader: _Loader, node: yaml.Node, where: str) -> object:
    """The plain value of a node."""
    try:
        value: object = loader.construct_document(node)
    except _YAML_FAILURES as error:
        problem = getattr(error, "problem", None) or "the value cannot be read"
        raise ConfigError(f"not valid YAML: {problem}", code="invalid_yaml", where=where) from error
    return value
