"""What commands say, held in files of the repository, so that sentences are reviewed and changed in one go.

A test looks at facts (exit code, files, numbers) itself and gives the rest to its ``snapshot``, which compares command
line, exit code and output with the section of that test in ``snapshots/<module>.txt``. ``pytest --write-snapshots``
writes the sections of the tests that it runs, and removes those of tests that are gone.
"""

from __future__ import annotations

import difflib
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from support.command import Result
from support.paths import ROOT

_HEAD = "Written by `pytest --write-snapshots`: read the difference before you commit it.\n"
_SECTION = re.compile(r"^=== (.+)\n", re.MULTILINE)
# What differs from run to run: how long and how fast, and ports that the system has chosen.
_VOLATILE = [
    (re.compile(r"\b\d+(\.\d+)? ?(s|ms|min)\b"), "N s"),
    (re.compile(r"\b\d+(\.\d+)?(?= tokens/s\b)"), "N"),
    (re.compile(r"\b\d+(\.\d+)? ?[kMG]?B/s\b"), "N B/s"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}\b"), "PORT"),
]
# How far the work is: which of these lines come, and when, differs too.
_PROGRESS = re.compile(
    r"^(?:(?:\[rank \d+\] )?(?:warning: )?waiting for |loaded |scoring: |\d+ answers?, |"
    r"(?:[a-z]+: )?\d[^,\n]*, [\d.]+ ?\w+/s).*\n",
    re.MULTILINE,
)
# Python's argparse puts them in quotes or not, as its version is.
_CHOICES = re.compile(r"\(choose from .*?\)")


class Snapshots:
    """The snapshots of a test session.

    Args:
        write: whether they are to be written instead of compared.
        temporary: the folder that holds the temporary folders of all tests.
    """

    def __init__(self, *, write: bool, temporary: Path) -> None:
        self._write = write
        names = {sys.prefix: "VENV", str(ROOT): "REPOSITORY", socket.gethostname(): "HOST"}
        self._names = [(re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])"), word) for name, word in names.items()]
        self._temporary = re.compile(re.escape(str(temporary)) + r"/[\w.-]+")
        self._held: dict[Path, dict[str, str]] = {}

    def check(
        self, path: Path, name: str, result: Result, replace: Mapping[str, str], *, progress: bool, output: bool
    ) -> None:
        """Compare what a command said with the section ``name`` of a file, or write it.

        Args:
            path: the file.
            name: of the test, and of the command within it.
            result: how the command ended.
            replace: texts that differ from run to run, and what stands for each.
            progress: whether the lines that say how far the work is are compared, too.
            output: whether standard output is compared.
        """
        err = result.err if progress else _PROGRESS.sub("", result.err)
        said = f"$ {result.command}\nexit code {result.code}\n"
        said += f"--- standard output\n{result.out}" if result.out and output else ""
        said += f"--- standard error\n{err}" if err else ""
        said = self._normal(said, replace)
        if path not in self._held:
            self._held[path] = read_sections(path)
        held = self._held[path]
        if self._write:
            held[name] = said
        elif held.get(name) != said:
            before, after = held.get(name, "").splitlines(), said.splitlines()
            difference = "\n".join(difflib.unified_diff(before, after, "snapshot", "this run", lineterm="", n=99))
            raise AssertionError(f"{path}, {name}:\n{difference}\npytest --write-snapshots makes it the new snapshot")

    def save(self, known: Mapping[Path, set[str]]) -> None:
        """Write the files, less the sections of tests that are gone.

        Args:
            known: the names of the tests in each module that was collected as a whole, by the path of its snapshots.
        """
        for path, held in self._held.items() if self._write else ():
            kept = {name: text for name, text in held.items() if _test_of(name) in known.get(path, {_test_of(name)})}
            path.parent.mkdir(exist_ok=True)
            sections = (f"\n=== {name}\n{text.rstrip()}\n" for name, text in sorted(kept.items()))
            path.write_text(_HEAD + "".join(sections), encoding="utf-8")

    def _normal(self, text: str, replace: Mapping[str, str]) -> str:
        for old, new in replace.items():
            text = text.replace(old, new)
        text = self._temporary.sub("TMP", text)
        for pattern, new in [*self._names, *_VOLATILE]:
            text = pattern.sub(new, text)
        text = _CHOICES.sub(lambda choices: choices[0].replace("'", ""), text)
        return text.rstrip() + "\n"


class Snapshot:
    """The snapshots of one test: call it with each result. Further ones of the same test need a name."""

    def __init__(self, snapshots: Snapshots, module: Path, test: str) -> None:
        self._snapshots, self._path, self._test = snapshots, snapshots_of(module), test

    def __call__(
        self,
        result: Result,
        name: str = "",
        *,
        replace: Mapping[str, str] | None = None,
        progress: bool = False,
        output: bool = True,
    ) -> None:
        section = f"{self._test} > {name}" if name else self._test
        self._snapshots.check(self._path, section, result, replace or {}, progress=progress, output=output)


def snapshots_of(module: Path) -> Path:
    """The file with the snapshots of a test module."""
    return module.parent / "snapshots" / f"{module.stem}.txt"


def read_sections(path: Path) -> dict[str, str]:
    """The sections of a file of snapshots by name; none where it does not exist yet."""
    if not path.exists():
        return {}
    _, *parts = _SECTION.split(path.read_text(encoding="utf-8"))
    return {name: text.rstrip() + "\n" for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _test_of(section: str) -> str:
    return section.partition(" > ")[0]
