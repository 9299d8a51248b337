"""The options of ``neoxrun generate``."""

from __future__ import annotations

import argparse

from neoxrun.flags import model, records, values
from neoxrun.flags.sampling import add_sampling_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun generate``."""
    model.add_model_arguments(parser)
    model.add_random_weights(parser)
    model.add_eager(parser)
    model.add_stall_timeout(parser)
    model.add_seed(parser)
    _add_prompt_arguments(parser)
    add_sampling_arguments(parser)


def _add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """What to continue, how, and where the records go."""
    source = parser.add_argument_group("prompts and output")
    what = source.add_mutually_exclusive_group()
    what.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help="Continue the prompts in this file: text, one per line, or JSON lines, JSON, CSV, TSV or Parquet, whose "
        "rows have prompt, context, text or messages and, optionally, id, n and sampling parameters; compressed or "
        "not. Use - for stdin. Default: the configuration's `sample_input_file`; without one, stdin if it is a pipe "
        "or a file; without either, generate text from an empty prompt.",
    )
    what.add_argument(
        "--chat",
        metavar="FILE",
        help="Answer the conversations in this file, in the form of the model's own chat template. Each line, or row "
        "of another format, has messages with role and content and, optionally, id, n and sampling parameters. Use - "
        "for stdin. Default: none.",
    )
    what.add_argument(
        "--prompt",
        metavar="TEXT",
        help="Continue this text; without -o, print the answer to stdout. Default: none.",
    )
    what.add_argument(
        "--interactive",
        action="store_true",
        help="Ask for prompts and stream the answers. Ctrl-C stops an answer, Ctrl-D quits. Default: only if the "
        "configuration's `text_gen_type` is interactive.",
    )
    records.add_input_format(source)
    source.add_argument(
        "--strict-keys",
        action="store_true",
        help="Refuse an input with keys that mean nothing here. Default: they are copied into the records.",
    )
    source.add_argument(
        "--no-history",
        action="store_true",
        help="In a dialogue, keep the prompts out of the file ~/.local/state/neoxrun/history.",
    )
    records.add_output_arguments(
        source,
        "Write one JSON record per line to this file. Use - for stdout. Default: FILE.output.jsonl with -i or --chat "
        "FILE, stdout with -i -, samples.txt without prompts.",
        "Keep the records in the output file and generate only the missing answers. Default: start over.",
        anyway=True,
    )
    source.add_argument(
        "--prompt-end",
        metavar="TEXT",
        help=r"Text that ends a prompt in a text file or a dialogue; it may contain \n and \t. Default: end of line.",
    )
    source.add_argument(
        "--truncate",
        choices=("left", "right"),
        help="Truncate prompts that are too long for the context on this side. Default: they become error records.",
    )
    source.add_argument(
        "--batch-size",
        type=values.positive,
        metavar="N",
        help="Work on at most this many prompts at once. Default: what fits, at most 256 on GPUs and 64 on the CPU.",
    )
    source.add_argument(
        "-n",
        "--num-samples",
        type=values.positive,
        metavar="N",
        help="Number of answers to each prompt. Default: 1; 10 without prompts.",
    )
