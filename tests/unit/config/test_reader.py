"""GPT-NeoX YAML to Settings: what is read, what wins, and the message of every mistake."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxrun.config import neox_keys
from neoxrun.config.reader import load_settings, shipped_dir
from neoxrun.config.settings import ModelConfig, Settings
from neoxrun.errors import ConfigError, NeoxrunError, UsageError
from support.configurations import SMALL, write_config

# The shapes that GPT-NeoX's own files come in: JSON with comments, both spellings of keys, Python's True,
# numbers that YAML 1.1 takes for text, nested blocks and commas before closing brackets.
RELEASED = """
# a comment
{
  "num-layers": 4,   # another
  "hidden-size": 128, "num_attention_heads": 8,
  "seq-length": 256, "max-position-embeddings": 512,
  "pos-emb": "rotary", "rotary-pct": 0.25,
  "no_weight_tying": True,
  "gpt-j-residual": true,
  "attention-config": [[["flash"], 4]],
  "scaled-upper-triang-masked-softmax-fusion": true,
  "bias-gelu-fusion": true,
  "layernorm_epsilon": 1e-6,
  "optimizer": {"type": "Adam", "params": {"lr": 0.97e-4, "betas": [0.9, 0.95], "eps": 1.0e-8, }},
  "fp16": {"fp16": true, "enabled": true, "loss_scale": 0, },
  "model-parallel-size": 2, "pipe_parallel_size": 3,
  "tokenizer-type": "HFTokenizer",
  "vocab-file": "./weights/vocab.json", "load": "./weights",
  "tensorboard-dir": "./tensorboard",
  "temperature": 7e-1, "maximum_tokens": 102, "prompt_end": "\\n", "num_samples": 10,
}
"""


def test_a_released_configuration_is_read_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_settings([write_config(tmp_path, RELEASED)])
    assert found.model == ModelConfig(
        num_layers=4,
        hidden_size=128,
        num_attention_heads=8,
        intermediate_size=512,
        seq_length=256,
        max_position_embeddings=512,
        pos_emb="rotary",
        rotary_pct=0.25,
        gpt_j_residual=True,
        norm_epsilon=1e-6,
        gelu="tanh",
        tie_embeddings=False,
        model_parallel_size=2,
        pipe_parallel_size=3,
    )
    assert found.precision == "fp16"
    assert found.checkpoint == tmp_path / "weights"
    assert found.tokenizer.vocab_file == tmp_path / "weights" / "vocab.json"
    assert found.ignored == ("optimizer", "scaled_upper_triang_masked_softmax_fusion", "tensorboard_dir")
    assert found.generation.sampling.temperature == 0.7
    assert (found.generation.sampling.maximum_tokens, found.generation.num_samples) == (102, 10)
    assert found.generation.prompt_end == "\n"


def test_defaults_are_gpt_neox_s(small: str) -> None:
    found = load_settings([small])
    assert found.model == ModelConfig(**SMALL, intermediate_size=256, pipe_parallel_size=0)
    assert (found.model.pos_emb, found.model.tie_embeddings, found.model.gelu) == ("learned", True, "erf")
    assert (found.precision, found.seed, found.tokenizer.tokenizer_type) == ("fp32", 1234, "GPT2BPETokenizer")
    assert found.checkpoint is None
    assert found.generation.num_samples is None


def test_later_files_then_set_then_flags_win(tmp_path: Path, small: str) -> None:
    later = write_config(tmp_path, "num-layers: 3\nload: one\nseq_length: 16", "later.yml")
    assert load_settings([small, later]).model.num_layers == 3
    assert load_settings([later, small]).model.num_layers == 2
    found = load_settings(
        [small, later],
        ["num-layers=5", "load=two", "num_layers=6", "stop=['\\n', a]"],
        checkpoint="three",
        tokenizer="t.json",
    )
    assert found.model.num_layers == 6
    assert found.checkpoint == tmp_path / "three"
    assert found.tokenizer.vocab_file == tmp_path / "t.json"
    assert found.generation.sampling.stop == ("\\n", "a")
    assert found.sources == (Path(small), Path(later))


# One option more than SMALL, on line 2 of its file: the error's message and hint.
MISTAKES = [
    ("num_layer: 2", "unknown option num_layer", "Did you mean num_layers?"),
    ("max_tokens: 5", "unknown option max_tokens", "Did you mean maximum_tokens?"),
    ("zzzzqqqq: 2", "unknown option zzzzqqqq", "no such option"),
    ("num_layers: abc", "num_layers must be a whole number from 1", None),
    ("num_layers: 0", "num_layers must be a whole number from 1", None),
    ("num_layers: true", "num_layers must be a whole number from 1", None),
    ("num_layers: 2.0", "num_layers must be a whole number from 1", None),
    ("hidden_size: 66", "hidden_size must be a multiple of num_attention_heads (4)", None),
    ("max_position_embeddings: 8", "must be at least seq_length (32)", None),
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
    with pytest.raises(ConfigError, match="is a folder") as caught:
        load_settings(["."])
    assert caught.value.code == "missing_configuration"
    assert "--checkpoint" in str(caught.value.hint)
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1", "fp32"),
        ("precision: bfloat16", "bf16"),
        ("precision: FP16", "fp16"),
        ("fp16: {fp16: true, enabled: true}", "fp16"),
        ("fp16: {fp16: true}", "fp16"),
        ("fp16: {enabled: false}", "fp32"),
        ("fp16: {enabled: true, type: bfloat16}", "bf16"),
        ("bf16: {enabled: true}\nprecision: bfloat16", "bf16"),
        ("fp16: {enabled: true}\nprecision: bfloat16", None),
        ("fp16: {enabled: true}\nbf16: {enabled: true}", None),
        ("fp16: {enabled: true}\nprecision: fp32", None),
    ],
)
def test_precision(text: str, expected: str | None, small: str) -> None:
    Path("p.yml").write_text(text, encoding="utf-8")
    if expected is None:
        with pytest.raises(ConfigError, match="disagree") as caught:
            load_settings([small, "p.yml"])
        assert caught.value.code == "conflicting_options"
        assert str(caught.value.where).startswith("p.yml:")
    else:
        assert load_settings([small, "p.yml"]).precision == expected
    assert load_settings([small, "p.yml"], ["precision=bf16"]).precision == "bf16"


def test_the_prompt_file_counts_only_where_gpt_neox_reads_it(small: str) -> None:
    Path("prompts.txt").write_text("hello", encoding="utf-8")
    name = ["sample_input_file=prompts.txt"]
    assert load_settings([small], name).generation.text_gen_type == "input-file"
    assert load_settings([small], name).generation.sample_input_file == Path("prompts.txt").absolute()
    found = load_settings([small], [*name, "text_gen_type=unconditional"]).generation
    assert (found.text_gen_type, found.sample_input_file) == ("unconditional", None)


def test_paths_are_looked_for_beside_the_file_and_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "model", tmp_path / "work"
    for folder in (beside, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    source = write_config(beside, {**SMALL, "load": ".", "vocab_file": "tokenizer.json", "merge_file": "merges.txt"})

    nothing = load_settings([source])
    assert nothing.tokenizer.vocab_file == here / "tokenizer.json"
    assert nothing.tokenizer.looked_in == (beside / "tokenizer.json", here / "tokenizer.json")
    assert nothing.checkpoint_looked_in == (beside, here)

    for folder in (beside, here):
        (folder / "tokenizer.json").touch()
    (here / "merges.txt").touch()
    (here / "latest").touch()
    found = load_settings([source])
    assert found.tokenizer.vocab_file == beside / "tokenizer.json"
    assert found.tokenizer.merge_file == here / "merges.txt"
    assert found.checkpoint == here, "both folders exist, and only the working directory holds a checkpoint"
    (beside / "latest").touch()
    assert load_settings([source]).checkpoint == beside
    assert load_settings([source], ["load=."], tokenizer="tokenizer.json").checkpoint == here


def test_shipped_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_dir() / "pythia-160m.yml"
    for source in ("pythia-160m", "Pythia-160M", "configs/pythia-160m.yml", "pythia-160m.yml"):
        assert load_settings([source]).sources == (shipped,)
    Path("configs").mkdir()
    Path("pythia-160m").mkdir()  # a folder of weights does not hide the name
    assert load_settings(["pythia-160m"]).sources == (shipped,)
    own = write_config(tmp_path / "configs", SMALL, "pythia-160m.yml")
    assert load_settings(["configs/pythia-160m.yml"]).sources == (Path(own).relative_to(tmp_path),)
    assert load_settings(["configs/pythia-160m"]).model.num_layers == 2


# Published: parameters without the embeddings (Biderman et al. 2023; for 20B all of them less those), and
# rows of the vocabulary.
@pytest.mark.parametrize(
    ("name", "parameters", "vocabulary"),
    [
        ("pythia-14m", 1_189_888, 50304),
        ("pythia-31m", 4_739_072, 50304),
        ("pythia-70m", 18_915_328, 50304),
        ("pythia-160m", 85_056_000, 50304),
        ("pythia-410m", 302_311_424, 50304),
        ("pythia-1b", 805_736_448, 50304),
        ("pythia-1.4b", 1_208_602_624, 50304),
        ("pythia-2.8b", 2_517_652_480, 50304),
        ("pythia-6.9b", 6_444_163_072, 50432),
        ("pythia-12b", 11_327_027_200, 50688),
        ("20B", 20_554_567_680 - 2 * 50432 * 6144, 50432),
    ],
)
def test_shipped_configurations_have_the_published_sizes(name: str, parameters: int, vocabulary: int) -> None:
    found = load_settings([name])
    model = found.model
    h, m = model.hidden_size, model.intermediate_size
    layer = 4 * h + (3 * h * h + 3 * h) + (h * h + h) + (2 * h * m + h + m)
    assert model.num_layers * layer + 2 * h == parameters
    assert model.padded_vocab_size(50277) == vocabulary
    assert (model.rotary_pct, model.gpt_j_residual, model.gelu, model.tie_embeddings) == (
        0.25,
        True,
        "tanh",
        False,
    )
    assert found.precision == ("bf16" if name == "pythia-1b" else "fp16")
    assert not found.ignored


VALUES: dict[str, st.SearchStrategy[object]] = {
    "num_layers": st.integers(1, 50),
    "seq_length": st.integers(1, 48),
    "rotary_emb_base": st.floats(1, 1e6),
    "gpt_j_residual": st.booleans(),
    "norm": st.sampled_from(["layernorm", "rmsnorm"]),
    "temperature": st.floats(0, 100),
    "stop": st.lists(st.text(min_size=1), max_size=2),
    "fp16": st.fixed_dictionaries({"enabled": st.booleans()}),
    "weight_decay": st.floats(0, 1),
}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_neither_the_split_into_files_nor_the_spelling_matters(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    options = {**SMALL, **data.draw(st.fixed_dictionaries({}, optional=VALUES))}
    folder = tmp_path_factory.mktemp("split")
    whole = write_config(folder, options, "whole.yml")
    parts: list[dict[str, object]] = [{}, {}, {}]
    for name in data.draw(st.permutations(list(options))):
        spelled = "".join(data.draw(st.sampled_from("-_")) if c == "_" else c for c in name)
        parts[data.draw(st.integers(0, 2))][spelled] = options[name]
    sources = [write_config(folder, part, f"{number}.yml") for number, part in enumerate(parts)]

    def anywhere(found: Settings) -> Settings:
        return replace(found, sources=())

    assert anywhere(load_settings(sources)) == anywhere(load_settings([whole]))


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
