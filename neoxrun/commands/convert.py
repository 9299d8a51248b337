"""``neoxrun convert``: a checkpoint as another kind of folder, with a proof that it is the same model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Final

from neoxrun.checkpoint.find import require_folder
from neoxrun.checkpoint.stored import use_stored
from neoxrun.commands import common
from neoxrun.config.reader import load_settings
from neoxrun.conversion.options import ConvertOptions, parse_bytes
from neoxrun.errors import UsageError

# Other names of what can be written.
_KINDS: Final = {"hf": "huggingface", "transformers": "huggingface", "gpt-neox": "neox", "gptneox": "neox"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "source",
        type=common.path,
        metavar="SOURCE",
        help="Folder of the weights: GPT-NeoX layer files, sequential files or a Hugging Face folder. No default.",
    )
    parser.add_argument(
        "target",
        type=common.path,
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
        "--tp", type=common.positive, metavar="N", help="Tensor-parallel ranks of GPT-NeoX files. Default: 1."
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
    common.add_folder_configuration(parser, "Default: what the folder itself says.")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="Tokenizer file. Default: that of the configuration or of the folder."
    )


def run(args: argparse.Namespace) -> int:
    """Convert, in this process: one layer at a time needs neither ranks nor a plan."""
    if args.to == "huggingface" and args.tp is not None:
        raise UsageError(
            "--tp is for GPT-NeoX files: a Hugging Face folder is not divided over ranks",
            code="conflicting_options",
            hint="Leave out --tp, or give --to neox.",
        )
    if args.to == "neox" and args.shard_size is not None:
        raise UsageError(
            "--shard-size is for Hugging Face folders: GPT-NeoX has one file for each layer and rank",
            code="conflicting_options",
            hint="Leave out --shard-size, or give --to huggingface.",
        )
    require_folder(args.source)
    source = str(args.source.absolute())  # a bare name can be that of a shipped configuration, too
    settings = use_stored(
        load_settings(args.config or [source], args.overrides, checkpoint=source, tokenizer=args.tokenizer)
    )
    options = ConvertOptions(
        settings=replace(settings, merge=args.merge),
        target=args.target,
        kind=args.to,
        tp=args.tp or 1,
        dtype=args.dtype,
        shard_size=args.shard_size or parse_bytes("5GB"),
        show_progress=args.verbosity >= 0,
    )
    from neoxrun.conversion.convert import convert  # torch takes seconds: after all that can be refused without it

    convert(options)
    return 0


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
