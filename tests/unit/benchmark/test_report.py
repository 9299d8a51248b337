"""The table and the JSON of a report."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from neoxrun.benchmark.report import LoadResult, Report, render, to_json
from support.pages import PAGES, first_cells, section, written

TABLE = """\
20B: 20,554,567,680 parameters in fp16, weights from the page cache
tensor parallel 2 x pipeline 1, on NVIDIA H100 80GB HBM3
version 0.1.0, torch 2.11.0
matrix product 790 TFLOP/s, memory 3,000 GB/s, disk 1.5 GB/s, page cache 12 GB/s

                              measured           floor  of the floor           set by
start to ready                  14.2 s
start to first token            15.5 s
load, 41.1 GB in 5.0 s       8.22 GB/s         12 GB/s           68%       page cache
decode, 1 sequence        111 tokens/s    148 tokens/s           75%  reading weights
decode, 16 sequences    1,669 tokens/s  2,368 tokens/s           70%  reading weights
prefill, 16 x 1024 ids    25,674 ids/s    38,000 ids/s           68%  matrix products
mixed, 2 prompts        3,910 tokens/s  7,350 tokens/s           53%  matrix products

peak memory of rank 0: 71.2 GB
peak memory of rank 1: 71.1 GB
"""


def test_the_table(report: Report) -> None:
    assert render(report) == TABLE


def test_the_table_says_how_it_ran(report: Report) -> None:
    other = replace(report, eager=True, threads=2, device="AMD EPYC", load=LoadResult(2.0, 41_100_000_000, None, {}))
    lines = render(other).splitlines()
    assert lines[0].endswith("in fp16, random weights")
    assert lines[1] == "tensor parallel 2 x pipeline 1, eager, on AMD EPYC, 2 threads a rank"
    (load,) = (line.split() for line in lines if line.startswith("load"))
    assert load == ["load,", "41.1", "GB", "in", "2.0", "s", "20.6", "GB/s"]


def test_a_comparison_is_two_more_columns(report: Report) -> None:
    first, *others = report.results
    lines = render(replace(report, results=(replace(first, reference_rate=10.4), *others))).splitlines()
    (head,) = (line for line in lines if "measured" in line)
    assert head.split()[-2:] == ["transformers", "ratio"]
    assert [line.split()[-3:] for line in lines if line.startswith("decode, 1 ")] == [["10.4", "tokens/s", "10.64"]]
    assert all(line.endswith("does not fit") for line in lines if line.startswith(("decode, 16", "prefill", "mixed")))


def test_shares_below_a_tenth_have_a_digit_more(report: Report) -> None:
    slow = replace(report, load=replace(report.load, seconds=100.0))
    assert "  3.4%  " in render(slow)


def test_json_has_what_programs_rely_on(report: Report) -> None:
    values = json.loads(json.dumps(to_json(report)))
    assert [result["what"] for result in values["results"]] == ["start", "load", "decode", "decode", "prefill", "mixed"]
    start, load, decode, batch, prefill, mixed = values["results"]
    assert start == {"what": "start", "seconds": 14.24, "first_token_seconds": 15.5}
    assert load["bytes_per_second"] == load["bytes"] / load["seconds"] == 8.22e9
    assert (load["source"], load["floor_bytes_per_second"]) == ("page cache", 1.2e10)
    assert load["floor_share"] == pytest.approx(0.685)
    assert (decode["batch"], decode["tokens_per_second"], decode["floor_tokens_per_second"]) == (1, 110.7, 148.0)
    assert decode["floor_share"] == 110.7 / 148
    assert decode["floor_bound"] == "reading"
    assert batch["seconds"] == 16 / 1669, "of a step"
    assert (prefill["prompt_tokens"], prefill["seconds"]) == (16384, 16384 / 25674)
    assert (mixed["batch"], mixed["new_tokens"], mixed["seconds"]) == (2, 264, 264 / 3910)
    assert values["hardware"] == {
        "memory_bytes_per_second": 3.0e12,
        "product_operations_per_second": 7.9e14,
        "disk_bytes_per_second": 1.5e9,
        "page_cache_bytes_per_second": 1.2e10,
    }
    assert values["memory"][1] == {"rank": 1, "peak_bytes": 71_100_000_000}
    assert (values["weights"], values["tp"], values["pp"], values["eager"]) == ("checkpoint", 2, 1, False)
    assert "threads" not in values


def test_what_was_not_measured_has_no_key(report: Report) -> None:
    values = to_json(replace(report, load=LoadResult(2.0, 100, None, {})))
    assert values["weights"] == "random"
    assert values["results"][1] == {"what": "load", "seconds": 2.0, "bytes": 100, "bytes_per_second": 50.0}
    assert not any("transformers_ratio" in result for result in values["results"])
    unknown = to_json(replace(report, load=replace(report.load, source="disk", reading_rates={})))
    assert unknown["results"][1]["source"] == "disk"
    assert "floor_share" not in unknown["results"][1]


def test_the_page_has_every_key(report: Report) -> None:
    compared = replace(report, threads=2, results=(replace(report.results[0], reference_rate=5.0),))
    values = to_json(compared)
    keys = values.keys() | {key for result in values["results"] for key in result} | values["memory"][0].keys()
    keys |= values["hardware"].keys()
    assert written(first_cells(section(PAGES["docs/bench.md"], "JSON"))) == keys
