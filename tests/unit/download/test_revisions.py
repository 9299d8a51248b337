"""Which revisions are meant, and which have the weights of another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from neoxrun.download import hub
from neoxrun.download.revisions import choose_revisions, find_duplicates, last_step, look_up_revisions, step_of
from neoxrun.errors import NetworkError, UsageError
from support.hub_server import HubRepository, HubServer

KNOWN = ["main", "step2000", "step0", "step512", "step1000", "step143000"]
NAME = "lab/tiny"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step1000", 1000),
        ("global_step150000", 150000),
        ("step1000-tokens4B", 1000),
        ("iter_0000512", 512),
        ("checkpoint-500", 500),
        ("1000", 1000),
        ("main", None),
        ("fp16", None),
        ("v1.0-beta", None),
        ("0123456789012345678901234567890123456789", None),
    ],
)
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert step_of(name) == step


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", ["step0", "step512", "step1000", "step2000", "step143000"]),
        ("step1000, main,step0,step1000", ["step1000", "main", "step0"]),
        ("deadbeef", ["deadbeef"]),
        ("0:2000:1000", ["step0", "step1000", "step2000"]),
        ("step1000:step2000:1000", ["step1000", "step2000"]),
        ("500:2000", ["step512", "step1000", "step2000"]),
        ("1000:", ["step1000", "step2000", "step143000"]),
        (":1000", ["step0", "step512", "step1000"]),
    ],
)
def test_which_revisions_are_meant(text: str, names: list[str]) -> None:
    assert choose_revisions(text, KNOWN, NAME) == names


@pytest.mark.parametrize("text", ["", ",", "step0,,step1", "a b", "0:10:x", "1:2:3:4", "step0:10,step3"])
def test_texts_that_name_no_revisions(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_revisions(text, KNOWN, NAME)
    assert caught.value.code == "invalid_value"


@pytest.mark.parametrize(
    ("text", "known", "says"),
    [
        ("0:2000:500", KNOWN, "2 of 5 steps: 500, 1500"),
        ("0:99999999999:1", KNOWN, "of 100000000000 steps"),
        ("3000:4000", KNOWN, "from step 3000 to step 4000"),
        ("2000:1000", KNOWN, "from step 2000 to step 1000"),
        ("all", ["main", "fp16"], "no branch or tag with a training step"),
    ],
)
def test_steps_that_do_not_exist(text: str, known: list[str], says: str) -> None:
    with pytest.raises(NetworkError, match=says) as caught:
        choose_revisions(text, known, NAME)
    assert caught.value.code == "not_found"


def files(weights: bytes, **more: bytes) -> dict[str, bytes]:
    return {"model.safetensors": weights, "config.json": b"{}", **more}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    revisions = {
        "main": files(b"last"),
        "step0": files(b"first"),
        "step1": files(b"last", LICENSE=b"x"),
        "step2": files(b"second"),
        "step3": files(b"second"),
        "step4": files(b"last"),
    }
    with HubServer({NAME: HubRepository(revisions)}) as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        yield one


def test_what_the_hub_reports_of_each(server: HubServer) -> None:
    assert hub.list_revisions(NAME) == ["main", "step0", "step1", "step2", "step3", "step4"]
    one, four = look_up_revisions(NAME, ["step1", "step4"])
    assert (one.name, one.step, one.repository.commit) == ("step1", 1, server.repositories[NAME].commit("step1"))
    assert one.weights == four.weights
    assert one.contents != four.contents, "the licence counts, too"
    with pytest.raises(NetworkError, match="no revision step9"):
        look_up_revisions(NAME, ["step0", "step9"])


def test_duplicates_by_the_checksums_of_the_weights(server: HubServer) -> None:
    found = look_up_revisions(NAME, ["step0", "step1", "step2", "step3", "step4"])
    (main,) = look_up_revisions(NAME, ["main"])
    assert find_duplicates(found, main, "step4") == [("main", "step1"), ("step2", "step3")]
    assert find_duplicates(found, None, "step4") == [("step1", "step4"), ("step2", "step3")]
    assert find_duplicates([found[0], found[4]], main, "step4") == [], "the last step is main"
    assert find_duplicates([main, found[1]], main, "step4") == [("main", "step1")]
    assert find_duplicates([found[0], found[4]], main, None) == [("main", "step4")], "without a last step"


def test_the_last_step() -> None:
    assert last_step(["main", "step9", "step10", "other"]) == "step10"
    assert last_step(["main", "a", "b"]) is None
    assert last_step([]) is None
