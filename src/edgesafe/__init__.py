"""edgesafe: make a trained CNN small, export it, and prove on the exported file that it is still safe to ship.

    import edgesafe
    study   = edgesafe.compress("recipe.toml", progress=True)       # needs edgesafe[compress]
    study["filter-r0.50-s0"].metrics["accuracy"].estimate
    verdict = study.gate("release.toml")
    page    = study.report()
    study   = edgesafe.Study("export/resnet20")                     # one that is there
    net     = edgesafe.load("export/resnet20/filter-r0.50-s0")

Importing edgesafe imports neither torch nor onnxruntime nor numpy. See docs/python.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgesafe.api import Study, certify, compress, evaluate, gate, load
from edgesafe.errors import (
    DataError,
    EdgesafeError,
    ExitCode,
    IntegrityError,
    NonFiniteError,
    NothingEvaluated,
    ParityError,
    PolicyError,
    RecipeError,
    RefusedError,
    StoreError,
    SurgeryError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from edgesafe.records import (
    Comparison,
    GateResult,
    GateStatus,
    Measurement,
    Unit,
    VariantStatus,
    Verdict,
)
from edgesafe.study.study import Variant

__all__ = [
    "Comparison",
    "DataError",
    "EdgesafeError",
    "ExitCode",
    "GateResult",
    "GateStatus",
    "IntegrityError",
    "Measurement",
    "NonFiniteError",
    "NothingEvaluated",
    "ParityError",
    "PolicyError",
    "RecipeError",
    "RefusedError",
    "StoreError",
    "Study",
    "SurgeryError",
    "Unit",
    "UnknownNameError",
    "UsageError",
    "Variant",
    "VariantStatus",
    "Verdict",
    "WeightsError",
    "__version__",
    "certify",
    "compress",
    "evaluate",
    "gate",
    "load",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, looked up when it is asked for: reading an installation's metadata takes time."""
        if name == "__version__":
            from edgesafe.study.host import version

            return version()
        raise AttributeError(f"module 'edgesafe' has no attribute '{name}'")
