"""README and docs, cut into what can be checked; and the parsers that they are checked with."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator

from neoxrun import cli
from support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}


def blocks(page: str, language: str = r"\w*") -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def section(page: str, title: str) -> str:
    """What stands under a heading."""
    return re.split(r"^## ", page.split(f"## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """The first column of a table, its heading left out."""
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    return rows[1:]


def written(cells: list[str]) -> set[str]:
    """Everything between backticks."""
    return set(re.findall(r"`([^`]+)`", " ".join(cells)))


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every `neoxrun` command in a block, from the program's name on, however it is started."""
    for name, page in PAGES.items():
        for line in "".join(blocks(page, "(?:sh|console)")).splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if "neoxrun " in line else []
            if "neoxrun" in words and not line.startswith(("{", "docker build")):
                arguments = words[len(words) - words[::-1].index("neoxrun") :]
                yield f"{name}: {line}", arguments[: arguments.index("<")] if "<" in arguments else arguments


def python_examples() -> Iterator[tuple[str, str, list[str]]]:
    """Every Python program of a page: its name, its text, and what its last lines, comments, say that it prints."""
    for name, page in PAGES.items():
        for number, program in enumerate(blocks(page, "python"), 1):
            lines = program.splitlines()
            shown: list[str] = []
            while lines and lines[-1].startswith("# "):
                shown.insert(0, lines.pop().removeprefix("# "))
            yield f"{name}, example {number}", program, shown


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    (commands,) = [action for action in cli.build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return commands.choices[command]


def options_of(command: str) -> list[argparse.Action]:
    """The command's options, less argparse's own --help."""
    return [action for action in parser_of(command)._actions if not isinstance(action, argparse._HelpAction)]
