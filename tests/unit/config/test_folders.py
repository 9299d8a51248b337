"""A model's folder in place of a configuration: what a name means, and what the folder says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neoxrun.config.folders import find_folder, read_folder
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Settings
from neoxrun.config.shipped import shipped_dir
from neoxrun.errors import CheckpointError, ConfigError, NeoxrunError
from support.configurations import SMALL, write_config
from support.paths import FIXTURES

CONFIG = {
    "model_type": "gpt_neox",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 48,
    "rotary_pct": 0.5,
    "use_parallel_residual": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "eos_token_id": [0, 7],
}


def hugging_face(folder: Path, *files: str, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | options))
    for name in files:
        (folder / name).touch()
    return folder


def run_folder(folder: Path, *, configs: bool) -> Path:
    shutil.copytree(FIXTURES / "upstream_tp2_pp2", folder)
    if configs:
        (folder / "global_step150000" / "configs").mkdir()
        (folder / "config.yml").rename(folder / "global_step150000" / "configs" / "config.yml")
    else:
        (folder / "config.yml").unlink()
    return folder


def refusal(*sources: str, overrides: tuple[str, ...] = ()) -> NeoxrunError:
    with pytest.raises(NeoxrunError) as caught:
        load_settings(sources, overrides)
    return caught.value


@pytest.mark.parametrize("named", ["model", "model/config.json"])
def test_a_hugging_face_folder(named: str, tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model", "tokenizer.json")
    found = load_settings([str(tmp_path / named)])
    model = found.model
    assert (model.num_layers, model.hidden_size, model.num_attention_heads) == (2, 64, 4)
    assert (model.seq_length, model.rotary_pct, model.pos_emb) == (48, 0.5, "rotary")
    assert (model.gpt_j_residual, model.tie_embeddings, model.gelu) == (False, False, "erf")
    assert found.precision == "fp16"
    assert (found.checkpoint, found.sources, found.title) == (folder, (folder,), "model")
    assert (found.tokenizer.tokenizer_type, found.tokenizer.vocab_file) == ("HFTokenizer", folder / "tokenizer.json")
    assert found.end_ids == (0, 7)
    assert (found.ignored, found.unread) == ((), ("use_cache",))
    assert model.padded_vocab_size(50_000) == 50_432, "config.json says how many rows there are"


@pytest.mark.parametrize(
    ("files", "kind", "vocabulary", "merges"),
    [
        (["spiece.model", "tokenizer.json"], "HFTokenizer", "tokenizer.json", None),
        (["spiece.model"], "SPMTokenizer", "spiece.model", None),
        (["tokenizer.model", "vocab.json", "merges.txt"], "SPMTokenizer", "tokenizer.model", None),
        (["vocab.json", "merges.txt"], "GPT2BPETokenizer", "vocab.json", "merges.txt"),
    ],
)
def test_the_best_of_the_tokenizers(
    files: list[str], kind: str, vocabulary: str, merges: str | None, tmp_path: Path
) -> None:
    folder = hugging_face(tmp_path, *files)
    found = load_settings([str(folder)]).tokenizer
    assert (found.tokenizer_type, found.vocab_file) == (kind, folder / vocabulary)
    assert found.merge_file == (folder / merges if merges else None)


def test_a_folder_without_a_tokenizer_takes_the_one_that_is_named(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model")
    assert load_settings([str(folder)]).tokenizer.vocab_file is None
    found = load_settings([str(folder)], tokenizer=str(tmp_path / "other.json")).tokenizer
    assert (found.tokenizer_type, found.vocab_file) == ("HFTokenizer", tmp_path / "other.json")


@pytest.mark.parametrize("folder_first", [True, False])
def test_files_and_set_win_over_the_folder_but_the_weights_are_its_own(folder_first: bool, tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model", "tokenizer.json")
    (tmp_path / "mine.json").touch()
    mine: dict[str, object] = {"seq_length": 16, "bf16": {"enabled": True}, "load": "elsewhere", "temperature": 0.5}
    file = write_config(tmp_path, {**mine, "vocab_file": "mine.json"})
    sources = [str(folder), file] if folder_first else [file, str(folder)]
    found = load_settings(sources, ["rotary_pct=0.25"])
    assert (found.model.seq_length, found.model.rotary_pct, found.model.num_layers) == (16, 0.25, 2)
    assert (found.precision, found.checkpoint) == ("bf16", folder)
    assert found.tokenizer.vocab_file == tmp_path / "mine.json"
    assert found.generation.sampling.temperature == 0.5
    assert load_settings(sources, ["precision=fp32"]).precision == "fp32"
    assert load_settings(sources, checkpoint=str(tmp_path)).checkpoint == tmp_path


@pytest.mark.parametrize("which", [".", "global_step150000"])
def test_the_folder_of_a_run_keeps_its_configuration(which: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs=True) / which
    found = load_settings([str(folder)])
    whole = load_settings([str(FIXTURES / "upstream_tp2_pp2" / "config.yml")])
    assert found.model == whole.model
    assert found.checkpoint == folder.absolute()
    assert found.tokenizer.vocab_file == tmp_path / "run" / "tokenizer.json", "the named file does not exist"


def test_the_options_in_mp_rank_files_need_the_run_s_file_too(tmp_path: Path) -> None:
    folder = str(run_folder(tmp_path / "run", configs=False))
    refused = refusal(folder)
    assert refused.code == "incomplete_configuration"
    assert "gpt_j_residual" in refused.message
    rest = {"pos_emb": "rotary", "rotary_pct": 0.25, "gpt_j_residual": True, "no_weight_tying": True}
    file = write_config(tmp_path, {**rest, "bias_gelu_fusion": True, "pipe_parallel_size": 2})
    whole = load_settings([str(FIXTURES / "upstream_tp2_pp2" / "config.yml")])
    assert load_settings([folder, file]).model == whole.model


@pytest.mark.parametrize("which", [".", "global_step150000"])
@pytest.mark.parametrize("fixture", ["tp2_native", "tp2_sequential", "upstream_tp2_pp2"])
def test_the_one_yaml_file_next_to_gpt_neox_s_files_is_their_configuration(
    fixture: str, which: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "neoxrun")
    folder = tmp_path / "run"
    shutil.copytree(FIXTURES / fixture, folder)
    (folder / "paths.yml").write_text("save: elsewhere")
    (folder / "workflow.yaml").write_text("jobs: [")
    whole = load_settings([str(FIXTURES / fixture / "config.yml")])
    found = load_settings([str(folder / which)])
    assert found.model == whole.model
    assert found.checkpoint == (folder / which).absolute()
    assert found.tokenizer.vocab_file == folder / "tokenizer.json"
    assert f"has no configs/: its configuration is {folder / 'config.yml'}" in caplog.text


def test_configs_win_over_the_yaml_file_next_to_the_weights(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", configs=True)
    write_config(folder, {**SMALL, "num_layers": 9}, "config.yml")
    assert load_settings([str(folder)]).model.num_layers == 3


def test_the_yaml_files_next_to_the_weights_are_named_where_none_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(FIXTURES / "tp2_native", folder)
    shutil.copy(folder / "config.yml", folder / "other.yml")
    for source in (folder, folder / "global_step150000"):
        refused = refusal(str(source))
        assert refused.code == "missing_configuration"
        assert f"one of {folder / 'config.yml'}, {folder / 'other.yml'}." in str(refused.hint)
    named = load_settings([str(folder), str(folder / "other.yml")])
    assert named.model == load_settings([str(FIXTURES / "tp2_native" / "config.yml")]).model
    assert named.checkpoint == folder
    shutil.rmtree(folder / "global_step150000")
    (folder / "other.yml").unlink()
    assert f"one of {folder / 'config.yml'}." in str(refusal(str(folder)).hint), "there are no weights"
    run = run_folder(tmp_path / "saved", configs=False)
    (run / "paths.yml").write_text("save: elsewhere")
    assert str(run / "paths.yml") in str(refusal(str(run)).hint)


def steps_folder(folder: Path, latest: str | None) -> Path:
    for step in (10, 20, 100):
        configs = folder / f"global_step{step}" / "configs"
        configs.mkdir(parents=True)
        write_config(configs, {**SMALL, "num_layers": step}, "a.yml")
    if latest is not None:
        (folder / "latest").write_text(latest + "\n")
    return folder


@pytest.mark.parametrize(
    ("latest", "overrides", "layers"),
    [
        ("global_step20", (), 20),
        ("global_step20", ("iteration=10",), 10),
        (None, (), 100),
        ("nonsense", (), 100),
    ],
)
def test_the_step_whose_configuration_counts(
    latest: str | None, overrides: tuple[str, ...], layers: int, tmp_path: Path
) -> None:
    assert load_settings([str(steps_folder(tmp_path, latest))], overrides).model.num_layers == layers


@pytest.mark.parametrize("name", ["pythia-160m", "EleutherAI/pythia-160m"])
def test_released_names_mean_the_shipped_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = hugging_face(tmp_path / "pythia-160m", "tokenizer.json", "model.safetensors")
    found = load_settings([name])
    assert (found.sources, found.checkpoint) == ((shipped_dir() / "pythia-160m.yml",), folder)
    assert load_settings(["./pythia-160m"]).sources == (folder.relative_to(tmp_path),)


def test_a_folder_that_names_no_repository_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    assert find_folder("acme/tiny") == Path("tiny")
    assert "the folder tiny is used, which does not say where its files come from" in caplog.text
    caplog.clear()
    assert find_folder("tiny") == Path("tiny")
    record = Path("tiny/neoxrun.manifest.json")
    record.write_text(json.dumps({"hub": "acme/tiny"}))
    assert find_folder("acme/tiny") == Path("tiny")
    assert not caplog.text
    record.write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read neoxrun\.manifest\.json"):
        find_folder("acme/tiny")


def test_a_run_is_looked_at_before_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both hold foreign files, the error is the same each time."""
    seen: list[str] = []
    monkeypatch.setattr("neoxrun.config.folders.refuse_foreign_folder", lambda place, names: seen.append(place.name))
    for number in range(12):
        folder = tmp_path / f"run{number}"
        (folder / "global_step1").mkdir(parents=True)
        with pytest.raises(ConfigError):
            read_folder(folder)
    assert seen == [name for number in range(12) for name in (f"run{number}", "global_step1")]


