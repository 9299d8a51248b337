"""The Python API in one process: answers and scores, threads, streams, interrupts, and the end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neoxrun import LLM, Completion, GenerationInterrupted, SamplingParams
from neoxrun.config.reader import load_settings
from neoxrun.engine.sampler import Choice, Sampled
from neoxrun.errors import ConfigError, DataError, RankError, UsageError
from neoxrun.planning.devices import cpu_device
from neoxrun.serving.local import ModelArguments, open_local
from neoxrun.serving.loop import EngineLoop
from support.paths import DEMO
from support.python_api import PARAMS, TEXTS, plain


@pytest.fixture(scope="module")
def right(llm: LLM) -> list[dict[str, Any]]:
    return [plain(json.loads(record.to_json())) for record in llm.generate(TEXTS, PARAMS)]


def test_one_process(llm: LLM, right: list[dict[str, Any]]) -> None:
    assert [record["context"] for record in right] == TEXTS
    assert llm.generate([]) == []
    assert plain(json.loads(llm.generate(TEXTS[0], PARAMS).to_json())) == right[0], "a text by itself: one completion"
    configured = load_settings(["demo"]).generation.sampling
    record, same = llm.generate(TEXTS[0]), llm.generate(TEXTS[0], configured)
    assert record.text == same.text, "without parameters, the configuration's are taken"
    record = llm.generate("x" * 3000, SamplingParams(maximum_tokens=3))
    assert (record.finish_reason, record.code, record.text) == ("error", "prompt_too_long", None)
    record = llm.generate("x" * 3000, SamplingParams(maximum_tokens=3), truncate="left")
    assert record.length == 3
    with pytest.raises(DataError, match="Unicode") as caught:
        llm.generate(["\ud83c"])
    assert caught.value.code == "not_text"
    with pytest.raises(ConfigError, match="no-such-model") as missing:
        LLM("no-such-model")
    assert missing.value.code == "missing_configuration"


@pytest.mark.parametrize("size", [1, 2])
def test_texts_do_not_depend_on_how_many_are_computed_together(size: int, right: list[dict[str, Any]]) -> None:
    with LLM("demo", device="cpu", dtype="fp32", batch_size=size) as small:
        records = small.generate(TEXTS, PARAMS)
    assert [plain(json.loads(record.to_json())) for record in records] == right


def test_500_requests_of_16_threads_are_the_same_as_alone(llm: LLM) -> None:
    words = ["import os", "class Queue:", "", "def f(x):", "# 日本語", "x = [", "for line in"]
    asked = [
        (
            f"{words[number % len(words)]}{' ' * (number % 3)}",
            {"max_tokens": 1 + number % 3, "seed": number, "temperature": (0, 0.8)[number % 2]},
        )
        for number in range(500)
    ]
    alone = [llm.generate(*case).tokens for case in asked]
    with LLM("demo", device="cpu", dtype="fp32") as shared, ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda case: shared.generate(*case), asked))
    assert [(record.context, record.length) for record in together] == [
        (text, params["max_tokens"]) for text, params in asked
    ]
    assert [record.tokens for record in together] == alone


@pytest.mark.parametrize("native", [True, False])
def test_number_format_of_a_cpu(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = replace(cpu_device(), native_bf16=native)
    monkeypatch.setattr("neoxrun.serving.local.cpu_device", lambda: host)
    session = open_local(ModelArguments(("demo",), device="cpu"), started=False)
    assert session.replica.stage.precisions.weights == ("bf16" if native else "fp32")


def test_scores_are_those_of_generated_tokens(llm: LLM) -> None:
    record = llm.generate("import os", SamplingParams(maximum_tokens=6, logprobs=1))
    total = sum(step["logprob"] for step in record.logprobs or ())
    encode = llm.tokenizer.encode
    assert encode("import os" + (record.text or "")) == encode("import os") + (record.tokens or [])
    scored, other, start = llm.score([("import os", record.text or ""), ("import os", " 1"), ("", "import")])
    assert scored.logprob == pytest.approx(total, abs=1e-4)
    assert (scored.greedy, other.greedy) == (True, False)
    assert start.logprob < 0
    assert llm.score([]) == []
    (by_token,) = llm.score([("import os", record.text or "")], top=1)
    assert by_token.tokens is not None
    assert [ids for (ids,) in by_token.tokens.top_ids] == record.tokens
    wrong = {("x", ""): "no tokens of its own", ("x", " y" * 3000): "at most", ("\ud83c", "x"): "Unicode"}
    codes = []
    for pair, says in wrong.items():
        with pytest.raises(DataError, match=says) as caught:
            llm.score([pair])
        codes.append(caught.value.code)
    assert codes == ["no_tokens", "too_long", "not_text"]
    with pytest.raises(UsageError, match="pairs of texts") as refused:
        llm.score("a text")  # type: ignore[arg-type]
    assert refused.value.code == "invalid_value"


def test_log_probabilities_of_a_prompt_are_scores(llm: LLM) -> None:
    ids = llm.tokenizer.encode("import os, sys")
    first, second, empty = llm.generate(["import os, sys", ids, ""], maximum_tokens=1, prompt_logprobs=2)
    assert first.prompt_tokens == second.prompt_tokens == ids
    assert first.prompt_logprobs == second.prompt_logprobs
    assert first.prompt_logprobs is not None
    start, *others = first.prompt_logprobs
    assert start is None
    assert [entry["token"] for entry in others if entry] == ids[1:]
    assert [entry["text"] for entry in others if entry] == [llm.tokenizer.spell(token) for token in ids[1:]]
    assert [len(entry["top"]) for entry in others if entry] == [2] * len(others)
    (scored,) = llm.score([("import", " os, sys")])
    assert sum(entry["logprob"] for entry in others if entry) == pytest.approx(scored.logprob, abs=1e-4)
    assert (len(empty.prompt_tokens), empty.prompt_logprobs) == (1, None), "there is nothing to predict"
    assert json.loads(first.to_json())["prompt_logprobs"] == first.prompt_logprobs
    assert "prompt_logprobs" not in json.loads(empty.to_json())


def test_a_stream_is_the_text_in_pieces(llm: LLM) -> None:
    whole = llm.generate("def f(", temperature=0, max_tokens=9)
    with llm.stream("def f(", temperature=0, max_tokens=9) as stream:
        pieces = list(stream)
    assert len(pieces) > 3
    assert "".join(pieces) == whole.text == stream.completion.text
    assert list(stream) == [], "the end comes again"
    assert "".join(llm.generate("def f(", temperature=0, max_tokens=9, stream=True)) == whole.text
    refused = llm.stream("x" * 3000)
    assert list(refused) == []
    assert refused.completion.code == "prompt_too_long"


def test_asyncio(llm: LLM) -> None:
    async def both() -> tuple[str, Completion]:
        stream = llm.stream("def f(", temperature=0, max_tokens=9)
        answer = asyncio.wrap_future(llm.submit("class Queue:", temperature=0, max_tokens=5))
        return "".join([piece async for piece in stream]), await answer

    text, answer = asyncio.run(both())
    assert text == llm.generate("def f(", temperature=0, max_tokens=9).text
    assert answer.text == llm.generate("class Queue:", temperature=0, max_tokens=5).text


def under_way(llm: LLM) -> int:
    """How many texts the model is working on, as the loop sees it: it answers in order."""
    llm.score([("x", " y")])
    loop = loop_of(llm)
    return len(loop._under_way) + len(loop._waiting)


def test_a_task_of_asyncio_that_is_cancelled_ends_its_request(llm: LLM) -> None:
    async def impatient() -> None:
        await asyncio.wait_for(asyncio.wrap_future(llm.submit("x =", max_tokens=490, ignore_eos=True)), 0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert under_way(llm) == 0


def loop_of(llm: LLM) -> EngineLoop:
    """The loop that the engine's thread runs.

    It is not looked for with ``gc.get_objects``, which hands out tuples that the engine's thread is still filling: that
    thread's step then fails with a SystemError.
    """
    work = llm._backend._thread._target  # type: ignore[attr-defined]
    found: EngineLoop = inspect.getclosurevars(work).nonlocals["loop"]
    return found


def free_pages(llm: LLM) -> int:
    pages = loop_of(llm)._session.replica._pages
    assert pages is not None
    return pages.available


def test_what_nobody_waits_for_is_not_computed(llm: LLM) -> None:
    llm.generate("def f(", max_tokens=2)
    free = free_pages(llm)
    stream = llm.stream("def f(", max_tokens=400, ignore_eos=True)
    next(stream)
    assert under_way(llm) == 1
    assert free_pages(llm) < free
    stream.close()
    cut = stream.completion
    assert (cut.finish_reason, cut.finished) == ("aborted", False)
    assert 0 < cut.length < 400
    assert (under_way(llm), free_pages(llm)) == (0, free)
    stream = llm.stream("def f(", max_tokens=400, ignore_eos=True)
    next(stream)
    del stream
    assert under_way(llm) == 0, "a stream that is dropped"
    future = llm.submit("def f(", max_tokens=400, ignore_eos=True)
    assert future.cancel()
    assert under_way(llm) == 0, "a future that is cancelled"


def test_ctrl_c_ends_the_call_and_keeps_the_model(llm: LLM) -> None:
    def interrupt() -> None:
        while under_way(llm) != 1:
            time.sleep(0.01)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    own = [{"max_tokens": 2}, {"max_tokens": 490}, {"max_tokens": 1}]
    with pytest.raises(KeyboardInterrupt) as caught:
        llm.generate(["import os", "class Queue:", "x ="], own, ignore_eos=True, temperature=0)
    assert isinstance(caught.value, GenerationInterrupted)
    assert [record.context for record in caught.value.records] == ["import os", "x ="]
    assert [record.context for record in caught.value.partial] == ["class Queue:"]
    assert 0 < caught.value.partial[0].length < 490
    assert under_way(llm) == 0
    assert llm.generate("import os", temperature=0, max_tokens=2).text == caught.value.records[0].text


def interrupt_when(llm: LLM, ready: Callable[[], object]) -> None:
    """Press Ctrl-C once the model does something."""

    def press() -> None:
        while not ready():
            time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=press).start()


def test_scores_that_are_interrupted_leave_nothing_behind(llm: LLM) -> None:
    pending, loop = llm._client._requests._pending, loop_of(llm)
    interrupt_when(llm, lambda: loop._scoring)
    with pytest.raises(KeyboardInterrupt):
        llm.score([("x", f" {number}" * 100) for number in range(200)])
    assert (pending, under_way(llm)) == ({}, 0)
    interrupt_when(llm, lambda: loop._scoring)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["x = 1" * 90] * 60, max_tokens=60, ignore_eos=True, prompt_logprobs=1)
    assert pending == {}
    assert llm.score([("x", " y")])


def test_an_error_of_one_request_does_not_touch_the_others(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    right = llm.generate("class Queue:", temperature=0, max_tokens=12).text
    read = Choice.read
    broken = []

    def fail_first(self: Choice) -> list[Sampled]:
        """A row that stands for NaN, as the device reports it, once two are computed together."""
        sampled = read(self)
        if len(sampled) == 2 and not broken:
            broken.append(True)
            sampled[0] = replace(sampled[0], finite=False)
        return sampled

    monkeypatch.setattr(Choice, "read", fail_first)
    first = llm.submit("import os", temperature=0, max_tokens=300, ignore_eos=True)
    second = llm.submit("class Queue:", temperature=0, max_tokens=12)
    with pytest.raises(RankError, match="not a number") as caught:
        first.result(60)
    assert caught.value.code == "nonfinite_output"
    assert second.result(60).text == right


def test_a_failure_of_a_step_ends_all_that_is_there_and_not_the_model(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores too: what a failed step leaves of the memory is not known."""
    right = llm.generate("class Queue:", temperature=0, max_tokens=5).text
    read = Choice.read
    reached, go_on = threading.Event(), threading.Event()

    def fail_second(self: Choice) -> list[Sampled]:
        if reached.is_set():
            raise MemoryError
        reached.set()
        assert go_on.wait(60)
        return read(self)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(Choice, "read", fail_second)
        asked = [llm.submit("import os", max_tokens=5, ignore_eos=True)]
        assert reached.wait(60)
        asked.append(llm.submit("x", max_tokens=5))
        scored = threads.submit(llm.score, [("import", " os")])
        while loop_of(llm).inbox.qsize() < 2:
            time.sleep(0.01)
        go_on.set()
        for future in (*asked, scored):
            with pytest.raises(RankError, match="out of memory") as caught:
                future.result(60)
            assert caught.value.code == "out_of_memory"
    assert llm.generate("class Queue:", temperature=0, max_tokens=5).text == right
    assert llm.score([("import", " os")])[0].logprob < 0


