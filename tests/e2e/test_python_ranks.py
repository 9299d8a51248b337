"""LLM(tp=2): the program's own ranks, how they end, and what the program hears of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neoxrun import LLM, GenerationInterrupted
from neoxrun.errors import CheckpointError, RankError, UsageError
from support.paths import DEMO
from support.python_api import PARAMS, TEXTS, plain


def ranks_of(folder: Path) -> list[int]:
    """The processes that have a job's folder in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and b"rank" in words:
            found.append(int(process.name))
    return sorted(found)


def folder_of(llm: LLM) -> Path:
    folder: Path = llm._backend._child.folder  # type: ignore[attr-defined]
    return folder


def wait_until_gone(folder: Path) -> None:
    end = time.monotonic() + 20
    while ranks_of(folder):
        assert time.monotonic() < end, ranks_of(folder)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("demo", tp=2, device="cpu", dtype="fp32") as loaded:
        yield loaded


def test_ranks_give_what_one_process_gives(llm: LLM) -> None:
    with LLM("demo", device="cpu", dtype="fp32") as one:
        right = [plain(json.loads(record.to_json())) for record in one.generate(TEXTS, PARAMS)]
        scores = one.score([("import", " os")])
        text = one.generate("def f(", temperature=0, max_tokens=9).text
    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(lambda _: llm.generate(TEXTS, PARAMS), range(8)))
    for records in runs:
        assert [plain(json.loads(record.to_json())) for record in records] == right
    assert llm.score([("import", " os")])[0].logprob == pytest.approx(scores[0].logprob, abs=1e-4)
    pieces = list(llm.stream("def f(", temperature=0, max_tokens=9))
    assert len(pieces) > 3
    assert "".join(pieces) == text


def test_ctrl_c_reaches_the_call_and_not_the_ranks(llm: LLM) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(GenerationInterrupted) as caught:
        llm.generate("import os", max_tokens=500, ignore_eos=True)
    assert [record.finish_reason for record in caught.value.partial] == ["aborted"]
    assert caught.value.partial[0].length > 0
    assert llm.generate("import os", temperature=0, max_tokens=2).length == 2
    ranks = ranks_of(folder_of(llm))
    assert len(ranks) == 2
    assert {os.getpgid(rank) for rank in ranks}.isdisjoint({os.getpgid(0)})


