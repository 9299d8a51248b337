"""Logits layer by layer are GPT-NeoX's own."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.config.reader import load_settings
from neoxrun.conversion.logits import compare_logits, prompt_ids, stream_logits
from support.paths import FIXTURES


@pytest.mark.parametrize(
    "name", ["tp1", "tp1_full_rotary_erf", "tp1_sequential_residual", "tp2_native", "tp2_sequential"]
)
def test_the_stored_logits(name: str) -> None:
    folder = FIXTURES / name
    config = load_settings([str(folder / "config.yml")]).model
    stored = load_file(folder / "logits.safetensors")
    ids = stored["input_ids"][0].tolist()
    first, second = stream_logits(find_checkpoint(folder, config), config, [ids, ids[:7]])
    torch.testing.assert_close(first, stored["logits"][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(second, stored["logits"][0, :7], rtol=0, atol=1e-4)


def test_prompts_fit_the_model() -> None:
    assert prompt_ids([[1, 2, 99, 3], [99], list(range(100))], 64, 5) == [[1, 2, 3], [0, 1, 2, 3, 4]]
    made = prompt_ids([], 64, 8)
    assert len(made) == 4
    assert all(len(ids) == 8 and max(ids) < 64 for ids in made)


def test_comparing_leaves_padding_out() -> None:
    one = torch.tensor([[1.0, 2.0, 9.0], [3.0, 1.0, 9.0]])
    other = torch.tensor([[1.0, 2.5], [1.0, 3.0]])
    assert compare_logits([one], [other]) == (2.0, 1, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_infinitely_far_from_all(value: float) -> None:
    one = torch.tensor([[1.0, value], [1.0, 2.0]])
    assert compare_logits([one], [torch.ones(2, 2)])[0] == float("inf")
    assert compare_logits([one], [one])[0] == float("inf")