def test_more_and_longer_requests_than_before_are_taken_over(llm: LLM) -> None:
    """A request that runs stays the same when others make the engine grow."""
    right = llm.generate("import os", temperature=0, max_tokens=60, ignore_eos=True)
    with LLM("demo", device="cpu", dtype="fp32") as small:
        stream = small.stream("import os", temperature=0, max_tokens=60, ignore_eos=True)
        start = next(stream)
        slots = loop_of(small)._texts.engine.slots  # type: ignore[union-attr]
        others = [small.submit("x =", max_tokens=100, ignore_eos=True) for _ in range(3)]
        assert start + "".join(stream) == right.text
        assert [other.result(60).length for other in others] == [100] * 3
        assert slots == 1
        assert loop_of(small)._texts.engine.slots == 4  # type: ignore[union-attr]


def test_the_tokenizer_knows_the_model_s_ids(llm: LLM) -> None:
    assert llm.tokenizer.decode(torch.tensor([707])) == "import"
    with pytest.raises(UsageError, match="1000000000 is not a token id: they are 0 to 2047"):
        llm.tokenizer.decode([10**9])


def test_messages_name_arguments_and_no_options(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="cannot be divided into tp=3 equal parts") as caught:
        LLM("demo", device="cpu", tp=3)
    assert caught.value.hint == "tp can be 1, 2, 4, 8 for this model."
    with LLM("demo", device="cpu", random_weights=True):
        assert "the weights are random (random_weights): the text means nothing" in caplog.messages


