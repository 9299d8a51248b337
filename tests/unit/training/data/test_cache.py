"""Texts are encoded once, whole or not at all, by one process."""

from __future__ import annotations

import fcntl
import gzip
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import neoxrun.training.data.cache
from neoxrun.errors import DataError
from neoxrun.tokenizer import Tokenizer
from neoxrun.training.data.cache import LEARNED, Encoder, cached, end_of_document, missing_folders, remove_unused
from neoxrun.training.data.indexed import read_index, with_ending
from support.paths import DEMO
from support.tiny_models import demo_tokenizer
from support.tokenizer_files import hugging_face
from support.training_data import VOCABULARY, write_rows

FILES = hugging_face(DEMO / "tokenizer.json")


def encoder(vocab_size: int = VOCABULARY, tokenizer: Tokenizer | None = None) -> Encoder:
    return Encoder(tokenizer or demo_tokenizer(), 0, None, FILES, vocab_size)


def encode(path: Path, folder: Path, column: str = "text", end: str = "") -> Path:
    return cached(path, column, end, encoder(), folder, show=False)


def tokens(prefix: Path) -> list[list[int]]:
    index = read_index(prefix)
    everything = np.fromfile(with_ending(prefix, ".bin"), np.uint16)
    return [everything[start // 2 :][:size].tolist() for start, size in zip(index.starts, index.sizes, strict=True)]


def test_documents_without_text_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x = 1"}, {"text": ""}, {"text": "y"}])
    with caplog.at_level("INFO", logger="neoxrun"):
        prefix = encode(path, tmp_path / "cache")
    tokenizer = demo_tokenizer()
    assert tokens(prefix) == [[*tokenizer.encode("x = 1"), 0], [*tokenizer.encode("y"), 0]]
    assert with_ending(prefix, LEARNED).stat().st_size == 0, "all tokens are learned"
    assert "1 document without text left out" in caplog.text


def test_what_is_learned_is_written_next_to_the_tokens(tmp_path: Path) -> None:
    rows = [{"prompt": "import", "completion": " os"}, {"text": "x"}]
    prefix = encode(write_rows(tmp_path / "a.jsonl", rows), tmp_path / "cache")
    learned = np.fromfile(with_ending(prefix, LEARNED), np.bool_).tolist()
    assert learned == [False, True, True, True, True]
    assert len(learned) == read_index(prefix).sizes.sum()


def test_it_is_encoded_again_only_when_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = write_rows(tmp_path / "a.jsonl", [{"text": "x", "other": "y"}]), tmp_path / "cache"
    first = encode(path, folder)
    stamp = with_ending(first, ".bin").stat().st_mtime_ns
    assert encode(path, folder) == first
    (tmp_path / "copy.jsonl").write_bytes(path.read_bytes())
    assert encode(tmp_path / "copy.jsonl", folder).name.removeprefix("copy") == first.name.removeprefix("a")
    assert with_ending(first, ".bin").stat().st_mtime_ns == stamp
    others = [encode(path, folder, "other"), cached(path, "text", "", encoder(5000), folder, show=False)]
    monkeypatch.setattr(neoxrun.training.data.cache, "_VERSION", 0)
    others.append(encode(path, folder))
    monkeypatch.undo()
    path.write_text('{"text": "z", "other": "y"}\n')
    others.append(encode(path, folder))
    assert len({first, *others}) == 5
    assert tokens(others[-1]) == [[*demo_tokenizer().encode("z"), 0]]


def test_a_change_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    path, folder = write_rows(tmp_path / "a.jsonl", [{"text": "x"}]), tmp_path / "cache"
    first = encode(path, folder)
    write_rows(path, [{"text": "z"}])
    os.utime(path, ns=(1, 1))
    assert encode(path, folder) != first


def test_the_tokenizers_files_are_part_of_the_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x"}])
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    own = Encoder(demo_tokenizer(), 0, None, hugging_face(model / "tokenizer.json"), VOCABULARY)
    names = [cached(path, "text", "", own, tmp_path / "cache", show=False)]
    (model / "chat_template.jinja").write_text("x")
    names.append(cached(path, "text", "", own, tmp_path / "cache", show=False))
    assert len(set(names)) == 2


def test_compressed_texts_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n'))
    assert tokens(encode(tmp_path / "a.jsonl.gz", tmp_path / "cache")) == [[*demo_tokenizer().encode("x"), 0]]


def test_a_bad_row_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [*({"text": "x"} for _ in range(1500)), {"text": 1}])
    with pytest.raises(DataError) as caught:
        encode(path, tmp_path / "cache")
    assert caught.value.where == f"{path}:1501"
    assert sorted(one.name for one in (tmp_path / "cache").iterdir()) == ["digests.json", "lock"]


def test_a_cache_without_its_index_is_written_again(tmp_path: Path) -> None:
    path, folder = write_rows(tmp_path / "a.jsonl", [{"text": "x"}]), tmp_path / "cache"
    first = encode(path, folder)
    with_ending(first, ".idx").unlink()
    with_ending(first, ".bin").write_bytes(b"half")
    assert tokens(encode(path, folder)) == [[*demo_tokenizer().encode("x"), 0]]


@pytest.mark.parametrize("ending", [".idx", ".bin", LEARNED])
@pytest.mark.parametrize("damage", ["gone", "cut short", "empty"])
def test_a_damaged_cache_is_written_again(ending: str, damage: str, tmp_path: Path) -> None:
    rows = [{"prompt": "import", "completion": " os"}, {"text": "x"}]
    path, folder = write_rows(tmp_path / "a.jsonl", rows), tmp_path / "cache"
    prefix = encode(path, folder)
    whole = {one: with_ending(prefix, one).read_bytes() for one in (".idx", ".bin", LEARNED)}
    damaged = with_ending(prefix, ending)
    if damage == "gone":
        damaged.unlink()
    elif damage == "cut short":
        damaged.write_bytes(whole[ending][:-1])
    elif ending != LEARNED:  # whose emptiness says that all is learned
        damaged.write_bytes(b"")
    assert encode(path, folder) == prefix
    assert {one: with_ending(prefix, one).read_bytes() for one in whole} == whole


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a', b"\xff", b"[" * 100_000, "entry"])
def test_damaged_digests_are_forgotten(content: bytes | str, tmp_path: Path) -> None:
    path, folder = write_rows(tmp_path / "a.jsonl", [{"text": "x"}]), tmp_path / "cache"
    first = encode(path, folder)
    memory = folder / "digests.json"
    whole = memory.read_bytes()
    memory.write_bytes(json.dumps({str(path): 3}).encode() if isinstance(content, str) else content)
    assert encode(path, folder) == first
    assert memory.read_bytes() == whole


def _encode_and_count(path: Path, folder: Path, encodings: Path) -> None:
    whole: Callable[..., None] = neoxrun.training.data.cache._encode

    def counted(*given: object, **more: object) -> None:
        with encodings.open("a") as file:
            file.write("x")
        whole(*given, **more)

    neoxrun.training.data.cache._encode = counted  # type: ignore[assignment]
    assert len(tokens(encode(path, folder))) == 3000


def test_of_several_processes_one_encodes(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ({"text": f"x = {number}"} for number in range(3000)))
    start = multiprocessing.get_context("fork")
    given = (path, tmp_path / "cache", tmp_path / "encodings")
    processes = [start.Process(target=_encode_and_count, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "encodings").read_text() == "x"


def test_a_process_that_waited_for_a_folder_which_is_gone_makes_it_again(tmp_path: Path) -> None:
    path, folder = write_rows(tmp_path / "a.jsonl", [{"text": "x"}]), tmp_path / "run" / "cache"
    made = missing_folders(folder)
    assert made == [folder, folder.parent]
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_unused(made)
        assert folder.is_dir(), "another process is in it"
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(encode, path, folder)
            while not waiting.running():
                time.sleep(0.01)
            time.sleep(0.2)
            assert not waiting.done()
            (folder / "lock").unlink()
            for one in made:
                one.rmdir()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert len(tokens(waiting.result(60))) == 1
    remove_unused(made)
    assert len(list(folder.glob("*.idx"))) == 1, "there are tokens in it"


def test_folders_without_tokens_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    folder = tmp_path / "run" / "cache"
    made = missing_folders(folder)
    remove_unused(made)
    encode(tmp_path / "a.jsonl", folder)
    remove_unused(made)
    assert not folder.parent.exists()
    assert missing_folders(tmp_path) == []
    remove_unused([])


def test_ids_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "import os"}])
    largest = max(demo_tokenizer().encode("import os"))
    assert largest > max(demo_tokenizer().encode("x"))
    with pytest.raises(DataError, match=f"id {largest}, but the model has only ids 0 to {largest - 1}") as caught:
        cached(path, "text", "", encoder(largest), tmp_path / "cache", show=False)
    assert (caught.value.code, caught.value.where) == ("foreign_tokens", f"{path}:2")


