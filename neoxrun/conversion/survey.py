"""What a folder of weights holds, whatever configuration it belongs to: files, tensors, and what is odd.

Only headers and tensors of one dimension (norms and biases) are read, unless everything is asked for. Nothing that is
missing stops a survey: it is noted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from neoxrun.checkpoint import huggingface, layout
from neoxrun.checkpoint.files import read_pickle, read_safetensors
from neoxrun.checkpoint.find import locate_checkpoint
from neoxrun.checkpoint.huggingface_files import has_index, hugging_face_files
from neoxrun.checkpoint.vectors import read_alone, read_vectors
from neoxrun.config.foreign import is_zero3
from neoxrun.config.tensors import FIRST_LAYER, IGNORED, TensorKey, canonical, divided_dim
from neoxrun.conversion.numbers import largest_difference, same_bits
from neoxrun.conversion.surveyed import Survey, SurveyedTensor
from neoxrun.errors import CheckpointError, NeoxrunError
from neoxrun.terminal.words import listing

_SEQUENTIAL: Final = re.compile(r"sequential\.(\d+)\.(.+)")
# What people and programs keep next to weights.
_KNOWN: Final = re.compile(
    r".*\.(json|txt|md|yml|yaml|model|jinja|py|log|msgpack|gitattributes|lock)|latest.*|configs|zero_pp_rank_.*|"
    r"bf16_zero_pp_rank_.*|mp_rank_.*|global_step\d+|\.(git|cache|gitattributes).*|optimizer.*|LICENSE.*|README.*"
)


def survey_folder(
    folder: Path, iteration: int | None = None, *, full: bool = False, progress: Callable[[int], None] = lambda _: None
) -> Survey:
    """Look at a folder.

    Args:
        folder: a GPT-NeoX ``load`` folder, its ``global_step<N>`` folder, or a Hugging Face folder.
        iteration: which ``global_step<N>``; None: the one that ``latest`` names.
        full: look at every number.
        progress: called with the bytes of each file that was looked at.

    Raises:
        CheckpointError: there are no weights.
    """
    try:
        whose, holding = locate_checkpoint(folder, iteration)
    except CheckpointError as error:
        if error.code == "missing_checkpoint":  # whose hint is for commands that take a configuration
            error.hint = "Name a folder that holds weights: layer or mp_rank files of GPT-NeoX, or Hugging Face's."
        raise
    names = layout.list_names(holding)
    survey = Survey("layers", holding, holding.absolute().name, 1, {})
    groups = _neox_files(survey, names) if whose == "neox" else _hugging_face_files(survey, names)
    survey.files = {path.name: _size(survey, path) for group in groups.values() for path in group.values()}
    for layer in sorted(groups):
        contents: dict[int, tuple[Path, Mapping[str, Any]]] = {}
        for rank, path in sorted(groups[layer].items()):
            if not path.exists():
                continue
            try:
                contents[rank] = path, _read(survey, path, full)
            except NeoxrunError as error:
                survey.odd.append(f"{error.message}.")
            progress(survey.files[path.name])
        depth = huggingface.count_layers(str(name) for _, content in contents.values() for name in content)
        parts: dict[TensorKey, dict[int, Tensor]] = {}
        for rank, (path, content) in contents.items():
            for name, tensor in content.items():
                key = _key_of(survey, str(name), layer, depth)
                if key is None:
                    survey.odd.append(f"{path.name} holds {name}, which is no tensor of a GPT-NeoX model.")
                elif key.name in IGNORED and isinstance(tensor, Tensor):
                    survey.buffers[key.name] = tuple(tensor.shape)
                elif isinstance(tensor, Tensor):
                    survey.new_names |= "mlp.linear" in str(name)
                    # A Hugging Face folder's files are numbered; they are not ranks.
                    parts.setdefault(key, {})[0 if survey.kind == "huggingface" else rank] = tensor
        for key, found in parts.items():
            _look(survey, key, found, full)
    _note_missing_ranks(survey)
    _note_strangers(survey, names)
    return survey


def _neox_files(survey: Survey, names: list[str]) -> dict[int, dict[int, Path]]:
    """The weights' files: by layer and rank, or all in group 0 for sequential ones."""
    layers: dict[int, dict[int, Path]] = {}
    ranks: dict[int, Path] = {}
    for name in names:
        found = layout.layer_and_rank(name)
        if found is None:
            continue
        layer, rank = found
        if layer is None:
            ranks[rank] = survey.folder / name
        elif rank in layers.setdefault(layer, {}):
            survey.odd.append(
                f"{layers[layer][rank].name} and {name} are the same part of the model, so that neither is used."
            )
        else:
            layers[layer][rank] = survey.folder / name
    if any(is_zero3(name) for name in names) and not layers:
        survey.odd.append("The files are of ZeRO stage 3, and hold no whole tensors.")
    if not layers:
        survey.kind, survey.tp = "sequential", max(ranks, default=0) + 1
        if missing := sorted(set(range(survey.tp)) - ranks.keys()):
            survey.odd.append(f"The files of these ranks are missing: {listing(missing)}.")
        return {0: ranks}
    survey.tp = max(rank for group in layers.values() for rank in group) + 1
    last = max(layers)
    for layer in range(last + 1):
        group = layers.get(layer, {})
        # Number 1 and the one before the final norm have no weights; the head may be tied.
        if not group and layer not in (1, last - 1, last - 2):
            survey.odd.append(f"Layer {layer:02d} is missing.")
        elif group and (missing := sorted(set(range(survey.tp)) - group.keys())):
            survey.odd.append(f"Layer {layer:02d} lacks the files of these ranks: {listing(missing)}.")
    return layers


