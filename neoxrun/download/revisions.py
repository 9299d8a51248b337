"""Revisions of a hub repository: which are meant, what each holds, and which of them hold the weights of another."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from neoxrun.download.hub import look_up_repository
from neoxrun.download.hub_files import Repository
from neoxrun.download.proof import WEIGHTS
from neoxrun.errors import NetworkError, UsageError
from neoxrun.terminal.words import counted, listing

MAIN = "main"
"""The hub's default branch, which holds the final weights."""

_STEP = re.compile(r"step[_-]?(\d{1,15})|(?:^|[_-])(\d{1,15})$", re.IGNORECASE | re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"(?:step)?(\d{0,15}):(?:step)?(\d{0,15})(?::(\d{1,15}))?", re.ASCII)
_MOST_STEPS = 100_000
_QUESTIONS = 8  # at a time


@dataclass(frozen=True)
class Revision:
    """A revision, with what the hub reports of its files.

    Attributes:
        name: branch, tag or commit.
        repository: this version of the repository.
    """

    name: str
    repository: Repository

    @property
    def step(self) -> int | None:
        """The training step in its name; None if there is none."""
        return step_of(self.name)

    @property
    def weights(self) -> tuple[str, ...]:
        """The checksums of its weight files: two revisions that have the same ones have the same weights."""
        return tuple(sorted(sum_ for name, sum_ in self._checksums() if name.lower().endswith(WEIGHTS)))

    @property
    def contents(self) -> str:
        """A checksum of all files that a model needs, with their names."""
        return hashlib.sha256(json.dumps(self._checksums()).encode()).hexdigest()

    def _checksums(self) -> list[tuple[str, str]]:
        """Each file's SHA-256, or for small files git's hash, as the hub reports it; the commit if it reports none."""
        blobs, commit = self.repository.blobs, self.repository.commit
        return [(file.name, file.sha256 or blobs.get(file.name, commit)) for file in self.repository.files]


def step_of(name: str) -> int | None:
    """The training step in the name of a revision: ``step1000``, ``step1000-tokens4B``, ``iter_0001000``.

    None for names without one, such as ``main`` or a commit.
    """
    found = None if _COMMIT.fullmatch(name) else _STEP.search(name)
    return None if found is None else int(found[1] or found[2])


def choose_revisions(text: str, known: Sequence[str], repository: str) -> list[str]:
    """The revisions that ``--revisions`` means, each once.

    Args:
        text: ``all`` (every branch and tag with a step in its name), names between commas, or ``START:END:STEP``, both
            ends included. Without STEP it means every step that there is between the ends, without an end no limit.
        known: the repository's branches and tags.
        repository: its name, for messages.

    Raises:
        UsageError: the text has none of these forms.
        NetworkError: the repository lacks one of these steps, or has no steps at all.
    """
    found = _RANGE.fullmatch(text)
    if text != "all" and found is None:
        names = [name.strip() for name in text.split(",")]
        if not all(names) or any(":" in name or any(map(str.isspace, name)) for name in names):
            raise UsageError(
                f"--revisions {text} names no revisions",
                code="invalid_value",
                hint="Give all, names between commas (step1000,step2000), or steps as START:END:STEP.",
            )
        return list(dict.fromkeys(names))
    numbered = sorted((step, name) for name in known if (step := step_of(name)) is not None)
    if not numbered:
        raise NetworkError(
            f"{repository} has no branch or tag with a training step in its name",
            code="not_found",
            hint=f"Name revisions, with commas between them. It has {listing(list(known))}.",
        )
    if found is None:
        return [name for _, name in numbered]
    start, end = int(found[1] or numbered[0][0]), int(found[2] or numbered[-1][0])
    chosen = [(step, name) for step, name in numbered if start <= step <= end]
    if found[3] is not None:
        chosen = _every(range(start, end + 1, max(1, int(found[3]))), chosen, repository)
    if not chosen:
        raise NetworkError(
            f"{repository} has no revision from step {start} to step {end}",
            code="not_found",
            hint=f"Its steps are from {numbered[0][0]} to {numbered[-1][0]}.",
        )
    return [name for _, name in chosen]


def _every(steps: range, known: list[tuple[int, str]], repository: str) -> list[tuple[int, str]]:
    """The revisions of these steps, all of which have to exist."""
    present = {step for step, _ in known}
    missing = [step for step in steps[:_MOST_STEPS] if step not in present]
    if missing:
        raise NetworkError(
            f"{repository} has no revision for {len(missing)} of {counted(len(steps), 'step')}: {listing(missing)}",
            code="not_found",
            hint="Without STEP (START:END), every step that exists between the ends is meant.",
        )
    return [(step, name) for step, name in known if step in steps]


def look_up_revisions(
    repository: str, names: Sequence[str], *, endpoint: str | None = None, ca_bundle: Path | None = None
) -> list[Revision]:
    """Ask the hub for the files of revisions, several at a time; the arguments are those of ``look_up_repository``.

    Raises:
        NetworkError: one of them does not exist, or has no weights; or the hub does not respond.
        UsageError: an argument cannot be a hub, a repository or a file of certificates.
    """

    def look_up(name: str) -> Revision:
        return Revision(name, look_up_repository(repository, name, endpoint=endpoint, ca_bundle=ca_bundle))

    pool = ThreadPoolExecutor(_QUESTIONS)
    try:
        return list(pool.map(look_up, names))
    finally:
        pool.shutdown(cancel_futures=True)


def last_step(names: Sequence[str]) -> str | None:
    """The revision with the latest training step in its name; None if no name has one."""
    steps = {name: step for name in names if (step := step_of(name)) is not None}
    return max(steps, key=steps.__getitem__, default=None)


def find_duplicates(revisions: Sequence[Revision], main: Revision | None, last: str | None) -> list[tuple[str, ...]]:
    """The names of revisions that have the same weights, a group for each.

    The last step of a training run may have the weights of main: that is the same model, and not named.

    Args:
        revisions: what to look at.
        main: to compare them with, if there is one.
        last: the name of the repository's last step; None if it has no steps.

    Returns:
        Groups of two names or more, main first in its group.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for revision in [*([main] if main else []), *revisions]:
        group = groups.setdefault(revision.weights, [])
        if revision.name not in group:
            group.append(revision.name)
    named = [[name for name in names if name != last or MAIN not in names] for names in groups.values()]
    return [tuple(names) for names in named if len(names) > 1]
