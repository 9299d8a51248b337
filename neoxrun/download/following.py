"""What to type after a download of a model that has no configuration of ours."""

from __future__ import annotations

from pathlib import Path

from neoxrun.config.reader import load_settings
from neoxrun.errors import NeoxrunError
from neoxrun.terminal.log import log


def words_for_folder(folder: Path, name: str) -> list[str]:
    """The arguments that run a folder by its own configuration: config.json, GPT-NeoX's configs/, or YAML files in it.

    Args:
        folder: what was downloaded.
        name: what the user calls it.

    Returns:
        The words after the command's name; none if neoxrun does not run the model, which a warning explains.
    """
    # `./`: a bare name could be that of a shipped configuration.
    source = str(folder) if folder.is_absolute() or folder.parts[:1] == ("..",) else f"./{folder}"
    files = sorted(str(path) for path in folder.glob("*.yml"))
    try:
        settings, words = load_settings([source]), [source]
    except NeoxrunError as error:
        if not files:
            log.warning(f"no command runs {source} as it is: {error.message}")
            return []
        words = [*files, "--checkpoint", str(folder)]
        try:
            settings = load_settings(files, checkpoint=str(folder))
        except NeoxrunError:  # several configurations, of which the user has to choose one
            return words
    if settings.tokenizer.vocab_file is None:
        log.warning(f"no tokenizer came with the weights: replace FILE by {name}'s, in the command below")
        words += ["--tokenizer", "FILE"]
    return words
