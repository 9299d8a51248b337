"""`neoxrun bench` on GPUs: rates below their floors, and graphs that make a small model faster."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from support.command import neoxrun

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible")


def measured(*arguments: object, gpus: str = "0") -> dict[str, Any]:
    words = ("bench", "pythia-410m", "--random-weights", "--device", "cuda", "--json", *arguments)
    report = json.loads(neoxrun(*words, env={"CUDA_VISIBLE_DEVICES": gpus}, timeout=250).check_success().out)
    print(json.dumps(report, indent=2))
    return report


def rates(report: dict[str, Any]) -> dict[tuple[str, int], float]:
    cases = report["results"][2:]
    assert all(0.01 < case["floor_share"] < 1.05 for case in cases)
    assert [case["what"] for case in cases] == ["decode"] * 4 + ["prefill", "mixed"]
    return {(case["what"], case["batch"]): case["tokens_per_second"] for case in cases}


@pytest.mark.timeout(600)
def test_graphs_make_one_sequence_faster() -> None:
    with_graphs, eager = measured(), measured("--eager")
    assert (with_graphs["eager"], eager["eager"]) == (False, True)
    assert rates(with_graphs)["decode", 1] > 1.5 * rates(eager)["decode", 1]
    assert with_graphs["hardware"]["memory_bytes_per_second"] > 1e11
    (memory,) = with_graphs["memory"]
    assert 8e8 < memory["peak_bytes"] < torch.cuda.mem_get_info(0)[1]


def test_compared_with_transformers() -> None:
    pytest.importorskip("transformers", reason="transformers is what is measured")
    cases = measured("--compare", "transformers")["results"][2:]
    assert cases[0]["transformers_ratio"] > 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus() -> None:
    report = measured("--tp", "2", gpus="0,1")
    assert rates(report)
    assert [one["rank"] for one in report["memory"]] == [0, 1]
