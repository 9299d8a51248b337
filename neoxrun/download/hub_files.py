"""A repository of the Hugging Face hub, and which of its files a model needs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from neoxrun.config import tokenizer_names
from neoxrun.config.end_ids import GENERATION_CONFIG
from neoxrun.config.huggingface import CONFIG_JSON
from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download.remote import RemoteFile

# Weights of a repository, best first: a name, and the files that go with it. One of these forms is enough. A variant is
# in the names: `model.fp16.safetensors`.
_WEIGHTS = (
    ("model{}.safetensors", "model{}.safetensors"),
    ("model.safetensors.index{}.json", "model{}-*-of-*.safetensors"),
    ("pytorch_model{}.bin", "pytorch_model{}.bin"),
    ("pytorch_model.bin.index{}.json", "pytorch_model{}-*-of-*.bin"),
)
_VARIANT = re.compile(r"(?:model|pytorch_model)\.(?:safetensors\.index\.|bin\.index\.)?(\w+)\.(?:safetensors|bin|json)")
_WITH_WEIGHTS = (CONFIG_JSON, GENERATION_CONFIG, *tokenizer_names.ALL, "LICENSE*")
# GPT-NeoX's own files, for repositories without weights in the hub's form.
_NEOX = ("latest", "global_step*/*", "layer_*-model_states.pt", "mp_rank_*_model_states.pt", "*.json", "*.yml")


@dataclass(frozen=True)
class Repository:
    """One version of a repository.

    Attributes:
        name: ``owner/name``.
        endpoint: the hub's address.
        revision: the branch, tag or commit that was asked for.
        commit: the commit that it names.
        files: the files that a model needs.
        blobs: git's hash of the contents of each file that has no SHA-256.
        credentials: the header that the hub requires, by ``urls.origin``.
    """

    name: str
    endpoint: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    blobs: Mapping[str, str]
    credentials: Mapping[str, str] = field(repr=False)


def choose_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files of a repository that a model needs: weights in one form, its configuration and its tokenizer.

    Args:
        names: all files of the repository.
        variant: take the weights of this variant instead of those without one.
    """
    # Someone may have uploaded a downloaded folder together with its manifest.
    names = sorted(name for name in names if name.rpartition("/")[2] != MANIFEST_NAME)
    marked = "" if variant is None else f".{variant}"
    for first, rest in _WEIGHTS:
        if first.format(marked) in names:
            wanted = (first.format(marked), rest.format(marked), *_WITH_WEIGHTS)
            # Only the top folder: others hold the same weights for other programs.
            return [name for name in names if "/" not in name and any(fnmatch.fnmatchcase(name, w) for w in wanted)]
    if variant is not None:
        return []
    found = [name for name in names if any(fnmatch.fnmatchcase(name, wanted) for wanted in _NEOX)]
    return found if any(name.endswith("model_states.pt") for name in found) else []


def variants_of(names: Iterable[str]) -> list[str]:
    """The variants of the weights among these files, sorted."""
    return sorted({match[1] for name in names if (match := _VARIANT.fullmatch(name))})
