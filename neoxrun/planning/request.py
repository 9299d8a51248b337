"""The request for a plan, and the refusal of requests that no devices could fulfil. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.errors import UsageError
from neoxrun.planning.split import tensor_sizes


@dataclass(frozen=True)
class Requested:
    """What flags and the environment force; None leaves the choice to the plan.

    Attributes:
        tp: tensor-parallel size.
        pp: pipeline stages.
        replicas: replicas of the model.
        dtype: number format of weights and activations.
        exact: without ``dtype``, prefer fp32 on a CPU, whatever is fastest there.
        batch_size: sequences that one replica works on at a time, at most.
        context: longest sequence, prompt and answer together.
        nnodes: hosts, all with the same devices.
        world_size: number of ranks that an outer launcher (torchrun, Slurm) has started already.
    """

    tp: int | None = None
    pp: int | None = None
    replicas: int | None = None
    dtype: Precision | None = None
    exact: bool = False
    batch_size: int | None = None
    context: int | None = None
    nnodes: int = 1
    world_size: int | None = None


def check_request(model: ModelConfig, requested: Requested) -> None:
    """Refuse a request that no devices could fulfil.

    Raises:
        UsageError: a size below 1, a tensor-parallel size that does not divide the model, more stages than
            layers, a context longer than the model's.
    """
    for name in ("tp", "pp", "replicas", "batch_size", "context", "nnodes"):
        value = getattr(requested, name)
        if value is not None and value < 1:
            raise UsageError(
                f"--{name.replace('_', '-')} {value} is not possible",
                code="invalid_value",
                hint="It must be at least 1.",
            )
    possible = tensor_sizes(model)
    if requested.tp is not None and requested.tp not in possible:
        heads, inner = model.num_attention_heads, model.intermediate_size
        what = f"{heads} attention heads" if heads % requested.tp else f"an MLP of width {inner}"
        raise UsageError(
            f"{what} cannot be divided into --tp {requested.tp} equal parts",
            code="impossible_split",
            hint=f"--tp can be {', '.join(map(str, possible))} for this model.",
        )
    if requested.pp is not None and requested.pp > model.num_layers:
        raise UsageError(
            f"--pp {requested.pp} is more stages than the model has layers ({model.num_layers})",
            code="impossible_split",
            hint=f"--pp can be at most {model.num_layers}.",
        )
    if requested.context is not None and requested.context > model.max_context:
        raise UsageError(
            f"a context of {requested.context} tokens is longer than the model's {model.max_context}",
            code="invalid_value",
            hint=f"It can be at most {model.max_context}.",
        )
