"""What a run has found, as a table for people and as JSON for programs. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from neoxrun.benchmark.cases import Case
from neoxrun.benchmark.floors import Bound, Hardware
from neoxrun.terminal.words import aligned_columns, counted, human_bytes

_BOUNDS: Final[Mapping[str, str]] = {"reading": "reading weights", "computing": "matrix products"}


@dataclass(frozen=True)
class CaseResult:
    """A case, measured.

    Attributes:
        case: what was answered.
        rate: tokens a second; ids of prompts where ``case.what`` is ``prefill``.
        floor_rate: the same in the least time that the hardware needs.
        bound: what decides that time.
        reference_rate: of transformers; None where it was not measured, or had too little memory.
    """

    case: Case
    rate: float
    floor_rate: float
    bound: Bound
    reference_rate: float | None = None

    @property
    def name(self) -> str:
        """What was measured, in words."""
        case = self.case
        if case.what == "decode":
            return f"decode, {counted(case.batch, 'sequence')}"
        if case.what == "prefill":
            return f"prefill, {case.batch} x {case.prompts[0]} ids"
        return f"mixed, {counted(case.batch, 'prompt')}"

    @property
    def unit(self) -> str:
        """What the rates count."""
        return "ids/s" if self.case.what == "prefill" else "tokens/s"

    @property
    def seconds(self) -> float:
        """Of a step of decoding; of all of another case."""
        return (self.case.batch if self.case.what == "decode" else self.case.counted) / self.rate


@dataclass(frozen=True)
class LoadResult:
    """The load, measured.

    Attributes:
        seconds: of the slowest rank.
        size: bytes of the files, or of random weights.
        source: where the files were before: ``page cache`` or ``disk``; None for random weights.
        reading_rates: bytes a second that the files are read with, from the page cache and from the disk.
    """

    seconds: float
    size: int
    source: str | None
    reading_rates: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / self.seconds

    @property
    def floor_rate(self) -> float | None:
        """Bytes a second that files are read with, from where these were; None where that is not known."""
        return None if self.source is None else self.reading_rates.get(self.source)


@dataclass(frozen=True)
class Report:
    """Everything that a run has found.

    Attributes:
        model: name of the configuration.
        parameters: of the whole model.
        dtype: number format of the weights.
        tp, pp: the split.
        device: name of the devices.
        threads: of each rank on a CPU; None on a GPU.
        versions: of neoxrun and the libraries.
        eager: without CUDA graphs.
        hardware: of one device.
        ready_seconds: from the start of the command until the model could be used.
        first_token_seconds: from the start of the command to the first token of a prompt.
        load: the load.
        results: every case.
        peaks: most memory that each rank has had, in bytes.
    """

    model: str
    parameters: int
    dtype: str
    tp: int
    pp: int
    device: str
    threads: int | None
    versions: Mapping[str, str]
    eager: bool
    hardware: Hardware
    ready_seconds: float
    first_token_seconds: float
    load: LoadResult
    results: tuple[CaseResult, ...]
    peaks: tuple[int, ...]


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values; docs/bench.md describes the keys. What was not measured has no key."""
    load = report.load
    loaded: dict[str, Any] = {
        "what": "load",
        "seconds": load.seconds,
        "bytes": load.size,
        "bytes_per_second": load.rate,
    }
    if load.source is not None:
        loaded["source"] = load.source
    if load.floor_rate is not None:
        loaded |= {"floor_bytes_per_second": load.floor_rate, "floor_share": load.rate / load.floor_rate}
    return {
        "model": report.model,
        "parameters": report.parameters,
        "weights": "random" if load.source is None else "checkpoint",
        "dtype": report.dtype,
        "tp": report.tp,
        "pp": report.pp,
        "eager": report.eager,
        "device": report.device,
        **({} if report.threads is None else {"threads": report.threads}),
        "versions": dict(report.versions),
        "hardware": {
            "memory_bytes_per_second": report.hardware.bytes_per_second,
            "product_operations_per_second": report.hardware.operations_per_second,
            **{f"{name.replace(' ', '_')}_bytes_per_second": rate for name, rate in load.reading_rates.items()},
        },
        "results": [
            {
                "what": "start",
                "seconds": report.ready_seconds,
                "first_token_seconds": report.first_token_seconds,
            },
            loaded,
            *map(_case_json, report.results),
        ],
        "memory": [{"rank": rank, "peak_bytes": peak} for rank, peak in enumerate(report.peaks)],
    }


