"""What the host does in a decode step on GPUs, and how long the step takes: the device must not wait for the host.

    torchrun --nproc-per-node 2 benchmarks/host_time.py 20B --batch 1

One process for each GPU, tensor parallel; the weights are random. For the leader it prints the median time of a step
and that part of it in which the host does not wait for tokens; for the others the median time of carrying out a step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.runner import Runner
from neoxrun.engine.session import Session, open_session
from neoxrun.parallel.mesh import connect_ranks

WARM_UP = 20


def main() -> None:
    """Measure, and print a line for each rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="20B")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the configuration")
    parser.add_argument("--batch", type=int, default=1, help="sequences (1)")
    parser.add_argument("--steps", type=int, default=200, help="to measure (200)")
    args = parser.parse_args()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    mesh = connect_ranks(int(os.environ.get("WORLD_SIZE", "1")), 1, 1, device)
    settings = load_settings([args.config], args.set)
    session = open_session(
        settings, mesh, precisions_for("fp16", "cuda"), random_weights=True, show_progress=False, max_context=1024
    )
    if mesh.leads:
        _lead(session, args.batch, args.steps)
    else:
        executing = _timed(Runner, "execute")
        session.replica.follow()
        print(f"rank {mesh.rank}: {1e3 * statistics.median(executing):.2f} ms to carry out a step", flush=True)
    session.close()


def _lead(session: Session, batch: int, steps: int) -> None:
    engine = session.start_engine(requests=batch, length=WARM_UP + steps + 64)
    for number in range(batch):
        params = SamplingParams(maximum_tokens=WARM_UP + steps + 16, ignore_eos=True)
        engine.add(number, [number % 100 + 2] * 32, params)
    for _ in range(WARM_UP):
        engine.step()
    waits = _timed(torch.cuda.Event, "synchronize")
    walls, hosts = [], []
    for _ in range(steps):
        waits.clear()
        start = time.perf_counter()
        engine.step()
        walls.append(time.perf_counter() - start)
        hosts.append(walls[-1] - sum(waits))
    engine.close()
    session.replica.release_followers()
    wall, host = 1e3 * statistics.median(walls), 1e3 * statistics.median(hosts)
    print(
        f"rank 0: {wall:.2f} ms a step of {batch}, of which the host works {host:.2f} ms ({host / wall:.0%}) "
        f"on {torch.cuda.get_device_name()}",
        flush=True,
    )


def _timed(owner: Any, name: str) -> list[float]:
    """Seconds of each call of a method from now on."""
    method: Callable[..., Any] = getattr(owner, name)
    seconds: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, timed)
    return seconds


if __name__ == "__main__":
    main()