def test_closing_ends_everything() -> None:
    llm = LLM("demo", device="cpu", dtype="fp32")
    stage = weakref.ref(loop_of(llm)._session.replica.stage)
    waiting = [llm.submit("x =", max_tokens=490, ignore_eos=True) for _ in range(3)]
    stream = llm.stream("x =", max_tokens=490, ignore_eos=True)
    next(stream)
    llm.close()
    llm.close()
    assert stage() is None, "the weights are freed"
    for future in waiting:
        with pytest.raises(UsageError) as caught:
            future.result(60)
        assert caught.value.code == "closed"
    with pytest.raises(UsageError, match="closed"):
        list(stream)
    for call in (lambda: llm.generate("x"), lambda: llm.stream("x"), lambda: llm.score([("x", " y")])):
        with pytest.raises(UsageError, match="the LLM is closed") as refused:
            call()
        assert refused.value.code == "closed"
    for wrong in (lambda: llm.generate(7), lambda: llm.score([("x", "")]), llm.__enter__):  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="the LLM is closed"):
            wrong()
    assert llm.tokenizer.decode(llm.tokenizer.encode("still here")) == "still here"


def test_an_object_that_nobody_uses_is_closed() -> None:
    llm = LLM("demo", device="cpu", dtype="fp32")
    stage = weakref.ref(loop_of(llm)._session.replica.stage)
    del llm
    gc.collect()
    assert stage() is None


