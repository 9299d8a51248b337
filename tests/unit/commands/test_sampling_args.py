"""Sampling options of the command line: over the configuration's, checked, with shell users' escapes."""

from __future__ import annotations

import argparse

import pytest

from neoxrun.commands.sampling_args import check_logit_bias, sampling_params
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.errors import UsageError
from neoxrun.flags.model import add_seed
from neoxrun.flags.sampling import add_sampling_arguments


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    return parser.parse_args(arguments)


def test_flags_replace_the_configuration_and_nothing_else() -> None:
    configured = SamplingParams(maximum_tokens=7, temperature=0.5, stop=("a",), seed=3)
    assert sampling_params(parsed(), configured) == configured
    given = parsed("--temperature", "0", "--stop", r"\n", "--stop", "b", "--logit-bias", "5=-100", "--ignore-eos")
    assert sampling_params(given, configured) == SamplingParams(
        maximum_tokens=7, temperature=0.0, stop=("\n", "b"), seed=3, logit_bias={5: -100.0}, ignore_eos=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top-p", "2"), "top_p must be a number from 0 to 1, not 2.0"),
        (("--logit-bias", "a=1"), "--logit-bias a=1 is not ID=VALUE"),
        (("--logit-bias", "5"), "--logit-bias 5 is not ID=VALUE"),
        (("--logit-bias=-1=1",), "logit_bias must be"),
        (("--stop", ""), "stop must be"),
    ],
)
def test_impossible_values_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        sampling_params(parsed(*arguments), SamplingParams())
    assert caught.value.code == "invalid_value"


def test_a_bias_of_a_token_beyond_the_vocabulary_is_refused() -> None:
    settings = load_settings(["demo"])
    check_logit_bias(SamplingParams(logit_bias={2047: 1.0}), settings)
    with pytest.raises(UsageError, match=r"--logit-bias 2048=.*token ids 0 to 2047") as caught:
        check_logit_bias(SamplingParams(logit_bias={0: 1.0, 2048: 1.0}), settings)
    assert caught.value.code == "invalid_value"


def test_the_help_names_the_defaults_of_the_parameters() -> None:
    """Where a parameter is off or empty by default, the help says that in a word."""
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    numbers = {
        name: default
        for name, default in vars(SamplingParams()).items()
        if type(default) in (int, float) and name != "seed"  # the whole command shares the seed
    }
    helps = {action.dest: action.help or "" for action in parser._actions if action.dest in numbers}
    assert helps.keys() == numbers.keys()
    for name, default in numbers.items():
        assert helps[name].endswith(f" Default: {default:g}."), name


def test_the_help_of_the_seed_names_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_seed(parser)
    assert parser.format_help().rstrip().endswith(f" {SamplingParams().seed}.")
