"""Conversions there and back, over shapes, splits and number formats; the receipt says what a conversion changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import GPTNeoXForCausalLM

from neoxrun.checkpoint.source import LayerSource
from neoxrun.config.reader import load_settings
from neoxrun.conversion import convert as module
from neoxrun.conversion.convert import convert
from neoxrun.conversion.receipt import describe_receipt
from neoxrun.errors import CheckpointError, ConfigError, DataError, UsageError
from support.checkpoints import raw_shards, tiny
from support.conversions import TOKENIZER, make_folder, order, read_receipt, same_files
from support.paths import FIXTURES

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@settings(max_examples=3)
@given(
    layers=st.integers(1, 3),
    heads=st.sampled_from([4, 8]),
    width=st.sampled_from([4, 6]),
    rows=st.sampled_from([8, 61, 64]),
    tp=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from(["fp16", "bf16", "fp32"]),
    shard=st.sampled_from([500, 7000, 10**9]),
    parallel=st.booleans(),
    tied=st.booleans(),
)
def test_there_and_back(
    layers: int, heads: int, width: int, rows: int, tp: int, dtype: str, shard: int, parallel: bool, tied: bool
) -> None:
    """N -> Hugging Face -> N: the layer files are the same byte for byte where the rules are exact, as here."""
    hidden = heads * width
    config = tiny(
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        gpt_j_residual=parallel,
        tie_embeddings=tied,
        rotary_pct=1.0,
    )
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        source = make_folder(base / "source", config, rows=rows, dtype=DTYPES[dtype])
        first = base / "first"
        convert(order(source, first, "neox", tp=tp))
        receipt = convert(order(first, base / "hf", "huggingface", shard_size=shard))
        configuration = first / "config.yml"
        again = convert(order(base / "hf", base / "again", "neox", tp=tp, configuration=configuration))
        for found in (receipt, again):
            assert found["equal"]
            assert found["logits"]["largest_difference"] == 0
        padding = -rows % tp
        for found, words in ((receipt, "Left out"), (again, "a softmax over all rows includes them")):
            assert len(found["remains"]) == bool(padding)
            assert all(words in text for text in found["remains"])
        assert again["vocabulary"] == {"rows": rows, "padding": padding}
        assert json.loads((base / "hf" / "config.json").read_text())["vocab_size"] == rows
        assert same_files(first / "global_step7", base / "again" / "global_step7", "layer_*")
        # Of another split, too.
        convert(order(base / "again", base / "one", "neox", tp=1))
        for key, tensor in raw_shards(base / "one")[0].items():
            assert torch.equal(tensor[:rows] if key.layer in (0, layers + 4) else tensor, raw_shards(source)[0][key])


def test_every_rank_keeps_its_own_at_the_same_split(tmp_path: Path) -> None:
    receipt = convert(order(FIXTURES / "tp2_native", tmp_path / "same", "neox", tp=2))
    assert receipt["equal"]
    assert receipt["rules"] == {"kept": 40}
    before, after = raw_shards(FIXTURES / "tp2_native"), raw_shards(tmp_path / "same")
    for one, other in zip(before, after, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_receipt_says_what_remains(tmp_path: Path) -> None:
    job = order(FIXTURES / "tp2_native", tmp_path / "hf", "huggingface", dtype="bf16")
    receipt = convert(job)
    assert receipt == read_receipt(tmp_path / "hf")
    assert not receipt["equal"]
    assert str(tmp_path) not in (tmp_path / "hf" / "neoxrun.receipt.json").read_text(), "no path of this machine"
    assert str(FIXTURES) not in (tmp_path / "hf" / "neoxrun.receipt.json").read_text()
    assert (receipt["source"]["folder"], receipt["target"]["folder"]) == ("tp2_native/global_step150000", "hf")
    text = " ".join(receipt["remains"])
    assert re.search(r"Rounding changed \d+ tensors", text)
    assert "6 biases, which the source's ranks add up" in text
    for side, folder in (("source", FIXTURES / "tp2_native" / "global_step150000"), ("target", tmp_path / "hf")):
        files = receipt[side]["files"]
        assert files
        for name, entry in files.items():
            elsewhere = job.settings.tokenizer.vocab_file if side == "source" and name == "tokenizer.json" else None
            content = (elsewhere or folder / name).read_bytes()
            assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(receipt["target"]["files"]) | {"neoxrun.receipt.json"} == {p.name for p in (tmp_path / "hf").iterdir()}
    assert receipt["logits"]["largest_difference"] > 0
    assert {tensor["rule"] for tensor in receipt["tensors"]} >= {"joined and cut", "sum over the ranks"}
    rounded = [tensor for tensor in receipt["tensors"] if "rounding" in tensor]
    assert len(rounded) == 27, "13 norms are 1 and 0"
    assert max(tensor["rounding"] for tensor in rounded) < 0.02


def test_rows_that_pad_a_vocabulary_are_told_and_taken_back(tmp_path: Path) -> None:
    """Hugging Face -> 2 ranks -> 4 -> Hugging Face: GPT-NeoX's softmax has the added rows, the way back has not."""
    convert(order(make_folder(tmp_path / "source", tiny(), rows=61), tmp_path / "hf", "huggingface"))
    two = convert(order(tmp_path / "hf", tmp_path / "two", "neox", tp=2, configuration=tmp_path / "hf"))
    assert two["vocabulary"] == {"rows": 61, "padding": 1}
    (text,) = two["remains"]
    assert text.startswith("The vocabulary has 1 zero row more than the source's, so that it divides over 2 ranks")
    assert "its vocabulary ends with 1 zero row, which a softmax includes;" in describe_receipt(tmp_path / "two", two)
    four = convert(order(tmp_path / "two", tmp_path / "four", "neox", tp=4))
    assert four["vocabulary"] == {"rows": 61, "padding": 3}
    back = convert(order(tmp_path / "four", tmp_path / "back", "huggingface"))
    assert back["remains"] == ["Left out of the vocabulary: 3 zero rows that an earlier conversion added."]
    assert "zero row" not in describe_receipt(tmp_path / "back", back)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes(), name


