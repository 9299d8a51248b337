"""Every mistake in a configuration names the option, the file and the line, and says what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxrun.config import neox_keys
from neoxrun.config.reader import load_settings
from neoxrun.errors import ConfigError, NeoxrunError, UsageError
from support.configurations import SMALL, write_config

# One option more than SMALL, on line 2 of its file: the error's message and hint.
MISTAKES = [
    ("num_layer: 2", "unknown option num_layer", "Did you mean num_layers?"),
    ("maximum_token: 5", "unknown option maximum_token", "Did you mean maximum_tokens?"),
    ("zzzzqqqq: 2", "unknown option zzzzqqqq", "no such option"),
    ("num_layers: abc", "num_layers must be a whole number from 1", None),
    ("num_layers: 0", "num_layers must be a whole number from 1", None),
    ("num_layers: 10001", "num_layers must be a whole number from 1 to 10000", None),
    ("num_layers: true", "num_layers must be a whole number from 1", None),
    ("num_layers: 2.0", "num_layers must be a whole number from 1", None),
    ("hidden_size: 66", "hidden_size must be a multiple of num_attention_heads (4)", None),
    (
        "max_position_embeddings: 8",
        "must be at least seq_length (32)",
        "(--seq-length in finetune) to 8",
    ),
    ("rotary_pct: 0", "rotary_pct must be a number greater than 0 and at most 1", None),
    ("rotary_pct: .nan", "rotary_pct must be", None),
    ("rotary_pct: 1.5", "rotary_pct must be", None),
    ("rotary_emb_base: .inf", "rotary_emb_base must be", None),
    ("no_weight_tying: 'yes'", "no_weight_tying must be true or false, not yes", None),
    ("use_bias_in_mlp: null", "use_bias_in_mlp must be true or false, not null", None),
    ("temperature: -1", "temperature must be a number from 0 to 1000000", None),
    ("top_p: 1.5", "top_p must be a number from 0 to 1", None),
    ("stop: ['']", "stop must be a text, or a list of texts", None),
    ("vocab_file: 3", "vocab_file must be a text", None),
    ("norm: scalenorm", "norm: scalenorm is not supported", "layernorm, rmsnorm"),
    ("norm: te_layernorm", "norm: te_layernorm is not supported", "layernorm, rmsnorm"),
    ("pos_emb: alibi", "pos_emb: alibi is not supported", "rotary, learned, none"),
    ("activation: swiglu", "activation: swiglu is not supported", "gelu"),
    ("mlp_type: llama", "mlp_type: llama is not supported", "regular"),
    ("num_kv_heads: 2", "num_kv_heads: 2 is not supported", "null"),
    ("sliding_window_width: 8", "sliding_window_width: 8 is not supported", "null"),
    ("use_qk_layernorm: true", "use_qk_layernorm: true is not supported", "false"),
    ("use_mup: true", "use_mup: true is not supported", "false"),
    ("moe_num_experts: 8", "moe_num_experts: 8 is not supported", "Supported: 1."),
    ("te_mha: true", "te_mha: true is not supported", "false"),
    ("train_impl: rm", "train_impl: rm is not supported", "normal"),
    ("soft_prompt_tuning: {enabled: true}", "soft_prompt_tuning: {'enabled': True} is not supported", "null"),
    ("use_bnb_optimizer: true", "use_bnb_optimizer: true is not supported", "learned positions"),
    ("attention_config: [[[local, global], 1]]", "attention_config: local is not supported", "flash"),
    ("attention_config: [[[global], 3]]", "attention_config describes 3 layers, but num_layers is 2", None),
    ("attention_config: flash", "attention_config must be a list like", None),
    ("text_gen_type: precompute", "text_gen_type: precompute is not supported", "interactive"),
    ("precision: int8", "precision: int8 is not supported", "bfloat16"),
    ("fp16: {loss_scale: 0}", "fp16 must be a mapping with enabled", None),
    ("intermediate_size: 99", "99 is not a multiple of 2", None),
    ("mlp_multiple_of: 256", "256 is not a multiple of 512", None),
    ("num_layers: !!python/object/apply:os.abort []", "could not determine a constructor", None),
    ("num_layers: !!int x", "the value cannot be read", None),
    ("num_layers: " + "9" * 5000, "the value cannot be read", None),
    ("[a, b]: 2", "an option's name must be a word", None),
    ("a: b: c", "mapping values are not allowed here", None),
    ("\tnum_layers: 2", "cannot start any token", "tabs"),
]


@pytest.mark.parametrize(("line", "message", "hint"), MISTAKES, ids=[line[:40] for line, _, _ in MISTAKES])
def test_a_mistake_names_option_file_and_line(line: str, message: str, hint: str | None, small: str) -> None:
    Path("wrong.yml").write_text(f"# first line\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings([small, "wrong.yml"])
    error = caught.value
    assert message in error.message
    assert error.where == "wrong.yml:2"
    assert (hint or "") in (error.hint or "")


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("", "does not set num_layers, hidden_size, num_attention_heads, seq_length, max_pos", "wrong.yml"),
        ("num_layers: null\nhidden_size: 8", "does not set num_layers, num_attention_heads", "wrong.yml"),
        ("- a\n- b", "holds something else", "wrong.yml:1"),
        ("just text", "holds something else", "wrong.yml:1"),
        ("a: 1\n---\nb: 2", "single document", "wrong.yml:2"),
        ("num_layers: 2\nseed: 1\nnum-layers: 3", "given twice, on line 1 and on line 3", "wrong.yml:3"),
        ("[" * 5000, "nested too deeply", "wrong.yml"),
        ("seed: \x07", "special characters are not allowed", "wrong.yml"),
    ],
)
def test_a_file_that_is_no_configuration(text: str, message: str, where: str, small: str) -> None:
    Path("wrong.yml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(["wrong.yml"])
    assert caught.value.where == where


def test_a_file_that_cannot_be_read(small: str) -> None:
    Path("latin.yml").write_bytes(b"seed: 1 # \xe9\n")
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        load_settings(["latin.yml"])
    assert caught.value.code == "unreadable_configuration"
    with pytest.raises(ConfigError, match="there is no configuration pythia-170m") as caught:
        load_settings(["pythia-170m"])
    assert caught.value.code == "missing_configuration"
    assert "pythia-70m" in str(caught.value.hint) or "pythia-160m" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="there is no configuration gpt-neox-20b") as caught:
        load_settings(["gpt-neox-20b"])
    assert caught.value.hint == "Did you mean 20B?"
    with pytest.raises(ConfigError, match="is a folder") as caught:
        load_settings(["."])
    assert caught.value.code == "missing_configuration"
    hint = str(caught.value.hint)
    assert hint.startswith("Name the model's YAML file as well, after the folder")
    assert all(name in hint for name in ("latin.yml", "model.yml"))
    with pytest.raises(ConfigError) as caught:
        load_settings(["x" * 5000])
    assert caught.value.code == "unreadable_configuration"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("num_layers", UsageError, "KEY=VALUE"),
        ("=3", UsageError, "KEY=VALUE"),
        ("num_layers=[", ConfigError, "not valid YAML"),
        ("num_layers=many", ConfigError, "num_layers must be a whole number"),
        ("numlayers=3", ConfigError, "unknown option numlayers"),
    ],
)
def test_a_wrong_override(override: str, error: type[NeoxrunError], message: str, small: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_settings([small], [override])
    assert error is UsageError or caught.value.where == f"--set {override}"


LINES = st.builds(
    "{}{}{}".format,
    st.sampled_from([*sorted(neox_keys.USED), "optimizer", "x", "? a", "&a", "*a", "<<", "", "- "]),
    st.sampled_from([": ", ":", "", " : &b ", ": !!float ", ": !!timestamp ", ": !!set "]),
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(["1e3", "{}", "[[[global], 2]]", "-.inf", "'", "*a", "[*b]", "{<<: *b}", "2001-99-99", "1:99"]),
        st.integers().map(str),
    ),
)


@settings(max_examples=250, deadline=None)
@given(st.one_of(st.text(), st.lists(LINES, max_size=4).map("\n".join)))
def test_any_text_gives_settings_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "fuzz.yml").write_bytes(text.encode("utf-8", "replace"))
    base = write_config(folder, SMALL, "base.yml")
    with contextlib.suppress(NeoxrunError):
        load_settings([base, str(folder / "fuzz.yml")])
