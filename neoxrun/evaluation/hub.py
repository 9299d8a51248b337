"""The Hugging Face hub: whether it answers, what of it is cached, and keeping libraries from asking it."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Final

SECONDS: Final = 3.0
"""How long one attempt to connect, and the answer after it, may take."""
DEADLINE: Final = 5.0
"""How long the whole question may take; looking up a name has no limit of its own."""

_TRUE = {"1", "ON", "YES", "TRUE"}
_GATEWAY = {407, 502, 503, 504}  # a proxy's answers, when it does not get through


def why_not() -> str | None:
    """Why the hub cannot be asked, or None where it answers. One question, as its own library would put it.

    lm-eval and ``datasets`` would try for half a minute on a dead network, and for minutes on one that swallows
    packets.
    """
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(variable, "").upper() in _TRUE:
            return f"{variable} is set"
    from huggingface_hub import constants, get_session

    answers: list[str | None] = []

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=SECONDS).status_code
        except Exception as error:  # each of the libraries below has its own; all of them mean no
            answers.append(f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}: {error})")
        else:
            answers.append(f"{constants.ENDPOINT} answers with error {status}" if status in _GATEWAY else None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return answers[0] if answers else f"{constants.ENDPOINT} does not answer within {DEADLINE:g} s"


def cached(path: str, name: str | None) -> bool:
    """Whether ``datasets`` has prepared this data set before, so that it can do without the hub."""
    from huggingface_hub import constants

    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()
    wanted = _plain(path.replace("/", "___"))
    return any(
        _plain(entry.name) == wanted and any(name is None or part.name.startswith(name) for part in entry.iterdir())
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if entry.is_dir()
    )


def go_offline() -> None:
    """Keep this process, and what it starts, from asking the hub for anything."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    for name in ("huggingface_hub.constants", "datasets.config"):
        if (module := sys.modules.get(name)) is not None:  # it has read the variable already
            vars(module)["HF_HUB_OFFLINE"] = True


def _plain(name: str) -> str:
    """``datasets`` writes the names of its folders in another case than the hub."""
    return name.replace("_", "").lower()