@pytest.mark.parametrize("layer", [0, 5])
def test_rows_that_have_been_trained_since_stay(tmp_path: Path, layer: int) -> None:
    source = make_folder(tmp_path / "source", tiny(), rows=61)
    convert(order(source, tmp_path / "hf", "huggingface"))
    convert(order(tmp_path / "hf", tmp_path / "two", "neox", tp=2, configuration=tmp_path / "hf"))
    (path,) = (tmp_path / "two").glob(f"global_step7/layer_{layer + (layer > 0):02d}-model_01*")
    content = torch.load(path, weights_only=True)
    next(iter(content.values()))[-1, 3] = 0.5
    torch.save(content, path)
    back = convert(order(tmp_path / "two", tmp_path / "back", "huggingface"))
    assert back["vocabulary"] == {"rows": 62, "padding": 0}
    assert json.loads((tmp_path / "back" / "config.json").read_text())["vocab_size"] == 62


def test_a_target_inside_the_source_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_folder(tmp_path / "source", tiny(), options=TOKENIZER)
    convert(order(folder, tmp_path / "next", "huggingface"))
    assert "is inside the folder of the source" not in caplog.text
    convert(order(folder, folder / "inside", "huggingface"))
    assert f"{folder / 'inside'} is inside the folder of the source, {folder}" in caplog.text
    assert (folder / "inside" / "config.json").is_file()


def test_a_folder_of_others_gets_the_names_of_today(tmp_path: Path) -> None:
    convert(order(FIXTURES / "tp2_legacy_20b", tmp_path / "hf", "huggingface"))
    (tmp_path / "hf" / "neoxrun.receipt.json").unlink()
    convert(order(tmp_path / "hf", tmp_path / "out", "neox", configuration=FIXTURES / "tp2_legacy_20b" / "config.yml"))
    layer = torch.load(tmp_path / "out/global_step0/layer_02-model_00-model_states.pt", weights_only=True)
    assert "mlp.linear1.weight" in layer


