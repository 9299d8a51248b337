"""A seeded storm: a tree of files fetched through at least a thousand faults, and once more with SIGKILLs.

    python benchmarks/download_storm.py --seed 4 --faults 1200

The server is real (tests/support/faulty_server.py, on loopback), the client is ``neoxrun.download.fetch`` in a separate
process. Every file meets its share of the faults before it is served correctly. At the end every byte must be right,
the folder must hold nothing else, and no file may have been sent more than necessary:

    bytes sent of a file <= its size x (1 + costly faults that it met) + 64 for each drip + lost

A costly fault makes the bytes that have arrived worthless: a wrong byte, another file under the same name, a server
that does not resume or resumes at another offset, a wrong length. A drip may lose the bytes in flight when it is given
up. ``lost`` is what was sent before a kill and had not reached the disk: it was in the sockets, at most 1 MiB for each
running file. A quarter of the files meets only cuts, stalls, dropped connections, error answers, error pages and
redirect loops: without kills, these must be sent exactly once, to the byte. The exit code is 1 if any of this does not
hold.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
JOBS = 8
IN_SOCKETS = 1 << 20

BODILESS = ("drop", "status", "html", "masked-html", "circle")
EXACT = ("cut", "cut", "cut", "stall", *BODILESS)
COSTLY = ("no-range", "bad-range", "length", "corrupt", "change")

CLIENT = """
import json, sys
from pathlib import Path
from neoxrun.terminal import log
from neoxrun.download.fetch import fetch_files
from neoxrun.download.http import HttpOptions
from neoxrun.download.remote import RemoteFile
log.set_up(-1)
files = [RemoteFile(name, (url,), size, sha256) for name, url, size, sha256 in json.load(open(sys.argv[1]))]
options = HttpOptions(tries=1000, few_tries=1000, stall_timeout=0.4, least_speed=2000, backoff=0.002, longest_wait=0.05)
fetch_files(files, Path(sys.argv[2]), jobs=int(sys.argv[3]), options=options, show=False)
"""


class Storm:
    """Which fault each request meets."""

    def __init__(self, server_module: ModuleType, seed: int, per_file: int) -> None:
        self._random = random.Random(seed)
        self._fault = server_module.Fault
        self._per_file = per_file
        self._lock = threading.Lock()
        self.known: dict[str, str] = {}
        self.spared: set[str] = set()
        self.met: dict[str, Counter[str]] = {}

    def draw(self, name: str, start: int, size: int) -> Any:
        """The next fault of a file; None once it has had its share."""
        with self._lock:
            met = self.met.setdefault(name, Counter())
            if met.total() >= self._per_file:
                return None
            # With only a few bytes left, no fault that sends some of them leaves the others to be sent.
            kinds = list(BODILESS if size - start < 100 else EXACT)
            if name not in self.spared and size - start >= 100:
                kinds += ["drip", *(kind for kind in COSTLY if self._possible(kind, name, start, size))]
            kind = self._random.choice(kinds)
            met[kind] += 1
            return self._fault(kind, self._number(kind, start, size))

    def _possible(self, kind: str, name: str, start: int, size: int) -> bool:
        """Whether this fault can happen here, and the client can notice it."""
        known, met = self.known[name], self.met[name]
        if kind in ("no-range", "bad-range"):
            return start > 0
        if kind == "change":
            return known == "nothing"
        if kind == "corrupt":
            return known != "nothing" and met["corrupt"] == 0
        return known == "all"

    def _number(self, kind: str, start: int, size: int) -> int:
        if kind == "status":
            return self._random.choice((429, 500, 502, 503, 504))
        if kind == "length":
            return self._random.choice((-7, 7, 4096))
        if kind == "corrupt":
            return self._random.randrange(size)
        if kind in ("no-range", "change"):
            return 1 + int(self._random.random() * 0.4 * size)
        return int(self._random.random() * 0.4 * (size - start))


def main() -> int:
    """Both storms, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--faults", type=int, default=1200, help="least number of faults in each storm (1200)")
    parser.add_argument("--files", type=int, default=48)
    args = parser.parse_args()
    print("| storm | files | MB | faults | kills | lost MB | sent / tree | bound / tree | exactly once | s | wrong |")
    print("|---" * 11 + "|")
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    for killing in (False, True):
        with tempfile.TemporaryDirectory() as temporary:
            failures += one_storm(args, killing, Path(temporary), kinds)
    print("\nfaults met: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def one_storm(args: argparse.Namespace, killing: bool, folder: Path, kinds: Counter[str]) -> list[str]:
    """Run one storm, print its row, and return what does not hold."""
    module = server_module()
    chance = random.Random(args.seed + killing)
    # A quarter more: a fault after a file's last byte ends the file before it has met its share.
    storm = Storm(module, args.seed + killing, -(-args.faults * 5 // (4 * args.files)))
    tree = {
        f"part_{number % 5}/file_{number:03}.bin": chance.randbytes(size_of(number, chance))
        for number in range(args.files)
    }
    start = time.monotonic()
    with module.FaultyServer(tree) as server:
        server.send_buffer = 1 << 16
        server.draw = storm.draw
        listed = []
        for number, (name, data) in enumerate(tree.items()):
            storm.known[name] = ("all", "sha256", "nothing")[number % 3]
            if number % 4 == 3:
                storm.spared.add(name)
            sha256 = None if storm.known[name] == "nothing" else hashlib.sha256(data).hexdigest()
            listed.append((name, server.link(name), len(data) if storm.known[name] == "all" else None, sha256))
        (folder / "list.json").write_text(json.dumps(listed))
        losses = run(folder, server, chance if killing else None)
        seconds = time.monotonic() - start
        wrong = check_files(server.files, folder / "target")
        sent = {name: server.sent(name) for name in tree}
    failures = list(wrong)
    kills = len(losses)
    lost = Counter[str]()
    for loss in losses:
        lost.update(loss)
        if loss.total() > JOBS * IN_SOCKETS:
            failures.append(f"a kill lost {loss.total()} bytes")
    bound = exact = 0
    for name, data in tree.items():
        met = storm.met.get(name, Counter())
        costly = sum(met[kind] for kind in COSTLY)
        most = len(data) * (1 + costly) + 64 * met["drip"] + lost[name]
        bound += most
        if sent[name] > most:
            failures.append(f"{name}: {sent[name]} bytes were sent, the bound is {most} ({dict(met)})")
        exact += name in storm.spared and sent[name] == len(data)
    if not killing and exact < len(storm.spared):
        failures.append(f"{len(storm.spared) - exact} files that met only cheap faults were not sent exactly once")
    met_all = sum((met for met in storm.met.values()), Counter[str]())
    if met_all.total() < args.faults or (killing and kills < 10):
        failures.append(f"no storm: {met_all.total()} faults, {kills} kills")
    kinds.update(met_all)
    total = sum(map(len, tree.values()))
    row = (
        "with SIGKILL" if killing else "faults only",
        len(tree),
        f"{total / 1e6:.1f}",
        met_all.total(),
        kills,
        f"{lost.total() / 1e6:.2f}",
        f"{sum(sent.values()) / total:.2f}",
        f"{bound / total:.2f}",
        f"{exact} of {len(storm.spared)}",
        f"{seconds:.0f}",
        len(wrong),
    )
    print("| " + " | ".join(map(str, row)) + " |", flush=True)
    return failures


def size_of(number: int, chance: random.Random) -> int:
    """The size of a file in bytes, from 0 to 4 MB."""
    return (0, 1, 99)[number] if number < 3 else int(10 ** chance.uniform(2, 6.6))


def run(folder: Path, server: Any, chance: random.Random | None) -> list[Counter[str]]:
    """Start the client until it is done; with ``chance``, kill it at random moments.

    Returns:
        For each kill, the bytes of each file that had been sent and had not reached the disk.
    """
    target = folder / "target"
    command = [sys.executable, "-c", CLIENT, str(folder / "list.json"), str(target), str(JOBS)]
    losses: list[Counter[str]] = []
    while len(losses) < 1000:
        before = len(server.requests)
        process = subprocess.Popen(command)
        try:
            # The interpreter takes a few tenths of a second to start.
            process.wait(None if chance is None else chance.uniform(0.2, 1.2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            server.settle()
            last = {request.path: request for request in server.requests[before:]}
            losses.append(Counter({name: missing(target / name, request) for name, request in last.items()}))
            continue
        if process.returncode == 0:
            return losses
        raise SystemExit(f"the client ended with {process.returncode}")
    raise SystemExit("the client does not finish")


def missing(path: Path, request: Any) -> int:
    """Bytes that a request sent and that are neither in the file nor in its part."""
    part = path.with_name(f".{path.name}.part")
    kept = path.stat().st_size if path.exists() else part.stat().st_size if part.exists() else 0
    return max(0, min(request.sent, request.start + request.sent - kept))


def check_files(expected: dict[str, bytes], folder: Path) -> list[str]:
    """Files that differ from the server's, and files that should not exist."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wrong = [name for name, data in expected.items() if name not in present or (folder / name).read_bytes() != data]
    return [f"{name} is wrong" for name in wrong] + [f"{name} was left" for name in present - expected.keys()]


def server_module() -> ModuleType:
    """The module tests/support/faulty_server.py, which is not in a package."""
    spec = importlib.util.spec_from_file_location("faulty_server", ROOT / "tests" / "support" / "faulty_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faulty_server"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
