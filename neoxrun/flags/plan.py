"""The options of ``neoxrun plan``."""

from __future__ import annotations

import argparse

from neoxrun.flags import model, training, values
from neoxrun.planning.request import TYPICAL_PROMPTS, TYPICAL_TEXTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, after those of every command that runs a model."""
    model.add_model_arguments(parser)
    parser.add_argument(
        "--devices",
        metavar="COUNTxMEMORY|NAME",
        help="Plan for these GPUs of one host, as in 2x48GB, 4x24GB,2x80GB or 2xH100, or with --device cpu for a host "
        "with that much memory, as in 64GB. Memory is as it is sold: GB means GiB. Default: what is free on this "
        "machine.",
    )
    what = parser.add_argument_group("workload")
    what.add_argument(
        "--prompts",
        type=values.positive,
        metavar="N",
        help=f"Plan for this many prompts. Default: {TYPICAL_PROMPTS.prompts}; {TYPICAL_TEXTS.prompts} with --score.",
    )
    what.add_argument(
        "--prompt-tokens",
        type=values.positive,
        metavar="N",
        help="Length of a prompt on average, in tokens. "
        f"Default: {TYPICAL_PROMPTS.prompt_tokens}; {TYPICAL_TEXTS.prompt_tokens} with --score.",
    )
    what.add_argument(
        "--maximum-tokens",
        type=values.positive,
        metavar="N",
        help="New tokens for each prompt. "
        f"Default: {TYPICAL_PROMPTS.new_tokens} on average and {TYPICAL_PROMPTS.longest_answer} at most.",
    )
    what.add_argument(
        "--score",
        action="store_true",
        help="Plan for scoring the prompts, as in `neoxrun evaluate`. Default: plan for answering them.",
    )
    what = parser.add_argument_group("fine-tuning")
    what.add_argument(
        "--finetune",
        action="store_true",
        help="Plan for `neoxrun finetune`: what its weights, gradients, optimizer and activations need. The options "
        "below need it.",
    )
    training.add_size_arguments(what)
    training.add_lora_arguments(what)
    parser.add_argument("--json", action="store_true", help="Print the plan as one JSON object.")