def test_a_folded_folder_is_the_native_model_but_for_a_constant(tmp_path: Path) -> None:
    """GPT-NeoX's own logits at tensor-parallel size 2, computed by transformers from one folder."""
    receipts = {}
    for merge in ("fold", "average"):
        job = order(FIXTURES / "tp2_native", tmp_path / merge, "huggingface")
        receipts[merge] = convert(dataclasses.replace(job, settings=dataclasses.replace(job.settings, merge=merge)))
    stored = load_file(FIXTURES / "tp2_native" / "logits.safetensors")
    distances = {}
    for merge in receipts:
        model = GPTNeoXForCausalLM.from_pretrained(tmp_path / merge, dtype=torch.float32)
        with torch.no_grad():
            distances[merge] = model(stored["input_ids"]).logits - stored["logits"]
    constant = distances["fold"][:, :1]
    assert float((distances["fold"] - constant).abs().max()) < 1e-4
    text = next(text for text in receipts["fold"]["remains"] if "The head has no bias" in text)
    told = float(re.search(r"a constant of at most ([\d.e-]+[\de])", text)[1])
    assert abs(float(constant.abs().max()) - told) < 1e-3
    assert abs(receipts["fold"]["logits"]["largest_difference"] - told) < 1e-3
    assert receipts["fold"]["rules"]["folded norm"] == 26
    assert "mean of ranks that differ" not in receipts["fold"]["rules"]
    assert float(distances["average"].abs().max()) > 3 * told
    assert receipts["average"]["rules"]["mean of ranks that differ"] == 14


def test_a_folded_split_of_gpt_neox(tmp_path: Path) -> None:
    receipt = convert(order(FIXTURES / "tp2_native", tmp_path / "four", "neox", tp=4))
    assert receipt["rules"]["mean shift of a folded final norm"] == 1
    again = convert(order(tmp_path / "four", tmp_path / "one", "neox", tp=1))
    assert again["equal"], "the ranks agree now"


@pytest.mark.parametrize("names", ["tp1", "tp2_legacy_20b"])
def test_the_names_of_the_source_stay(tmp_path: Path, names: str) -> None:
    convert(order(FIXTURES / names, tmp_path / "out", "neox", tp=4))
    layer = torch.load(next((tmp_path / "out").glob("global_step*/layer_02-model_03*")), weights_only=True)
    original = torch.load(next((FIXTURES / names).glob("global_step*/layer_02-model_00*")), weights_only=True)
    assert {*layer} == {name for name in original if "inv_freq" not in name}


def test_a_sequential_source(tmp_path: Path) -> None:
    receipt = convert(order(FIXTURES / "tp2_sequential", tmp_path / "out", "neox", tp=2))
    assert receipt["equal"]
    assert same_files_as_layers(tmp_path / "out")


def same_files_as_layers(folder: Path) -> bool:
    before, after = raw_shards(FIXTURES / "tp2_native"), raw_shards(folder)
    return all(torch.equal(one[key], other[key]) for one, other in zip(before, after, strict=True) for key in one)


