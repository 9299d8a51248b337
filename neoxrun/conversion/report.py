"""A survey for people and for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from neoxrun.config.tensors import FIRST_LAYER, divided_dim
from neoxrun.conversion.described import Description
from neoxrun.conversion.surveyed import Survey, whole_shape
from neoxrun.terminal.words import aligned_columns, counted, human_bytes

_KINDS = {
    "layers": "GPT-NeoX layer files",
    "sequential": "GPT-NeoX sequential files",
    "huggingface": "Hugging Face folder",
}


def survey_json(survey: Survey, description: Description) -> dict[str, Any]:
    """The survey as JSON values; docs/convert.md describes the keys."""
    step = survey.tag.removeprefix("global_step")
    return {
        "kind": survey.kind,
        "folder": str(survey.folder),
        "iteration": int(step) if step.isdigit() and step != survey.tag else None,
        "tp": survey.tp,
        "layers": survey.num_layers,
        "parameters": survey.parameters,
        "dtypes": dict(Counter(kind for tensor in survey.tensors.values() for kind in tensor.dtypes)),
        "files": survey.files,
        "bytes": sum(survey.files.values()),
        "tensor_bytes": survey.tensor_bytes,
        "read_bytes": survey.read_bytes,
        "configuration": {"origin": description.origin, "yaml": description.text, "whole": description.whole},
        "drift": [
            {"layer": key.layer, "name": key.name, "largest_difference": tensor.drift}
            for key, tensor in sorted(survey.tensors.items())
            if tensor.drift
        ],
        "odd": survey.odd,
        "tensors": [
            {
                "layer": key.layer,
                "name": key.name,
                "shape": list(whole_shape(key.name, tensor)),
                "divided_dim": divided_dim(key.name),
                "dtypes": sorted(tensor.dtypes),
                "nonfinite": tensor.nonfinite,
                "largest": tensor.largest,
            }
            for key, tensor in sorted(survey.tensors.items())
        ],
    }


def survey_text(survey: Survey, description: Description, *, tensors: bool) -> str:
    """The survey for people.

    Args:
        survey: what was found.
        description: a configuration for it.
        tensors: list every tensor.
    """
    content = survey_json(survey, description)
    split = "" if survey.kind == "huggingface" else f", of {counted(survey.tp, 'tensor-parallel rank')}"
    unread = survey.tensor_bytes - survey.read_bytes
    facts = [
        ("kind", _KINDS[survey.kind] + split),
        ("folder", str(survey.folder)),
        *([("iteration", str(content["iteration"]))] if content["iteration"] is not None else []),
        ("size", f"{counted(len(survey.files), 'file')}, {human_bytes(content['bytes'])}"),
        ("parameters", f"{survey.parameters:,} in {', '.join(content['dtypes']) or 'no tensors'}"),
        ("layers", str(survey.num_layers)),
        ("shapes", _shapes(survey)),
        ("read", _read(survey, unread)),
    ]
    lines = [*(f"{label:<11} {text}" for label, text in facts), "", description.origin]
    lines += [f"    {line}" for line in description.text.splitlines()]
    if content["drift"]:
        lines += ["", *_drift(survey)]
    lines += ["", *(f"odd: {text}" for text in survey.odd)] if survey.odd else ["", "Nothing is odd."]
    if tensors:
        rows = [("layer", "tensor", "type", "shape")]
        rows += [
            (f"{row['layer']:02d}", row["name"], ", ".join(row["dtypes"]), " x ".join(map(str, row["shape"])))
            for row in content["tensors"]
        ]
        lines += ["", aligned_columns(rows, left=4).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _read(survey: Survey, unread: int) -> str:
    if not unread:
        return "every number"
    return (
        f"headers, and {human_bytes(survey.read_bytes)} of norms and biases; {human_bytes(unread)} of matrices are not "
        "read (--full reads them)"
    )


def _shapes(survey: Survey) -> str:
    names = {
        "vocabulary": survey.shape(0, "word_embeddings.weight"),
        "attention": survey.shape(FIRST_LAYER, "attention.query_key_value.weight"),
        "MLP": survey.shape(FIRST_LAYER, "mlp.dense_h_to_4h.weight"),
    }
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in names.items() if shape)


def _drift(survey: Survey) -> list[str]:
    """The largest drift of norms and biases, layer by layer."""
    rows = [("layer", "norms", "output biases")]
    for layer in sorted({key.layer for key, tensor in survey.tensors.items() if tensor.drift is not None}):
        of = {key.name: tensor.drift or 0.0 for key, tensor in survey.tensors.items() if key.layer == layer}
        norms = [drift for name, drift in of.items() if "norm" in name]
        biases = [drift for name, drift in of.items() if "norm" not in name and name.endswith("bias")]
        rows.append((f"{layer:02d}", f"{max(norms, default=0):.3g}", f"{max(biases, default=0):.3g}"))
    title = "The ranks' versions of tensors that each holds in full differ, by at most:"
    return [title, *(f"    {line}" for line in aligned_columns(rows, left=1).splitlines())]
