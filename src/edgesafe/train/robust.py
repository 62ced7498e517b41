"""Terms of a loss that make a network steady under lighting, after Hu et al. (arXiv 2510.00083).

Of that paper only abstract, introduction and captions could be read; these formulas are a reconstruction
(docs/robust.md):

    lit           the loss of the task on one copy of each image under another lighting
    deviation     mean over layers and channels of the relative deviation, below
    wasserstein   sum over neighbouring layers of the Wasserstein-1 distance between their channels' deviations

The relative deviation of a channel is E[(z' - z)^2] / Var[z]: z are its pre-activations for the images, z' for their
lit copies, over images and positions. Scaling a channel does not change it.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor

from edgesafe.recipe.sections import RobustSection
from edgesafe.train.objective import Base, Need, Seen, Term

__all__ = ["relative_deviation", "robust_terms", "wasserstein"]

_LEAST_VARIANCE = 1e-8  # of a channel; below it counts as constant, and its deviation is measured against this


def robust_terms(section: RobustSection, base: Base) -> tuple[Term, ...]:
    """The terms of the weights that are above 0.

    Args:
        section: the weights.
        base: the loss of the task, for lit copies.
    """
    known = (
        Term("lit", section.lit, partial(_lit, base), frozenset({Need.LIT})),
        Term("deviation", section.deviation, _deviation, frozenset({Need.LIT, Need.CHANNELS})),
        Term("wasserstein", section.wasserstein, _neighbours, frozenset({Need.LIT, Need.CHANNELS})),
    )
    return tuple(term for term in known if term.weight > 0)


def _lit(base: Base, seen: Seen) -> Tensor:
    return base(seen.of_lit(), seen.targets)


def _deviation(seen: Seen) -> Tensor:
    return torch.stack([relative_deviation(*pair).mean() for pair in seen.channels]).mean()


def _neighbours(seen: Seen) -> Tensor:
    deviations = [relative_deviation(*pair) for pair in seen.channels]
    return torch.stack([wasserstein(a, b) for a, b in pairwise(deviations)]).sum()


def relative_deviation(clean: Tensor, lit: Tensor) -> Tensor:
    """Mean squared change of each channel over the variance of its clean values; differentiable.

    Args:
        clean: (n, channels, …), over images and positions.
        lit: likewise, of the lit copies.

    Returns:
        (channels,), >= 0; 0 for a channel that never changes.
    """
    over = [d for d in range(clean.dim()) if d != 1]
    change = (lit - clean).square().mean(over)
    return change / clean.var(over, unbiased=False).clamp_min(_LEAST_VARIANCE)


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance of two samples of any sizes, each value equally likely; differentiable.

    In one dimension it is the area between the two quantile functions, which are constant between the levels i / len(a)
    and j / len(b): no grid, so no bias.

    Args:
        a: float (m,), m >= 1.
        b: float (k,), k >= 1.

    Returns:
        A scalar >= 0.
    """
    width, of_a, of_b = _pieces(len(a), len(b), str(a.device))
    return (width.to(a.dtype) * (a.sort().values[of_a] - b.sort().values[of_b]).abs()).sum()


@lru_cache(maxsize=256)
def _pieces(m: int, k: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Widths, float64, of the pieces where both quantile functions are constant; positions of their values, int64.

    Levels are counted in units of 1 / lcm(m, k), as whole numbers.
    """
    whole = math.lcm(m, k)
    levels = sorted({0, *range(0, whole + 1, whole // m), *range(0, whole + 1, whole // k)})
    starts = torch.tensor(levels[:-1])
    width = torch.tensor([float(after - before) / whole for before, after in pairwise(levels)], dtype=torch.float64)
    return width.to(device), (starts // (whole // m)).to(device), (starts // (whole // k)).to(device)
