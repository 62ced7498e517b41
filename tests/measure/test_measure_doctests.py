"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

MODULES = ("intervals.bounds", "metrics.calibration", "pooling", "sampling.draw")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"edgesafe.measure.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_page_about_sampling_runs() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "sampling.md"
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted == 6
    assert found.failed == 0
