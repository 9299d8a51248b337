"""``--revisions`` and its companions."""

from __future__ import annotations

import argparse

from neoxrun.flags import values


def add_revision_arguments(parser: argparse.ArgumentParser) -> None:
    """Which revisions, where they are kept meanwhile, and what to do about duplicates."""
    many = parser.add_argument_group("many revisions")
    many.add_argument(
        "--revisions",
        metavar="all|R,R,...|START:END:STEP",
        help="Do this for each of these revisions of the model's repository on the Hugging Face hub: all that have a "
        "training step in their names, those between commas (step1000,step2000), or steps from START to END. Each is "
        "downloaded while the one before runs, and removed after its run. Default: one run with the local files.",
    )
    many.add_argument(
        "--repo",
        metavar="OWNER/NAME",
        help="Take --revisions from this repository. Default: that of the model that CONFIG names.",
    )
    many.add_argument(
        "--revisions-dir",
        type=values.path,
        metavar="DIR",
        help="Download --revisions into folders in this one, two at a time. Default: the working folder.",
    )
    many.add_argument(
        "--keep-revisions", action="store_true", help="Leave the folders of --revisions on disk after their runs."
    )
    many.add_argument(
        "--allow-duplicates",
        action="store_true",
        help="Also run --revisions that have the same weights as another one or as main, which ends the command "
        "otherwise.",
    )
    many.add_argument(
        "--plot",
        type=values.path,
        metavar="FILE.png",
        help="Also draw the results of --revisions over the steps into this file (.png, .svg or .pdf); needs "
        "matplotlib. Default: no plot.",
    )
