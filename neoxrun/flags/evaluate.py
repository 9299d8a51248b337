"""The options of ``neoxrun evaluate``."""

from __future__ import annotations

import argparse
from typing import Final

from neoxrun.flags import model, revisions, values

PUBLISHED: Final = "paper"
"""The value of ``--compare`` for the published results of the model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun evaluate``."""
    model.add_model_arguments(parser)
    what = parser.add_argument_group("tasks")
    what.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        required=True,
        help="Evaluate these tasks, groups or tags of lm-eval; globs are allowed, as in `lambada piqa 'arc_*'`. `list` "
        "prints all names. Default: none; name at least one.",
    )
    what.add_argument(
        "--limit",
        type=values.limit,
        metavar="N",
        help="Score only the first N documents of each task, or a fraction of them (below 1). Only for trying out, as "
        "the output will say. Default: all.",
    )
    what.add_argument(
        "--num-fewshot",
        type=values.natural,
        metavar="N",
        help="Show N solved examples before each question. Default: as many as each task says, mostly 0.",
    )
    what.add_argument(
        "--gen-kwargs",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="Replace generation options of the tasks, for example with max_gen_toks=64 or do_sample=true "
        "temperature=0.8. Default: each task's own options.",
    )
    what.add_argument(
        "--seed",
        type=values.natural,
        metavar="N",
        help="Use this seed for few-shot examples and sampling. Default: lm-eval's own seeds (1234, and 0 for "
        "Python's).",
    )
    what.add_argument(
        "--include-path",
        type=values.path,
        metavar="DIR",
        help="Also use the task files (YAML) in this folder, which replace lm-eval's of the same names. Default: none.",
    )
    what.add_argument(
        "--data-dir",
        type=values.path,
        metavar="DIR",
        help="Read documents from this folder if it has them, otherwise from the Hugging Face hub: the published files "
        "in lambada/ and piqa/, or <data set>/<split>.jsonl. Default: neoxrun/data in the user's data folder "
        "(~/.local/share).",
    )
    out = parser.add_argument_group("output")
    out.add_argument(
        "--output",
        type=values.path,
        metavar="DIR",
        help="Write the results to this folder in lm-eval's layout: DIR/MODEL@CHECKPOINT/results_TIME.json. Default: "
        "no files, but ./results with --revisions; the table is always printed to stdout.",
    )
    out.add_argument(
        "--log-samples", action="store_true", help="Also write every document with its answers; needs --output."
    )
    out.add_argument(
        "--cache",
        type=values.path,
        metavar="FILE",
        help="Store each answer in this file as soon as it is computed, and do not compute the answers in it again. An "
        "interrupted run can resume from it, on any number of GPUs. Default: none.",
    )
    out.add_argument(
        "--compare",
        nargs="?",
        const=PUBLISHED,
        metavar="paper|FILE",
        help="Compare the results with the published results of the model (paper), or with those in a JSON file: the "
        'results of an earlier run, or {"results": {"piqa": {"acc": 0.7742}}}. Default: off; paper if no value is '
        "given.",
    )
    out.add_argument(
        "--wandb",
        nargs="?",
        const="neoxrun",
        metavar="PROJECT",
        help="Log the results to this Weights & Biases project. Default: off; neoxrun if no value is given.",
    )
    how = parser.add_argument_group("running")
    how.add_argument(
        "--batch-size",
        type=values.positive,
        metavar="N",
        help="Process at most N sequences at a time in each replica. Default: as many as fit.",
    )
    model.add_random_weights(how)
    model.add_eager(how)
    model.add_stall_timeout(how)
    revisions.add_revision_arguments(parser)
