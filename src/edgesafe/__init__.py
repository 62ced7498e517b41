"""edgesafe: make a trained CNN small, export it, and prove on the exported file that it is still safe to ship.

    import edgesafe
    study   = edgesafe.compress("recipe.toml")              # needs edgesafe[compress]
    verdict = edgesafe.gate("export/resnet20", "release.toml")
    net     = edgesafe.load("export/resnet20/filter-r0.50-s0")

Importing edgesafe imports neither torch nor onnxruntime.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from edgesafe.records import Verdict
    from edgesafe.study.study import Study

__all__ = ["__version__", "compress", "evaluate", "gate", "load"]

__version__ = metadata.version("edgesafe")


def compress(recipe: str | Path | None = None, out: str | Path | None = None, **overrides: Any) -> Study:
    """Run a study, or go on with one (the command `edgesafe compress`).

    Args:
        recipe: path of a recipe; None: the quickstart.
        out: study directory; None: export/<name>.
        **overrides: recipe keys, with "__" for the dot: `recover__epochs=2`, `compress__0__ratios=[0.3]`.

    Raises:
        EdgesafeError: see `edgesafe.errors`.
    """
    from edgesafe.commands import compress
    from edgesafe.recipe import parsing as recipes
    from edgesafe.recipe import toml

    items = [f"{key.replace('__', '.')}={toml.toml_value(value)}" for key, value in overrides.items()]
    resolved = recipes.load(Path(recipe) if recipe is not None else None, items)
    return compress.compress(resolved, Path(out) if out is not None else Path("export") / resolved.name)


def load(variant_dir: str | Path) -> nn.Module:
    """Rebuild a variant's network from its safetensors: bit-exact, no pickle, no torch-pruning.

    Raises:
        EdgesafeError: the directory is not a variant, or a file is damaged.
    """
    from edgesafe.surgery import rebuild

    return rebuild.load_variant(Path(variant_dir))


def evaluate(
    model: str | Path, data: str, out: str | Path, *, baseline: str | Path | None = None, root: str = "data"
) -> Study:
    """Audit an ONNX classifier (the command `edgesafe evaluate`).

    Raises:
        EdgesafeError: see `edgesafe.errors`.
    """
    from edgesafe.commands import evaluate

    request = evaluate.Request(Path(model), Path(baseline) if baseline is not None else None, data, root)
    return evaluate.evaluate(request, Path(out))


def gate(study: str | Path, policy: str | Path, *variants: str, baseline: str | None = None) -> Verdict:
    """Decide a study against a policy (the command `edgesafe gate`); needs neither torch nor onnxruntime.

    Raises:
        EdgesafeError: see `edgesafe.errors`. A failed gate is a verdict, not an error.
    """
    from edgesafe.commands import gate
    from edgesafe.study.study import read

    return gate.judge(read(Path(study)), gate.Request(Path(policy), variants, baseline))
