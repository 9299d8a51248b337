"""The loop from tokens to text: what is certain to stream, where stop texts end it, and which answers advance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.replica import Replica
from neoxrun.errors import RankError
from neoxrun.generation.answer import Answer, AnswerLoop, TextRequest, TextStream
from support.tiny_models import demo_tokenizer, random_replica, reciter, successor

TOKENIZER = demo_tokenizer()
SIZE = TOKENIZER.vocab_size
TEXT = "def stop(self): return 'naïve 日本語 🎉🎉 stopstop'\n    # stop: END ENDE\n"


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Tokens of a text, single bytes and any others; and stop texts, of which some are in the text."""
    known = TOKENIZER.encode(TEXT)
    parts = st.tuples(st.integers(0, len(known)), st.integers(0, 12)).map(lambda p: known[p[0] : p[0] + p[1]])
    any_token = st.integers(0, SIZE - 1).map(lambda token: [token])
    pieces = draw(st.lists(parts | st.just(TOKENIZER.encode("🎉")) | any_token, max_size=8))
    tokens = list(itertools.chain.from_iterable(pieces))
    text = TOKENIZER.decode(tokens).replace("\ufffd", "")
    inside = st.tuples(st.integers(0, len(text)), st.integers(1, 6)).map(lambda p: text[p[0] : p[0] + p[1]])
    stops = draw(st.lists(inside | st.sampled_from(["stop", "END", "\n", "語", "zzz", ""]), max_size=3))
    return tokens, stops


def certain(text: str, stops: list[str]) -> int:
    """How much of a text that holds no stop text and may continue can be shown: no stop text may begin before."""
    longest = max((len(stop) for stop in stops if stop), default=1)
    return max(0, len(text) - longest + 1)


@given(cases())
@example((TOKENIZER.encode("abc stop stop"), ["stop"]))
@example((TOKENIZER.encode("日本語🎉"), ["語", "🎉"]))
@example((TOKENIZER.encode("🎉")[:-1], ["🎉"]))
@example((TOKENIZER.encode("aaab"), ["aab", "b"]))
def test_a_stream_is_the_text_up_to_the_first_stop_text(case: tuple[list[int], list[str]]) -> None:
    tokens, stops = case
    stream = TextStream(TOKENIZER.stream(), stops)
    shown = ""
    whole = TOKENIZER.stream()
    plain = ""
    for token in tokens:
        new = stream.push(token)
        shown += new
        if plain is not None:
            plain += whole.push(token)
            found = [plain.find(stop) for stop in stops if stop and stop in plain]
            assert stream.stopped == bool(found)
            if found:
                assert shown == plain[: min(found)], "all that comes before it is shown at once"
                plain = None
            else:
                assert shown == plain[: certain(plain, stops)]
        else:
            assert new == "", "nothing comes after a stop text"
    ended = stream.stopped
    shown += stream.finish()
    assert shown == stream.text
    if not ended:
        assert stream.text == TOKENIZER.decode(tokens)
    assert stream.finish() == "", "the end comes once"


def test_without_stop_texts_nothing_is_held_back() -> None:
    stream = TextStream(TOKENIZER.stream(), ["", ""])
    tokens = TOKENIZER.encode("one two stops")
    assert [stream.push(token) for token in tokens] == [TOKENIZER.decode([token]) for token in tokens]
    assert stream.finish() == ""


def test_half_a_character_is_shown_at_the_end_only() -> None:
    stream = TextStream(TOKENIZER.stream())
    *start, last = TOKENIZER.encode("🎉")
    assert start
    assert [stream.push(token) for token in start] == [""] * len(start)
    assert stream.finish() == "\ufffd"
    stream = TextStream(TOKENIZER.stream(), ["🎉"])
    assert [stream.push(token) for token in (*start, last)] == [""] * (1 + len(start))
    assert stream.stopped


def requests(*counts: int, stop: tuple[str, ...] = ()) -> list[TextRequest]:
    params = [SamplingParams(maximum_tokens=count, stop=stop) for count in counts]
    return [TextRequest(100 + number, [30 + number], own) for number, own in enumerate(params)]


