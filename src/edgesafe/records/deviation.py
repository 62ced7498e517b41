"""How far lighting moves the channels of a variant's network, as variant.json holds it."""

from __future__ import annotations

from edgesafe.records.base import Record
from edgesafe.records.surgery import Calibration

__all__ = ["DeviationRecord", "LayerDeviation"]


class LayerDeviation(Record):
    """The channels of one layer."""

    name: str  #: module path of the BatchNorm, convolution or linear layer whose outputs were looked at
    relative: tuple[float, ...]  #: of each channel, E[(z' - z)^2] / Var[z], four digits; 0 for a constant channel


class DeviationRecord(Record):
    """The relative deviations of all channels that pruning could remove, on images that no ranking has seen."""

    calibration: Calibration  #: validation images, and their lightings
    layers: tuple[LayerDeviation, ...]  #: in the order of the network
