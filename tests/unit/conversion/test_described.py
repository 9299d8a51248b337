"""A configuration for a folder, from the folder, from a released model of its shapes, or from shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from neoxrun.config.reader import load_settings
from neoxrun.conversion.described import describe
from neoxrun.conversion.survey import survey_folder
from support.checkpoints import tiny
from support.conversions import make_folder
from support.paths import DEMO, FIXTURES


def test_a_released_model_is_known_by_its_shapes(tmp_path: Path) -> None:
    link = tmp_path / "mine"
    link.symlink_to(DEMO)
    found = describe(survey_folder(link), str(link))
    assert found.whole
    assert "shipped configuration demo" in found.origin
    path = tmp_path / "described.yml"
    path.write_text(found.text)
    settings = load_settings([str(path)])
    assert settings.model == load_settings(["demo"]).model
    assert settings.precision == "fp16"
    assert settings.checkpoint is not None
    assert settings.checkpoint.samefile(DEMO / "global_step5000")
    assert settings.tokenizer.vocab_file is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {"norm": "layernorm", "no_weight_tying": True}),
        ({"norm": "rmsnorm", "tie_embeddings": True}, {"norm": "rmsnorm", "no_weight_tying": False}),
        ({"pos_emb": "learned"}, {"pos_emb": "learned", "max_position_embeddings": 8}),
        ({"use_bias_in_mlp": False, "intermediate_size": 48}, {"use_bias_in_mlp": False, "intermediate_size": 48}),
        ({"use_bias_in_attn_linear": False}, {"use_bias_in_attn_linear": False}),
    ],
)
def test_what_shapes_tell(tmp_path: Path, changes: dict[str, Any], told: dict[str, Any]) -> None:
    folder = make_folder(tmp_path / "source", tiny(**changes), tp=2)
    (folder / "model.yml").unlink()
    found = describe(survey_folder(folder), str(folder))
    assert not found.whole
    options = yaml.safe_load(found.text)
    assert options | told == options
    assert (options["num_layers"], options["hidden_size"], options["model_parallel_size"]) == (2, 16, 2)
    assert "num_attention_heads" in found.text.splitlines()[0]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["tokenizer.json"], "HFTokenizer"),
        (["tokenizer.model"], "SPMTokenizer"),
        (["vocab.json", "merges.txt"], "GPT2BPETokenizer"),
    ],
)
def test_a_tokenizer_of_every_kind_is_named(names: list[str], kind: str, tmp_path: Path) -> None:
    """It is in the folder of the weights, or in the one above."""
    folder = make_folder(tmp_path / "source", tiny())
    for place in (folder, folder / "global_step7"):
        for name in names:
            (place / name).touch()
        text = describe(survey_folder(folder), str(folder)).text
        options = yaml.safe_load(text)
        assert (options["tokenizer_type"], options["vocab_file"]) == (kind, str(place / names[0]))
        assert options.get("merge_file") == (str(place / names[1]) if len(names) > 1 else None)
        assert "vocab_file" not in text.splitlines()[0]


def test_drift_and_buffers_tell_more() -> None:
    folder = FIXTURES / "tp2_legacy_20b" / "global_step150000"
    options = yaml.safe_load(describe(survey_folder(folder), "nowhere").text)
    assert options["gpt_j_residual"] is True
    assert options["pos_emb"] == "rotary"
