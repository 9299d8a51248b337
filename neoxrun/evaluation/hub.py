"""The Hugging Face hub: whether it responds, what is cached, and keeping libraries from asking it."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Final

CONNECT_SECONDS: Final = 3.0
"""How long connecting may take, and the response after it."""
DEADLINE_SECONDS: Final = 5.0
"""How long the whole request may take; looking up a host name has no time limit otherwise."""

_TRUE = {"1", "ON", "YES", "TRUE"}
_GATEWAY = {407, 502, 503, 504}  # a proxy's statuses when it cannot reach the hub


def why_unreachable() -> str | None:
    """Why the hub cannot be used; None if it responds. Makes one request, through the hub's own library.

    lm-eval and ``datasets`` would try for half a minute on a dead network, and for minutes on one that drops packets.
    """
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(variable, "").upper() in _TRUE:
            return f"{variable} is set"
    from huggingface_hub import constants, get_session

    answers: list[str | None] = []

    def request_headers() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=CONNECT_SECONDS).status_code
        except Exception as error:  # each underlying library has its own; all mean that there was no response
            answers.append(f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}: {error})")
        else:
            answers.append(f"{constants.ENDPOINT} responds with error {status}" if status in _GATEWAY else None)

    thread = threading.Thread(target=request_headers, daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    return answers[0] if answers else f"{constants.ENDPOINT} does not respond within {DEADLINE_SECONDS:g} s"


def is_cached(path: str, name: str | None) -> bool:
    """Whether ``datasets`` has this data set in its cache, so that it does not need the hub."""
    from huggingface_hub import constants

    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()
    wanted = _plain(path.replace("/", "___"))
    return any(
        _plain(entry.name) == wanted and any(name is None or part.name.startswith(name) for part in entry.iterdir())
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if entry.is_dir()
    )


def go_offline() -> None:
    """Keep this process and its children from asking the hub for anything."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    for name in ("huggingface_hub.constants", "datasets.config"):
        if (module := sys.modules.get(name)) is not None:  # it has already read the variable
            vars(module)["HF_HUB_OFFLINE"] = True


def _plain(name: str) -> str:
    """A name without underscores and in lower case: ``datasets`` changes both in the names of its folders."""
    return name.replace("_", "").lower()
