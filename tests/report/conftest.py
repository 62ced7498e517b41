from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic import Plan, study

from edgesafe.report import ReportFiles, StudyView, build


@pytest.fixture(scope="session")
def view() -> StudyView:
    return study(Plan(n=800, per_cell=120))


@pytest.fixture(scope="session")
def files(view: StudyView) -> ReportFiles:
    return build(view)
