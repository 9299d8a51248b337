"""Files of a repository that are already in the cache of huggingface_hub."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from neoxrun.download.hub_files import Repository
from neoxrun.download.proof import WEIGHTS
from neoxrun.errors import DataError, writing_code


def take_from_cache(repository: Repository, folder: Path) -> list[str]:
    """Put a repository's cached files into ``folder``: weights as hard links if the file system allows it.

    Other files are copied: people edit those, and must not change the cache.

    Returns:
        The names of the files. They still have to be checked.

    Raises:
        DataError: the folder cannot be written.
    """
    from huggingface_hub import try_to_load_from_cache

    found = []
    for file in repository.files:
        target = folder / file.name
        cached = try_to_load_from_cache(repository.name, file.name, revision=repository.commit)
        if target.exists() or not isinstance(cached, str):
            continue
        source = Path(cached).resolve()
        if not source.is_file() or (file.size is not None and source.stat().st_size != file.size):
            continue
        try:
            _link_or_copy(source, target, link=target.suffix in WEIGHTS)
        except OSError as error:
            raise DataError(
                f"{target} cannot be written: {error.strerror}",
                code=writing_code(error),
                where=str(target),
            ) from error
        found.append(file.name)
    return found


def _link_or_copy(source: Path, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".neoxrun.{target.name}")
    temporary.unlink(missing_ok=True)
    if link:
        with suppress(OSError):  # another file system, or one without links
            os.link(source, temporary)
    if not temporary.exists():
        shutil.copyfile(source, temporary)
    temporary.replace(target)
