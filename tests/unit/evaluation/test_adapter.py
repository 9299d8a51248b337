"""lm-eval's requests on small networks whose answers are known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_models import CPU, demo_tokenizer, reciter, successor

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from neoxrun.config.reader import load_settings
from neoxrun.engine.replica import Replica
from neoxrun.engine.session import Session
from neoxrun.errors import DataError
from neoxrun.evaluation import texts as texts_module
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.replicas import Replicas
from neoxrun.parallel.mesh import single_rank_mesh
from neoxrun.tokenizer.chat import ChatTemplate

TOKENIZER = demo_tokenizer()
ROWS = TOKENIZER.vocab_size


def model(replica: Replica, context: int = 24, **how: Any) -> NeoxLM:
    session = Session(load_settings(["demo"]), single_rank_mesh(CPU), replica, TOKENIZER, None, context, 4096)
    return NeoxLM(session, Replicas(session), **how)


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, one, 0, metadata=("task", at, 1)) for at, one in enumerate(arguments)]


def reciting(text: str, context: int = 24, **how: Any) -> NeoxLM:
    """Whatever stands before, the most likely text from the second token on is ``text``."""
    ids = TOKENIZER.encode(text)
    return model(reciter(ids + [TOKENIZER.eod] * (context - len(ids)), ROWS), context, **how)


def test_greedy_answers_are_recognised() -> None:
    lm = reciting("import os")
    ids = TOKENIZER.encode("import os")
    asked = [(("", ""), [5], ids), (("", ""), [5], [*ids[:-1], ids[-1] ^ 1])]
    (right, greedy), (wrong, other) = lm._loglikelihood_tokens(asked)
    assert (greedy, other) == (True, False)
    assert wrong < right < 0


@given(lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8)), min_size=1, max_size=6))
def test_answers_do_not_depend_on_neighbours(lengths: list[tuple[int, int]]) -> None:
    """Also where sequences are cut to the context, and where contexts are shared only after that."""
    lm = model(successor(lambda token: (7 * token + 3) % ROWS, ROWS, 12), context=12)
    asked = [(("", ""), [1 + n % 9 for n in range(many)], [5 + n for n in range(few)]) for many, few in lengths]
    together = lm._loglikelihood_tokens(asked)
    for request, answer in zip(asked, together, strict=True):
        ((logprob, greedy),) = lm._loglikelihood_tokens([request])
        assert logprob == pytest.approx(answer[0], abs=1e-4)
        assert greedy == answer[1]
        cut = (request[1] + request[2])[-13:]
        start = len(cut) - len(request[2])
        ((short, _),) = lm._loglikelihood_tokens([(("", ""), cut[:start], cut[start:])])
        assert short == pytest.approx(logprob, abs=1e-4)


def test_rolling_windows_cover_every_token_once() -> None:
    lm = model(successor(lambda token: token, ROWS, 12), context=12)
    text = "def read_file(path):\n    return open(path).read()\n" * 2
    ids = [TOKENIZER.eod, *TOKENIZER.encode(text)]
    assert len(ids) > 30
    (whole,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    # This network looks at the last token only, so that windows change nothing.
    alone = lm._loglikelihood_tokens([(("", ""), [here], [after]) for here, after in pairwise(ids)])
    assert whole == pytest.approx(sum(logprob for logprob, _ in alone), rel=1e-5)
    assert lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("",))) == [0]


@pytest.mark.parametrize(
    ("continuation", "code", "says"),
    [([], "no_tokens", "has no tokens"), ([7] * 13, "too_long", "13 tokens, more than the 12 of the context")],
)
def test_what_lm_eval_cannot_score_is_refused(continuation: list[int], code: str, says: str) -> None:
    lm = model(successor(lambda token: token, ROWS, 12), context=12)
    with pytest.raises(DataError, match=says) as caught:
        lm._loglikelihood_tokens([(("", "some text"), [5], continuation)])
    assert caught.value.code == code


def test_the_document_of_a_refused_request_is_named() -> None:
    lm = reciting(" os", context=12)
    with pytest.raises(DataError, match=r"^document 1 \(counted from 0\) of task: a continuation has no tokens"):
        lm.loglikelihood(requests("loglikelihood", ("import", " os"), ("", "")))
    with pytest.raises(DataError, match=r"^document 1 .* of task: a continuation has \d+ tokens, more than the 12"):
        lm.loglikelihood(requests("loglikelihood", ("import", " os"), ("import", " os, sys" * 20)))


def test_a_context_of_spaces_only_is_refused() -> None:
    """lm-eval moves spaces at the end of a context to the continuation."""
    with pytest.raises(DataError, match="a context has no tokens"):
        reciting(" os").loglikelihood(requests("loglikelihood", ("  ", "os")))


TEXTS = st.text("ab \n", max_size=5)


@given(st.lists(st.tuples(TEXTS, TEXTS.map(lambda text: text + "x")), max_size=20), st.integers(1, 5))
def test_texts_are_encoded_ahead_and_as_by_themselves(pairs: list[tuple[str, str]], ahead: int) -> None:
    lm = reciting(" os")
    calls = []

    def encode_all(texts: list[str], *, complete: bool) -> list[list[int]]:
        if texts:
            calls.append(texts)
        return [TOKENIZER.encode(text, complete=complete) for text in texts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts_module, "_AHEAD", ahead)
        patch.setattr(lm._session.tokenizer, "encode_all", encode_all)
        patch.setattr(lm, "_loglikelihood_tokens", lambda requests, **_: requests)
        found = lm.loglikelihood(requests("loglikelihood", *pairs))
    for (context, continuation), (_, before, after) in zip(pairs, found, strict=True):
        if context:
            kept = context.rstrip()
            assert before == TOKENIZER.encode(kept)
            assert after == TOKENIZER.encode(context + continuation)[len(before) :]
        else:
            assert [before, after] == [[TOKENIZER.eod], TOKENIZER.encode(continuation)]
    assert all(len(texts) <= ahead + 1 for texts in calls)
    # Texts with and without a context are encoded apart.
    assert len(calls) <= 2 * -(-2 * len(pairs) // ahead)


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    lm = model(successor(lambda token: token, ROWS - 5, 12), context=12)
    with pytest.raises(DataError, match=f"id {ROWS - 1}, but the model has only ids 0 to {ROWS - 6}") as caught:
        lm._loglikelihood_tokens([(("", ""), [5], [ROWS - 1])])
    assert caught.value.code == "bad_tokenizer"


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"until": ["\n"], "max_gen_toks": 20}, "import os, sys"),
        ({"until": ["sys", "os"]}, "import "),
        ({"until": "s", "max_gen_toks": 20}, "import o"),
        ({"until": [], "max_gen_toks": 3}, None),
        ({"max_gen_toks": 20}, "import os, sys\nx = 1"),
    ],
)
def test_text_ends_before_stop_texts_and_at_the_end_of_the_document(kwargs: dict, text: str | None) -> None:
    whole = "import os, sys\nx = 1"
    lm = reciting(whole, context=64)
    if "max_gen_toks" not in kwargs:
        kwargs = kwargs | {"max_gen_toks": 40}
    # An empty prompt is one token, the end of the document before.
    (answer,) = lm.generate_until(requests("generate_until", ("", kwargs)))
    assert answer == (TOKENIZER.decode(TOKENIZER.encode(whole)[:3]) if text is None else text)


def test_samples_of_one_prompt_differ_and_stay_the_same(tmp_path: Path) -> None:
    flat = successor(lambda token: token, ROWS, 24)
    kwargs = {"do_sample": True, "temperature": 8.0, "max_gen_toks": 8, "until": []}
    asked = requests("generate_until", ("import", kwargs), ("class", kwargs), ("import", kwargs))
    first = model(flat, seed=1).generate_until(asked)
    assert first[0] != first[2]
    assert model(flat, seed=1).generate_until(asked[2:]) == first[:1]
    assert model(flat, seed=1).generate_until([asked[1], asked[0], asked[2]]) == [first[1], first[0], first[2]]
    assert model(flat, seed=2).generate_until(asked) != first


def test_a_template_without_system_messages_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    template = ChatTemplate(source, {}, Path("chat_template.jinja"))
    monkeypatch.setattr("neoxrun.evaluation.adapter.read_chat_template", lambda config: template)
    lm = reciting("import os")
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert [lm.apply_chat_template(chat) for _ in range(3)] == ["Hello"] * 3
    assert caplog.text.count("refuses system messages") == 1