def _case_json(result: CaseResult) -> dict[str, Any]:
    values: dict[str, Any] = {
        "what": result.case.what,
        "batch": result.case.batch,
        "prompt_tokens": sum(result.case.prompts),
        "new_tokens": sum(result.case.new),
        "seconds": result.seconds,
        "tokens_per_second": result.rate,
        "floor_tokens_per_second": result.floor_rate,
        "floor_share": result.rate / result.floor_rate,
        "floor_bound": result.bound,
    }
    if result.reference_rate is not None:
        values["transformers_tokens_per_second"] = result.reference_rate
        values["transformers_ratio"] = result.rate / result.reference_rate
    return values


def render(report: Report) -> str:
    """The report for people."""
    load, hardware = report.load, report.hardware
    weights = "random weights" if load.source is None else f"weights from the {load.source}"
    where = report.device if report.threads is None else f"{report.device}, {counted(report.threads, 'thread')} a rank"
    versions = [f"{'version' if name == 'neoxrun' else name} {number}" for name, number in report.versions.items()]
    rates = {"memory": hardware.bytes_per_second, **load.reading_rates}
    lines = [
        f"{report.model}: {report.parameters:,} parameters in {report.dtype}, {weights}",
        f"tensor parallel {report.tp} x pipeline {report.pp}{', eager' * report.eager}, on {where}",
        ", ".join(versions),
        f"matrix product {_short(hardware.operations_per_second / 1e12)} TFLOP/s, "
        + ", ".join(f"{name} {_short(rate / 1e9)} GB/s" for name, rate in rates.items()),
        "",
        aligned_columns(_rows(report), left=1),
        *(f"peak memory of rank {rank}: {human_bytes(peak)}" for rank, peak in enumerate(report.peaks)),
    ]
    return "\n".join(lines) + "\n"


def _rows(report: Report) -> list[tuple[str, ...]]:
    load = report.load
    floor = load.floor_rate
    compared = any(result.reference_rate is not None for result in report.results)
    rows = [
        ("", "measured", "floor", "of the floor", "set by"),
        ("start to ready", f"{report.ready_seconds:.1f} s"),
        ("start to first token", f"{report.first_token_seconds:.1f} s"),
        (
            f"load, {human_bytes(load.size)} in {load.seconds:.1f} s",
            f"{_short(load.rate / 1e9)} GB/s",
            *(() if floor is None else (f"{_short(floor / 1e9)} GB/s", _share(load.rate / floor), str(load.source))),
        ),
    ]
    for result in report.results:
        rows.append(
            (
                result.name,
                f"{_short(result.rate)} {result.unit}",
                f"{_short(result.floor_rate)} {result.unit}",
                _share(result.rate / result.floor_rate),
                _BOUNDS[result.bound],
            )
        )
    rows = [(*row, *[""] * (5 - len(row))) for row in rows]
    if compared:
        extra = [("transformers", "ratio"), *[("", "")] * 3, *map(_reference, report.results)]
        rows = [(*row, *more) for row, more in zip(rows, extra, strict=True)]
    return rows


def _reference(result: CaseResult) -> tuple[str, str]:
    if result.reference_rate is None:
        return "does not fit", ""
    return f"{_short(result.reference_rate)} {result.unit}", f"{result.rate / result.reference_rate:.2f}"


def _short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"
