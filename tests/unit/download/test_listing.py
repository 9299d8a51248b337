"""Listings give what is in their folder, and nothing leads out of it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.download.fetch import fetch_files
from neoxrun.download.listing import ask_sizes, list_tree, listing_links
from neoxrun.download.remote import RemoteFile
from neoxrun.errors import NetworkError
from support.downloads import IMPATIENT, data_of, names_in
from support.faulty_server import FaultyServer


def test_links_of_a_listing() -> None:
    page = """
    <a href="?C=N;O=D">Name</a> <a href="../">Parent</a> <a href="/">Top</a> <a href="/pub/">Same</a>
    <a href="one%20file.bin">1</a> <A HREF='sub/'>2</A> <a href="./three">3</a> <a href="/pub/four">4</a>
    <a href="http://other/pub/five">5</a> <a href="http://host/pub/six#top">6</a> <a name="x">no</a> <a href="">7</a>
    <a href="../../../etc/passwd">8</a> <a href="sub/deep">9</a> <a href="javascript:alert(1)">10</a>
    <a href="one%20file.bin">again</a> <a href="http://[broken">11</a>"""
    assert listing_links(page, "http://host/pub/") == ["one file.bin", "sub/", "three", "four", "six"]


@pytest.mark.parametrize("href", ["%2e%2e%2fx", "a%2Fb", "%2e%2e", "..%5cx", "%00", "a%0ab", ".neoxrun.lock", "a%1b"])
def test_listing_that_leads_out_is_refused(href: str, tmp_path: Path) -> None:
    with FaultyServer({}) as server:
        server.listings["pub/"] = f'<a href="right.bin">right.bin</a><a href="{href}">x</a>'
        with pytest.raises(NetworkError):
            listing_links(server.listings["pub/"], server.url + "pub/")
        with pytest.raises(NetworkError):
            list_tree(server.url + "pub/", IMPATIENT)


@given(st.text(max_size=20))
def test_any_name_in_a_listing_stays_inside_or_is_refused(name: str) -> None:
    try:
        found = listing_links(
            f'<a href="{quote(name.encode("utf-8", "surrogatepass"), safe="/.:")}">x</a>', "http://host/pub/"
        )
    except NetworkError:
        return
    for inside in found:
        assert ".." not in PurePosixPath(inside).parts
        assert not inside.startswith("/")
        assert "/" not in inside[:-1]


def test_tree_of_a_server(tmp_path: Path) -> None:
    deep = "step 1/deep/er/x"
    names = ["20B_tokenizer.json", "step 1/layer_00.pt", "step 1/layer_01.pt", deep, "latest", "a&b%41.txt"]
    with FaultyServer({f"pub/{name}": data_of(100 + at, at) for at, name in enumerate(names)}) as server:
        server.files |= {"elsewhere": b"x", "pub/neoxrun.manifest.json": b"not ours"}
        assert {file.name for file in list_tree(server.url + "pub/", IMPATIENT)} == set(names) - {deep}
        files = list_tree(server.url + "pub", IMPATIENT, depth=3)
        assert [file.name for file in files] == sorted(names)
        assert ask_sizes(files, IMPATIENT) == {name: 100 + at for at, name in enumerate(names)}
        fetch_files(files, tmp_path, jobs=3, options=IMPATIENT, show=False)
        for name in names:
            assert (tmp_path / name).read_bytes() == server.files[f"pub/{name}"]
        assert names_in(tmp_path) == set(names)


def test_listing_that_fails() -> None:
    with FaultyServer({"pub/x": b"1", "raw": b"2"}) as server:
        for url, said in (
            (server.url + "none/", "404"),
            (server.url + "pub/x", "404"),
            ("http://127.0.0.1:9/", "refuses"),
        ):
            with pytest.raises(NetworkError, match=said) as caught:
                list_tree(url, IMPATIENT)
            assert caught.value.code == "failed_download"
        server.listings["long/"] = "x" * (9 << 20)
        with pytest.raises(NetworkError, match="too long") as caught:
            list_tree(server.url + "long/", IMPATIENT)
        assert caught.value.code == "failed_download"
        server.listings["ring/"] = '<a href="ring/">deeper</a>'
        server.listings["ring/ring/"] = '<a href="ring/">deeper</a>'
        assert list_tree(server.url + "ring/", IMPATIENT, depth=1) == []


def test_sizes_that_nobody_tells() -> None:
    with FaultyServer({"x": b"123", "y": b"1234"}) as server:
        server.head_status = 405
        files = [RemoteFile("x", (server.link("x"),)), RemoteFile("y", (server.link("y"),), 9)]
        assert ask_sizes(files, IMPATIENT) == {"x": None, "y": 9}
        server.head_status = 200
        gone = RemoteFile("z", ("http://127.0.0.1:9/z",))
        mirrored = RemoteFile("x", ("http://127.0.0.1:9/x", server.link("x")))
        assert ask_sizes([mirrored, files[1]], IMPATIENT) == {"x": 3, "y": 9}
        assert ask_sizes([gone] * 50, IMPATIENT, jobs=1) == {"z": None}
