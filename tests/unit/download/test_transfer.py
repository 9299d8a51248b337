"""One file, against a real server that goes wrong: whatever happens, the file is right or is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neoxrun.download.remote import RemoteFile, corrupt_path, part_path, state_path
from neoxrun.errors import CheckpointError, DataError, NetworkError
from support.downloads import IMPATIENT, data_of, digest, fetch_one, names_in, remote
from support.faulty_server import Fault, FaultyServer

NAME = "layers/one.bin"
DATA = data_of(300_000)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({NAME: DATA}) as server:
        yield server


def arrives(server: FaultyServer, folder: Path, file: RemoteFile | None = None, **more: Any) -> None:
    """Fetch it, and check everything that is said of it and everything that is left."""
    arrival = fetch_one(file or remote(server, NAME), folder, **more)
    data = server.files[NAME]
    assert (folder / NAME).read_bytes() == data
    assert (arrival.size, arrival.sha256, arrival.path) == (len(data), digest(data), folder / NAME)
    assert names_in(folder) == {NAME}


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
    server.faults[NAME] = [Fault("cut", 50_000), fault, Fault("cut", 60_000)]
    arrives(server, tmp_path)
    assert server.sent(NAME) == len(DATA)


@pytest.mark.parametrize("fault", DEAR, ids=label)
def test_dear_faults_cost_the_file_once(server: FaultyServer, tmp_path: Path, fault: Fault) -> None:
    server.changed = lambda name, data: data  # Another mark, the same bytes: the checksum still holds.
    server.faults[NAME] = [Fault("cut", 50_000), fault]
    arrives(server, tmp_path)
    assert len(DATA) <= server.sent(NAME) <= 2 * len(DATA)


# A wrong byte, or an end that the server says is the end: without a checksum only the file's own structure shows it.
UNSEEN = [Fault("corrupt", 1000), Fault("length", -10)]


@pytest.mark.parametrize("fault", [fault for fault in CHEAP + DEAR if fault not in UNSEEN], ids=label)
def test_nothing_known_of_the_file(server: FaultyServer, tmp_path: Path, fault: Fault) -> None:
    """Neither size nor checksum: all but what only a checksum shows is found."""
    server.faults[NAME] = [Fault("cut", 100_000), fault, Fault("cut", 150_000)]
    arrives(server, tmp_path, remote(server, NAME, size=False, sha256=False))


def test_drip_is_given_up(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault("drip", 1000)]
    options = replace(IMPATIENT, stall_timeout=0.5, least_speed=3000)
    arrives(server, tmp_path, options=options)
    assert len(server.gets(NAME)) == 2
    assert server.sent(NAME) <= len(DATA) + 20


def test_file_changes_between_two_tries(server: FaultyServer, tmp_path: Path) -> None:
    """Not one byte of the old file is in the new one."""
    old = server.files[NAME]
    server.changed = lambda name, data: bytes(byte ^ 255 for byte in data[:-100])
    server.faults[NAME] = [Fault("cut", 200_000), Fault("change")]
    arrives(server, tmp_path, RemoteFile(NAME, (server.link(NAME),)))
    assert server.files[NAME][:1000] != old[:1000]


def test_server_that_ignores_the_condition(server: FaultyServer, tmp_path: Path) -> None:
    """It sends the rest of another file: its mark says so, and one check is enough to see it."""
    server.deaf = True
    server.changed = lambda name, data: bytes(byte ^ 255 for byte in data)
    server.faults[NAME] = [Fault("cut", 200_000), Fault("change")]
    arrives(server, tmp_path, RemoteFile(NAME, (server.link(NAME),)))


def test_short_file_in_whole_chunks(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault("chunked", 100)]
    arrives(server, tmp_path, remote(server, NAME, sha256=False))
    assert server.sent(NAME) == len(DATA)


def test_unmarked_file_starts_over(server: FaultyServer, tmp_path: Path) -> None:
    """Without a mark of the version, without a checksum, half a file proves nothing about its other half."""
    path = tmp_path / NAME
    path.parent.mkdir()
    part_path(path).write_bytes(b"x" * 1000)
    state = {"url": server.link(NAME), "length": len(DATA), "etag": None, "last_modified": None, "sha256": None}
    state_path(path).write_text(json.dumps(state))
    arrives(server, tmp_path, remote(server, NAME, sha256=False))
    assert "Range" not in server.gets(NAME)[0].headers


def test_resumes_in_another_run(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault("cut", 100_000), *[Fault("status", 503)] * 9]
    with pytest.raises(NetworkError, match="503") as caught:
        fetch_one(remote(server, NAME), tmp_path)
    assert caught.value.code == "failed_download"
    assert "100000 bytes" in (caught.value.hint or "")
    assert names_in(tmp_path) == {"layers/.one.bin.part", "layers/.one.bin.part.json"}
    server.faults[NAME] = []
    arrives(server, tmp_path)
    last = server.gets(NAME)[-1]
    assert last.headers["Range"] == "bytes=100000-"
    assert last.headers["If-Range"] == server.etag(NAME)
    assert server.sent(NAME) == len(DATA)


@pytest.mark.parametrize("state", [None, "", "{}", "[1]", '{"url": 1, "length": "x"}', "\xff", '{"length": -1}'])
def test_part_without_a_sound_state_is_worth_nothing(server: FaultyServer, tmp_path: Path, state: str | None) -> None:
    path = tmp_path / NAME
    path.parent.mkdir()
    part_path(path).write_bytes(b"junk" * 1000)
    if state is not None:
        state_path(path).write_text(state, encoding="latin-1")
    arrives(server, tmp_path)


def test_whole_part_needs_no_request(server: FaultyServer, tmp_path: Path) -> None:
    """Killed between the last byte and the name."""
    path = tmp_path / NAME
    path.parent.mkdir()
    part_path(path).write_bytes(DATA)
    state = {"url": server.link(NAME), "length": len(DATA), "etag": '"x"', "last_modified": None, "sha256": None}
    state_path(path).write_text(json.dumps(state))
    arrives(server, tmp_path)
    assert server.gets(NAME) == []


def test_part_longer_than_the_file_starts_over(server: FaultyServer, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.parent.mkdir()
    part_path(path).write_bytes(DATA + b"more")
    state = {"url": server.link(NAME), "length": len(DATA), "etag": server.etag(NAME)}
    state_path(path).write_text(json.dumps(state | {"last_modified": None, "sha256": None}))
    arrives(server, tmp_path)


def test_part_is_no_way_out_of_the_folder(server: FaultyServer, tmp_path: Path) -> None:
    path = tmp_path / "target" / NAME
    path.parent.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    part_path(path).symlink_to(victim)
    with pytest.raises(DataError):
        fetch_one(remote(server, NAME), tmp_path / "target")
    assert victim.read_text() == "mine"


def test_file_that_is_there_is_not_fetched(server: FaultyServer, tmp_path: Path) -> None:
    arrives(server, tmp_path)
    # What a process leaves that is killed just after it has given the file its name.
    for leftover in (part_path, state_path, corrupt_path):
        leftover(tmp_path / NAME).write_text("{}")
    again = fetch_one(remote(server, NAME), tmp_path)
    assert names_in(tmp_path) == {NAME}
    assert again.url is None
    assert again.sha256 == digest(DATA)
    assert len(server.gets(NAME)) == 1


@pytest.mark.parametrize("wrong", [DATA[:-1], DATA[:-1] + b"?", b""])
def test_wrong_file_that_is_there_is_replaced(server: FaultyServer, tmp_path: Path, wrong: bytes) -> None:
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(wrong)
    arrives(server, tmp_path)


def test_wrong_file_that_cannot_be_replaced_is_never_used(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(DATA[:-1] + b"?")
    server.faults[NAME] = [Fault("status", 404)]
    with pytest.raises(NetworkError, match="404") as caught:
        fetch_one(remote(server, NAME), tmp_path)
    assert caught.value.code == "failed_download"
    assert names_in(tmp_path) == {NAME + ".replaced.corrupt"}


def test_what_arrives_wrong_does_not_overwrite_what_was_there(server: FaultyServer, tmp_path: Path) -> None:
    file = replace(remote(server, NAME), sha256="0" * 64)
    (tmp_path / NAME).parent.mkdir()
    for mine in (b"first", b"second"):
        (tmp_path / NAME).write_bytes(mine)
        with pytest.raises(CheckpointError):
            fetch_one(file, tmp_path)
    left = {path.name.removeprefix("one.bin"): path.read_bytes() for path in (tmp_path / "layers").iterdir()}
    assert left == {".replaced.corrupt": b"first", ".replaced1.corrupt": b"second", ".corrupt": DATA}
    arrives(server, tmp_path)


def test_a_checksum_that_is_right_says_more_than_a_size(server: FaultyServer, tmp_path: Path) -> None:
    arrives(server, tmp_path)
    assert fetch_one(replace(remote(server, NAME), size=9), tmp_path).url is None


def test_wrong_checksum_is_set_aside(server: FaultyServer, tmp_path: Path) -> None:
    file = replace(remote(server, NAME), sha256="0" * 64)
    with pytest.raises(CheckpointError) as caught:
        fetch_one(file, tmp_path)
    assert caught.value.code == "wrong_checksum"
    assert caught.value.where == str(tmp_path / (NAME + ".corrupt"))
    assert digest(DATA) in caught.value.message
    assert names_in(tmp_path) == {NAME + ".corrupt"}
    assert (tmp_path / (NAME + ".corrupt")).read_bytes() == DATA
    assert len(server.gets(NAME)) == 2


def test_next_mirror_after_a_wrong_checksum(server: FaultyServer, tmp_path: Path) -> None:
    with FaultyServer({NAME: data_of(len(DATA), 1)}) as bad:
        file = remote(server, NAME)
        arrives(server, tmp_path, replace(file, urls=(bad.link(NAME), *file.urls)))
        assert len(bad.gets(NAME)) == 2


def test_check_refuses_then_accepts(server: FaultyServer, tmp_path: Path) -> None:
    """What a checksum would show, the file's own structure can show too."""
    server.faults[NAME] = [Fault("corrupt", 5)]
    seen = []

    def check(file: RemoteFile, path: Path) -> None:
        seen.append(path)
        if path.read_bytes() != DATA:
            raise CheckpointError("a bad member", code="damaged_file", where=str(path))

    arrives(server, tmp_path, remote(server, NAME, sha256=False), check=check)
    assert seen == [part_path(tmp_path / NAME)] * 2

    def refuse(file: RemoteFile, path: Path) -> None:
        raise CheckpointError("never right", code="damaged_file", where=str(path))

    with pytest.raises(CheckpointError, match="never right") as caught:
        fetch_one(remote(server, NAME, sha256=False), tmp_path, check=refuse)
    assert caught.value.where == str(corrupt_path(tmp_path / NAME))
    assert names_in(tmp_path) == {NAME + ".corrupt", NAME + ".replaced.corrupt"}


