"""Pruning to a target in MACs, parameters, bytes or milliseconds instead of to a channel ratio.

The ratio of channels is a poor handle (ResNet-18: 0.3 of the channels is half the size), so the smallest ratio that
meets the target is found by bisection. Sizes fall in steps, so a target is met from below and what was reached is
reported.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from torch import nn

from edgesafe.errors import NonFiniteError, SurgeryError, UsageError
from edgesafe.prune.context import PruneContext, PruneOutcome, require_prunable
from edgesafe.prune.structured import prune_structured
from edgesafe.recipe.sections import CompressSection
from edgesafe.surgery.rebuild import save_bytes
from edgesafe.surgery.units import channel_graph

__all__ = ["Budget", "Resource", "Solution", "bisect", "prune_to_budget"]

LOWEST, HIGHEST = 0.01, 0.99  #: channel ratios that are tried


class Resource(StrEnum):
    """The quantity of a network that a budget limits."""

    MACS = "macs"
    PARAMS = "params"
    BYTES = "bytes"  #: of model.safetensors
    LATENCY_MS = "latency_ms"  #: measured by the caller's function


@dataclass(frozen=True)
class Budget:
    """A limit on one quantity of the pruned network.

    Attributes:
        resource: what is limited.
        limit: at most this much; a fraction of the unpruned network's if `relative`.
        relative: see `limit`.
    """

    resource: Resource
    limit: float
    relative: bool = True

    def absolute(self, baseline: float) -> float:
        """The limit in the resource's unit.

        Raises:
            UsageError: it is not positive, or not below the baseline.
        """
        limit = self.limit * baseline if self.relative else self.limit
        if not math.isfinite(limit) or not 0 < limit < baseline:
            raise UsageError(
                f"a budget of {self.limit:g} {'of the baseline' if self.relative else self.resource.value} is not "
                f"between nothing and the unpruned network's {baseline:g}",
                where=f"budget.{self.resource.value}",
                fix="give a fraction in (0, 1), or an absolute value below the baseline",
            )
        return limit


@dataclass(frozen=True)
class Solution:
    """What the bisection found.

    Attributes:
        ratio: the smallest ratio tried that meets the limit.
        reached: the value there.
        tried: all (ratio, value), in the order tried.
    """

    ratio: float
    reached: float
    tried: tuple[tuple[float, float], ...]


def bisect(measure: Callable[[float], float], limit: float, *, steps: int = 10) -> Solution:
    """The smallest ratio with measure(ratio) <= limit, to (HIGHEST - LOWEST) / 2**steps.

    Args:
        measure: ratio in (0, 1) -> value, not rising with the ratio; called at most `steps` + 1 times.
        limit: the value to reach.
        steps: halvings, >= 1.

    Raises:
        SurgeryError: even the highest ratio does not reach the limit.
        NonFiniteError: a value is not finite.
        UsageError: no steps.
    """
    if steps < 1:
        raise UsageError("no steps to search with", where="steps", fix="give at least 1")
    tried: list[tuple[float, float]] = []

    def value(ratio: float) -> float:
        result = float(measure(ratio))
        if not math.isfinite(result):
            raise NonFiniteError(f"the measured value at ratio {ratio:.3f} is {result}", where="budget")
        tried.append((ratio, result))
        return result

    low, high = LOWEST, HIGHEST
    best = (high, value(high))
    if best[1] > limit:
        raise SurgeryError(
            f"even ratio {high} leaves {best[1]:g}, more than the {limit:g} asked for",
            where="budget",
            fix="raise the limit, set scope = all, or lower min_channels and round_to",
        )
    for _ in range(steps):
        middle = (low + high) / 2
        reached = value(middle)
        if reached <= limit:
            high, best = middle, (middle, reached)
        else:
            low = middle
    return Solution(best[0], best[1], tuple(tried))


def prune_to_budget(
    model: nn.Module,
    section: CompressSection,
    budget: Budget,
    context: PruneContext,
    latency_ms: Callable[[nn.Module], float] | None = None,
) -> PruneOutcome:
    """Prune with a structured method until the budget is met, and no further.

    Args:
        model: see `prune.prune`.
        section: a structured method; its ratios are not used.
        budget: the limit.
        context: see `prune.prune`.
        latency_ms: measures a network; needed for `Resource.LATENCY_MS`.

    Returns:
        The outcome; its first note says what was asked and what was reached.

    Raises:
        SurgeryError: the budget cannot be reached.
        UsageError: it is not a budget, or latency without a function to measure it.
    """
    if budget.resource is Resource.LATENCY_MS and latency_ms is None:
        raise UsageError("latency needs a function that measures it", where="budget.latency_ms", fix="give latency_ms")
    require_prunable(model, HIGHEST)
    quick = replace(context, engine=False)

    def of(network: nn.Module, outcome: PruneOutcome | None) -> float:
        if budget.resource is Resource.LATENCY_MS and latency_ms is not None:
            return latency_ms(network)
        if budget.resource is Resource.BYTES:
            return len(save_bytes(network, sparse=False))
        if budget.resource is Resource.PARAMS:
            return sum(p.numel() for p in network.parameters())
        if outcome is not None:
            return outcome.record.macs_after
        return channel_graph(copy.deepcopy(network), context.inputs()).trace.macs_total

    baseline = of(model, None)
    limit = budget.absolute(baseline)

    def measure(ratio: float) -> float:
        try:
            outcome = prune_structured(model, section, ratio, quick)
        except SurgeryError:
            if ratio == HIGHEST:
                raise
            return baseline  # so small a ratio removes nothing
        return of(outcome.model, outcome)

    solution = bisect(measure, limit)
    outcome = prune_structured(model, section, solution.ratio, context)
    note = (
        f"asked for {budget.resource.value} <= {limit:g} ({limit / baseline:.1%} of {baseline:g}); ratio "
        f"{solution.ratio:.4f} reaches {solution.reached:g} ({solution.reached / baseline:.1%}) after "
        f"{len(solution.tried)} trials"
    )
    record = outcome.record.model_copy(update={"notes": (note, *outcome.record.notes)})
    return PruneOutcome(outcome.model, record)
