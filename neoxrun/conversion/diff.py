"""`neoxrun diff`: two folders of weights of any kind and split, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.merge import Rule, rule_of
from neoxrun.checkpoint.source import LayerSource, Shard
from neoxrun.config.settings import ModelConfig
from neoxrun.config.tensors import VOCABULARY, TensorKey, divided_dim
from neoxrun.conversion.numbers import largest, pieces, same_bits, step_at
from neoxrun.conversion.survey import survey_folder
from neoxrun.conversion.surveyed import Survey
from neoxrun.errors import CheckpointError, ConfigError
from neoxrun.terminal.words import aligned_columns, counted

State = Literal["missing", "different", "close", "equal"]
ORDER: Final[tuple[State, ...]] = ("missing", "different", "close", "equal")
"""The states, the most different first."""

_PADDED: Final = "padded with zeros"


@dataclass(frozen=True)
class Side:
    """One of the two folders.

    Attributes:
        name: as it was given.
        survey: its files and the shapes of its tensors.
        config: its network, where a configuration says it.
    """

    name: str
    survey: Survey
    config: ModelConfig | None

    def source(self) -> LayerSource:
        """Its layers."""
        survey = self.survey
        paths = [survey.folder / name for name in survey.files]
        files: dict[int, tuple[Path, ...]] = {}
        if survey.kind == "layers":
            for key in survey.tensors:
                files[key.layer] = tuple(path for path in paths if path.name.startswith(f"layer_{key.layer:02d}-"))
        total = sum(survey.files.values())
        checkpoint = Checkpoint(survey.kind, survey.folder, survey.tag, survey.tp, tuple(paths), total, files)
        return LayerSource(checkpoint, self.config or _from_survey(survey))


@dataclass(frozen=True)
class Difference:
    """What was found of one tensor.

    Attributes:
        layer, name: which one.
        state: equal in every number; close: no further apart than two neighbours in the coarser number format;
            different; or missing from one side.
        largest: the largest difference.
        relative: that, compared with the largest number.
        note: what a number does not tell.
    """

    layer: int
    name: str
    state: State
    largest: float = 0.0
    relative: float = 0.0
    note: str = ""


def open_side(folder: Path, config: ModelConfig | None) -> Side:
    """A folder to compare.

    Raises:
        CheckpointError: there are no weights, or files are missing or damaged.
    """
    survey = survey_folder(folder)
    if not survey.tensors:
        why = survey.odd[0].rstrip(".") if survey.odd else "the checkpoint holds no tensors"
        raise CheckpointError(
            why,
            code="wrong_tensors",
            where=str(survey.folder),
            hint="Run `neoxrun inspect` on it, which shows everything that is wrong.",
        )
    broken = [key for key, tensor in survey.tensors.items() if len(tensor.shapes) != survey.tp]
    if broken:
        raise CheckpointError(
            f"not all ranks have layer {broken[0].layer}, {broken[0].name}",
            code="missing_shard",
            where=str(survey.folder),
            hint="See what is missing with `neoxrun inspect`.",
        )
    return Side(str(folder), survey, config)


def _from_survey(survey: Survey) -> ModelConfig:
    """A network of as many layers, to read them: what it computes is not known."""
    embedding = survey.shape(0, "word_embeddings.weight") or (0, 1)
    head = survey.shape(survey.num_layers + 4, "final_linear.weight")
    return ModelConfig(
        num_layers=survey.num_layers,
        hidden_size=embedding[-1],
        num_attention_heads=1,
        intermediate_size=4 * embedding[-1],
        seq_length=1,
        max_position_embeddings=1,
        tie_embeddings=head is None,
    )


def compare(first: Side, second: Side, progress: Callable[[int], None] = lambda _: None) -> list[Difference]:
    """Every tensor of either side, the most different first.

    Sides of one tensor-parallel size are compared rank by rank; others as whole tensors, by the rules of merging.

    Raises:
        CheckpointError: a file is damaged.
        ConfigError: how ranks' biases become one is not known.
    """
    one, other = first.source(), second.source()
    split = first.survey.tp == second.survey.tp
    config = first.config or second.config
    found = []
    keys = sorted(first.survey.tensors.keys() | second.survey.tensors.keys())
    for layer in dict.fromkeys(key.layer for key in keys):
        present = [any(key.layer == layer for key in side.survey.tensors) for side in (first, second)]
        left = one.read_layer(layer) if present[0] else []
        right = other.read_layer(layer) if present[1] else []
        for key in keys:
            if key.layer != layer:
                continue
            lacking = [
                side.name for side, part in ((first, left), (second, right)) if not part or key.name not in part[0]
            ]
            if lacking:
                found.append(Difference(layer, key.name, "missing", note=f"not in {lacking[0]}"))
                continue
            if split:
                pairs = [(a[key.name].tensor, b[key.name].tensor) for a, b in zip(left, right, strict=True)]
                found.append(max((_difference(key, *pair) for pair in pairs), key=_badness))
            else:
                found.append(_difference(key, _whole(key, left, config), _whole(key, right, config)))
            progress(1)
    return sorted(found, key=_badness, reverse=True)


def _badness(difference: Difference) -> tuple[int, float]:
    return -ORDER.index(difference.state), difference.relative


def _whole(key: TensorKey, shards: list[Shard], config: ModelConfig | None) -> Tensor:
    versions: list[Tensor] = [shard[key.name].tensor for shard in shards]
    dim = divided_dim(key.name)
    if len(versions) == 1:
        return versions[0]
    if dim is not None:
        return torch.cat(versions, dim)
    same = all(torch.equal(versions[0], version) for version in versions[1:])
    bias = key.name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias")
    if bias and same and config is None and bool(versions[0].any()):
        raise ConfigError(
            f"whether the ranks add up {key.name} depends on gpt_j_residual, which no configuration says",
            code="incomplete_configuration",
            hint="Name the model's configuration with --config FILE.",
        )
    # Without a configuration: only ranks that add their biases up hold different ones.
    rule = (Rule.ONE if same else Rule.SUM) if bias and config is None else Rule.MEAN
    if bias and config is not None:
        rule = rule_of(key.name, config)
    if rule is Rule.ONE or (rule is Rule.MEAN and same):
        return versions[0]
    total = torch.stack([version.float() for version in versions]).sum(0)
    return (total / len(versions) if rule is Rule.MEAN else total).to(versions[0].dtype)


def _difference(key: TensorKey, first: Tensor, second: Tensor) -> Difference:
    if same_bits(first, second):
        return Difference(key.layer, key.name, "equal")
    note = "" if first.dtype == second.dtype else f"{_short(first)} and {_short(second)}"
    if first.shape != second.shape:
        rows = min(len(first), len(second))
        spare = [tensor[rows:] for tensor in (first, second) if len(tensor) > rows]
        padded = key.name in VOCABULARY and first.shape[1:] == second.shape[1:]
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        if not padded or any(bool(part.any()) for part in spare):
            return Difference(key.layer, key.name, "different", float("inf"), float("inf"), shapes)
        first, second, note = first[:rows], second[:rows], f"{shapes}, {_PADDED}"
    most = scale = 0.0
    close = equal = True
    for one, other in pieces(first, second):
        difference = (one - other).abs()
        size = torch.maximum(one.abs(), other.abs())
        equal &= torch.equal(one, other)
        # Two roundings of one number are at most a step of the coarser format apart: half a step each.
        step = torch.maximum(step_at(size, first.dtype), step_at(size, second.dtype))
        close &= bool((difference <= step).all())
        most = max(most, largest(difference))
        scale = max(scale, largest(size))
    state: State = "equal" if equal else "close" if close else "different"
    return Difference(key.layer, key.name, state, most, most / scale if scale else 0.0, note)


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def diff_json(differences: list[Difference], logits: Mapping[str, Any] | None) -> dict[str, Any]:
    """The comparison as JSON values; an infinite difference is null."""
    rows = [_finite(asdict(difference)) for difference in differences]
    found = None if logits is None else _finite(logits)
    return {"states": _counts(differences), "tensors": rows, "logits": found}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value == float("inf") else value for name, value in values.items()}


def diff_text(differences: list[Difference], logits: Mapping[str, Any] | None, most: int | None) -> str:
    """The comparison for people.

    Args:
        differences: the most different first.
        logits: the comparison of logits, where there was one.
        most: rows to show of tensors that are not equal; None: all rows.
    """
    shown = [one for one in differences if most is None or one.state != "equal"][:most]
    rows = [("layer", "tensor", "state", "largest", "relative", "")]
    rows += [
        (f"{one.layer:02d}", one.name, one.state, f"{one.largest:.3g}", f"{one.relative:.3g}", one.note)
        for one in shown
    ]
    counts = _counts(differences)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    text = aligned_columns(rows, left=3, last_left=True) if shown else ""
    hidden = sum(one.state != "equal" for one in differences) - len(shown) if most is not None else 0
    if hidden > 0:
        text += f"... and {counted(hidden, 'more tensor')} (--all shows them)\n"
    text += f"{counted(len(differences), 'tensor')}: {summary}\n"
    text += "".join(f"{one.name}: {one.note}\n" for one in differences if one.state == "equal" and _PADDED in one.note)
    if logits is not None:
        text += (
            f"logits: {logits['largest_difference']:.3g} apart at most, over {counted(logits['positions'], 'token')}; "
            f"the most likely token is the same at {logits['same_most_likely_token']}\n"
        )
    return text


def _counts(differences: list[Difference]) -> dict[str, int]:
    counts = Counter(difference.state for difference in differences)
    return {state: counts[state] for state in ORDER if counts[state]}
