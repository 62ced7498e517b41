from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from study_records import entry, finish_variant, study_record

from edgesafe import files
from edgesafe.records import Role
from edgesafe.study import writer


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A study of one finished baseline."""
    root = tmp_path / "study"
    with writer.StudyWriter(root, study_record()) as study:
        study.put_stage("baseline-s0", "x", files.stage_key(x=1), b"state")
        finish_variant(study)
        study.close_study()
    return root


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A study of a baseline, a bad and a good candidate, a refused one and one that is not made yet."""
    names = ("bad-s0", "good-s0", "refused-s0", "pending-s0")
    entries = (entry("baseline-s0", Role.BASELINE), *(entry(name, baseline="baseline-s0") for name in names))
    root = tmp_path / "mixed"
    with writer.StudyWriter(root, study_record(variants=entries)) as study:
        study.put_samples(b"a picture")
        for name, accuracy in (("baseline-s0", 0.95), ("bad-s0", 0.5), ("good-s0", 0.94)):
            finish_variant(study, name, accuracy=accuracy)
        study.refuse("refused-s0", "layer1: cannot be proven")
    return root
