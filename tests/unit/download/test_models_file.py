"""The shipped list of models and tasks, the user's own, and mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.config.released import download_command
from neoxrun.config.shipped import shipped_names
from neoxrun.config.tensors import layer_numbers
from neoxrun.download import catalog, models_file
from neoxrun.errors import ConfigError


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "neoxrun" / "models.yml"
    path.parent.mkdir()
    return path


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalog.Catalog:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return models_file.load_catalog()


def test_20b_is_every_file_that_its_configuration_needs(shipped: catalog.Catalog) -> None:
    model = shipped.model("20B")
    settings = load_settings(["20B"])
    layers = {
        f"global_step150000/layer_{layer:02d}-model_{rank:02d}-model_states.pt"
        for layer in layer_numbers(settings.model.num_layers, settings.model.tie_embeddings)
        for rank in range(2)
    }
    names = [file.name for file in model.remote_files()]
    assert len(names) == 95
    assert set(names) == {"20B_tokenizer.json", *layers}
    assert model.texts == {"latest": "global_step150000"}
    assert [len(file.urls) for file in model.remote_files()] == [2] * 95
    assert all(url.endswith("/" + file.name) for file in model.remote_files() for url in file.urls)


def test_every_model_lands_where_its_configuration_looks(
    shipped: catalog.Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for model in shipped.models.values():
        assert model.config in shipped_names()
        settings = load_settings([str(model.config)])
        assert settings.tokenizer.vocab_file is not None
        assert settings.tokenizer.vocab_file.name == model.tokenizer
        if not model.name.endswith("-deduped"):
            assert settings.checkpoint == tmp_path / model.folder
            assert settings.tokenizer.vocab_file.parent == tmp_path / model.folder
        assert model.licence
        assert model.size


def test_the_hint_for_a_missing_folder_is_the_command_that_fills_it(
    shipped: catalog.Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for model in shipped.models.values():
        name = "" if model.name == catalog.DEFAULT_MODEL else f" {model.name}"
        assert download_command(tmp_path / model.folder) == f"neoxrun download{name}"
        assert download_command(Path("/data/my weights") / model.folder) == (
            f"neoxrun download{name} --to '/data/my weights/{model.folder}'"
        )
    steps = tmp_path / "pythia-160m-step1000"
    assert download_command(steps) == "neoxrun download pythia-160m --revision step1000"
    assert download_command(tmp_path / "20B_checkpoints" / "global_step150000") == "neoxrun download"
    for own in ("my-own-run", "my-20b-run", "pythia-160m-finetuned", "llama-20b", "20b/run", "pythia-160m/eval"):
        assert download_command(tmp_path / own) is None


def test_the_users_own_models_are_added_and_win(user_file: Path) -> None:
    user_file.write_text(
        """
        models:
          20B:
            mirrors: ["https://mirror.example/20B"]
            files:
              "global_step1/layer_00-model_states.pt": {size: 12, sha256: %s}
          mine:
            hub: me/mine
            revision: v2
        tasks:
          lambada:
            files: {lambada/lambada_test.jsonl: {urls: ["https://mirror.example/l.jsonl"]}}
        """
        % ("AB" * 32),
        encoding="utf-8",
    )
    known = models_file.load_catalog()
    (file,) = known.model("20B").remote_files()
    assert file.urls == ("https://mirror.example/20B/global_step1/layer_00-model_states.pt",)
    assert (file.size, file.sha256) == (12, "ab" * 32)
    assert known.model("mine").revision == "v2"
    assert known.model("pythia-14m").hub == "EleutherAI/pythia-14m"
    assert known.task("lambada").files[0].urls == ("https://mirror.example/l.jsonl",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {}", "unknown key model"),
        ("models: [a]", "models should be"),
        ("models: {a: {}}", "a needs either `hub` or `mirrors`"),
        ("models: {a: {hub: x/y, mirrors: []}}", "either `hub` or `mirrors`"),
        ("models: {a: {hub: nothing}}", "OWNER/NAME"),
        ("models: {a: {hub: x/y, tokeniser: b}}", "unknown key tokeniser"),
        ("models: {a: {hub: x/y, size: big}}", "a number of bytes"),
        ("models: {a: {mirrors: ['ftp://host/x']}}", "https://"),
        ("models: {a: {mirrors: ['https://host'], files: ['../b.pt']}}", "leads out of the folder"),
        ("models: {a: {mirrors: ['https://host'], files: ['/etc/b.pt']}}", "absolute"),
        (
            "models: {a: {mirrors: ['https://host'], texts: {neoxrun.manifest.json: x}}}",
            "reserves such names for itself",
        ),
        ("models: {a: {mirrors: ['https://host'], files: ['b{0..999999}']}}", "too long"),
        ("models: {a: {mirrors: ['https://host'], files: {b.pt: {sha256: abc}}}}", "64 hexadecimal"),
        ("tasks: {t: {files: {x/y.jsonl: {}}}}", "urls"),
    ],
)
def test_a_mistake_in_the_users_file_is_named_with_its_line(user_file: Path, text: str, message: str) -> None:
    user_file.write_text(f"# mine\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        models_file.load_catalog()
    assert message in caught.value.message
    assert caught.value.where == f"{user_file}:2"


def test_a_misspelt_key_has_a_hint(user_file: Path) -> None:
    for key, hint in (("tokeniser", "Did you mean tokenizer?"), ("zzz", "The known keys are about, config,")):
        user_file.write_text(f"models: {{a: {{hub: x/y, {key}: b}}}}", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            models_file.load_catalog()
        assert str(caught.value.hint).startswith(hint)


def test_braces_stand_for_names() -> None:
    assert models_file.expand_pattern("layer_{00,02..04}-{a,b}.pt") == [
        f"layer_{layer}-{rank}.pt" for layer in ("00", "02", "03", "04") for rank in "ab"
    ]
    assert models_file.expand_pattern("plain.json") == ["plain.json"]
    with pytest.raises(ValueError, match="0 files"):
        models_file.expand_pattern("{3..2}")
    with pytest.raises(ValueError, match="files"):
        models_file.expand_pattern("{0..999}{0..999}")
