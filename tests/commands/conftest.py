from pathlib import Path

import pytest

from edgesafe.recipe import parsing, recipe

TINY = [
    "name=tiny",
    "data.train_images=400",
    "data.test_images=80",
    "train.epochs=5",
    "train.milestones=[4]",
    "recover.epochs=2",
    "recover.images=120",
    "recover.bn_images=64",
    "recover.milestones=[]",
    "compress=[{method='weight', ratios=[0.5, 0.8]}, {method='filter', ratios=[0.5]}, "
    "{method='channel', ratios=[0.3], slim_epochs=2}, {method='random', ratios=[0.5]}]",
    "evaluate.corruptions=['fog','gaussian_noise']",
    "evaluate.severities=[1,5]",
    "evaluate.images_per_cell=20",
    "evaluate.latency_runs=64",
]


@pytest.fixture(scope="session")
def tiny() -> recipe.Recipe:
    """The quickstart's data and network, made tiny, with every method: seconds."""
    return parsing.load(None, TINY)


@pytest.fixture(scope="session")
def study(tiny: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny study; do not change it."""
    from edgesafe.commands import compress

    root = tmp_path_factory.mktemp("study") / "tiny"
    compress.compress(tiny, root)
    return root
