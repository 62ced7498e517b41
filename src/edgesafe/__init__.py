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

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesafe.api import Study, certify, compress, evaluate, gate, load, search
    from edgesafe.errors import (
        DataError,
        DeviceDropped,
        DeviceError,
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
        WorkerError,
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

    __version__: str

__all__ = [
    "Comparison",
    "DataError",
    "DeviceDropped",
    "DeviceError",
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
    "WorkerError",
    "__version__",
    "certify",
    "compress",
    "evaluate",
    "gate",
    "load",
    "search",
]

_PLACES = {
    "edgesafe.api": ("Study", "certify", "compress", "evaluate", "gate", "load", "search"),
    "edgesafe.errors": (
        "DataError", "DeviceDropped", "DeviceError", "EdgesafeError", "ExitCode", "IntegrityError", "NonFiniteError",
        "NothingEvaluated", "ParityError", "PolicyError", "RecipeError", "RefusedError", "StoreError", "SurgeryError",
        "UnknownNameError", "UsageError", "WeightsError", "WorkerError",
    ),
    "edgesafe.records": (
        "Comparison", "GateResult", "GateStatus", "Measurement", "Unit", "VariantStatus", "Verdict",
    ),
    "edgesafe.study.study": ("Variant",),
}  # fmt: skip
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

if not TYPE_CHECKING:  # a type checker is to see exactly the names above

    def __getattr__(name: str) -> object:
        """A public name, imported when it is first asked for, so that a command handles signals before it imports."""
        if name == "__version__":
            from edgesafe.study.host import version

            return version()
        if name not in _MODULES:
            raise AttributeError(f"module 'edgesafe' has no attribute '{name}'")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """The public names, also those that were not imported yet."""
        return sorted({*globals(), *__all__})