@pytest.mark.parametrize("hub", [None, "acme/tiny", "ACME/Tiny"])
def test_a_repository_that_was_downloaded_here(
    hub: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = hugging_face(tmp_path / "tiny")
    if hub:
        (folder / "neoxrun.manifest.json").write_text(json.dumps({"hub": hub}))
    assert load_settings(["acme/tiny"]).checkpoint == folder
    assert load_settings(["tiny"]).checkpoint == folder


def test_a_folder_from_another_repository_is_not_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = hugging_face(tmp_path / "tiny")
    (folder / "neoxrun.manifest.json").write_text(json.dumps({"hub": "other/tiny"}))
    refused = refusal("acme/tiny")
    assert isinstance(refused, ConfigError)
    assert "is from other/tiny" in refused.message


def test_the_released_20b_has_its_shipped_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "20B_checkpoints"
    (folder / "global_step150000").mkdir(parents=True)
    (folder / "global_step150000" / "layer_00-model_00-model_states.pt").touch()
    (folder / "20B_tokenizer.json").touch()
    found = load_settings([str(folder)])
    assert found.model == load_settings(["20B"]).model
    assert (found.checkpoint, found.tokenizer.vocab_file) == (folder, folder / "20B_tokenizer.json")


FOREIGN = {
    "adapter_config.json": ('{"base_model_name_or_path": "databricks/dolly-v2-3b"}', "adapter (LoRA)", "dolly-v2-3b"),
    "quantize_config.json": ("{}", "quantised (gptq)", "vLLM"),
    "zero_pp_rank_0_mp_rank_00_model_states.pt": ("", "ZeRO stage 3", "stage 2"),
    "model-q4.gguf": ("", "llama.cpp", "model-q4.gguf"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_folders_of_other_formats_are_told_by_their_files(name: str, tmp_path: Path) -> None:
    content, *says = FOREIGN[name]
    (tmp_path / name).write_text(content)
    refused = refusal(str(tmp_path))
    assert isinstance(refused, CheckpointError)
    assert refused.code == "unsupported_checkpoint"
    assert all(text in refused.render() for text in says)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    refused = refusal(str(tmp_path))
    assert refused.code == "missing_configuration"
    assert "no config.json" in refused.message


def test_the_network_of_a_whole_file_is_that_of_the_folder(tmp_path: Path) -> None:
    def network(settings: Settings) -> object:
        return settings.model

    rest = {"pos_emb": "rotary", "rotary_pct": 0.5, "no_weight_tying": True, "make_vocab_size_divisible_by": 50_432}
    shape = {**SMALL, "seq_length": 48, "max_position_embeddings": 48, "intermediate_size": 24_576}
    file = write_config(tmp_path, {**shape, **rest, "pipe_parallel_size": 0})
    assert network(load_settings([file])) == network(load_settings([str(hugging_face(tmp_path / "model"))]))
