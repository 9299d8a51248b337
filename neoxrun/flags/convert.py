"""The options of ``neoxrun convert``."""

from __future__ import annotations

import argparse
from typing import Final

from neoxrun.conversion.options import parse_bytes
from neoxrun.flags import model, values

# Other names of what can be written.
_KINDS: Final = {"hf": "huggingface", "transformers": "huggingface", "gpt-neox": "neox", "gptneox": "neox"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun convert``."""
    parser.add_argument(
        "source",
        type=values.path,
        metavar="SOURCE",
        help="Folder of the weights: GPT-NeoX layer files, sequential files or a Hugging Face folder. No default.",
    )
    parser.add_argument(
        "target",
        type=values.path,
        metavar="TARGET",
        help="Folder to write, which does not exist yet. It gets this name when it is complete and proved. No default.",
    )
    parser.add_argument(
        "--to",
        type=lambda text: _KINDS.get(text.lower(), text),
        choices=("neox", "huggingface"),
        required=True,
        help="What to write: GPT-NeoX layer files, or a folder for transformers and vLLM. No default.",
    )
    parser.add_argument(
        "--tp", type=values.positive, metavar="N", help="Tensor-parallel ranks of GPT-NeoX files. Default: 1."
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        help="Number format to write. Default: that of each tensor in the source, so that no bit changes.",
    )
    parser.add_argument(
        "--shard-size",
        type=_bytes,
        metavar="SIZE",
        help="Most bytes of a safetensors file, as in 500MB. Default: 5GB.",
    )
    parser.add_argument(
        "--merge",
        choices=("fold", "average"),
        default="fold",
        help="What becomes of norms that differ between the source's tensor-parallel ranks, at another tensor-parallel "
        "size: fold them into the weights that read them, which keeps the results, or average them, as other "
        "converters do. Default: fold.",
    )
    model.add_adapter(parser)
    model.add_folder_configuration(parser, "Default: what the folder itself says.")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="Tokenizer file. Default: that of the configuration or of the folder."
    )


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