def test_a_copy_of_the_process_says_what_is_wrong(llm: LLM) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            llm.generate("x")
        except UsageError as error:
            os.write(write, error.code.encode())
        finally:
            os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"another_process"
    os.close(read)


def test_a_tokenizer_that_makes_a_text_longer(tmp_path: Path) -> None:
    """GPT-NeoX-20B's does: NFC writes some characters as two, so that tokens can be more than bytes."""
    content = json.loads((DEMO / "tokenizer.json").read_text())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content | {"normalizer": {"type": "NFC"}}))
    text = "\u0958" * 60
    with LLM("demo", tokenizer=str(path), device="cpu") as llm:
        alone = llm.generate(text, SamplingParams(maximum_tokens=5))
        together, _ = llm.generate([text, "x" * 400], SamplingParams(maximum_tokens=5))
    assert alone.length == 5, alone.message
    assert together.text == alone.text


def test_the_sizes_must_be_those_of_the_processes_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="tp 1 x pp 1 is 1, but the number of processes is 2") as caught:
        LLM("demo", device="cpu")
    assert caught.value.code == "wrong_number_of_ranks"
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'") as caught:
        LLM("demo", device="cpu")
    assert caught.value.code == "bad_environment"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_gpu_that_is_asked_for_and_not_visible(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU is visible") as caught:
        LLM("demo", device=device)
    assert caught.value.code == "no_gpu"


def test_the_number_of_a_gpu_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UsageError, match="GPU 2 was asked for, and 2 are visible") as caught:
        LLM("demo", device="cuda:2")
    assert caught.value.code == "no_gpu"


@pytest.mark.parametrize(("given", "used"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_gpus_are_numbered_as_for_ranks(given: str | None, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before CUDA is asked for the first time, and unless the user has chosen an order."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "to be restored")
    if given is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    else:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", given)
    seen: list[str | None] = []

    def is_available() -> bool:
        seen.append(os.environ.get("CUDA_DEVICE_ORDER"))
        return False

    monkeypatch.setattr("torch.cuda.is_available", is_available)
    with pytest.raises(UsageError, match="no GPU is visible"):
        LLM("demo", device="cuda")
    assert seen[0] == used
