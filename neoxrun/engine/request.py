"""What the engine is asked for and what it answers. No torch, no text: token ids only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

PREFILL_TOKENS = 4096
"""Most tokens, padding included, of one prefill pass of several prompts; sizes the workspace."""

LOGIT_ROWS = 256
"""Most positions whose logits exist at one time."""

SCORED_ROWS = 128
"""The same where nothing is sampled: smaller blocks stay in a CPU's caches."""

FinishReason = Literal["length", "stop", "context", "aborted"]


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. Names and defaults are GPT-NeoX's where it has them.

    Attributes:
        maximum_tokens: most tokens to generate.
        temperature: 0 is greedy decoding, whatever the other fields say.
        top_k: keep the ``top_k`` likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches ``top_p``; 0 and 1 keep all.
        min_p: drop tokens less likely than ``min_p`` times the likeliest; 0 keeps all.
        repetition_penalty: divide (multiply, when negative) the logits of tokens seen in prompt or output; 1 is off.
        frequency_penalty: subtract this times a token's count in the output.
        presence_penalty: subtract this from tokens that are in the output.
        logit_bias: token id -> value added to its logit.
        logprobs: report the log-probability of each chosen token and of this many likeliest ones; None is off.
        seed: start of the request's own random stream.
        stop: texts that end the answer. The engine does not look at them: the text layer does.
        ignore_eos: go on past the end-of-document token (for benchmarks).
    """

    maximum_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    seed: int = 1234
    stop: Sequence[str] = ()
    ignore_eos: bool = False