def _hugging_face_files(survey: Survey, names: list[str]) -> dict[int, dict[int, Path]]:
    """The weights' files, in one group: the tensors of a layer may be in several of them."""
    survey.kind = "huggingface"
    weights = [name for name in names if name.startswith(("model", "pytorch_model"))]
    weights = [name for name in weights if name.endswith((".safetensors", ".bin"))]
    try:
        used = hugging_face_files(survey.folder, names)
    except CheckpointError as error:
        survey.odd.append(f"{error.message}.")
        used = [name for name in weights if name.endswith(".safetensors")] or weights
    if len(used) > 1 and not has_index(names):
        survey.odd.append(f"There is no index of the {len(used)} files of weights.")
    if others := [name for name in weights if name not in used]:
        survey.odd.append(f"The folder has weights twice: {listing(others)} are not used.")
    return {0: {number: survey.folder / name for number, name in enumerate(used)}}


def _size(survey: Survey, path: Path) -> int:
    """Bytes of a file; none where it is a link to nothing, which is odd."""
    try:
        return path.stat().st_size
    except OSError as error:
        survey.odd.append(f"{path.name} cannot be read: {error.strerror}.")
        return 0


def _read(survey: Survey, path: Path, full: bool) -> Mapping[str, Any]:
    """Everything in a file, by its name there; the numbers of matrices only if all are asked for."""
    if path.suffix == ".safetensors":
        return read_safetensors(path) if full else read_vectors(path)
    content = read_pickle(path)
    if survey.kind == "sequential":
        module = content.get("module")
        if not isinstance(module, Mapping):
            raise CheckpointError(f"{path.name} holds no weights", code="missing_shard", where=str(path))
        content = module
    for tensor in content.values():
        if isinstance(tensor, Tensor) and tensor.dim() < 2 and not full:
            read_alone(tensor)
    return content


def _key_of(survey: Survey, name: str, layer: int, depth: int) -> TensorKey | None:
    """The key of a tensor; ``layer`` is that of its file, ``depth`` that of a Hugging Face model."""
    if survey.kind == "layers":
        return TensorKey(layer, canonical(name))
    if match := _SEQUENTIAL.fullmatch(name):
        return TensorKey(int(match[1]), canonical(match[2]))
    if huggingface.is_buffer(name):
        return TensorKey(layer, name.partition(".layers.")[2].partition(".")[2] or name)
    return huggingface.to_tensor_key(name, depth)


def _look(survey: Survey, key: TensorKey, parts: Mapping[int, Tensor], full: bool) -> None:
    """Note one tensor, and look at its numbers where they are few or all are asked for."""
    found = survey.tensors.setdefault(key, SurveyedTensor())
    for rank, tensor in parts.items():
        size = tensor.numel() * tensor.element_size()
        found.shapes[rank] = tuple(tensor.shape)
        found.dtypes.add(str(tensor.dtype).removeprefix("torch."))
        survey.tensor_bytes += size
        if not full and tensor.dim() > 1:
            continue
        survey.read_bytes += size
        if tensor.is_floating_point():
            finite = tensor.isfinite()
            found.nonfinite += int((~finite).sum())
            magnitude = float(tensor.float().abs().masked_fill(~finite, 0).max()) if tensor.numel() else 0.0
            found.largest = max(found.largest or 0.0, magnitude)
    if found.nonfinite:
        survey.odd.append(f"Layer {key.layer:02d}, {key.name}: {found.nonfinite} numbers are NaN or infinite.")
    versions = list(parts.values())
    if len(versions) < 2 or (not full and versions[0].dim() > 1):
        return
    first = versions[0]
    if any(other.shape != first.shape for other in versions[1:]):
        survey.odd.append(f"Layer {key.layer:02d}, {key.name}: the ranks' shapes differ.")
    elif divided_dim(key.name) is None:
        found.drift = max(largest_difference(first, other) for other in versions[1:])
    elif bool(first.any()) and any(same_bits(first, other) for other in versions[1:]):
        survey.odd.append(f"Layer {key.layer:02d}, {key.name}: ranks hold the same numbers: is a file a copy?")


def _note_missing_ranks(survey: Survey) -> None:
    """All files of the last ranks may be missing, which only shapes tell."""
    hidden = survey.shape(0, "word_embeddings.weight")
    rows = survey.shape(FIRST_LAYER, "attention.query_key_value.weight")
    if survey.kind == "huggingface" or hidden is None or rows is None or len(hidden) < 2 or not rows[0]:
        return
    whole, rest = divmod(3 * hidden[1] * survey.tp, rows[0])
    if rest == 0 and whole > survey.tp:
        survey.odd.append(
            f"The shapes are those of {whole} ranks, of which {whole - survey.tp} have no file: the model is "
            "incomplete."
        )


def _note_strangers(survey: Survey, names: list[str]) -> None:
    strange = [name for name in names if name not in survey.files and not _KNOWN.fullmatch(name)]
    strange = [name for name in strange if layout.layer_and_rank(name) is None]
    if strange:
        survey.odd.append(f"Unrelated files: {listing(strange)}.")
    kinds = Counter(kind for tensor in survey.tensors.values() for kind in tensor.dtypes)
    if len(kinds) > 1:
        survey.odd.append(f"Number formats are mixed: {', '.join(f'{n} x {kind}' for kind, n in kinds.most_common())}.")
