"""Running the installed command, as a user does, and looking at everything that it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.paths import ROOT

NEOXRUN = Path(sys.executable).parent / "neoxrun"

# What the world around a test must not decide.
_FOREIGN = re.compile(r"^(SLURM_|RANK$|WORLD_SIZE$|LOCAL_|MASTER_|TORCHELASTIC_|OMP_)")
_MARK = "NEOXRUN_TEST_MARK"
# An error, where it is, its hint and its code: one line each, and nothing after them.
_ERROR = re.compile(
    r"^error: (?P<message>.+)\n(  --> (?P<where>.+)\n)?(\nhint: (?P<hint>.+)\n)?(code: (?P<code>\w+)\n)?\Z",
    re.MULTILINE,
)
_LIBRARY_TALK = re.compile(
    r"Traceback|Exception ignored|[\[ ][WEI]\d{4}|\[[WEI]\d+ |Warning|megatron|elastic|gloo|leaked|site-packages"
)


@dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
        command: its command line, for people.
        code: exit code; negative for a signal.
        out, err: what it wrote.
        seconds: from start to end.
        cpu_seconds: of the command and all its children.
    """

    command: str
    code: int
    out: str
    err: str
    seconds: float
    cpu_seconds: float

    @property
    def records(self) -> list[dict]:
        """stdout as output records."""
        return [json.loads(line) for line in self.out.split("\n") if line]

    def check_success(self) -> Result:
        """It ended well and no library said anything."""
        assert self.code == 0, self.err
        assert not _LIBRARY_TALK.search(self.err), self.err
        assert "error:" not in self.err
        return self

    def check_error(
        self, code: int, *says: str, where: str | None = None, out: str = "", which: str | None = None
    ) -> Result:
        """It ended with one whole error message that says all of ``says``, and nothing but ``out`` on stdout.

        With -v the message ends with the error's own code, which has to be ``which``.
        """
        assert self.code == code, f"exit code {self.code}: {self.err}"
        assert self.out == out
        assert not _LIBRARY_TALK.search(self.err), self.err
        assert len(re.findall(r"^(?:\[rank \d+\] )?error: ", self.err, re.MULTILINE)) == 1, self.err
        found = _ERROR.search(self.err)
        assert found, f"not of the form `error: ... --> ... hint: ...`:\n{self.err}"
        for text in says:
            assert text in found[0], f"{text!r} is not in:\n{found[0]}"
        if where is not None:
            assert found["where"] == where, found[0]
        assert found["code"] == which, found[0]
        return self


class Running:
    """A command under way, in a process group of its own, as a shell makes one."""

    def __init__(
        self,
        *arguments: object,
        command: list[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        preexec: Callable[[], None] | None = None,
        process_group: int | None = 0,
    ) -> None:
        self.mark = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", _MARK: self.mark, **(env or {})}

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it
            if preexec is not None:
                preexec()

        words = [*(command or [str(NEOXRUN)]), *map(str, arguments)]
        line = shlex.join([Path(words[0]).name, *words[1:]])
        self.line = line.encode(errors="backslashreplace").decode()
        self._start = time.monotonic()
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=prepare,
            process_group=process_group,
        )

    def finish(self, data: str | None = None, timeout: float = 120) -> Result:
        """Wait for the end."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            out, err = self.process.communicate(None if data is None else data.encode(), timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Result(
            self.line,
            self.process.returncode,
            (out or b"").decode(),
            err.decode(errors="replace"),
            time.monotonic() - self._start,
            cpu,
        )

    def processes(self) -> dict[int, str]:
        """Every living process that came of the command, with its command line."""
        found = {}
        mark = f"{_MARK}={self.mark}".encode()
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    if line:  # a zombie has none
                        found[int(folder.name)] = line
        return found

    def rank(self, number: int) -> int:
        """Process id of a rank that torchrun has started."""
        for process in self.processes():
            with contextlib.suppress(OSError):
                if f"RANK={number}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                    return process
        raise AssertionError(f"no rank {number} among {self.processes()}")

    def check_all_gone(self, within: float = 5) -> None:
        """No process of the command is left."""
        wait_for(lambda: not self.processes(), within, lambda: f"left behind: {self.processes()}")

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(*arguments: object, **how: Any) -> Iterator[Running]:
    """A command under way; whatever is left of it at the end is killed."""
    command = Running(*arguments, **how)
    try:
        yield command
    finally:
        command.end()
        for stream in (command.process.stdin, command.process.stdout, command.process.stderr):
            if stream is not None:
                stream.close()


def neoxrun(*arguments: object, stdin: str | None = None, timeout: float = 120, **how: Any) -> Result:
    """Run ``neoxrun`` with these arguments to its end; nothing of it may be left then."""
    if stdin is not None:
        how["stdin"] = subprocess.PIPE
    with running(*arguments, **how) as command:
        result = command.finish(stdin, timeout)
        command.check_all_gone()
        return result


def wait_for(condition: Callable[[], bool], within: float, otherwise: Callable[[], str]) -> None:
    """Poll until ``condition`` holds; fail with ``otherwise()`` when it takes too long."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.02)


def records_of(path: Path) -> list[dict]:
    """The records of an output file; every line must be whole."""
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n"), "a half-written line"
    return [json.loads(line) for line in text.split("\n") if line]


def answers_of(records: list[dict]) -> list[tuple]:
    """What two runs of the same prompts must agree in, in the order of the prompts."""
    return sorted((record["id"], record.get("sample", 0), record["context"], record["text"]) for record in records)
