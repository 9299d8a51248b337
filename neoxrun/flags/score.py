"""The options of ``neoxrun score``."""

from __future__ import annotations

import argparse

from neoxrun.flags import model, records, revisions, values
from neoxrun.scoring.levels import LEVELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun score``."""
    model.add_model_arguments(parser)
    _add_score_arguments(parser)
    model.add_random_weights(parser)
    model.add_eager(parser)
    model.add_stall_timeout(parser)
    revisions.add_revision_arguments(parser)


def _add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """What to score, how, and where the records go."""
    what = parser.add_argument_group("texts")
    what.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help="Score the documents in this file: text, JSON lines, JSON, CSV, TSV or Parquet, compressed or not. Use - "
        "for stdin. Default: stdin, if it is a pipe or a file.",
    )
    records.add_input_format(what)
    what.add_argument(
        "--column",
        metavar="NAME",
        default="text",
        help="Key or column that holds the text, unless the input is a text. Default: text.",
    )
    what.add_argument(
        "--document-end",
        metavar="TEXT",
        default="\n",
        help=r"What separates the documents of a text file; it may contain \n and \t. With an empty text the whole "
        "file is one document. Default: end of line.",
    )
    how = parser.add_argument_group("scores")
    how.add_argument(
        "--context",
        "--max-length",
        type=values.positive,
        metavar="N",
        help="Read at most this many tokens at a time: longer documents are scored in windows. Default: the model's "
        "context.",
    )
    how.add_argument(
        "--stride",
        type=values.positive,
        metavar="N",
        help="Score this many tokens in each window after a document's first, so that windows overlap by the rest. "
        "Default: the same as --context, which lets windows not overlap.",
    )
    how.add_argument(
        "--top",
        type=values.natural,
        metavar="N",
        default=0,
        help="Also give the N most likely tokens at each position, at most 1000. Default: 0.",
    )
    how.add_argument(
        "--level",
        choices=LEVELS,
        default="token",
        help="The smallest unit whose scores the records list. Default: token.",
    )
    out = parser.add_argument_group("output")
    records.add_output_arguments(
        out,
        "Write one record for each document to this file: JSON lines, or Parquet if its name ends in .parquet. "
        "Use - for stdout. Default: FILE.scores.jsonl with -i FILE.",
        "Keep the records in the output file and score only the documents after them. Default: start over.",
        anyway=False,
    )
    out.add_argument("--json", action="store_true", help="Print the summary as a JSON object.")
    parser.add_argument(
        "--batch-size",
        type=values.positive,
        metavar="N",
        help="Process at most N windows at a time in each replica. Default: as many as fit.",
    )
