"""The work of ``neoxrun bench`` on the ranks: the leader measures, the others follow."""

from __future__ import annotations

import json
import platform
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import IO

import torch

from neoxrun.benchmark import machine
from neoxrun.benchmark.cases import Case, cases_for, longest_sequence, warm_up
from neoxrun.benchmark.floors import Hardware, Shape, decode_step, floor_of, whole_case
from neoxrun.benchmark.measure import answer_case, median_rate
from neoxrun.benchmark.options import BenchOptions
from neoxrun.benchmark.plot import draw_report
from neoxrun.benchmark.reading import cached_share, reading_rate
from neoxrun.benchmark.reference import build_transformers, measure_reference
from neoxrun.benchmark.report import CaseResult, LoadResult, Report, render, to_json
from neoxrun.engine.engine import Engine
from neoxrun.engine.session import Session
from neoxrun.errors import Interrupted
from neoxrun.model.dtypes import device_kind
from neoxrun.parallel import mesh as meshes
from neoxrun.planning.memory import MAX_BATCH
from neoxrun.terminal.log import log
from neoxrun.terminal.progress import Bar
from neoxrun.version import __version__

_CACHED = 0.9  # of the files: what the page cache holds is not read from the disk


def run_benchmark(
    session: Session, options: BenchOptions, stdout: IO[str], show_progress: bool, announce: Callable[[], None]
) -> None:
    """Measure, as one of the ranks of the only replica.

    Args:
        session: this rank's part of the model.
        options: what to do.
        stdout: where rank 0 writes the report.
        show_progress: show a bar on stderr.
        announce: called when Ctrl-C is taken over, by rank 0.

    Raises:
        Interrupted: Ctrl-C.
        RankError: not even one sequence fits the memory.
        DataError: the plot cannot be written.
        BrokenPipeError: stdout was closed by its reader.
    """
    ready = time.time() - options.started
    loading = max(meshes.gather_from_all(session.loading_seconds))
    device = session.mesh.device
    if not session.mesh.leads:
        machine.reset_peak(device)
        session.replica.follow()
        meshes.gather_from_all(machine.peak_bytes(device))
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    announce()
    try:
        report = _measure(session, options, ready, loading, show_progress)
        stdout.write(json.dumps(to_json(report), indent=2) + "\n" if options.json else render(report))
        stdout.flush()
        if options.plot is not None:
            draw_report(report, options.plot)
            log.info(f"plot: {options.plot}")
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None


def _measure(session: Session, options: BenchOptions, ready: float, loading: float, show_progress: bool) -> Report:
    replica, mesh = session.replica, session.mesh
    stage, device = replica.stage, mesh.device
    first_token = _first_token(session, options.started)
    shape = Shape(stage.config, stage.vocab_size, stage.precisions.weights, mesh.tp, mesh.pp)
    hardware = machine.measure_hardware(device, stage.compute_dtype)
    load = _load(options, loading)
    machine.reset_peak(device)
    kind = device_kind(device)
    length = longest_sequence(kind, session.max_context)
    # One sequence by itself first: on a CPU, weights are packed for several as soon as there is room for them.
    alone = cases_for(kind, session.max_context, lambda length: 1)[0]
    engine = session.start_engine(requests=1, length=length)
    results = [_result(session, engine, alone, shape, hardware)]
    engine.close()
    replica.free_cache()
    engine = session.start_engine(requests=MAX_BATCH[kind], length=length)
    cases = cases_for(kind, session.max_context, lambda length: _fitting(session, length))
    bar = Bar(
        "measuring",
        len(cases) * (1 + options.compare),
        "case",
        show=show_progress,
        closing=lambda bar: f"measured in {bar.seconds:.0f} s",
    )
    with bar:
        bar.update()
        for case in cases[1:]:
            results.append(_result(session, engine, case, shape, hardware))
            bar.update()
        engine.close()
        replica.free_cache()
        replica.release_followers()
        peaks = meshes.gather_from_all(machine.peak_bytes(device))
        if options.compare:
            results = _compare(session, shape, results, bar)
    return Report(
        model=options.model,
        parameters=options.parameters,
        dtype=stage.precisions.weights,
        tp=mesh.tp,
        pp=mesh.pp,
        device=options.device,
        threads=torch.get_num_threads() if kind == "cpu" else None,
        versions=_versions(compared=options.compare),
        eager=options.eager,
        hardware=hardware,
        ready_seconds=ready,
        first_token_seconds=first_token,
        load=load,
        results=tuple(results),
        peaks=tuple(peaks),
    )


def _first_token(session: Session, started: float) -> float:
    """Seconds from the start of the command to the first token of the first prompt."""
    case = Case("decode", (min(32, session.max_context - 1),), (1,))
    engine = session.start_engine(requests=1, length=session.max_context)
    answer_case(engine, case, case.draw(session.replica.stage.vocab_size, seed=0))
    seconds = time.time() - started
    engine.close()
    session.replica.free_cache()  # its memory is needed to measure the hardware
    return seconds


def _load(options: BenchOptions, seconds: float) -> LoadResult:
    """The load next to how fast its files can be read now that it is over."""
    if not options.files:
        return LoadResult(seconds, options.size, None, {})
    rates = {"disk": reading_rate(options.files, direct=True)}
    if cached_share(options.files) >= _CACHED:
        rates["page cache"] = reading_rate(options.files, direct=False)
    source = "page cache" if options.cached >= _CACHED else "disk"
    return LoadResult(seconds, options.size, source, {name: rate for name, rate in rates.items() if rate is not None})


def _fitting(session: Session, length: int) -> int:
    """How many sequences of a length the cache holds."""
    runner = session.replica.runner
    return min(runner.rows, runner.pages // -(-length // runner.page_size))


def _result(session: Session, engine: Engine, case: Case, shape: Shape, hardware: Hardware) -> CaseResult:
    device = session.mesh.device
    short = warm_up(case, device_kind(device))
    answer_case(engine, short, short.draw(shape.vocab_size, seed=0))
    rate = median_rate(lambda seed: answer_case(engine, case, case.draw(shape.vocab_size, seed)))
    if case.what == "decode":
        count, effort = case.batch, decode_step(case)
    else:
        count, effort = case.counted, whole_case(case, session.replica.runner.rows)
    floor = floor_of(shape, effort, hardware)
    return CaseResult(case, rate, count / floor.seconds, floor.bound)


def _compare(session: Session, shape: Shape, results: list[CaseResult], bar: Bar) -> list[CaseResult]:
    """The results with those of transformers, whose network takes the memory of this one, which is gone afterwards."""
    stage, device = session.replica.stage, session.mesh.device
    for key, size in stage.targets().items():
        stage.assign(key, torch.empty(size, device="meta"))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    network = build_transformers(shape, device)
    compared = []
    for result in results:
        rate = measure_reference(network, result.case, shape.vocab_size, device)
        compared.append(replace(result, reference_rate=rate))
        bar.update()
    return compared


def _versions(*, compared: bool) -> dict[str, str]:
    names = ("torch", "transformers") if compared else ("torch",)
    return {"neoxrun": __version__, "Python": platform.python_version()} | {name: version(name) for name in names}
