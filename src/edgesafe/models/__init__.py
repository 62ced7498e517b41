"""Networks: building them by name, loading their weights, rewriting shortcuts, counting parameters and MACs."""

from edgesafe.models.external import runs_code
from edgesafe.models.pretrained import find_weights
from edgesafe.models.registry import (
    ARCHITECTURES,
    Architecture,
    build,
    paper_layers,
)
from edgesafe.models.weights import load_weights

__all__ = ["ARCHITECTURES", "Architecture", "build", "find_weights", "load_weights", "paper_layers", "runs_code"]
