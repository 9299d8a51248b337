"""How fast files are read, and whether the page cache has them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from neoxrun.benchmark import reading
from neoxrun.benchmark.reading import cached_share, reading_rate


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a", "b")]
    paths[0].write_bytes(b"x" * (9 * 2**20 + 5))
    paths[1].write_bytes(b"y" * 3)
    return paths


def test_what_was_written_is_in_the_page_cache(files: list[Path]) -> None:
    assert cached_share(files) == 1


def test_samples_that_would_wait_for_the_disk_count_as_absent(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(descriptor: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT
        if offset > 2**22:
            raise BlockingIOError
        return 1

    monkeypatch.setattr(os, "preadv", read)
    assert 0 < cached_share(files[:1]) < 1


def test_a_file_system_that_does_not_tell(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "preadv", read)
    assert cached_share(files) == 1
    assert reading_rate(files, direct=True) is None
    with pytest.raises(OSError, match="not supported"):
        reading_rate(files, direct=False)


def test_every_byte_is_read_once_in_each_pass(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    passes = [[10.0, *[10.1] * 3, 10.0 + seconds] for seconds in (4.0, 2.0, 3.0)]  # start, three blocks, end
    ticks = iter([tick for one in passes for tick in one])
    monkeypatch.setattr(reading.time, "perf_counter", lambda: next(ticks))
    assert reading_rate(files, direct=False) == sum(path.stat().st_size for path in files) / 2, "the best one"


def test_reading_stops_when_the_time_is_over(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10, 100))
    monkeypatch.setattr(reading.time, "perf_counter", lambda: next(ticks))
    assert reading_rate(files, direct=False) == 0
