"""Surgery on networks: find which channels belong together, remove them, prove it, save and rebuild the result."""

from edgesafe.surgery.units import (
    ChannelGraph,
    ChannelGroup,
    ChannelUnit,
    Layer,
    channel_graph,
    keep_indices,
)

__all__ = ["ChannelGraph", "ChannelGroup", "ChannelUnit", "Layer", "channel_graph", "keep_indices"]
