"""Where the results of ``neoxrun evaluate`` go, and what they are compared with: checked before anything is loaded."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from neoxrun.config.settings import Settings
from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import cache, references, report
from neoxrun.evaluation.references import ReferenceResults
from neoxrun.flags.evaluate import PUBLISHED


def check_output(args: argparse.Namespace) -> None:
    """Check that results, answers and logs can be written where the command line wants them.

    Raises:
        UsageError: an option lacks another one, or a package is missing.
        DataError: a folder or file cannot be written, or Weights & Biases cannot be used.
    """
    if args.output is not None:
        report.check_results_folder(args.output)
    elif args.log_samples:
        raise UsageError(
            "--log-samples needs a folder to write to",
            code="missing_option",
            hint="Name one with --output DIR.",
        )
    if args.cache is not None:
        cache.check_cache(args.cache)
    if args.wandb is not None:
        _check_wandb()


def _check_wandb() -> None:
    if importlib.util.find_spec("wandb") is None:
        raise UsageError(
            "--wandb needs wandb, which is not installed",
            code="missing_package",
            hint="Install it: pip install 'neoxrun[wandb]'",
        )
    try:
        import wandb

        wandb.login()
        wandb.teardown()  # ends the process that wandb has started to ask its server
    except Exception as error:  # from wandb and the libraries that it uses
        raise DataError(
            f"the login to Weights & Biases has failed: {error}",
            code="failed_logging",
            hint="Log in with `wandb login`, or set WANDB_MODE=offline, which logs to a folder.",
        ) from error


def references_from_args(args: argparse.Namespace, settings: Settings) -> tuple[ReferenceResults, ...]:
    """The results to compare with, which ``--compare`` names.

    Raises:
        UsageError: none are published for the model.
        DataError: the file of results cannot be used.
    """
    if args.compare is None:
        return ()
    if args.compare == PUBLISHED:
        return references.published_results(settings.model)
    return references.read_reference_results(Path(args.compare))
