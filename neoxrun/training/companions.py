"""What makes a run's folder a model that every command reads: configuration and tokenizer, or how to use an adapter."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from neoxrun.checkpoint.adapter import write_adapter
from neoxrun.config.end_ids import GENERATION_CONFIG
from neoxrun.config.settings import Settings, TokenizerConfig
from neoxrun.config.tensors import TensorKey
from neoxrun.config.training import LoraConfig
from neoxrun.conversion.configurations import neox_options, vocabulary_divisor, yaml_text
from neoxrun.conversion.folding import merge_for_files
from neoxrun.conversion.tokenizer_files import copy_tokenizer, tokenizer_files, write_end_ids
from neoxrun.conversion.workplace import Workplace
from neoxrun.errors import DataError
from neoxrun.model.gpt_neox import Stage
from neoxrun.tokenizer import Tokenizer
from neoxrun.training.folder import RunFolder

_CONFIG: Final = "config.yml"
_GUIDE: Final = "README.md"
_COMMENTS: Final = (
    "Written by neoxrun finetune. neoxrun takes paths from this file's folder, GPT-NeoX from the one it is started in.",
)


class Companions:
    """Writes them, on rank 0.

    Args:
        folder: of the run.
        settings: the model that is trained.
        stage: the network in training.
        tokenizer: the model's.
        lora: the adapter; None where the whole model is trained.

    Raises:
        DataError: the system refuses.
    """

    def __init__(
        self, folder: RunFolder, settings: Settings, stage: Stage, tokenizer: Tokenizer, lora: LoraConfig | None
    ) -> None:
        self._settings, self._stage, self._size, self._lora = settings, stage, tokenizer.vocab_size, lora
        self._tokenizer: TokenizerConfig | None = None
        if lora is None:
            work = Workplace(folder.path, False)
            _check_tokenizer(folder.path, settings.tokenizer)
            self._tokenizer = copy_tokenizer(work, settings.tokenizer)
            if settings.end_ids:
                write_end_ids(work, settings.end_ids)
            work.clear()
            if not _is_others(folder.path / _CONFIG):
                folder.write_text(_CONFIG, self._configuration(""))
        else:
            folder.write_text(_GUIDE, self._guide(folder.path))

    def write(self, checkpoint: Path, adapter: Mapping[TensorKey, tuple[Tensor, Tensor]] | None) -> None:
        """What belongs into the folder of each checkpoint: the adapter, or what GPT-NeoX keeps in ``configs``.

        Args:
            checkpoint: the folder.
            adapter: whole A and B of each weight that has an adapter; None where the whole model is trained.

        Raises:
            OSError: the system refuses.
        """
        if self._lora is not None and adapter is not None:
            base = self._settings.checkpoint or self._settings.title
            merge = merge_for_files(self._settings.model, self._settings.merge)
            write_adapter(checkpoint, self._lora, adapter, str(base), merge=merge)
        else:
            (checkpoint / "configs").mkdir(exist_ok=True)
            (checkpoint / "configs" / _CONFIG).write_text(self._configuration("../../"), encoding="utf-8")

    def _configuration(self, above: str) -> str:
        """The network as GPT-NeoX's options, for a file from which ``above`` leads to the run's folder."""
        stage, tokenizer = self._stage, self._tokenizer
        assert tokenizer is not None
        tp, rows = stage.mesh.tp, stage.vocab_size
        divisor = vocabulary_divisor(-(-rows // tp) * tp, tp, self._size, stage.config.make_vocab_size_divisible_by)
        options = neox_options(stage.config, stage.precisions.weights) | {
            "pipe_parallel_size": 1,
            "model_parallel_size": tp,
            "make_vocab_size_divisible_by": divisor,
            "load": above or ".",
        }
        if tokenizer.vocab_file is not None:
            options |= {"tokenizer_type": tokenizer.tokenizer_type, "vocab_file": above + tokenizer.vocab_file.name}
        if tokenizer.merge_file is not None:
            options["merge_file"] = above + tokenizer.merge_file.name
        return yaml_text(options, *_COMMENTS)

    def _guide(self, run: Path) -> str:
        base = " ".join(shlex.quote(str(path)) for path in self._settings.sources)
        adapter = shlex.quote(str(run.absolute() / "global_stepN"))
        weights = shlex.quote(str(self._settings.checkpoint or "FOLDER_OF_THE_WEIGHTS"))
        return f"""An adapter (LoRA) for {self._settings.title}, by neoxrun finetune.

`latest` names the newest checkpoint, and `best`, where it exists, the one with the lowest loss in evaluation. Each is
a folder as PEFT writes it:

    neoxrun generate {base} --adapter {adapter}
    neoxrun evaluate {base} --adapter {adapter} --tasks lambada_openai

This writes a model with the adapter merged into the weights:

    neoxrun convert {weights} NEW_FOLDER --to huggingface --adapter {adapter}
"""


def _check_tokenizer(folder: Path, tokenizer: TokenizerConfig) -> None:
    """Refuse a folder with the files of another tokenizer, as one of GPT-NeoX's run may have them.

    Raises:
        DataError: it has.
    """
    for name, path in tokenizer_files(tokenizer).items():
        found = folder / name
        if found.is_file() and not _alike(found, path):
            raise DataError(
                f"{found} is another file than {path}, which would be written there",
                code="existing_target",
                where=str(found),
                hint="Name another folder with --output DIR, or move the file elsewhere.",
            )


def _alike(found: Path, path: Path) -> bool:
    """Whether two files are the same, but for the ends of texts in generation_config.json, which are written again."""
    if found.read_bytes() == path.read_bytes():
        return True
    if path.name != GENERATION_CONFIG:
        return False
    try:
        contents = [json.loads(file.read_bytes()) for file in (found, path)]
    except (ValueError, RecursionError):
        return False
    return all(isinstance(content, dict) for content in contents) and (
        contents[0] | {"eos_token_id": None} == contents[1] | {"eos_token_id": None}
    )


def _is_others(configuration: Path) -> bool:
    """Whether a configuration is somebody's own, as in the folder of GPT-NeoX's run: it stays."""
    return configuration.is_file() and _COMMENTS[0] not in configuration.read_text(encoding="utf-8", errors="replace")