def test_a_document_that_is_too_long_for_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neoxrun.training.data.cache, "_MOST_TOKENS", 3)
    (tmp_path / "a.txt").write_text("a\nb c d e f g\n")
    with pytest.raises(DataError, match="packed data can hold 3 of one") as caught:
        encode(tmp_path / "a.txt", tmp_path / "cache", end="\n")
    assert (caught.value.code, caught.value.where) == ("bad_document", f"{tmp_path / 'a.txt'}:2")


def test_the_end_of_a_text_is_no_document(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("a\n\nb\n")
    with caplog.at_level("INFO", logger="neoxrun"):
        assert len(tokens(encode(tmp_path / "a.txt", tmp_path / "cache", end="\n"))) == 2
    assert "left out" not in caplog.text


def test_blank_lines_are_no_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n\t\n")
    assert tokens(encode(tmp_path / "a.txt", tmp_path / "cache")) == []
    (tmp_path / "b.txt").write_text("a\n\n\n\n\n\nb\n")
    assert len(tokens(encode(tmp_path / "b.txt", tmp_path / "cache", end="\n\n"))) == 2
    rows = write_rows(tmp_path / "c.jsonl", [{"text": "\n"}])
    assert len(tokens(encode(rows, tmp_path / "cache"))) == 1, "as preprocess_data.py has it"


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "none.jsonl", "missing_file"), (tmp_path, "unreadable_file")):
        with pytest.raises(DataError) as caught:
            encode(path, tmp_path / "cache")
        assert caught.value.code == code
    (tmp_path / "file").write_text("")
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match="cannot be written") as caught:
        encode(path, tmp_path / "file" / "cache")
    assert caught.value.code == "unwritable_file"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(neoxrun.training.data.cache, "write_index", full)
    with pytest.raises(DataError, match="No space left") as caught:
        encode(write_rows(tmp_path / "a.jsonl", [{"text": "x"}]), tmp_path / "cache")
    assert caught.value.code == "disk_full"
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_progress_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neoxrun.terminal.progress._FIRST_LINE", 0.0)
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x"}])
    with caplog.at_level("INFO", logger="neoxrun"):
        cached(path, "text", "", encoder(), tmp_path / "cache", show=True)
    assert f"encoding {path}: 1 document" in caplog.text


def test_the_end_of_a_document() -> None:
    tokenizer = demo_tokenizer()
    assert end_of_document(tokenizer) == tokenizer.eod == 0
    tokenizer.eod, tokenizer.eos = None, 7
    assert end_of_document(tokenizer) == 7
    tokenizer.eos = None
    with pytest.raises(DataError, match="neither") as caught:
        end_of_document(tokenizer)
    assert caught.value.code == "bad_tokenizer"
