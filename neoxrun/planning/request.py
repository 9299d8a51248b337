"""The request for a plan, and the refusal of requests that no devices could fulfil. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.errors import UsageError
from neoxrun.planning.split import tensor_sizes
from neoxrun.terminal.words import counted


@dataclass(frozen=True)
class Work:
    """What is to be done, as far as it tells how long that takes.

    Attributes:
        prompts: how many; each is a sequence of its own, or a text to score.
        prompt_tokens: of each, on average.
        new_tokens: of each answer, on average; 0 where texts are only scored.
        longest_answer: tokens of the longest answer.
    """

    prompts: int
    prompt_tokens: int
    new_tokens: int
    longest_answer: int

    def within(self, context: int) -> Work:
        """The same, as far as sequences of ``context`` tokens allow."""
        prompt = max(1, min(self.prompt_tokens, context - min(1, self.new_tokens)))
        most = context - prompt
        return Work(self.prompts, prompt, min(self.new_tokens, most), min(self.longest_answer, most))


TYPICAL_PROMPTS: Final = Work(256, 200, 128, 256)
"""What is planned for where the prompts are not known."""

TYPICAL_TEXTS: Final = Work(50_000, 100, 0, 0)
"""What is planned for where the texts to score are not known: about HellaSwag, LAMBADA and PIQA together."""

DIALOGUE: Final = Work(1, 200, 2000, 2000)
"""Answers to one person, one after the other, for which the ranks are started once."""


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
        work: what is to be done.
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
    work: Work = TYPICAL_PROMPTS


def check_request(model: ModelConfig, requested: Requested, gpus: int | None = None) -> None:
    """Refuse a request that no devices could fulfil.

    Args:
        model: the network.
        requested: what is asked for.
        gpus: how many there are in a host, for hints; None: they set no limit.

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
        usable = [size for size in possible if gpus is None or size <= gpus]
        where = "" if gpus is None else f" on {counted(gpus, 'GPU')}"
        raise UsageError(
            f"{what} cannot be divided into --tp {requested.tp} equal parts",
            code="impossible_split",
            hint=f"--tp can be {', '.join(map(str, usable))} for this model{where}.",
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
