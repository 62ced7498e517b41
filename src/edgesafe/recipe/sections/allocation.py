"""How much of each layer a structured method removes."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["MEASURED", "Allocation"]


class Allocation(StrEnum):
    """How the channels that go are shared out among the layers."""

    UNIFORM = "uniform"  #: the same share of each layer, the least important of the layer
    GLOBAL = "global"  #: the least important of the network, by scores that are comparable between layers
    SENSITIVITY = "sensitivity"  #: most where narrowing a layer alone costs least loss for the MACs it saves
    LATENCY = "latency"  #: likewise for the time it saves, as timed: another host removes other channels


MEASURED = (Allocation.SENSITIVITY, Allocation.LATENCY)
"""Those that look at what narrowing each layer alone costs."""
