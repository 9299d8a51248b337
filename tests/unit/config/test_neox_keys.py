"""Every key of GPT-NeoX is read, refused or listed as ignored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neoxrun.config import neox_keys
from neoxrun.config.reader import load_settings
from neoxrun.errors import ConfigError


@pytest.mark.parametrize("name", sorted({*neox_keys.USED, *neox_keys.OWN, *neox_keys.FIXED}))
def test_every_option_that_counts_is_looked_at(name: str, small: str) -> None:
    """An option in these groups that nobody reads would be silently passed over."""
    with pytest.raises(ConfigError, match=name):
        load_settings([small], [f"{name}=[[{{}}]]"])


@pytest.mark.parametrize("name", sorted({*neox_keys.USED, *neox_keys.OWN}))
def test_a_documented_default_is_what_leaving_the_key_out_means(name: str, small: str) -> None:
    default = {**neox_keys.USED, **neox_keys.OWN}[name].default
    if default is None:
        with pytest.raises(ConfigError, match=f"does not set {name}") as caught:
            load_settings([small], [f"{name}=null"])
        assert caught.value.code == "incomplete_configuration"
    else:
        assert load_settings([small], [f"{name}={default}"]) == load_settings([small])


def test_a_key_is_in_one_group() -> None:
    groups = [
        neox_keys.NETWORK,
        neox_keys.FILES,
        neox_keys.SPLIT,
        neox_keys.GENERATION,
        neox_keys.OWN,
        neox_keys.FIXED,
        neox_keys.IGNORED,
    ]
    assert sum(map(len, groups)) == len(neox_keys.KNOWN)


def test_every_other_option_is_ignored_and_listed(small: str) -> None:
    names = sorted(neox_keys.IGNORED)
    found = load_settings([small], [f"{name}={{anything: [at, all]}}" for name in names])
    assert found.ignored == tuple(names)
    assert replace(found, ignored=()) == load_settings([small])
