"""Which ratio of which series is tried next.

Within a series more is removed at a higher ratio, so a policy that a variant fails is failed by all that lie beyond it:
the largest ratio that passes is found by bisection. Between series, the cost of a network is known before it is
trained. A series is first tried at the smallest ratio at which it would beat the best so far; if that fails, the whole
series is done with one trial.

Pure: what a network costs and whether it passes is asked of a `Ground`. Same answers, same trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Found", "Ground", "Line", "Net", "explore"]

_GAIN = 0.001  #: a network must cost so much less than the best so far, as a share of the unpruned one's, to be tried


@dataclass(frozen=True)
class Net:
    """A network before any recovery.

    Attributes:
        cost: what is minimised, as a share of the unpruned network's.
        key: equal for networks of a series that are the same one.
    """

    cost: float
    key: str


@dataclass(frozen=True)
class Line:
    """A series with the ratios that may be tried.

    Attributes:
        label: of the series.
        ratios: rising.
        guess: position of the ratio that is tried first, if the series has no rival yet.
    """

    label: str
    ratios: tuple[float, ...]
    guess: int


class Ground(Protocol):
    """What is asked about networks. Positions are those of a line's ratios."""

    def net(self, line: Line, position: int) -> Net | None:
        """The network pruned and not recovered; None: it cannot be pruned so far."""
        ...

    def passes(self, line: Line, position: int, why: str) -> bool:
        """Whether the recovered network passes the policy: a trial."""
        ...


@dataclass(frozen=True)
class Found:
    """How a line ended.

    Attributes:
        best: the highest position that passes and costs less than what was found before; None: there is none.
        left_out: why it was not searched to the end; empty: it was.
    """

    best: int | None
    left_out: str = ""


def explore(lines: Sequence[Line], ground: Ground, told: Callable[[Line, Found], None]) -> None:
    """Search line by line, in the order given.

    Args:
        lines: the most promising first, since a good variant found early spares trials of the others.
        ground: is asked; what it raises ends the search.
        told: is told how each line ended.
    """
    best = 1.0
    for line in lines:
        search = _Bisection(line, ground)
        found = search.run(best - _GAIN, rival=best < 1.0)
        if found.best is not None and (net := ground.net(line, found.best)) is not None:
            best = min(best, net.cost)
        told(line, found)


class _Bisection:
    """The largest ratio of one line that passes."""

    def __init__(self, line: Line, ground: Ground) -> None:
        self._line, self._ground = line, ground
        self._known: dict[str, bool] = {}  # by the key of the network

    def run(self, limit: float, *, rival: bool) -> Found:
        """Search for networks that cost at most `limit`; `rival`: that is the cost of one that passes."""
        count = len(self._line.ratios)
        low = _first(count, lambda k: self._costs_more(k, limit)) - 1  # costs more than the limit, or nothing goes
        high = _first(count, lambda k: self._ground.net(self._line, k) is not None)
        if low + 1 >= high:
            return Found(None, "no ratio would cost less than the best so far" if rival else "nothing can be removed")
        best: int | None = None
        if rival:
            if not self._passes(low + 1, "the least that would beat the best so far"):
                return Found(None, "already its least ratio that would beat the best so far fails")
            best = low = low + 1
        middle = min(max(self._line.guess, low + 1), high - 1)
        while high - low > 1:
            if self._passes(middle, "bisection"):
                best = low = middle
            else:
                high = middle
            middle = (low + high) // 2
        return Found(best)

    def _passes(self, position: int, why: str) -> bool:
        net = self._ground.net(self._line, position)
        if net is None:
            return False
        if net.key not in self._known:
            self._known[net.key] = self._ground.passes(self._line, position, why)
        return self._known[net.key]

    def _costs_more(self, position: int, limit: float) -> bool:
        net = self._ground.net(self._line, position)
        return net is not None and net.cost > limit


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first position of 0..count - 1 at which `holds` is false, if it holds up to some position; by bisection."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            low = middle + 1
        else:
            high = middle
    return low
