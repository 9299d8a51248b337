"""The options of sampling."""

from __future__ import annotations

import argparse
from typing import Final

from neoxrun.config.sampling import SamplingParams

_DEFAULTS: Final = SamplingParams()


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How the tokens of an answer are chosen, and where the answer ends."""
    group = parser.add_argument_group("sampling", "Values in the configuration replace these defaults.")
    group.add_argument(
        "--maximum-tokens",
        type=int,
        metavar="N",
        help=f"Most tokens of an answer. Default: {_DEFAULTS.maximum_tokens}.",
    )
    group.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="Divide the logits by T before sampling; 0 always chooses the most likely token. "
        f"Default: {_DEFAULTS.temperature:g}.",
    )
    group.add_argument(
        "--top-k",
        type=int,
        metavar="N",
        help=f"Sample from the N most likely tokens; 0 means all. Default: {_DEFAULTS.top_k}.",
    )
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="Sample from the fewest tokens whose probabilities add up to P; 0 means all. "
        f"Default: {_DEFAULTS.top_p:g}.",
    )
    group.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help=f"Leave out tokens less likely than P times the most likely one. Default: {_DEFAULTS.min_p:g}.",
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="Make tokens of the prompt and the answer less likely by this factor; 1 is off. "
        f"Default: {_DEFAULTS.repetition_penalty:g}.",
    )
    group.add_argument(
        "--frequency-penalty",
        type=float,
        metavar="F",
        help="Subtract F from a token's logit for each time it occurs in the answer. "
        f"Default: {_DEFAULTS.frequency_penalty:g}.",
    )
    group.add_argument(
        "--presence-penalty",
        type=float,
        metavar="F",
        help="Subtract F from the logit of each token that occurs in the answer. "
        f"Default: {_DEFAULTS.presence_penalty:g}.",
    )
    group.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help=r"End an answer before this text, which may contain \n and \t. May be repeated. Default: none.",
    )
    group.add_argument(
        "--logprobs",
        type=int,
        metavar="N",
        help="Record each token's log-probability and the N most likely tokens. Default: off.",
    )
    group.add_argument(
        "--logit-bias",
        action="append",
        metavar="ID=VALUE",
        help="Add VALUE to the logit of token ID. May be repeated. Default: none.",
    )
    group.add_argument("--ignore-eos", action="store_true", default=None, help="Continue past the end of a document.")
