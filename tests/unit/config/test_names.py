"""What a configuration's file is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config.names import bare_name


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/20B.yml", "20B"), ("20B.yaml", "20B"), ("config.json", "config"), ("pythia-1.4b", "pythia-1.4b")],
)
def test_only_the_ending_of_a_configuration_goes(path: str, name: str) -> None:
    assert bare_name(Path(path)) == name
