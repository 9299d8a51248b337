"""What ``neoxrun bench`` was asked for, and what it cannot do. No torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from neoxrun.config.settings import ModelConfig
from neoxrun.errors import UsageError


@dataclass(frozen=True)
class BenchOptions:
    """The work of one run.

    Attributes:
        model: its name in the report.
        parameters: of the whole model.
        device: name of the devices.
        started: when the command was started, in seconds since 1970.
        files: those of the checkpoint; none with random weights.
        size: bytes of these files, or of the random weights.
        cached: which share of them the page cache held before the load.
        eager: no CUDA graphs are captured.
        json: write the report as JSON.
        plot: also draw it into this file.
        compare: measure transformers too.
    """

    model: str
    parameters: int
    device: str
    started: float
    files: tuple[Path, ...]
    size: int
    cached: float
    eager: bool
    json: bool
    plot: Path | None
    compare: bool


def check_comparison(model: ModelConfig, ranks: int) -> None:
    """Fail before the run where transformers cannot be measured after it.

    Raises:
        UsageError: it is not installed, it has no such network, or several ranks would be compared with one process.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            "--compare transformers needs transformers, which is not installed",
            code="missing_package",
            hint="Install it: pip install 'neoxrun[compare]'",
        )
    if ranks > 1:
        raise UsageError(
            f"--compare transformers measures one device, and the plan has {ranks} ranks",
            code="conflicting_options",
            hint="Give --tp 1 --pp 1, or leave out --compare.",
        )
    missing = {
        f"pos_emb: {model.pos_emb}": model.pos_emb != "rotary",
        f"norm: {model.norm}": model.norm != "layernorm",
        "rope_scaling": model.rope_scaling is not None,
        "gpt_j_tied": model.gpt_j_residual and model.gpt_j_tied,
        "linear layers without a bias": not (model.use_bias_in_attn_linear and model.use_bias_in_mlp),
    }
    lacking = [name for name, lacks in missing.items() if lacks]
    if lacking:
        raise UsageError(
            f"transformers has no GPT-NeoX network with {', '.join(lacking)}",
            code="unsupported_option",
            hint="Leave out --compare.",
        )
