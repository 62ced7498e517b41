"""A search's false passes: the simulation of benchmarks/search_false_pass.py, small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_false_pass.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_false_pass", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_confirmation_keeps_luck_out(simulation: ModuleType) -> None:
    """Twenty rivals, each just beyond its limit: some pass by luck in many searches, hardly any is confirmed."""
    rng = np.random.default_rng(0)
    baseline = (rng.random(4000) < 0.92).astype(float)
    flipped = rng.random(4000) < 0.06
    candidate = np.where(flipped, (rng.random(4000) < 0.7).astype(float), baseline)
    rivals = simulation.rivals_of(baseline, [candidate], 20, rng)
    rates = simulation.simulate(rivals, 200, 4000, rng)
    assert rates.search >= 0.05  # the control: without the confirmation the search would often be wrong
    assert rates.one_file <= 0.03
    assert rates.confirmed <= 0.01
