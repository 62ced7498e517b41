"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("intervals.bounds", "metrics.calibration", "pooling", "sampling.draw")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"edgesafe.measure.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
