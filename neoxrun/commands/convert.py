"""``neoxrun convert``: a checkpoint as another kind of folder, with a proof that it is the same model."""

from __future__ import annotations

import argparse
from dataclasses import replace

from neoxrun.checkpoint.adapter_layout import use_adapter
from neoxrun.checkpoint.find import require_folder
from neoxrun.checkpoint.stored import use_stored
from neoxrun.config.reader import load_settings, with_tokenizer_of
from neoxrun.conversion.options import ConvertOptions, parse_bytes
from neoxrun.errors import UsageError


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
    require_folder(args.source, "Name a folder that holds weights: layer or mp_rank files, or Hugging Face's.")
    source = str(args.source.absolute())  # a bare name can be that of a shipped configuration, too
    settings = use_stored(
        load_settings(args.config or [source], args.overrides, checkpoint=source, tokenizer=args.tokenizer)
    )
    if args.tokenizer is None:
        settings = with_tokenizer_of(args.source, settings)
    options = ConvertOptions(
        settings=use_adapter(replace(settings, merge=args.merge), args.adapter, random_weights=False),
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
