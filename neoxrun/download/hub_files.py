"""Which files of a hub repository a model needs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from neoxrun.download.remote import MANIFEST_NAME

# Weights of a repository, best first: a name, and the files that go with it. One of these forms is enough.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors"),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin"),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_WITH_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "LICENSE*",
)
# GPT-NeoX's own files, for repositories without weights in the hub's form.
_NEOX = ("latest", "global_step*/*", "layer_*-model_states.pt", "mp_rank_*_model_states.pt", "*.json", "*.yml")


def choose_files(names: Iterable[str]) -> list[str]:
    """The files of a repository that a model needs: weights in one form, its configuration and its tokenizer."""
    # Someone may have uploaded a downloaded folder together with its manifest.
    names = sorted(name for name in names if name.rpartition("/")[2] != MANIFEST_NAME)
    for first, rest in _WEIGHTS:
        if first in names:
            wanted = (first, rest, *_WITH_WEIGHTS)
            # Only the top folder: others hold the same weights for other programs.
            return [name for name in names if "/" not in name and any(fnmatch.fnmatchcase(name, w) for w in wanted)]
    found = [name for name in names if any(fnmatch.fnmatchcase(name, wanted) for wanted in _NEOX)]
    return found if any(name.endswith("model_states.pt") for name in found) else []
