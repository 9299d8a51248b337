"""The sampling parameters that the options of ``neoxrun generate`` make."""

from __future__ import annotations

import argparse
from typing import Any

from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams, update_sampling
from neoxrun.config.settings import Settings
from neoxrun.errors import UsageError
from neoxrun.planning.planner import vocab_size_for_planning


def sampling_params(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    """The configuration's parameters, with those from the command line in their place.

    Raises:
        UsageError: a parameter cannot have its value.
    """
    given: dict[str, Any] = {name: value for name in SAMPLING_NAMES if (value := getattr(args, name, None)) is not None}
    given.pop("seed", None)  # set in ``defaults``, since the whole command shares it
    if args.stop:
        given["stop"] = [unescape(text) for text in args.stop]
    if args.logit_bias:
        given["logit_bias"] = dict(_bias(text) for text in args.logit_bias)
    return update_sampling(defaults, given)


def check_logit_bias(sampling: SamplingParams, settings: Settings) -> None:
    """Refuse a bias of a token that the model does not have.

    Raises:
        UsageError: the model does not have one of the tokens.
    """
    if sampling.logit_bias and (largest := max(sampling.logit_bias)) >= (size := vocab_size_for_planning(settings)[0]):
        raise UsageError(
            f"--logit-bias {largest}=...: the model only has the token ids 0 to {size - 1}",
            code="invalid_value",
        )


def unescape(text: str) -> str:
    r"""Text with ``\n`` and ``\t``, as shell users write them, replaced by what they mean."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise UsageError(
            f"--logit-bias {text} is not ID=VALUE",
            code="invalid_value",
            hint="For example: --logit-bias 187=-100.",
        ) from None
