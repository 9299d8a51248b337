"""A plan as JSON values, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from neoxrun.errors import UsageError
from neoxrun.planning.cost import Estimate
from neoxrun.planning.decision import Forecast, MemoryRefused
from neoxrun.planning.explain import explain_notes, explain_reason
from neoxrun.planning.plan import Plan
from neoxrun.planning.refused import RefusedPlanError


def to_json(plan: Plan, more_notes: Sequence[str] = ()) -> dict[str, Any]:
    """The plan as JSON values, with further notes; docs/plan.md describes the keys."""
    return {
        "fits": True,
        "tp": plan.tp,
        "pp": plan.pp,
        "replicas": plan.replicas,
        "dtype": plan.dtype,
        "precisions": asdict(plan.precisions),
        "device_kind": plan.device_kind,
        "gpus": plan.gpus,
        "nnodes": plan.nnodes,
        "reason": explain_reason(plan),
        "notes": [*explain_notes(plan), *more_notes],
        **_forecast_json(plan.decision.forecast),
        "devices": [asdict(rank) for rank in plan.devices],
        "host_peak_bytes": plan.host_peak_bytes,
        "max_context": plan.max_context,
        "max_batch": plan.max_batch,
        "prefill_tokens": plan.prefill_tokens,
        "parameters": plan.parameters,
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "vocab_size": plan.vocab_size,
        "vocab_assumed": plan.vocab_assumed,
    }


def refusal_json(error: UsageError) -> dict[str, Any]:
    """Why there is no plan, as JSON values; docs/plan.md describes the keys."""
    refusal = error.refusal if isinstance(error, RefusedPlanError) else None
    need = refusal if isinstance(refusal, MemoryRefused) else None
    return {
        "fits": False,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "need": None
        if need is None
        else {
            "device_kind": need.kind,
            **asdict(need.split),
            "dtype": need.precision,
            "weights_bytes": need.weights_bytes,
            "context": need.context,
            "total_bytes": need.need_bytes,
            "usable_bytes": need.usable_bytes,
            "free_bytes": need.free_bytes,
        },
    }


def _forecast_json(forecast: Forecast | None) -> dict[str, Any]:
    if forecast is None:
        return {
            "work": None,
            "gpu_speed": None,
            "gpu_listed": None,
            "expected": None,
            "estimate": None,
            "alternative": None,
        }
    return {
        "work": asdict(forecast.work),
        "gpu_speed": asdict(forecast.speed),
        "gpu_listed": forecast.listed,
        "expected": [
            {"sequences": rate.sequences, "tokens_per_second": round(rate.tokens_per_second, 1)}
            for rate in forecast.rates
        ]
        or None,
        "estimate": _estimate_json(forecast.chosen),
        "alternative": forecast.other and _estimate_json(forecast.other),
    }


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return {
        **asdict(estimate.split),
        "sequences": estimate.sequences,
        "loading_seconds": round(estimate.loading, 3),
        "working_seconds": round(estimate.working, 3),
        "tokens_per_second": round(estimate.tokens_per_second, 1),
    }
