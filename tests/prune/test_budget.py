"""Budgets by bisection, steps with recovery, sensitivity."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgesafe.errors import NonFiniteError, SurgeryError, UsageError
from edgesafe.prune import PruneContext
from edgesafe.prune.budget import (
    Budget,
    Resource,
    bisect,
    prune_to_budget,
)
from edgesafe.prune.schedule import prune_in_steps, sensitivity, step_ratios
from edgesafe.recipe.sections import CompressSection
from edgesafe.surgery.rebuild import save_bytes

CONTEXT = PruneContext((16, 16, 3), engine=False)


def section(**kwargs: object) -> CompressSection:
    return CompressSection(**{"method": "filter", "ratios": (0.25, 0.5), "scope": "all", **kwargs})


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


@settings(deadline=None)
@given(st.floats(0.05, 0.95), st.integers(1, 40))
def test_bisection_finds_the_smallest_ratio(limit: float, stairs: int) -> None:
    """Against a scan of a falling staircase."""

    def stair(ratio: float) -> float:
        return 1 - math.floor(ratio * stairs) / stairs

    scan = [r / 2000 for r in range(20, 1981) if stair(r / 2000) <= limit]
    if not scan or stair(0.99) > limit:
        with pytest.raises(SurgeryError, match="even ratio"):
            bisect(stair, limit)
        return
    solution = bisect(stair, limit, steps=14)
    assert solution.reached <= limit
    assert solution.reached == stair(solution.ratio)
    assert solution.ratio <= scan[0] + 1e-3
    assert len(solution.tried) == 15


def test_bisection_fails_closed() -> None:
    with pytest.raises(NonFiniteError):
        bisect(lambda _: float("nan"), 1.0)
    with pytest.raises(UsageError):
        bisect(lambda _: 0.0, 1.0, steps=0)


@pytest.mark.parametrize("resource", ["macs", "params", "bytes"])
def test_budget_is_met_and_reported(resource: str) -> None:
    model = net()
    outcome = prune_to_budget(model, section(), Budget(Resource(resource), 0.5), CONTEXT)
    record = outcome.record
    sizes = {
        "macs": record.macs_after / record.macs_before,
        "params": record.params_after / record.params_before,
        "bytes": len(save_bytes(outcome.model, sparse=False)) / len(save_bytes(model, sparse=False)),
    }
    assert 0.46 < sizes[resource] <= 0.5  # no further than needed
    assert f"asked for {resource}" in record.notes[0]


def test_absolute_latency_budget_uses_the_callers_clock() -> None:
    def clock(model: nn.Module) -> float:
        return float(model[0].out_channels)

    outcome = prune_to_budget(net(), section(), Budget(Resource.LATENCY_MS, 20.0, relative=False), CONTEXT, clock)
    assert outcome.model[0].out_channels == 20
    with pytest.raises(UsageError, match="latency_ms"):
        prune_to_budget(net(), section(), Budget(Resource.LATENCY_MS, 0.5), CONTEXT)


@pytest.mark.parametrize("limit", [0.0, 1.0, 2.0, float("nan"), -1.0])
def test_budgets_that_are_none(limit: float) -> None:
    with pytest.raises(UsageError, match="budget"):
        prune_to_budget(net(), section(), Budget(Resource.PARAMS, limit), CONTEXT)


def test_budgets_out_of_reach() -> None:
    with pytest.raises(SurgeryError, match="even ratio"):
        prune_to_budget(net(), section(min_channels=24), Budget(Resource.PARAMS, 0.1), CONTEXT)


def test_steps_multiply_to_the_whole() -> None:
    for ratio, steps in ((0.5, 1), (0.5, 3), (0.9, 7)):
        left = math.prod(1 - part for part in step_ratios(ratio, steps))
        assert left == pytest.approx(1 - ratio)
    with pytest.raises(UsageError):
        step_ratios(0.5, 0)


def test_pruning_in_steps_recovers_in_between() -> None:
    seen: list[int] = []

    def recover(model: nn.Module) -> nn.Module:
        seen.append(model[0].out_channels)
        with torch.no_grad():
            model[0].weight.add_(0.01)
        return model

    outcome = prune_in_steps(net(), section(), 0.5, CONTEXT, 3, recover)
    record = outcome.record
    assert seen == [25, 20]
    assert [(r.out_before, r.out_after) for r in record.layers[:2]] == [(32, 16), (64, 32)]
    assert record.params_before == sum(p.numel() for p in net().parameters())
    assert record.params_after == sum(p.numel() for p in outcome.model.parameters())
    assert record.proof.equivalence is not None
    assert "3 proven steps" in record.notes[0]


def test_sensitivity_of_each_layer() -> None:
    calls: list[tuple[int, int, str]] = []

    def score(model: nn.Module) -> float:
        return float(sum(m.out_channels for m in model if isinstance(m, nn.Conv2d)))

    rows = sensitivity(net(), section(), CONTEXT, score, lambda *a: calls.append(a))
    assert [(r.layer, r.ratio, r.drop) for r in rows] == [
        ("0", 0.25, 8.0),
        ("0", 0.5, 16.0),
        ("3", 0.25, 16.0),
        ("3", 0.5, 32.0),
    ]
    assert all(0 < r.macs < 1 for r in rows)
    assert [c[:2] for c in calls] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    with pytest.raises(NonFiniteError):
        sensitivity(net(), section(), CONTEXT, lambda _: float("nan"))
    with pytest.raises(SurgeryError, match="round_to"):
        sensitivity(net(), section(round_to=128), CONTEXT, score)
