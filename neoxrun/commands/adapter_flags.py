"""``--adapter``: low-rank updates of the weights that a command loads."""

from __future__ import annotations

import argparse


def add_adapter(parser: argparse._ActionsContainer) -> None:
    """``--adapter``, for every command that loads weights."""
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="Folder of a LoRA adapter, as PEFT and `neoxrun finetune --lora` write it: it is merged into the weights "
        "when they are loaded. Default: none.",
    )