def test_the_tokenizer_and_what_goes_with_it_come_along(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", tiny(), rows=2048, options=TOKENIZER)
    convert(order(source, tmp_path / "hf", "huggingface"))
    written = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert written["eos_token"] == "<|endoftext|>"
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["eos_token_id"] == 0
    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text())["eos_token_id"] == 0
    (tmp_path / "hf" / "special_tokens_map.json").write_text('{"pad_token": "<|padding|>"}')
    yml = tmp_path / "hf.yml"
    yml.write_text(
        (source / "model.yml").read_text().replace(TOKENIZER["vocab_file"], str(tmp_path / "hf/tokenizer.json"))
    )
    convert(order(tmp_path / "hf", tmp_path / "back", "neox", tp=2, configuration=yml))
    for name in ("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_an_interrupted_conversion_continues_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_folder(tmp_path / "source", tiny(num_layers=3))
    job = order(source, tmp_path / "out", "neox", tp=2)
    save = torch.save

    def failing(value: Any, path: Path) -> None:
        if path.name.startswith("layer_04"):
            raise OSError(28, "No space left on device")
        save(value, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", failing)
        with pytest.raises(DataError) as caught:
            convert(job)
    assert caught.value.code == "disk_full"
    partial = tmp_path / "out.partial"
    written = {path: path.stat().st_mtime_ns for path in partial.rglob("layer_*")}
    assert written
    assert not (tmp_path / "out").exists()
    convert(job)
    assert not partial.exists()
    for path, time in written.items():
        assert (tmp_path / "out" / path.relative_to(partial)).stat().st_mtime_ns == time, "written once"


def test_a_source_that_cannot_be_read_is_not_called_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_folder(tmp_path / "source", tiny())
    read = LayerSource.read_layer

    def failing(self: LayerSource, layer: int) -> Any:
        if (tmp_path / "out.partial").exists():
            raise OSError(5, "Input/output error", "a source")
        return read(self, layer)

    monkeypatch.setattr(LayerSource, "read_layer", failing)
    with pytest.raises(OSError, match="a source"):
        convert(order(source, tmp_path / "out", "neox"))


def test_logits_that_are_no_numbers_prove_nothing(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", tiny())
    path = source / "global_step7" / "layer_02-model_00-model_states.pt"
    layer = torch.load(path, weights_only=True)
    layer["mlp.dense_4h_to_h.weight"].fill_(3e38)
    torch.save(layer, path)
    with pytest.raises(CheckpointError, match="NaN or infinite") as caught:
        convert(order(source, tmp_path / "out", "neox"))
    assert caught.value.code == "failed_proof"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_final_norm_whose_scale_is_nearly_zero(tmp_path: Path, ranks: int) -> None:
    """Its shift, divided by it, is too large for fp16: such ranks have no part in the mean that stands for it."""
    source = make_folder(tmp_path / "source", tiny(), tp=2, dtype=torch.float16)
    for rank, path in enumerate(sorted(source.glob("global_step7/layer_05-*"))):
        layer = torch.load(path, weights_only=True)
        layer["norm.weight"][3], layer["norm.bias"][3] = (1e-6 if rank < ranks else 1.0), 0.5
        layer["norm.bias"][4] = rank
        torch.save(layer, path)
    receipt = convert(order(source, tmp_path / "hf", "huggingface"))
    (text,) = [text for text in receipt["remains"] if "has no part" in text]
    assert text.startswith("In 1 of these means a rank has no part")
    told = next(text for text in receipt["remains"] if "a constant of at most" in text)
    assert receipt["logits"]["largest_difference"] <= float(told.rstrip(".").split()[-1]) + 1e-2
    shift = load_file(tmp_path / "hf" / "model.safetensors")["gpt_neox.final_layer_norm.bias"]
    assert float(shift[3]) == (0.5 if ranks == 1 else 0.0)


def test_the_words_of_a_config_json_come_back(tmp_path: Path) -> None:
    """GPT-NeoX has no options for them: the receipt keeps them, from folder to folder."""
    convert(order(make_folder(tmp_path / "source", tiny()), tmp_path / "hf", "huggingface"))
    path = tmp_path / "hf" / "config.json"
    words = {"pad_token_id": 7, "hidden_dropout": 0.1, "problem_type": "a word", "bos_token_id": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | words))
    for name, tp in (("two", 2), ("one", 1)):
        source = tmp_path / ("hf" if name == "two" else "two")
        convert(order(source, tmp_path / name, "neox", tp=tp, configuration=source))
        assert read_receipt(tmp_path / name)["config_json"].items() >= words.items()
    receipt = convert(order(tmp_path / "one", tmp_path / "back", "huggingface"))
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(path.read_text())
    assert "config_json" not in receipt


def test_a_receipt_of_another_form_is_passed_over(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", tiny())
    network = '{"config_json": {"hidden_size": 3, "dtype": "int8", "quantization_config": {"a": 1}}}'
    rows = [f'{{"vocabulary": {{"rows": {value}}}}}' for value in ("0", "-3", "3", '"3"', "null", "2.5", "1e999")]
    for content in ("[]", "{", '{"config_json": 3, "source": 4}', network, "[" * 100_000, *rows):
        (source / "neoxrun.receipt.json").write_text(content)
        with tempfile.TemporaryDirectory() as name:
            convert(order(source, Path(name) / "hf", "huggingface"))
            assert json.loads((Path(name) / "hf" / "config.json").read_text())["hidden_dropout"] == 0


def test_the_end_ids_of_a_config_json_are_kept(tmp_path: Path) -> None:
    """GPT-NeoX's files have no place for them but generation_config.json."""
    source = make_folder(tmp_path / "source", tiny(), rows=2048, options=TOKENIZER)
    convert(order(source, tmp_path / "hf", "huggingface"))
    (tmp_path / "hf" / "generation_config.json").write_text('{"temperature": 0.5}')
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [5, 9]}))
    convert(order(tmp_path / "hf", tmp_path / "neox", "neox", configuration=tmp_path / "hf"))
    assert load_settings([str(tmp_path / "neox" / "config.yml")]).end_ids == (5, 9)
    content = json.loads((tmp_path / "neox" / "generation_config.json").read_text())
    assert content == {"temperature": 0.5, "eos_token_id": [5, 9]}