def test_mirrors_in_order_and_one_continues_where_the_other_broke_off(server: FaultyServer, tmp_path: Path) -> None:
    with FaultyServer({NAME: DATA}) as first:
        first.faults[NAME] = [Fault("cut", 120_000), Fault("status", 404)]
        file = remote(server, NAME)
        arrives(server, tmp_path, replace(file, urls=(first.link(NAME), *file.urls)))
        assert first.sent(NAME) + server.sent(NAME) == len(DATA)


def test_mirrors_with_different_files_are_not_mixed(server: FaultyServer, tmp_path: Path) -> None:
    with FaultyServer({NAME: data_of(len(DATA), 1)}) as first:
        first.faults[NAME] = [Fault("cut", 120_000), Fault("status", 404)]
        arrives(server, tmp_path, RemoteFile(NAME, (first.link(NAME), server.link(NAME))))


def test_every_mirror_is_named_when_none_gives_it(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault("status", 403)]
    urls = ("http://127.0.0.1:9/x", server.link("missing"), server.link(NAME))
    with pytest.raises(NetworkError) as caught:
        fetch_one(RemoteFile(NAME, urls), tmp_path)
    assert caught.value.code == "failed_download"
    for said in ("127.0.0.1 refuses connections", "404", "403", *urls):
        assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("gzip"), "encoding"),
        (Fault("status", 404), "no such file"),
        (Fault("status", 410), "gone"),
        (Fault("status", 401), "login or token"),
        (Fault("status", 403), "refused"),
        (Fault("status", 301), "301"),
        (Fault("status", 503, {"Retry-After": "86400"}), "asks to wait 86400 s"),
    ],
    ids=str,
)
def test_what_no_second_try_can_mend(server: FaultyServer, tmp_path: Path, fault: Fault, said: str) -> None:
    server.faults[NAME] = [fault]
    with pytest.raises(NetworkError, match=said) as caught:
        fetch_one(remote(server, NAME), tmp_path)
    assert caught.value.code == "failed_download"
    assert len(server.gets(NAME)) == 1
    assert not (tmp_path / NAME).exists()


