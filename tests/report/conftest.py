from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from report_synthetic import Plan, study

from edgesafe.report import ReportFiles, View, build


@pytest.fixture(scope="session")
def view() -> View:
    return study(Plan(n=800, per_cell=120))


@pytest.fixture(scope="session")
def files(view: View) -> ReportFiles:
    return build(view)


@pytest.fixture(scope="session")
def small() -> View:
    """Two variants, one corruption, four layers: quick to build."""
    return study(Plan(variants=(("weight", 0.5), ("filter", 0.5)), n=200, per_cell=40, corruptions=("fog",), layers=4))
