"""The proof of a conversion: both sides are read from the disk and compared, tensor by tensor and by their logits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.merge import Rule, rule_of
from neoxrun.checkpoint.source import LayerSource, Shard
from neoxrun.config.settings import Precision
from neoxrun.config.tensors import TensorKey
from neoxrun.conversion.folding import Folding, norm_bias
from neoxrun.conversion.numbers import largest_difference, same_bits
from neoxrun.conversion.shares import Division, stored_dtypes
from neoxrun.errors import CheckpointError
from neoxrun.terminal.words import counted

KEPT, JOINED, SAME = "kept", "joined and cut", "the same on all ranks"
FOLDED = "folded norm"
SHIFT = "mean shift of a folded final norm"
ALONE = "that of the one rank where it is not zero"
MERGED = "sum with the adapter"
SUM, MEAN, FIRST = "sum over the ranks", "mean of ranks that differ", "that of the first rank, of ranks that differ"
_EXACT = {KEPT, JOINED, SAME, ALONE}


@dataclass
class TensorProof:
    """What was found of one tensor, on all ranks of the target.

    Attributes:
        rule: how the target's tensor is made of the source's.
        equal: whether the target's files hold, bit for bit, what the rule makes of the source's files.
        rounding: the largest change by another number format.
        drift: the largest difference between the source's ranks, where the rule had to choose.
    """

    rule: str
    equal: bool = True
    rounding: float = 0.0
    drift: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether no number of the source has changed."""
        return self.equal and self.rule in _EXACT and self.rounding == 0


