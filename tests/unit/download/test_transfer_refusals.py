"""One file that is refused, set aside, or taken from the next mirror: what is not right never gets the name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neoxrun.download.remote import RemoteFile, corrupt_path, part_path, state_path
from neoxrun.errors import CheckpointError, NetworkError
from support.downloads import IMPATIENT, ONE, ONE_DATA, data_of, digest, fetch_and_check, fetch_one, names_in, remote
from support.faulty_server import Fault, FaultyServer


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({ONE: ONE_DATA}) as server:
        yield server


def test_file_that_is_there_is_not_fetched(server: FaultyServer, tmp_path: Path) -> None:
    fetch_and_check(server, tmp_path)
    # What a process leaves that is killed just after it has given the file its name.
    for leftover in (part_path, state_path, corrupt_path):
        leftover(tmp_path / ONE).write_text("{}")
    again = fetch_one(remote(server, ONE), tmp_path)
    assert names_in(tmp_path) == {ONE}
    assert again.url is None
    assert again.sha256 == digest(ONE_DATA)
    assert len(server.gets(ONE)) == 1


@pytest.mark.parametrize("wrong", [ONE_DATA[:-1], ONE_DATA[:-1] + b"?", b""])
def test_wrong_file_that_is_there_is_replaced(server: FaultyServer, tmp_path: Path, wrong: bytes) -> None:
    (tmp_path / ONE).parent.mkdir()
    (tmp_path / ONE).write_bytes(wrong)
    fetch_and_check(server, tmp_path)


def test_wrong_file_that_cannot_be_replaced_is_never_used(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / ONE).parent.mkdir()
    (tmp_path / ONE).write_bytes(ONE_DATA[:-1] + b"?")
    server.faults[ONE] = [Fault("status", 404)]
    with pytest.raises(NetworkError, match="404") as caught:
        fetch_one(remote(server, ONE), tmp_path)
    assert caught.value.code == "failed_download"
    assert names_in(tmp_path) == {ONE + ".replaced.corrupt"}


def test_what_arrives_wrong_does_not_overwrite_what_was_there(server: FaultyServer, tmp_path: Path) -> None:
    file = replace(remote(server, ONE), sha256="0" * 64)
    (tmp_path / ONE).parent.mkdir()
    for mine in (b"first", b"second"):
        (tmp_path / ONE).write_bytes(mine)
        with pytest.raises(CheckpointError):
            fetch_one(file, tmp_path)
    left = {path.name.removeprefix("one.bin"): path.read_bytes() for path in (tmp_path / "layers").iterdir()}
    assert left == {".replaced.corrupt": b"first", ".replaced1.corrupt": b"second", ".corrupt": ONE_DATA}
    fetch_and_check(server, tmp_path)


def test_a_checksum_that_is_right_says_more_than_a_size(server: FaultyServer, tmp_path: Path) -> None:
    fetch_and_check(server, tmp_path)
    assert fetch_one(replace(remote(server, ONE), size=9), tmp_path).url is None


def test_wrong_checksum_is_set_aside(server: FaultyServer, tmp_path: Path) -> None:
    file = replace(remote(server, ONE), sha256="0" * 64)
    with pytest.raises(CheckpointError) as caught:
        fetch_one(file, tmp_path)
    assert caught.value.code == "wrong_checksum"
    assert caught.value.where == str(tmp_path / (ONE + ".corrupt"))
    assert digest(ONE_DATA) in caught.value.message
    assert names_in(tmp_path) == {ONE + ".corrupt"}
    assert (tmp_path / (ONE + ".corrupt")).read_bytes() == ONE_DATA
    assert len(server.gets(ONE)) == 2


def test_next_mirror_after_a_wrong_checksum(server: FaultyServer, tmp_path: Path) -> None:
    with FaultyServer({ONE: data_of(len(ONE_DATA), 1)}) as bad:
        file = remote(server, ONE)
        fetch_and_check(server, tmp_path, replace(file, urls=(bad.link(ONE), *file.urls)))
        assert len(bad.gets(ONE)) == 2


def test_check_refuses_then_accepts(server: FaultyServer, tmp_path: Path) -> None:
    """What a checksum would show, the file's own structure can show too."""
    server.faults[ONE] = [Fault("corrupt", 5)]
    seen = []

    def check(file: RemoteFile, path: Path) -> None:
        seen.append(path)
        if path.read_bytes() != ONE_DATA:
            raise CheckpointError("a bad member", code="damaged_file", where=str(path))

    fetch_and_check(server, tmp_path, remote(server, ONE, sha256=False), check=check)
    assert seen == [part_path(tmp_path / ONE)] * 2

    def refuse(file: RemoteFile, path: Path) -> None:
        raise CheckpointError("never right", code="damaged_file", where=str(path))

    with pytest.raises(CheckpointError, match="never right") as caught:
        fetch_one(remote(server, ONE, sha256=False), tmp_path, check=refuse)
    assert caught.value.where == str(corrupt_path(tmp_path / ONE))
    assert names_in(tmp_path) == {ONE + ".corrupt", ONE + ".replaced.corrupt"}


