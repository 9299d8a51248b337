"""The options of ``neoxrun finetune``."""

from __future__ import annotations

import argparse

from neoxrun.flags import model, training, values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun finetune``."""
    model.add_model_arguments(parser, training=True)
    model.add_random_weights(parser)
    _add_data(parser.add_argument_group("data"))
    how = parser.add_argument_group("training")
    _add_training(how)
    training.add_size_arguments(how)
    training.add_lora_arguments(parser.add_argument_group("adapters"))
    _add_run(parser.add_argument_group("run"))


def _add_data(data: argparse._ActionsContainer) -> None:
    data.add_argument(
        "--data",
        nargs="+",
        type=values.path,
        metavar="FILE",
        help="Files to train on: texts, JSON lines (`text`, `prompt` and `completion`, or `messages`), Parquet, or "
        ".bin and .idx files of GPT-NeoX. Default: the configuration's `data_path` or `train_data_paths`.",
    )
    data.add_argument(
        "--eval-data",
        nargs="+",
        type=values.path,
        metavar="FILE",
        help="Files to evaluate on. Default: the configuration's `valid_data_paths`, or a part of `data_path`.",
    )
    data.add_argument(
        "--split",
        metavar="TRAIN,VALID,TEST",
        help="Divide the documents of the data in these shares, as in 95,5,0: the first are trained on, the next "
        "evaluated. Default: the configuration's for its `data_path`, and no division of --data.",
    )
    data.add_argument(
        "--column", default="text", metavar="NAME", help="Key or column that holds the text. Default: text."
    )
    data.add_argument(
        "--document-end",
        metavar="TEXT",
        default="",
        help=r"What separates the documents of a text file; it may contain \n and \t. Default: nothing, so that the "
        "whole file is one document.",
    )
    data.add_argument(
        "--no-pack",
        action="store_true",
        help="Put one document into each row, padded or cut. Without it, rows are cut from the documents one after the "
        "other, as in GPT-NeoX.",
    )
    data.add_argument(
        "--eod-mask-loss",
        action="store_true",
        help="Do not learn the first token of a document, which follows the end of another. Without it, the "
        "configuration decides.",
    )


def _add_training(how: argparse._ActionsContainer) -> None:
    length = how.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=values.positive,
        metavar="N",
        help="Passes over the data. Default: the configuration's `train_iters` or `train_epochs`, or 1.",
    )
    length.add_argument("--steps", type=values.positive, metavar="N", help="Optimizer steps. Default: as for --epochs.")
    how.add_argument(
        "--lr",
        type=float,
        metavar="X",
        help="Peak of the learning rate. Default: the configuration's, or 1e-5, with --lora 2e-4.",
    )
    how.add_argument(
        "--min-lr",
        type=float,
        metavar="X",
        help="The learning rate does not fall below it. Default: the configuration's, or a tenth of the peak.",
    )
    how.add_argument(
        "--lr-decay-style",
        choices=("constant", "linear", "cosine", "exponential"),
        help="How the learning rate falls. Default: the configuration's, or cosine.",
    )
    how.add_argument(
        "--warmup",
        type=float,
        metavar="SHARE",
        help="Share of the steps in which the learning rate rises. Default: the configuration's, or 0.03.",
    )
    how.add_argument(
        "--weight-decay",
        type=float,
        metavar="X",
        help="Of AdamW, for all weights but biases and norms. Default: the configuration's, or 0.01.",
    )
    how.add_argument(
        "--gradient-clipping",
        type=float,
        metavar="X",
        help="Largest norm of the gradients; 0 does not bound it. Default: the configuration's, or 1.0.",
    )
    how.add_argument(
        "--loss-average",
        choices=("tokens", "gpt-neox"),
        default="tokens",
        help="The loss of a step: the mean over all its tokens, or, as in GPT-NeoX, the mean of the means of its "
        "passes, which is another where tokens are not learned. Default: tokens.",
    )
    model.add_seed(how)
    how.add_argument(
        "--deterministic",
        action="store_true",
        help="Use kernels that give the same bits in every run, which some of a GPU's do not. It is slower.",
    )
    how.add_argument(
        "--ignore-spikes",
        action="store_true",
        help="Train on where the loss jumps. Without it such a jump ends the run.",
    )


def _add_run(run: argparse._ActionsContainer) -> None:
    run.add_argument(
        "-o",
        "--output",
        type=values.path,
        metavar="DIR",
        help="Folder of the run: settings, log, checkpoints. Default: the configuration's `save`, or finetune-NAME.",
    )
    run.add_argument(
        "--resume", action="store_true", help="Continue from the last checkpoint in the folder of the run."
    )
    run.add_argument(
        "--resume-anyway",
        action="store_true",
        help="As --resume, also where settings or data have changed; they are named in a warning.",
    )
    run.add_argument(
        "--eval-interval",
        type=values.natural,
        metavar="N",
        help="Steps between evaluations; 0: only before the first and after the last. Default: the configuration's, "
        "or a tenth of the run.",
    )
    run.add_argument(
        "--eval-iters",
        type=values.natural,
        metavar="N",
        help="Batches of an evaluation; 0: none. Default: the configuration's, or those of the data, at most 100.",
    )
    run.add_argument(
        "--save-interval",
        type=values.natural,
        metavar="N",
        help="Steps between checkpoints; 0: only after the last. Default: the configuration's `checkpoint_factor`, or "
        "a tenth of the run.",
    )
    run.add_argument(
        "--keep",
        type=values.positive,
        metavar="N",
        help="Checkpoints that are kept, besides the one with the lowest evaluation loss. Default: the "
        "configuration's `keep_last_n_checkpoints`, or 2.",
    )
    run.add_argument(
        "--sample-prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="Continue this prompt at every evaluation, and log the text. May be repeated. Default: none.",
    )
    run.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="Log to this project in Weights & Biases. Default: the configuration's `wandb_project` where "
        "`use_wandb` is true, else none.",
    )
    run.add_argument("--tensorboard", action="store_true", help="Write TensorBoard's files to the folder of the run.")
    # Optimizer steps on the host, for --offload, take longer than anything that generates.
    model.add_stall_timeout(run, default=900)
    run.add_argument("--dry-run", action="store_true", help="Check everything, show what the run would be, and end.")
