"""From prompts to records: stop strings, streaming, ends, cuts, log-probabilities; with models that recite."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neoxrun.config.sampling import SamplingParams
from neoxrun.generation.encoding import EncodedPrompt, PromptEncoder
from neoxrun.generation.generator import TextGenerator
from neoxrun.generation.options import Truncate
from neoxrun.generation.prompts import Prompt
from neoxrun.generation.records import Record
from support.tiny_models import demo_tokenizer, reciter, successor

TOKENIZER = demo_tokenizer()
EOD = TOKENIZER.eod
SIZE = TOKENIZER.vocab_size
TEXT = "def stop(self): return 'naïve 日本語 🎉🎉 stopstop'\n    # stop: END ENDE\n"


def recite(script: Sequence[int], params: SamplingParams, *, room: int = 1) -> tuple[Record, list[str]]:
    """The record of reciting ``script``, and the pieces of text that came on the way."""
    replica = reciter([*script, *[script[-1]] * room], SIZE + 1)
    engine = replica.start_engine(slots=1, length=len(script) + room, ends=(EOD,))
    texts = TextGenerator(engine, TOKENIZER)
    encoder = PromptEncoder(TOKENIZER, vocab_size=SIZE + 1, max_context=len(script) + room)
    (encoded,) = encoder.encode([Prompt(0, None, "", params)])
    assert len(encoded.ids) == 1, "an empty prompt begins with one token"
    pieces: list[str] = []
    (record,) = [record for records in texts.run([encoded], pieces.append) for record in records]
    assert engine.free_slots == 1, "its slot is free again"
    assert texts.tokens == record.length
    return record, pieces


def scripts() -> st.SearchStrategy[list[int]]:
    """Tokens of a text, single bytes, and any others."""
    known = TOKENIZER.encode(TEXT)
    parts = st.tuples(st.integers(0, len(known)), st.integers(0, 12)).map(lambda p: known[p[0] : p[0] + p[1]])
    flag = st.just(TOKENIZER.encode("🎉"))
    any_token = st.integers(0, SIZE - 1).map(lambda token: [token])
    pieces = st.lists(parts | flag | any_token, min_size=1, max_size=8)
    return pieces.map(lambda chosen: list(itertools.chain.from_iterable(chosen))).filter(len)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[int], tuple[str, ...]]:
    """A script, and stop strings of which some are in its text."""
    script = draw(scripts())
    text = TOKENIZER.decode(script).replace("\ufffd", "")
    inside = st.tuples(st.integers(0, len(text)), st.integers(1, 6)).map(lambda p: text[p[0] : p[0] + p[1]])
    stops = draw(st.lists((inside | st.sampled_from(["stop", "END", "\n", "語", "zzz"])).filter(len), max_size=3))
    return script, tuple(stops)


@given(answers())
@example((TOKENIZER.encode("abc stop stop"), ("stop",)))
@example((TOKENIZER.encode("日本語🎉"), ("語", "🎉")))
@example((TOKENIZER.encode("🎉")[:-1], ("🎉",)))
def test_text_stops_before_the_first_stop_string_and_streams_no_part_of_it(
    case: tuple[list[int], tuple[str, ...]],
) -> None:
    script, stops = case
    length, text, stopped = len(script), None, False
    for count in range(1, len(script) + 1):
        so_far = TOKENIZER.decode(script[:count])
        places = [so_far.find(stop) for stop in stops if stop in so_far]
        if script[count - 1] == EOD:
            length, text, stopped = count - 1, TOKENIZER.decode(script[: count - 1]), True
            break
        if places:
            length, text, stopped = count, so_far[: min(places)], True
            break
    if text is None:
        text = TOKENIZER.decode(script)
    record, pieces = recite(script, SamplingParams(maximum_tokens=len(script), stop=stops))
    assert record.text == text
    assert "".join(pieces) == text, "what was shown is what is recorded"
    assert record.length == length
    assert (record.finished, record.finish_reason) == ((True, "stop") if stopped else (False, "length"))


def test_text_streams_as_soon_as_it_is_certain() -> None:
    script = TOKENIZER.encode("one two stops")
    record, pieces = recite(script, SamplingParams(maximum_tokens=len(script)))
    assert pieces == [TOKENIZER.decode([token]) for token in script], "nothing is held back without stop strings"
    _, pieces = recite(script, SamplingParams(maximum_tokens=len(script), stop=("stop!",)))
    shown = ""
    for count, piece in enumerate(pieces, start=1):
        shown += piece
        assert len(shown) >= len(TOKENIZER.decode(script[:count])) - len("stop!") + 1
    assert shown == record.text == "one two stops"


def test_the_end_of_a_document_ends_an_answer_and_is_not_in_it() -> None:
    script = [*TOKENIZER.encode("abc"), EOD, *TOKENIZER.encode("def")]
    ended, _ = recite(script, SamplingParams(maximum_tokens=50, logprobs=0))
    assert (ended.text, ended.finish_reason, ended.finished) == ("abc", "stop", True)
    assert ended.tokens == TOKENIZER.encode("abc")
    assert ended.length == len(ended.tokens) == len(ended.logprobs)
    on, _ = recite(script, SamplingParams(maximum_tokens=len(script), ignore_eos=True, logprobs=0))
    assert (on.text, on.finish_reason, on.finished) == ("abcdef", "length", False)
    assert on.tokens == script
    at_once, pieces = recite([EOD], SamplingParams())
    assert (at_once.text, at_once.length, pieces) == ("", 0, [""])


def test_an_answer_may_be_as_long_as_asked_or_as_the_context() -> None:
    script = TOKENIZER.encode("a b c d e f g h")
    for count in (1, 3):
        record, _ = recite(script, SamplingParams(maximum_tokens=count))
        assert (record.length, record.finish_reason, record.finished) == (count, "length", False)
    record, _ = recite(script, SamplingParams(maximum_tokens=99))
    assert (record.length, record.finish_reason, record.finished) == (len(script), "context", False)


def test_an_id_without_text_is_said() -> None:
    record, _ = recite([*TOKENIZER.encode("ab"), SIZE], SamplingParams(maximum_tokens=3))
    assert record.text == "ab"
    assert f"id {SIZE}" in (record.message or "")
    assert record.code == "unknown_token"


def test_log_probabilities_are_those_of_the_tokens() -> None:
    script = TOKENIZER.encode("import os")
    record, _ = recite(script, SamplingParams(maximum_tokens=len(script), logprobs=SIZE + 1))
    assert record.tokens == script
    assert [entry["token"] for entry in record.logprobs] == script
    for entry in record.logprobs:
        values = [value for _, value in entry["top"]]
        assert len(values) == SIZE + 1
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) == pytest.approx(1, abs=1e-4)
        assert entry["top"][0] == [entry["token"], entry["logprob"]], "greedy takes the most likely"
    few, _ = recite(script, SamplingParams(maximum_tokens=2, logprobs=3))
    assert [len(entry["top"]) for entry in few.logprobs] == [3, 3]
    none, _ = recite(script, SamplingParams(maximum_tokens=2))
    assert none.logprobs is None
    assert none.tokens is None


def generator(length: int, *, slots: int = 2, rows: int = SIZE) -> TextGenerator:
    """A model that counts: after token ``t`` comes ``t + 1``."""
    replica = successor(lambda token: (token + 1) % rows, rows, length)
    return TextGenerator(replica.start_engine(slots=slots, length=length, ends=()), TOKENIZER)


def encoded(
    prompts: list[Prompt], length: int, *, truncate: Truncate | None = None, rows: int = SIZE
) -> list[EncodedPrompt]:
    return PromptEncoder(TOKENIZER, vocab_size=rows, max_context=length, truncate=truncate).encode(prompts)


def answer(
    prompts: list[Prompt], length: int, *, slots: int = 2, truncate: Truncate | None = None, rows: int = SIZE
) -> dict[int | str, Record]:
    texts = generator(length, slots=slots, rows=rows)
    steps = texts.run(encoded(prompts, length, truncate=truncate, rows=rows))
    return {record.id: record for records in steps for record in records}


@pytest.mark.parametrize(
    ("truncate", "maximum", "keep"),
    # Room for the answer, but at least half the context is left to the prompt.
    [("left", 5, 15), ("right", 5, 15), ("left", 18, 10), ("right", 99, 10), ("left", 1, 19)],
)
def test_a_prompt_that_is_too_long_is_cut_when_asked(truncate: Truncate, maximum: int, keep: int) -> None:
    prompt = TOKENIZER.encode(TEXT)
    params = SamplingParams(maximum_tokens=maximum, logprobs=0)
    record = answer([Prompt("x", None, TEXT, params)], 20, truncate=truncate)["x"]
    last = prompt[-1] if truncate == "left" else prompt[keep - 1]
    count = min(maximum, 20 - keep)
    assert record.tokens == [last + 1 + step for step in range(count)]
    assert record.context == TEXT, "the record has the prompt as it was"
    assert record.message == f"the prompt was cut on the {truncate}, from {len(prompt)} to {keep} tokens"
    assert record.code == "prompt_cut"


def test_a_prompt_that_cannot_be_answered_does_not_stop_the_others() -> None:
    params = SamplingParams(maximum_tokens=4, logprobs=0)
    prompts = [
        Prompt(0, None, "a", params),
        Prompt(1, None, TEXT, params),
        Prompt(2, None, "b", SamplingParams(logit_bias={SIZE: 1.0})),
        Prompt(3, None, "c d e f", params),
        Prompt(4, None, "f", params),
    ]
    records = answer(prompts, 20)
    assert sorted(records) == [0, 1, 2, 3, 4]
    faults = {1: ("prompt_too_long", f"{len(TOKENIZER.encode(TEXT))} tokens"), 2: ("bad_logit_bias", f"id {SIZE}")}
    for number, (code, says) in faults.items():
        record = records[number]
        assert (record.text, record.length, record.finish_reason, record.finished) == (
            None,
            0,
            "error",
            False,
        )
        assert record.code == code
        assert says in (record.message or "")
    for number in (0, 3, 4):
        first = TOKENIZER.encode(prompts[number].context)[-1] + 1
        assert records[number].tokens == [(first + step) % SIZE for step in range(4)]
        assert (records[number].message, records[number].code) == (None, None)
    few = answer(prompts[:1], 20, rows=TOKENIZER.encode("a")[0])[0]
    assert (few.finish_reason, few.code) == ("error", "bad_token_id"), "an id that the model does not have"


def test_records_of_prompts_that_cannot_be_answered_come_with_the_next_step() -> None:
    """Also where there are more of them than slots, and none that can be answered."""
    good, bad = Prompt("good", None, "a", SamplingParams(maximum_tokens=2)), Prompt("bad", None, TEXT, SamplingParams())
    texts = generator(20)
    steps = [[record.id for record in records] for records in texts.run(encoded([bad, bad, bad, good, bad], 20))]
    assert steps == [["bad"] * 4, ["good"]]
    assert [len(records) for records in texts.run(encoded([bad] * 5, 20))] == [5]
    assert list(texts.run([])) == [[]]


@settings(max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8)), max_size=9),
    slots=st.integers(1, 4),
    stop=st.sampled_from([(), ("e",)]),
)
def test_many_prompts_are_answered_as_each_alone(
    lengths: list[tuple[int, int]], slots: int, stop: tuple[str, ...]
) -> None:
    """Slots fall free and fill again; stop strings end requests that the engine would go on with."""
    prompts = [
        Prompt(n, None, TEXT[n : n + size], SamplingParams(maximum_tokens=count, logprobs=0, stop=stop))
        for n, (size, count) in enumerate(lengths)
    ]
    together = answer(prompts, 40, slots=slots)
    assert sorted(together) == list(range(len(prompts)))
    for prompt in prompts:
        alone = answer([prompt], 40, slots=1)[prompt.id]
        mine = together[prompt.id]
        assert (mine.text, mine.tokens, mine.finish_reason) == (alone.text, alone.tokens, alone.finish_reason)


def test_an_aborted_answer_keeps_what_there_is() -> None:
    texts = generator(40)
    asked = [
        Prompt("a", 3, "a", SamplingParams(maximum_tokens=30, logprobs=0)),
        Prompt("b", None, "b", SamplingParams(maximum_tokens=2)),
    ]
    steps = texts.run(encoded(asked, 40))
    assert next(steps) == []
    (ended,) = next(steps)
    assert ended.id == "b"
    (aborted,) = texts.abort()
    assert (aborted.id, aborted.sample, aborted.finish_reason, aborted.finished) == ("a", 3, "aborted", False)
    assert aborted.text == TOKENIZER.decode(aborted.tokens)
    assert aborted.length == 2
    assert (aborted.message, aborted.code) == (None, None)
    assert list(steps) == [[]], "nothing is left to do"
    assert texts.abort() == []
    (records,) = texts.run(encoded([Prompt("c", None, "c", SamplingParams(maximum_tokens=1))], 40))
    assert [(record.id, record.length) for record in records] == [("c", 1)]


def test_an_aborted_answer_streams_what_was_held_back() -> None:
    texts = generator(40)
    pieces: list[str] = []
    prompt = Prompt("a", None, "a", SamplingParams(maximum_tokens=30, stop=("no such text",), logprobs=0))
    steps = texts.run(encoded([prompt], 40), pieces.append)
    for _ in range(3):
        next(steps)
    assert "".join(pieces) == ""
    (aborted,) = texts.abort(pieces.append)
    assert "".join(pieces) == aborted.text == TOKENIZER.decode(aborted.tokens)