def counting(slots: int) -> AnswerLoop:
    """After token ``t`` comes ``t + 1``."""
    replica = successor(lambda token: (token + 1) % SIZE, SIZE, 40)
    return AnswerLoop(replica.start_engine(slots=slots, length=40, ends=()), TOKENIZER)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_requests_are_taken_when_there_is_room(slots: int) -> None:
    taken = []

    def coming() -> Iterator[TextRequest]:
        for request in requests(2, 5, 1, 3):
            taken.append(request.request_id)
            yield request

    ended: dict[int, Answer] = {}
    for answers in counting(slots).run(coming()):
        ended |= {answer.request_id: answer for answer in answers if answer.finish_reason is not None}
        assert len(taken) - len(ended) <= slots
    assert {name: len(answer.tokens) for name, answer in ended.items()} == {100: 2, 101: 5, 102: 1, 103: 3}
    for number, answer in enumerate(ended[100 + number] for number in range(4)):
        assert answer.tokens == [31 + number + step for step in range(len(answer.tokens))]
        assert answer.stream.text == TOKENIZER.decode(answer.tokens)
        assert answer.finish_reason == "length"


def test_every_answer_says_what_is_new_of_it() -> None:
    shown: dict[int, str] = {}
    for answers in counting(3).run(requests(6, 9, 4, 2)):
        for answer in answers:
            shown[answer.request_id] = shown.get(answer.request_id, "") + answer.new_text
            assert shown[answer.request_id] == answer.stream.text
    assert len(shown) == 4


def test_a_stop_text_ends_the_request_too() -> None:
    script = TOKENIZER.encode("one two three four")
    engine = reciter(script, SIZE).start_engine(slots=1, length=len(script), ends=())
    request = TextRequest(7, [5], SamplingParams(maximum_tokens=len(script) - 1, stop=("wo",)))
    steps = [answers for answers in AnswerLoop(engine, TOKENIZER).run([request]) if answers]
    (answer,) = steps[-1]
    assert len(steps) == len(answer.tokens)
    assert (answer.stream.text, answer.finish_reason) == ("one t", "stop")
    assert TOKENIZER.decode(answer.tokens).startswith("one two"), "the tokens are those that were computed"
    assert len(answer.tokens) < len(script) - 1
    assert engine.free_slots == 1
    assert engine.step() == []


def test_aborting_ends_what_runs() -> None:
    loop = counting(2)
    steps = loop.run(requests(9, 9, stop=("never",)))
    next(steps), next(steps)
    aborted = loop.abort()
    assert [(answer.request_id, answer.finish_reason) for answer in aborted] == [(100, "aborted"), (101, "aborted")]
    assert [answer.new_text for answer in aborted] == [answer.stream.text for answer in aborted]
    assert all(len(answer.tokens) == 2 for answer in aborted)
    assert loop.abort() == []
    assert list(steps) == [[]]


def test_a_special_token_that_a_stop_text_names_ends_the_answer() -> None:
    """Decoded text never shows it, so its id is looked for."""
    end = TOKENIZER.eod
    assert end is not None
    assert TOKENIZER.special_ids(["<|endoftext|>", "x"]) == {end: "<|endoftext|>"}
    assert TOKENIZER.special_ids(["\n<|endoftext|>x"]) == {end: "<|endoftext|>"}
    assert TOKENIZER.special_ids(["x"]) == {}
    stream = TextStream(TOKENIZER.stream(), ["<|endoftext|>"], {end: "<|endoftext|>"})
    before = [*TOKENIZER.encode("a"), TOKENIZER.encode("🎉")[0]]
    shown = "".join(map(stream.push, before))
    assert not stream.stopped
    shown += stream.push(end)
    assert stream.stopped
    shown += "".join(map(stream.push, TOKENIZER.encode("more"))) + stream.finish()
    assert shown == stream.text == "a\ufffd"
    words = TOKENIZER.encode("def stop(self)")
    script = [*words, end, *words]
    engine = reciter(script, SIZE).start_engine(slots=1, length=len(script), ends=())
    request = TextRequest(0, [5], SamplingParams(temperature=0.0, maximum_tokens=20, stop=("<|endoftext|>",)))
    answers = [answer for step in AnswerLoop(engine, TOKENIZER).run([request]) for answer in step]
    assert answers[-1].tokens == script[: len(words) + 1]
    assert (answers[-1].stream.text, answers[-1].finish_reason) == ("def stop(self)", "stop")


def test_answers_one_by_one() -> None:
    """As a program uses the loop that does not know all requests before."""
    loop = counting(3)
    assert not loop.busy
    first, second, third = requests(2, 9, 9, stop=("never",))
    loop.start(first)
    assert [answer.tokens for answer in loop.step()] == [[31]]
    loop.start(second)
    loop.start(third)
    ended = [answer for answer in loop.step() if answer.finish_reason is not None]
    assert [(answer.request_id, answer.finish_reason) for answer in ended] == [(100, "length")]
    cut = loop.cancel(101)
    assert cut is not None
    assert (cut.finish_reason, cut.tokens, cut.new_text) == ("aborted", [32], cut.stream.text)
    assert loop.cancel(101) is None
    assert loop.busy
    assert loop.engine.free_slots == 2


