"""How far lighting moves the channels of a network that is to be shipped: what the report shows before and after.

Measured on validation images, which no ranking and no training has seen, under lightings of their own: channels that
were kept because they look steady on the calibration images would look steadier there than they are.
"""

from __future__ import annotations

import torch
from torch import nn

from edgesafe.errors import SurgeryError
from edgesafe.prune import PruneContext
from edgesafe.prune.deviations import deviations, spots
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import DataBundle, DeviationRecord, LayerDeviation
from edgesafe.stages.lighting import unseen_lighting
from edgesafe.surgery.units import channel_graph

__all__ = ["deviation_of"]


def deviation_of(model: nn.Module, bundle: DataBundle, section: CompressSection, seed: int) -> DeviationRecord | None:
    """The relative deviation of every channel that belongs to a removable group.

    Args:
        model: in eval mode it is run as it is; not modified.
        bundle: the data.
        section: ranks by lighting: lightings, images and draws are as many as it says.
        seed: of the choice of images and of the draws, the same for all variants of a seed.

    Returns:
        None if the structure of the network cannot be told; the variants that are ranked by lighting are then refused
        with the reason.

    Raises:
        NonFiniteError: a pre-activation is not finite.
    """
    height, width, channels = bundle.test.images.shape[1:]
    try:
        graph = channel_graph(model, PruneContext((height, width, channels)).inputs())
        places = dict.fromkeys(spot for group in graph.groups for spot in spots(model, graph, group))
        if not places:
            return None
        lighting = unseen_lighting(bundle, section, seed)
        found = deviations(model, places, lighting)
    except SurgeryError:
        return None
    order = {name: k for k, (name, _) in enumerate(model.named_parameters())}
    layers = tuple(
        LayerDeviation(name=spot.tensor.rpartition(".")[0], relative=_rounded(found[spot].relative))
        for spot in sorted(places, key=lambda spot: order.get(spot.tensor, len(order)))
    )
    return DeviationRecord(calibration=lighting.calibration, layers=layers)


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values.tolist())
