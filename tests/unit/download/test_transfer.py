"""One file, against a real server that goes wrong: whatever happens, the file is right or is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neoxrun.download.remote import RemoteFile, part_path, state_path
from neoxrun.errors import DataError, NetworkError
from support.downloads import IMPATIENT, ONE, ONE_DATA, data_of, digest, fetch_and_check, fetch_one, names_in, remote
from support.faulty_server import Fault, FaultyServer


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({ONE: ONE_DATA}) as server:
        yield server


# Faults after which nothing is fetched twice.
CHEAP = [
    Fault("cut", 1),
    Fault("cut", 123_456),
    Fault("cut", 299_999),
    Fault("drop"),
    Fault("stall", 0),
    Fault("stall", 100_000),
    Fault("status", 500),
    Fault("status", 503, {"Retry-After": "0"}),
    Fault("status", 429, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}),
    Fault("status", 408),
    Fault("circle"),
    Fault("html"),
    Fault("masked-html"),
    Fault("chunked"),
]
# Faults that cost what had arrived of the file.
DEAR = [
    Fault("no-range"),
    Fault("corrupt", 1000),
    Fault("change"),
    Fault("length", 10),
    Fault("length", -10),
    Fault("bad-range"),
]
label = "{0.kind}-{0.number}".format


@pytest.mark.parametrize("fault", CHEAP, ids=label)
def test_cheap_faults_cost_no_byte(server: FaultyServer, tmp_path: Path, fault: Fault) -> None:
    server.faults[ONE] = [Fault("cut", 50_000), fault, Fault("cut", 60_000)]
    fetch_and_check(server, tmp_path)
    assert server.sent(ONE) == len(ONE_DATA)


@pytest.mark.parametrize("fault", DEAR, ids=label)
def test_dear_faults_cost_the_file_once(server: FaultyServer, tmp_path: Path, fault: Fault) -> None:
    server.changed = lambda name, data: data  # Another mark, the same bytes: the checksum still holds.
    server.faults[ONE] = [Fault("cut", 50_000), fault]
    fetch_and_check(server, tmp_path)
    assert len(ONE_DATA) <= server.sent(ONE) <= 2 * len(ONE_DATA)


# A wrong byte, or an end that the server says is the end: without a checksum only the file's own structure shows it.
UNSEEN = [Fault("corrupt", 1000), Fault("length", -10)]


@pytest.mark.parametrize("fault", [fault for fault in CHEAP + DEAR if fault not in UNSEEN], ids=label)
def test_nothing_known_of_the_file(server: FaultyServer, tmp_path: Path, fault: Fault) -> None:
    """Neither size nor checksum: all but what only a checksum shows is found."""
    server.faults[ONE] = [Fault("cut", 100_000), fault, Fault("cut", 150_000)]
    fetch_and_check(server, tmp_path, remote(server, ONE, size=False, sha256=False))


def test_drip_is_given_up(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[ONE] = [Fault("drip", 1000)]
    options = replace(IMPATIENT, stall_timeout=0.5, least_speed=3000)
    fetch_and_check(server, tmp_path, options=options)
    assert len(server.gets(ONE)) == 2
    assert server.sent(ONE) <= len(ONE_DATA) + 20


def test_file_changes_between_two_tries(server: FaultyServer, tmp_path: Path) -> None:
    """Not one byte of the old file is in the new one."""
    old = server.files[ONE]
    server.changed = lambda name, data: bytes(byte ^ 255 for byte in data[:-100])
    server.faults[ONE] = [Fault("cut", 200_000), Fault("change")]
    fetch_and_check(server, tmp_path, RemoteFile(ONE, (server.link(ONE),)))
    assert server.files[ONE][:1000] != old[:1000]


def test_server_that_ignores_the_condition(server: FaultyServer, tmp_path: Path) -> None:
    """It sends the rest of another file: its mark says so, and one check is enough to see it."""
    server.deaf = True
    server.changed = lambda name, data: bytes(byte ^ 255 for byte in data)
    server.faults[ONE] = [Fault("cut", 200_000), Fault("change")]
    fetch_and_check(server, tmp_path, RemoteFile(ONE, (server.link(ONE),)))


def test_short_file_in_whole_chunks(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[ONE] = [Fault("chunked", 100)]
    fetch_and_check(server, tmp_path, remote(server, ONE, sha256=False))
    assert server.sent(ONE) == len(ONE_DATA)


def test_unmarked_file_starts_over(server: FaultyServer, tmp_path: Path) -> None:
    """Without a mark of the version, without a checksum, half a file proves nothing about its other half."""
    path = tmp_path / ONE
    path.parent.mkdir()
    part_path(path).write_bytes(b"x" * 1000)
    state = {"url": server.link(ONE), "length": len(ONE_DATA), "etag": None, "last_modified": None, "sha256": None}
    state_path(path).write_text(json.dumps(state))
    fetch_and_check(server, tmp_path, remote(server, ONE, sha256=False))
    assert "Range" not in server.gets(ONE)[0].headers


def test_resumes_in_another_run(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[ONE] = [Fault("cut", 100_000), *[Fault("status", 503)] * 9]
    with pytest.raises(NetworkError, match="503") as caught:
        fetch_one(remote(server, ONE), tmp_path)
    assert caught.value.code == "failed_download"
    assert "100000 bytes" in (caught.value.hint or "")
    assert names_in(tmp_path) == {"layers/.one.bin.part", "layers/.one.bin.part.json"}
    server.faults[ONE] = []
    fetch_and_check(server, tmp_path)
    last = server.gets(ONE)[-1]
    assert last.headers["Range"] == "bytes=100000-"
    assert last.headers["If-Range"] == server.etag(ONE)
    assert server.sent(ONE) == len(ONE_DATA)


@pytest.mark.parametrize("state", [None, "", "{}", "[1]", '{"url": 1, "length": "x"}', "\xff", '{"length": -1}'])
def test_part_without_a_sound_state_is_worth_nothing(server: FaultyServer, tmp_path: Path, state: str | None) -> None:
    path = tmp_path / ONE
    path.parent.mkdir()
    part_path(path).write_bytes(b"junk" * 1000)
    if state is not None:
        state_path(path).write_text(state, encoding="latin-1")
    fetch_and_check(server, tmp_path)


def test_whole_part_needs_no_request(server: FaultyServer, tmp_path: Path) -> None:
    """Killed between the last byte and the name."""
    path = tmp_path / ONE
    path.parent.mkdir()
    part_path(path).write_bytes(ONE_DATA)
    state = {"url": server.link(ONE), "length": len(ONE_DATA), "etag": '"x"', "last_modified": None, "sha256": None}
    state_path(path).write_text(json.dumps(state))
    fetch_and_check(server, tmp_path)
    assert server.gets(ONE) == []


def test_part_longer_than_the_file_starts_over(server: FaultyServer, tmp_path: Path) -> None:
    path = tmp_path / ONE
    path.parent.mkdir()
    part_path(path).write_bytes(ONE_DATA + b"more")
    state = {"url": server.link(ONE), "length": len(ONE_DATA), "etag": server.etag(ONE)}
    state_path(path).write_text(json.dumps(state | {"last_modified": None, "sha256": None}))
    fetch_and_check(server, tmp_path)


def test_part_is_no_way_out_of_the_folder(server: FaultyServer, tmp_path: Path) -> None:
    path = tmp_path / "target" / ONE
    path.parent.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    part_path(path).symlink_to(victim)
    with pytest.raises(DataError):
        fetch_one(remote(server, ONE), tmp_path / "target")
    assert victim.read_text() == "mine"


def test_empty_file(tmp_path: Path) -> None:
    with FaultyServer({"nothing": b""}) as server:
        assert fetch_one(remote(server, "nothing"), tmp_path).sha256 == digest(b"")
        assert names_in(tmp_path) == {"nothing"}


faults = st.one_of(
    st.builds(Fault, st.sampled_from(["cut"]), st.integers(0, 5000)),
    st.builds(Fault, st.sampled_from(["status"]), st.sampled_from([500, 502, 503, 504, 429])),
    st.builds(Fault, st.sampled_from(["no-range", "change", "bad-range", "html", "circle", "chunked", "drop", "bare"])),
    st.builds(Fault, st.just("length"), st.integers(1, 100)),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(faults, max_size=12), size=st.integers(0, 5000), known=st.booleans())
def test_any_order_of_faults(
    tmp_path_factory: pytest.TempPathFactory, plan: list[Fault], size: int, known: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with FaultyServer({ONE: data_of(size)}) as server:
        server.changed = lambda name, data: data if known else bytes(byte ^ 1 for byte in data)
        server.faults[ONE] = list(plan)
        options = replace(IMPATIENT, tries=40, few_tries=40, backoff=0.0)
        file = remote(server, ONE) if known else RemoteFile(ONE, (server.link(ONE),))
        fetch_and_check(server, folder, file, options=options)