def test_a_text_for_which_there_is_no_memory_does_not_end_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks have room for 300 tokens, by a module that Python imports when it starts."""
    demo_bytes = 6 * 192 * 2 * 4 // 2  # of a token on each of two ranks: keys and values of 6 layers, in fp32
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'rank' in sys.orig_argv:\n"
        "    from neoxrun.engine import session\n"
        f"    session._cache_bytes = lambda *_: {300 * demo_bytes}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with LLM("demo", device="cpu", dtype="fp32") as one:
        right = one.generate("import os", temperature=0, max_tokens=9).text
        scores = one.score([("import", " os")])
    with LLM("demo", tp=2, device="cpu", dtype="fp32") as llm:
        asked = [llm.submit("import os", temperature=0, max_tokens=tokens) for tokens in (400, 9)]
        with pytest.raises(RankError, match="one sequence of 40") as caught:
            asked[0].result(60)
        assert caught.value.code == "out_of_memory"
        assert asked[1].result(60).text == right
        with pytest.raises(RankError, match="one sequence of 40"):
            llm.generate("import os", max_tokens=400)
        assert llm.generate("import os", temperature=0, max_tokens=9).text == right
        assert llm.score([("import", " os")])[0].logprob == pytest.approx(scores[0].logprob, abs=1e-4)
        assert len(ranks_of(folder_of(llm))) == 2


def test_a_thread_that_ends_does_not_take_the_ranks_with_it() -> None:
    """The kernel would, if that thread had started them."""
    made: list[LLM] = []
    maker = threading.Thread(target=lambda: made.append(LLM("demo", tp=2, device="cpu", dtype="fp32")))
    maker.start()
    maker.join()
    (llm,) = made
    assert llm.generate("import os", max_tokens=2).length == 2
    folder = folder_of(llm)
    waiting = llm.submit("import os", max_tokens=500, ignore_eos=True)
    llm.close()
    with pytest.raises(UsageError) as caught:
        waiting.result(60)
    assert caught.value.code == "closed"
    assert not folder.exists()
    assert ranks_of(folder) == []


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGKILL, "rank_died", "was killed by SIGKILL"),
        (signal.SIGSTOP, "stuck_rank", "has made no step for 2 s"),
    ],
)
def test_a_rank_that_is_killed_or_stuck_ends_the_object(number: signal.Signals, code: str, says: str) -> None:
    llm = LLM("demo", tp=2, device="cpu", dtype="fp32", stall_timeout=2)
    folder = folder_of(llm)
    while not (folder / "rank-1.alive").exists():  # its first sign of life
        time.sleep(0.05)
    waiting = [llm.submit("import os", max_tokens=500, ignore_eos=True) for _ in range(3)]
    stream = llm.stream("import os", max_tokens=500, ignore_eos=True)
    next(stream)
    victim = ranks_of(folder)[-1]
    os.kill(victim, number)
    for future in waiting:
        with pytest.raises(RankError, match=f"process {victim}.* {says}") as caught:
            future.result(60)
        assert caught.value.code == code
        assert "Make another LLM." in str(caught.value)
    with pytest.raises(RankError, match=says):
        list(stream)
    with pytest.raises(RankError, match=says):
        llm.generate("x")
    llm.close()
    assert ranks_of(folder) == []
    assert not folder.exists()


def test_a_program_that_is_killed_leaves_no_ranks(tmp_path: Path) -> None:
    """Without `if __name__`, since nothing imports the program again."""
    program = tmp_path / "program.py"
    program.write_text(
        "import time\nfrom neoxrun import LLM\n"
        "llm = LLM('demo', tp=2, device='cpu', dtype='fp32')\n"
        "print(llm._backend._child.folder, flush=True)\n"
        "llm.generate('x', max_tokens=2)\nprint('ready', flush=True)\ntime.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        folder = Path(running.stdout.readline().strip())
        assert running.stdout.readline() == "ready\n"
        assert len(ranks_of(folder)) == 2
        running.kill()
    wait_until_gone(folder)


@pytest.mark.parametrize(("tp", "quiet"), [(1, True), (2, False)])
def test_a_program_that_ends_without_close(tp: int, quiet: bool, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"from neoxrun import LLM\nllm = LLM('demo', tp={tp}, device='cpu', dtype='fp32', quiet={quiet})\n"
        "print(llm.generate('import os', max_tokens=2).length)\n"
        "llm.submit('import os', max_tokens=500, ignore_eos=True)\n"
    )
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert done.stderr.count("\n") == (0 if quiet else 1)
    assert done.stderr.startswith("" if quiet else "loaded 0.0")
    assert list(folder.glob("neoxrun-*")) == []


def test_ctrl_c_while_the_ranks_load(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import threading, signal\nfrom neoxrun import LLM\nfrom neoxrun.launch.child import ChildJob\n"
        "start = ChildJob.start\n"
        "def then_interrupt(self):\n"
        "    start(self)\n"
        "    main = threading.main_thread().ident\n"
        "    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()\n"
        "ChildJob.start = then_interrupt\n"
        "try:\n    LLM('demo', tp=2, device='cpu', dtype='fp32')\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    assert list(folder.glob("neoxrun-*")) == []


def test_what_ranks_cannot_load_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as missing:
        LLM("demo", tp=2, device="cpu", checkpoint=tmp_path)
    assert missing.value.code == "missing_checkpoint"
    broken = tmp_path / "broken"
    for path in DEMO.rglob("*"):
        if path.is_file():
            copy = broken / path.relative_to(DEMO)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    damaged = next(broken.rglob("layer_03*.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as caught:
        LLM("demo", tp=2, device="cpu", checkpoint=broken)
    assert caught.value.code == "damaged_file"
    assert damaged.name in str(caught.value)
    assert caught.value.where is not None
    with pytest.raises(UsageError, match="cannot be divided") as split:
        LLM("demo", tp=3, device="cpu")
    assert split.value.code == "impossible_split"
