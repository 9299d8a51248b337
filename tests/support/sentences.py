"""The texts that neoxrun says, read from its sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from support.paths import ROOT


class Text(NamedTuple):
    """A string of the program; what it fills in when it runs is ``VALUE``."""

    path: str
    line: int
    text: str


VALUE = "\0"


def texts_of(folder: Path) -> Iterator[Text]:
    """Every string of the modules in ``folder`` (or of one module), docstrings left out; pieces in a row are one."""
    for path in _modules(folder):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {part for node in ast.walk(tree) for part in _parts(node)}
        documented = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if node in inner or node in documented:
                continue
            if (text := _written(node)) is not None:
                yield Text(path.relative_to(ROOT).as_posix(), node.lineno, text)


def _modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]


def _written(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if parts := _parts(node):
        return "".join(_written(part) or VALUE for part in parts)
    return None


def _parts(node: ast.AST) -> list[ast.expr]:
    """What a text is put together from: an f-string, or a sum with a string in it."""
    if isinstance(node, ast.JoinedStr):
        return node.values
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [part for side in (node.left, node.right) for part in _parts(side) or [side]]
        return parts if any(_written(part) for part in parts) else []
    return []


def hints_of(folder: Path) -> Iterator[Text]:
    """Every hint in the modules of ``folder``: as an argument, in a variable, or made by a function of that name."""
    for path in _modules(folder):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        values: list[ast.expr | None] = []
        for node in ast.walk(tree):
            match node:
                case ast.keyword(arg="hint"):
                    values.append(node.value)
                case ast.Assign(targets=[ast.Name(id=name)]) if name.endswith("hint"):
                    values.append(node.value)
                case ast.FunctionDef() if node.name.endswith("hint"):
                    values += [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
        for value in values:
            for leaf in _leaves(value):
                if (text := _written(leaf)) is not None:
                    yield Text(path.relative_to(ROOT).as_posix(), leaf.lineno, text)


def _leaves(node: ast.expr | None) -> Iterator[ast.expr]:
    """The strings that an expression chooses between."""
    if isinstance(node, ast.IfExp):
        yield from _leaves(node.body)
        yield from _leaves(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for part in node.values:
            yield from _leaves(part)
    elif node is not None:
        yield node


@cache
def _patterns() -> list[re.Pattern[str]]:
    """A pattern for each line of every text that has ten letters or more of its own.

    A value that follows a sentence is a text too, and has its own pattern.
    """
    lines = (line for text in texts_of(ROOT / "neoxrun") for line in text.text.splitlines())
    found = {re.sub(rf"(?<=\.) {VALUE}$", "", line) for line in lines}
    return [
        re.compile(".*?".join(map(re.escape, line.split(VALUE)))) for line in found if sum(map(str.isalpha, line)) >= 10
    ]


def is_said(line: str) -> bool:
    """Whether the program can say this line: one of its texts, or several one after the other."""
    line = line.lstrip(" ,:;.")
    if not line:
        return True
    if any(pattern.fullmatch(line) for pattern in _patterns()):
        return True
    starts = (pattern.match(line) for pattern in _patterns())
    return any(is_said(line[start.end() :]) for start in starts if start and start.end() > 10)