def test_mirrors_in_order_and_one_continues_where_the_other_broke_off(server: FaultyServer, tmp_path: Path) -> None:
    with FaultyServer({ONE: ONE_DATA}) as first:
        first.faults[ONE] = [Fault("cut", 120_000), Fault("status", 404)]
        file = remote(server, ONE)
        fetch_and_check(server, tmp_path, replace(file, urls=(first.link(ONE), *file.urls)))
        assert first.sent(ONE) + server.sent(ONE) == len(ONE_DATA)


def test_mirrors_with_different_files_are_not_mixed(server: FaultyServer, tmp_path: Path) -> None:
    with FaultyServer({ONE: data_of(len(ONE_DATA), 1)}) as first:
        first.faults[ONE] = [Fault("cut", 120_000), Fault("status", 404)]
        fetch_and_check(server, tmp_path, RemoteFile(ONE, (first.link(ONE), server.link(ONE))))


def test_every_mirror_is_named_when_none_gives_it(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[ONE] = [Fault("status", 403)]
    urls = ("http://127.0.0.1:9/x", server.link("missing"), server.link(ONE))
    with pytest.raises(NetworkError) as caught:
        fetch_one(RemoteFile(ONE, urls), tmp_path)
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
    server.faults[ONE] = [fault]
    with pytest.raises(NetworkError, match=said) as caught:
        fetch_one(remote(server, ONE), tmp_path)
    assert caught.value.code == "failed_download"
    assert len(server.gets(ONE)) == 1
    assert not (tmp_path / ONE).exists()


def test_more_bytes_than_announced(server: FaultyServer, tmp_path: Path) -> None:
    """A checksum tells whether the file is among them; without one nothing of them is kept."""
    server.faults[ONE] = [Fault("cut", 100_000), Fault("overflow", 10)]
    fetch_and_check(server, tmp_path / "known")
    assert server.sent(ONE) <= len(ONE_DATA) + 10
    server.faults[ONE] = [Fault("overflow", 10)]
    with pytest.raises(NetworkError, match="more than") as caught:
        fetch_one(remote(server, ONE, sha256=False), tmp_path / "unknown")
    assert caught.value.code == "failed_download"
    assert names_in(tmp_path / "unknown") == set()


def test_a_server_that_has_only_web_pages(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[ONE] = [Fault("html")] * 9
    with pytest.raises(NetworkError, match="a web page instead of the file") as caught:
        fetch_one(remote(server, ONE), tmp_path, options=replace(IMPATIENT, tries=50))
    assert caught.value.code == "failed_download"
    assert caught.value.where == server.link(ONE)
    assert "login page" in str(caught.value.hint)
    assert len(server.gets(ONE)) == 3
    assert names_in(tmp_path) == set()


def test_web_pages_are_left_after_a_few_tries(server: FaultyServer, tmp_path: Path) -> None:
    """A page that stands for an error may pass; a captive portal does not."""
    with FaultyServer({ONE: ONE_DATA}) as portal:
        portal.faults[ONE] = [Fault("html"), Fault("masked-html"), Fault("html")]
        file = remote(server, ONE)
        file = replace(file, urls=(portal.link(ONE), *file.urls))
        fetch_and_check(server, tmp_path, file, options=replace(IMPATIENT, tries=50))
        assert len(portal.gets(ONE)) == 3


def test_end_that_cannot_be_told_from_a_cut_is_refused(server: FaultyServer, tmp_path: Path) -> None:
    server.faults[ONE] = [Fault("endless")]
    with pytest.raises(NetworkError, match="where it ends") as caught:
        fetch_one(remote(server, ONE, size=False, sha256=False), tmp_path)
    assert caught.value.code == "failed_download"
    server.faults[ONE] = [Fault("endless")]
    fetch_and_check(server, tmp_path, remote(server, ONE, size=False))


def test_page_is_a_page_where_a_page_is_wanted(tmp_path: Path) -> None:
    with FaultyServer({"page.html": b"<html>hello</html>"}) as server:
        assert fetch_one(remote(server, "page.html"), tmp_path).size == 18
