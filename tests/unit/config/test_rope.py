"""Scaling of rotary positions: what is refused, and how it gets into a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.config.rope import read_rope_scaling
from neoxrun.config.settings import RopeScaling
from neoxrun.errors import ConfigError


@pytest.mark.parametrize(
    ("rope", "code", "says"),
    [
        ({"type": "dynamic", "factor": 2.0}, "unsupported_option", "dynamic is not supported, since its angles change"),
        ({"rope_type": "llama3", "factor": 8.0}, "unsupported_option", "llama3 is not supported"),
        ({"type": "longrope"}, "unsupported_option", "longrope is not supported"),
        ({"rope_type": ["yarn"]}, "unsupported_option", "is not supported"),
        ({"type": "linear"}, "invalid_value", "factor must be a number greater than 0, not None"),
        ({"type": "linear", "factor": "2"}, "invalid_value", "factor must be a number greater than 0, not '2'"),
        ({"type": "linear", "factor": True}, "invalid_value", "factor must be"),
        ({"type": "linear", "factor": float("inf")}, "invalid_value", "factor must be"),
        ({"type": "yarn"}, "invalid_value", "factor must be"),
        ({"type": "yarn", "factor": 2, "beta_fast": -1}, "invalid_value", "beta_fast must be"),
        ({"type": "yarn", "factor": 2, "mscale": "x", "mscale_all_dim": 1}, "invalid_value", "mscale must be"),
        ([1], "invalid_value", "must be a mapping"),
    ],
)
def test_what_is_refused(rope: Any, code: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rope_scaling({"rope_scaling": rope}, "config.json")
    assert caught.value.code == code
    assert says in caught.value.render()
    assert "config.json" in caught.value.render()
    with pytest.raises(ConfigError, match=r"^rope_parameters"):
        read_rope_scaling({"rope_parameters": rope}, "config.json")


@pytest.mark.parametrize("content", [{}, {"rope_scaling": None}, {"rope_scaling": {}}, {"rope_theta": 10000}])
def test_most_models_are_not_scaled(content: dict[str, Any]) -> None:
    assert read_rope_scaling(content) is None


def test_a_key_of_the_configuration(small: str) -> None:
    """The context becomes that of the scaled model."""
    rotary = ["pos_emb=rotary", "seq_length=16", "max_position_embeddings=128"]
    model = load_settings([small], [*rotary, "rope_scaling={type: linear, factor: 8}"]).model
    assert model.rope_scaling == RopeScaling("linear", 8.0, 128)
    assert (model.seq_length, model.max_context) == (16, 128)
    assert load_settings([small], rotary).model.max_context == 16
    with pytest.raises(ConfigError, match="rope_scaling must be null with pos_emb learned"):
        load_settings([small], ["pos_emb=learned", "rope_scaling={type: linear, factor: 8}"])