@pytest.mark.parametrize("ahead", [0, 1])
def test_answers_continue_with_a_larger_engine(ahead: int) -> None:
    def replica() -> Replica:
        return random_replica(SIZE, 64, ahead=ahead)

    params = SamplingParams(maximum_tokens=12, temperature=0.9, repetition_penalty=1.2, frequency_penalty=0.1)
    asked = [TextRequest(number, [5 + number, 6], replace(params, seed=number)) for number in range(4)]
    engine = replica().start_engine(slots=4, length=64, ends=())
    right = {
        answer.request_id: answer.tokens
        for answers in AnswerLoop(engine, TOKENIZER).run(asked)
        for answer in answers
        if answer.finish_reason is not None
    }
    one = replica()
    loop = AnswerLoop(one.start_engine(slots=2, length=16, ends=()), TOKENIZER)
    for request in asked[:3]:  # one of them has to wait
        loop.start(request)
    found = {}

    def note(answers: list[Answer]) -> None:
        found.update({answer.request_id: answer.tokens for answer in answers if answer.finish_reason is not None})

    for _ in range(5):
        note(loop.step())
    note(loop.move(lambda: one.start_engine(slots=4, length=64, ends=())))
    loop.start(asked[3])
    while loop.busy:
        note(loop.step())
    assert found == right


def test_an_answer_that_the_network_fails_on_ends_alone() -> None:
    loop = counting(2)
    for request in requests(4, 4):
        loop.start(request)
    engine = loop.engine
    events = engine.advance()
    broken = replace(events[0], sampled=replace(events[0].sampled, finite=False))
    engine.advance = lambda: [broken, events[1]]  # type: ignore[method-assign]
    failed, other = loop.step()
    assert (failed.error is not None and failed.error.code, other.error) == ("nonfinite_output", None)
    del engine.advance  # type: ignore[method-assign]
    rest = [answer for answers in iter(loop.step, []) for answer in answers]
    assert {answer.request_id for answer in rest} == {101}
    assert rest[-1].finish_reason == "length"
    again = counting(1)
    again.engine.advance = lambda: [broken]  # type: ignore[method-assign]
    with pytest.raises(RankError, match="not a number"):
        list(again.run(requests(1)))


END = "<|endoftext|>"
END_ID = TOKENIZER.encode(END)[0]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        (f"ab{END}\ncd", [f"{END}\n"], "ab"),
        (f"ab{END}cd{END}\nef", [f"{END}\n"], "abcd"),
        (f"ab\n{END}cd", [f"\n{END}"], "ab"),
        (f"ab{END}\n{END}cd", [f"{END}\n{END}"], "ab"),
        (f"ab{END}{END}cd", [f"{END}{END}"], "ab"),
        (f"a{END}b{END}cd", [f"{END}cd", "b"], "a"),
        (f"ab{END}cd", [f"b{END}c", f"{END}"], "ab"),
        # A text is still found where hidden tokens come in between, and no part of how one is written.
        (f"ab{END}cd", [f"{END}x", "bc"], "a"),
        (f"ab{END}cd", [f"{END}x", "end", "|>c"], "abcd"),
        (f"ab{END}", [f"{END}x"], "ab"),
        (f"a{END}{END}x", [f"{END}x", f"t|>{END}x"], "a"),
    ],
)
def test_a_stop_text_with_a_special_token_in_it(text: str, stop: list[str], expected: str) -> None:
    stream = TextStream(TOKENIZER.stream(), stop, TOKENIZER.special_ids(stop))
    shown = "".join(map(stream.push, TOKENIZER.encode(text)))
    assert stream.stopped == (expected != text.replace(END, ""))
    assert shown + stream.finish() == stream.text == expected


@given(cases(), st.lists(st.tuples(st.integers(0, 30), st.just(END_ID)), max_size=3))
def test_hidden_tokens_change_nothing_but_where_stop_texts_name_them(
    case: tuple[list[int], list[str]], added: list[tuple[int, int]]
) -> None:
    tokens, stops = case
    for at, token in added:
        tokens.insert(at, token)
    plain = TextStream(TOKENIZER.stream(), stops)
    stream = TextStream(TOKENIZER.stream(), [*stops, f"{END}zzzz"], {END_ID: END})
    for token in tokens:
        plain.push(token)
        stream.push(token)
    plain.finish()
    stream.finish()
    assert (stream.text, stream.stopped) == (plain.text, plain.stopped)
