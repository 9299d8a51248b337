"""Rows, their order and the packed files, bit for bit as GPT-NeoX makes them of the same texts with the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from neoxrun.config.training import DataConfig
from neoxrun.training.data.build import build_rows
from neoxrun.training.data.indexed import read_index
from neoxrun.training.data.packing import blend, pack, split_documents
from neoxrun.training.data.prepare import PreparedData, prepare_data
from neoxrun.training.data.tokens import CorpusTokens
from support.chat_model import TOKENIZER
from support.paths import shared_folder
from support.tokenizer_files import hugging_face, load_hugging_face
from support.tokenizer_kinds import byte_level, write_kind
from support.training_data import write_rows

VOCABULARY, SEQ_LENGTH, TRAIN_ROWS, VALID_ROWS = 512, 64, 80, 16
PACKED = "corpus_text_document"


@pytest.fixture(scope="module")
def folder() -> Path:
    found = shared_folder() / "fixtures-train" / "data"
    if not found.is_dir():
        pytest.skip(f"GPT-NeoX's own rows are not in {found}")
    return found


def config(folder: Path, name: str, **more: object) -> DataConfig:
    return DataConfig((folder / name,), split=(50, 50, 0), seq_length=SEQ_LENGTH, **more)  # type: ignore[arg-type]


def prepare(data: DataConfig, folder: Path, cache: Path) -> PreparedData:
    path = folder.parents[1] / "fixtures" / "tp1" / "tokenizer.json"
    return prepare_data(data, load_hugging_face(path), hugging_face(path), VOCABULARY, cache, show=False)


def index_map(folder: Path, name: str, rows: int, kind: str) -> NDArray[np.int64]:
    found = np.load(folder / f"{PACKED}_{name}_indexmap_{rows}ns_{SEQ_LENGTH}sl_1234s_packedpi_ac_{kind}_idx.npy")
    return np.asarray(found, np.int64)


@pytest.mark.parametrize("name", [PACKED, f"{PACKED}.idx", "corpus.jsonl"])
def test_rows_are_gpt_neoxs(folder: Path, tmp_path: Path, name: str) -> None:
    data = config(folder, name)
    prepared = prepare(data, folder, tmp_path)
    train, valid = build_rows(data, prepared, VOCABULARY, TRAIN_ROWS, VALID_ROWS)
    assert valid is not None
    assert (len(train), len(valid)) == (TRAIN_ROWS, VALID_ROWS)
    wanted = load_file(folder / "batches.safetensors")
    for rows, key in ((train, "train"), (valid, "valid")):
        ids = np.stack([rows[row].ids for row in range(len(rows))])
        assert ids.dtype == np.int64
        np.testing.assert_array_equal(ids, wanted[key].reshape(-1, SEQ_LENGTH + 1))
        assert all(rows[row].learned.all() for row in range(len(rows)))


def test_a_cache_is_what_preprocess_data_writes(folder: Path, tmp_path: Path) -> None:
    prepare(config(folder, "corpus.jsonl"), folder, tmp_path)
    for ending in (".bin", ".idx"):
        (written,) = tmp_path.glob(f"*{ending}")
        assert written.read_bytes() == (folder / f"{PACKED}{ending}").read_bytes()


@pytest.mark.parametrize(("name", "part", "rows"), [("train", 0, TRAIN_ROWS), ("valid", 1, VALID_ROWS)])
def test_index_maps_are_gpt_neoxs(folder: Path, name: str, part: int, rows: int) -> None:
    sizes = read_index(folder / PACKED).sizes
    packing = pack(sizes, split_documents((50, 50, 0), len(sizes))[part], rows, SEQ_LENGTH, 1234)
    np.testing.assert_array_equal(packing.documents, index_map(folder, name, rows, "doc"))
    np.testing.assert_array_equal(packing.shuffled, index_map(folder, name, rows, "shuffle"))
    documents, offsets = index_map(folder, name, rows, "sample").T
    begins = np.concatenate([[0], packing.ends])[documents] + offsets
    np.testing.assert_array_equal(begins, np.arange(len(packing.shuffled) + 1) * SEQ_LENGTH)


def test_the_first_token_of_a_document_is_not_learned_with_eod_mask_loss(folder: Path, tmp_path: Path) -> None:
    data = config(folder, PACKED, eod_mask_loss=True)
    train, _ = build_rows(data, prepare(data, folder, tmp_path), VOCABULARY, TRAIN_ROWS, 0)
    ids = load_file(folder / "batches.safetensors")["train"].reshape(-1, SEQ_LENGTH + 1)
    assert (ids[:, :-1] == 0).any()
    np.testing.assert_array_equal([train[row].learned for row in range(TRAIN_ROWS)], ids[:, :-1] != 0)


def test_of_a_conversation_is_learned_what_transformers_marks(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    options = {**TOKENIZER, "chat_template": template}
    path = write_kind(tmp_path / "model", {"tokenizer.json": byte_level, "tokenizer_config.json": options})
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    texts = ("Be brief.", "How is it packed? ", "Like this:\n\n  rows", "Why?", "Because.", "Hm")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    lengths = (3, 5, 6)
    rows = write_rows(tmp_path / "a.jsonl", [{"messages": messages[:length]} for length in lengths])
    data = DataConfig((rows,))
    prepared = prepare_data(data, load_hugging_face(path), hugging_face(path), VOCABULARY, tmp_path / "c", show=False)
    tokens = CorpusTokens(prepared.train[0], VOCABULARY)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for number, length in enumerate(lengths):
        wanted = tokenizer.apply_chat_template(
            messages[:length], return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=False
        )
        assert 0 < sum(wanted["assistant_masks"]) < len(wanted["input_ids"])
        ends = [1] if messages[length - 1]["role"] == "assistant" else [0]
        assert tokens.read(number, 0, 999).tolist() == [*wanted["input_ids"], prepared.eod]
        assert tokens.learned(number, 0, 999).tolist() == [bool(one) for one in wanted["assistant_masks"] + ends]


def test_blending_is_megatron_cores() -> None:
    """Its compiled build_blending_indices, which is GPT-NeoX's."""
    from megatron.core.datasets import helpers_cpp

    generator = np.random.default_rng(0)
    for _ in range(50):
        weights = generator.choice([0.1, 0.2, 0.25, 0.3, 1.0, 2.0, 3.0], generator.integers(1, 6)).tolist()
        normal = np.array([weight / sum(weights) for weight in weights])
        sources, numbers = np.zeros(300, np.int16), np.zeros(300, np.int64)
        helpers_cpp.build_blending_indices(sources, numbers, normal / normal.sum(), len(weights), 300, False)
        found = blend(weights, 300)
        np.testing.assert_array_equal(found[0], sources)
        np.testing.assert_array_equal(found[1], numbers)