@dataclass
class Comparison:
    """Both sides of a conversion.

    Attributes:
        division: what the target is made of.
        target: its files.
        dtypes: number format of each of its tensors.
        progress: called with the bytes of each tensor that was compared.
        tensors: what was found.
    """

    division: Division
    target: Checkpoint
    dtypes: Mapping[TensorKey, torch.dtype]
    progress: Callable[[int], None]
    tensors: dict[TensorKey, TensorProof] = field(default_factory=dict)

    def run(self) -> None:
        """Compare every tensor of every rank.

        Raises:
            CheckpointError: a file of either side is damaged, or a tensor is not what it should be.
        """
        for rank in range(self.division.ranks):
            self._run(rank)
        if wrong := [key for key, proof in self.tensors.items() if not proof.equal]:
            raise CheckpointError(
                f"the converted files are not equal to the source: layer {wrong[0].layer}, {wrong[0].name}"
                + (f" and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""),
                code="failed_proof",
                where=str(self.target.folder),
                hint="Remove this folder and convert again. If it happens twice, check the disk and the memory.",
            )

    def _run(self, rank: int) -> None:
        division = self.division
        config, final = division.config, division.final
        before, after = LayerSource(division.checkpoint, config), LayerSource(self.target, config)
        folding = Folding(config, folds=division.folds)
        held: dict[int, tuple[list[Shard], list[Shard]]] = {}

        def compare(key: TensorKey, wide: Tensor) -> None:
            if key not in division.table:
                if final is not None:
                    final.note_bias(wide)
                return
            if key.layer not in held:
                held.clear()  # no mapping of a file outlives its use
                held[key.layer] = before.read_layer(key.layer), after.read_layer(key.layer)
                folding.enter(key.layer, held[key.layer][0])
            source, target = held[key.layer]
            tensor = wide.to(self.dtypes[key])
            if final is not None and key.layer == config.num_layers + 4:
                final.note_head(tensor)
            proof = self.tensors.setdefault(key, self._rule(key, source, folding))
            stored = target[rank].get(key.name)
            proof.equal &= stored is not None and same_bits(tensor, stored.tensor)
            if proof.rule != KEPT or tensor.dtype != source[0][key.name].tensor.dtype:
                proof.rounding = max(proof.rounding, largest_difference(tensor, wide))
            self.progress(tensor.numel() * tensor.element_size())

        # In a format that holds every number of the source, so that rounding can be measured.
        doubles = any(dtype == torch.float64 for dtype in stored_dtypes(before, division.table).values())
        layers = {key.layer for key in division.table}
        division.read(compare, layers=layers, rank=rank, dtype=torch.float64 if doubles else torch.float32)

    def _rule(self, key: TensorKey, shards: list[Shard], folding: Folding) -> TensorProof:
        adapter, divided = self.division.adapter, self.division.table[key].dim is not None
        if adapter is not None and key in adapter.low_rank:
            return TensorProof(MERGED)
        if self.division.keeps or (divided and len(shards) == self.division.ranks and not folding.concerns(key.name)):
            return TensorProof(KEPT)
        if folding.concerns(key.name):
            final = self.division.final is not None and key == norm_bias(self.division.config)
            return TensorProof(SHIFT if final else FOLDED)
        if divided:
            return TensorProof(JOINED)
        versions = [shard[key.name].tensor for shard in shards]
        drift = max((largest_difference(versions[0], other) for other in versions[1:]), default=0.0)
        rule = rule_of(key.name, self.division.config)
        if rule is Rule.SUM and len(shards) > 1:
            return TensorProof(SUM if sum(bool(version.any()) for version in versions) > 1 else ALONE)
        if drift == 0:
            return TensorProof(SAME if len(shards) > 1 else KEPT)
        return TensorProof(MEAN if rule is Rule.MEAN else FIRST, drift=drift)

    def summary(self) -> dict[str, int]:
        """How many tensors there are of each rule."""
        return dict(Counter(proof.rule for proof in self.tensors.values()))

    def remains(self) -> list[str]:
        """What keeps the target from being the source, in sentences; empty where every number is the same."""
        texts = []
        if added := self.division.padding:
            texts.append(
                f"The vocabulary has {counted(added, 'zero row')} more than the source's, so that it divides over "
                f"{self.division.ranks} ranks: a softmax over all rows includes them, each with a logit of 0."
            )
        if cut := self.division.cut:
            texts.append(f"Left out of the vocabulary: {counted(cut, 'zero row')} that an earlier conversion added.")
        folded = sum(proof.rule == FOLDED for proof in self.tensors.values())
        if folded:
            texts.append(
                f"Norms that differ between the source's ranks are folded into the weights that read them ({folded} "
                "tensors): the results are the source's own, but for rounding."
            )
        if self.division.final is not None:
            texts.append(
                "The head has no bias in these files, so the final norm keeps the mean of the ranks' shifts: each "
                f"token's logit is off by a constant of at most {self.division.final.remains:.3g}."
            )
            if self.division.final.left_out:
                texts.append(
                    f"In {self.division.final.left_out} of these means a rank has no part, because its scale is so "
                    "small that the number format does not hold its shift divided by it."
                )
        if self.division.adapter is not None:
            merged = sum(proof.rule == MERGED for proof in self.tensors.values())
            texts.append(f"The adapter is added to {merged} weights: W + scale B A, in fp32 and rounded once.")
        sums = sum(proof.rule == SUM for proof in self.tensors.values())
        if sums:
            texts.append(f"{sums} biases, which the source's ranks add up, are their sums.")
        rounded = [proof.rounding for proof in self.tensors.values() if proof.rounding]
        if rounded:
            texts.append(f"Rounding changed {len(rounded)} tensors, by {max(rounded):.3g} at most.")
        drifted = [proof for proof in self.tensors.values() if proof.rule in (MEAN, FIRST)]
        if drifted:
            texts.append(
                f"{len(drifted)} tensors that every rank should hold alike differ between the source's ranks, by "
                f"{max(proof.drift for proof in drifted):.3g} at most, and one version of each is written: an "
                "approximation of what the source computes at its own tensor-parallel size."
            )
        return texts

    def to_json(self) -> list[dict[str, Any]]:
        """The tensors, for the receipt."""
        return [
            {
                "layer": key.layer,
                "name": key.name,
                "rule": proof.rule,
                "equal": proof.exact,
                **({"rounding": proof.rounding} if proof.rounding else {}),
                **({"drift": proof.drift} if proof.drift else {}),
            }
            for key, proof in sorted(self.tensors.items())
        ]


def check_finite(difference: float, folder: Path) -> None:
    """Refuse the largest difference of logits that are not all numbers.

    Raises:
        CheckpointError: it is infinite.
    """
    if difference == float("inf"):
        raise CheckpointError(
            "the logits of the source or of the converted files are NaN or infinite, which proves nothing",
            code="failed_proof",
            where=str(folder),
            hint="See which numbers of the source are too large, or none, with `neoxrun inspect --full`.",
        )


def checksums(files: Iterable[Path], folder: Path, progress: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files, by their names within ``folder``, or their last names if they are elsewhere."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        found[name] = {"bytes": size, "sha256": digest}
        progress(size)
    return found


def short_name(folder: Path) -> str:
    """A folder's name without the path to it; that of a ``global_step`` folder with the name of the one above it."""
    parts = folder.absolute().parts
    return "/".join(parts[-2:] if parts[-1].startswith("global_step") else parts[-1:])


def main_dtype(dtypes: Mapping[TensorKey, torch.dtype]) -> Precision:
    """The number format of most tensors."""
    names: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    return names.get(Counter(dtypes.values()).most_common(1)[0][0], "fp32")
