"""GPT-NeoX YAML to Settings: what is read, and what wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neoxrun.config.reader import load_settings, with_tokenizer_of
from neoxrun.config.settings import ModelConfig, Settings
from neoxrun.config.shipped import shipped_dir
from neoxrun.errors import ConfigError
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


def test_paths_are_looked_for_next_to_the_file_and_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, here = tmp_path / "model", tmp_path / "work"
    for folder in (near, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    source = write_config(near, {**SMALL, "load": ".", "vocab_file": "tokenizer.json", "merge_file": "merges.txt"})

    nothing = load_settings([source])
    assert nothing.tokenizer.vocab_file == here / "tokenizer.json"
    assert nothing.tokenizer.looked_in == (near / "tokenizer.json", here / "tokenizer.json")
    assert nothing.checkpoint_looked_in == (near, here)

    for folder in (near, here):
        (folder / "tokenizer.json").touch()
    (here / "merges.txt").touch()
    (here / "latest").touch()
    found = load_settings([source])
    assert found.tokenizer.vocab_file == near / "tokenizer.json"
    assert found.tokenizer.merge_file == here / "merges.txt"
    assert found.checkpoint == here, "both folders exist, and only the working directory holds a checkpoint"
    (near / "latest").touch()
    assert load_settings([source]).checkpoint == near
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


def test_weights_bring_their_tokenizer_where_the_named_one_is_missing(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    lost = SMALL | {"vocab_file": "/nowhere/vocab.json"}
    config = load_settings([write_config(tmp_path, lost)])
    assert with_tokenizer_of(weights, config) == config, "there is none"
    (weights / "vocab.json").touch()
    (weights / "merges.txt").touch()
    found = with_tokenizer_of(weights, config).tokenizer
    assert (found.vocab_file, found.merge_file) == (weights / "vocab.json", weights / "merges.txt")
    (weights / "tokenizer.json").touch()
    found = with_tokenizer_of(weights, load_settings([write_config(tmp_path, SMALL)])).tokenizer
    assert (found.tokenizer_type, found.vocab_file) == ("HFTokenizer", weights / "tokenizer.json")
    (tmp_path / "own.json").touch()
    own = load_settings([write_config(tmp_path, SMALL | {"vocab_file": "own.json"})])
    assert with_tokenizer_of(weights, own) == own