@pytest.mark.parametrize("old", [True, False])
def test_old_names_are_kept_and_reported(old: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = make_folder(tmp_path / "source", tiny())
    convert(order(source, tmp_path / "hf", "huggingface"))
    if not old:
        (tmp_path / "hf" / "neoxrun.receipt.json").unlink()
    convert(order(tmp_path / "hf", tmp_path / "out", "neox", configuration=tmp_path / "hf"))
    step = "global_step7" if old else "global_step0"
    layer = torch.load(tmp_path / "out" / step / "layer_02-model_00-model_states.pt", weights_only=True)
    assert ("mlp.dense_h_to_4h.weight" in layer, "mlp.linear1.weight" in layer) == (old, not old)
    assert ("which GPT-NeoX no longer loads" in caplog.text) is old


def test_gpt_neox_refuses_what_it_does_not_know(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_folder(tmp_path / "source", tiny(rotary_legacy_fp16=True))
    convert(order(source, tmp_path / "out", "neox"))
    assert "GPT-NeoX has no rotary_legacy_fp16, so it refuses config.yml" in caplog.text


def test_a_wrong_byte_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_folder(tmp_path / "source", tiny())
    write = module.write_companions

    def damage(options: Any, source: Any, work: Any, written: Any) -> Any:
        path = work.folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        return write(options, source, work, written)

    monkeypatch.setattr(module, "write_companions", damage)
    with pytest.raises(CheckpointError) as caught:
        convert(order(source, tmp_path / "hf", "huggingface"))
    assert caught.value.code == "failed_proof"
    assert not (tmp_path / "hf").exists()


def test_refusals(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", tiny())
    with pytest.raises(UsageError) as split:
        convert(order(source, tmp_path / "out", "neox", tp=3))
    assert split.value.code == "impossible_split"
    learned = make_folder(tmp_path / "learned", tiny(pos_emb="learned"))
    with pytest.raises(ConfigError) as kind:
        convert(order(learned, tmp_path / "out", "huggingface"))
    assert kind.value.code == "unsupported_option"
    large = make_folder(tmp_path / "large", tiny())
    path = large / "global_step7" / "layer_02-model_00-model_states.pt"
    layer = torch.load(path, weights_only=True)
    layer["attention.dense.weight"][0, 0] = 1e6
    torch.save(layer, path)
    with pytest.raises(CheckpointError, match="too large for float16") as caught:
        convert(order(large, tmp_path / "out2", "huggingface", dtype="fp16"))
    assert caught.value.code == "nonfinite_weights"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out2").exists()
