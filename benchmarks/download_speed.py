"""``neoxrun.download`` compared with ``curl --parallel``: the same files from a server on loopback, in turns.

    python benchmarks/download_speed.py --folder /dev/shm --files 8 --megabytes 512 --rounds 3

Each side is a whole process, from start to end. neoxrun also computes the SHA-256 of every file, compares it with the
expected one, flushes to the disk and renames; curl only writes. The third side is curl followed by sha256sum of the
files, as many at a time. The server is a separate process that sends with sendfile from the page cache, in one thread
per connection. --folder should be in memory: otherwise the disk is measured. Peak memory is the process's ru_maxrss. A
ratio is the median of the rounds' ratios; next to it is the ratio of the fastest rounds, which says more when other
programs use the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

CLIENT = """
import json, sys
from pathlib import Path
from neoxrun.terminal import log
from neoxrun.download.fetch import fetch_files
from neoxrun.download.http import HttpOptions
from neoxrun.download.remote import RemoteFile
log.set_up(-1)
files = [RemoteFile(name, (url,), size, sha256) for name, url, size, sha256 in json.loads(sys.argv[1])]
fetch_files(files, Path(sys.argv[2]), jobs=int(sys.argv[3]), options=HttpOptions(), show=False)
"""


def main() -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to write")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=256, help="of each file (256)")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        source = folder / "source.bin"
        with source.open("wb") as file:
            for _ in range(args.megabytes):
                file.write(os.urandom(1 << 20))
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with serving(source) as port:
            urls = {f"file_{number}.bin": f"http://127.0.0.1:{port}/file_{number}.bin" for number in range(args.files)}
            rounds = [one_round(urls, source.stat().st_size, sha256, folder, args.jobs) for _ in range(args.rounds)]
    total = args.files * args.megabytes * (1 << 20)
    print(
        "| files | MB each | jobs | neoxrun MB/s | curl MB/s | ratio | of the fastest | curl + sha256sum MB/s ", end=""
    )
    print("| ratio | peak MB |")
    print("|---" * 10 + "|")
    rates = [total / 1e6 / statistics.median(seconds[side] for seconds in rounds) for side in range(3)]
    ratios = [statistics.median(seconds[side] / seconds[0] for seconds in rounds) for side in range(3)]
    fastest = min(seconds[1] for seconds in rounds) / min(seconds[0] for seconds in rounds)
    peak = max(seconds[3] for seconds in rounds)
    print(
        f"| {args.files} | {args.megabytes} | {args.jobs} | {rates[0]:.0f} | {rates[1]:.0f} | {ratios[1]:.2f} "
        f"| {fastest:.2f} | {rates[2]:.0f} | {ratios[2]:.2f} | {peak / 1e6:.0f} |"
    )


def one_round(
    urls: dict[str, str], size: int, sha256: str, folder: Path, jobs: int
) -> tuple[float, float, float, float]:
    """Seconds of neoxrun, of curl, and of curl and sha256sum; neoxrun's peak memory in bytes."""
    target = folder / "target"
    listed = json.dumps([(name, url, size, sha256) for name, url in urls.items()])
    measured, peak = timed([sys.executable, "-c", CLIENT, listed, str(target), str(jobs)])
    shutil.rmtree(target)
    target.mkdir()
    command = ["curl", "--silent", "--fail", "--parallel", "--parallel-max", str(jobs)]
    for name, url in urls.items():
        command += ["-o", str(target / name), url]
    reference, _ = timed(command)
    paths = "\0".join(str(target / name) for name in urls)
    checking, _ = timed(["xargs", "-0", "-n1", f"-P{jobs}", "sha256sum"], paths)
    shutil.rmtree(target)
    return measured, reference, reference + checking, peak


def timed(command: list[str], text: str = "") -> tuple[float, float]:
    """Seconds, and the process's peak memory in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


@contextlib.contextmanager
def serving(source: Path):  # noqa: ANN201
    """The port of a server, in a separate process, that answers every request with the file."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=serve, args=(source, sender), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.terminate()
        process.join()


def serve(source: Path, ready: Connection) -> None:
    """Accept connections until the process is ended."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    ready.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, source), daemon=True).start()


def answer(connection: socket.socket, source: Path) -> None:
    """Answer every request on this connection with the file."""
    size = source.stat().st_size
    with connection, connection.makefile("rb") as requests, source.open("rb") as file, contextlib.suppress(OSError):
        while requests.readline():
            while requests.readline().strip():
                pass
            header = f'HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: "1"\r\n\r\n'
            connection.sendall(header.encode())
            sent = 0
            while sent < size:
                sent += os.sendfile(connection.fileno(), file.fileno(), sent, size - sent)


if __name__ == "__main__":
    main()
