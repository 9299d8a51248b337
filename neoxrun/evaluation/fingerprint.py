"""What tells one model from another: a fingerprint of its checkpoint, cheap even where the files take 40 GB."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from neoxrun.checkpoint import layout
from neoxrun.errors import CheckpointError
from neoxrun.settings import Precision, Settings

# Of each file: its first and last bytes, and samples evenly in between. The end of a GPT-NeoX file is a zip
# directory, which has a checksum of every tensor.
_END_BYTES: Final = 2**16
_SAMPLE_BYTES: Final = 2**12
_SAMPLES: Final = 16


def checkpoint(settings: Settings, *, tp: int, dtype: Precision, random_weights: bool) -> dict[str, Any]:
    """What the results say of the model, with ``fingerprint``: SHA-256 of everything that its answers depend on.

    That is the weights, the tokenizer, the network and the number format; not the number of ranks. One thing
    depends on them: norms that differ between the checkpoint's tensor-parallel ranks are averaged at another
    tensor-parallel size, so whether the checkpoint's own size is used counts, too.

    Args:
        settings: the configuration.
        tp: tensor-parallel size that it runs with.
        dtype: number format that it runs in.
        random_weights: no checkpoint is loaded.

    Raises:
        CheckpointError: a file cannot be read.
    """
    whole = hashlib.sha256()
    said: dict[str, Any] = {}
    if random_weights:
        said["weights"] = f"random, seed {settings.seed}"
    else:
        found = layout.of(settings)
        said["folder"], said["tag"] = str(found.folder), found.tag
        if found.source_tp > 1:
            said["ranks"] = "as saved" if tp == found.source_tp else "merged"
        for path in found.files:
            whole.update(f"{path.name} {path.stat().st_size}\n".encode())
            whole.update(_sample(path))
    for named in (settings.tokenizer.vocab_file, settings.tokenizer.merge_file):
        if named is not None:
            # HFGPT2Tokenizer's is the folder of both files.
            files = [named / "vocab.json", named / "merges.txt"] if named.is_dir() else [named]
            for path in files:
                whole.update(hashlib.sha256(path.read_bytes()).digest())
    network = {
        key: value
        for key, value in asdict(settings.model).items()
        if key not in ("model_parallel_size", "pipe_parallel_size")
    }
    how = {key: said.get(key) for key in ("weights", "ranks")}
    whole.update(json.dumps([network, how, dtype, settings.tokenizer.tokenizer_type], sort_keys=True).encode())
    return {**said, "fingerprint": whole.hexdigest()}


def _sample(path: Path) -> bytes:
    """SHA-256 of a bounded part of a file."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    spans = [(0, _END_BYTES), (max(0, size - _END_BYTES), _END_BYTES)]
    spans += [(size * step // (_SAMPLES + 1), _SAMPLE_BYTES) for step in range(1, _SAMPLES + 1)]
    try:
        with path.open("rb") as file:
            for start, length in spans:
                file.seek(start)
                digest.update(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", where=str(path)) from error
    return digest.digest()