def test_more_bytes_than_announced(server: FaultyServer, tmp_path: Path) -> None:
    """A checksum tells whether the file is among them; without one nothing of them is kept."""
    server.faults[NAME] = [Fault("cut", 100_000), Fault("overflow", 10)]
    arrives(server, tmp_path / "known")
    assert server.sent(NAME) <= len(DATA) + 10
    server.faults[NAME] = [Fault("overflow", 10)]
    with pytest.raises(NetworkError, match="more than") as caught:
        fetch_one(remote(server, NAME, sha256=False), tmp_path / "unknown")
    assert caught.value.code == "failed_download"
    assert names_in(tmp_path / "unknown") == set()


def test_a_server_that_has_only_web_pages(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault("html")] * 9
    with pytest.raises(NetworkError, match="a web page instead of the file") as caught:
        fetch_one(remote(server, NAME), tmp_path, options=replace(IMPATIENT, tries=50))
    assert caught.value.code == "failed_download"
    assert caught.value.where == server.link(NAME)
    assert "login page" in str(caught.value.hint)
    assert len(server.gets(NAME)) == 3
    assert names_in(tmp_path) == set()


def test_web_pages_are_left_after_a_few_tries(server: FaultyServer, tmp_path: Path) -> None:
    """A page that stands for an error may pass; a captive portal does not."""
    with FaultyServer({NAME: DATA}) as portal:
        portal.faults[NAME] = [Fault("html"), Fault("masked-html"), Fault("html")]
        file = remote(server, NAME)
        file = replace(file, urls=(portal.link(NAME), *file.urls))
        arrives(server, tmp_path, file, options=replace(IMPATIENT, tries=50))
        assert len(portal.gets(NAME)) == 3


def test_end_that_cannot_be_told_from_a_cut_is_refused(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[NAME] = [Fault("endless")]
    with pytest.raises(NetworkError, match="where it ends") as caught:
        fetch_one(remote(server, NAME, size=False, sha256=False), tmp_path)
    assert caught.value.code == "failed_download"
    server.faults[NAME] = [Fault("endless")]
    arrives(server, tmp_path, remote(server, NAME, size=False))


def test_page_is_a_page_where_a_page_is_wanted(tmp_path: Path) -> None:
    with FaultyServer({"page.html": b"<html>hello</html>"}) as server:
        assert fetch_one(remote(server, "page.html"), tmp_path).size == 18


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
    with FaultyServer({NAME: data_of(size)}) as server:
        server.changed = lambda name, data: data if known else bytes(byte ^ 1 for byte in data)
        server.faults[NAME] = list(plan)
        options = replace(IMPATIENT, tries=40, few_tries=40, backoff=0.0)
        file = remote(server, NAME) if known else RemoteFile(NAME, (server.link(NAME),))
        arrives(server, folder, file, options=options)
