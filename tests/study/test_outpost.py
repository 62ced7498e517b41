"""What a worker sends is written where it belongs, and nowhere else."""

from pathlib import Path

import pytest
from study_records import finish_variant, study_record

from edgesafe.errors import IntegrityError
from edgesafe.study.outpost import Outpost, adopt, stages_of, variant_files
from edgesafe.study.study import read
from edgesafe.study.writer import StudyWriter

KEY, OTHER = "a" * 64, "b" * 64  # of stages


@pytest.mark.parametrize(
    "path",
    [
        "../outside", "/outside", "study.json", "no-such-variant-s0/model.onnx", "baseline-s0/../study.json",
        "baseline-s0/.hidden", "x/baseline-s0/model.onnx", ".work/../study.json", ".work/a/b/c", ".work/a", "", "//",
        "baseline-s0/model.onnx\n",
    ],
)  # fmt: skip
def test_a_path_that_is_none_of_a_study_is_refused(tmp_path: Path, path: str) -> None:
    with StudyWriter(tmp_path / "s", study_record()) as study:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(IntegrityError, match="no file of a study"):
            adopt(study, {path: b"x"})
        assert sorted(tmp_path.rglob("*")) == before


def test_what_a_worker_puts_is_sent_and_arrives_as_it_was(tmp_path: Path) -> None:
    sent: dict[str, bytes] = {}
    with StudyWriter(tmp_path / "s", study_record()) as study:
        study.put_stage("baseline-s0.train", "fit", KEY, b"state")
        known = stages_of(study.root, "baseline-s0.train")
        with Outpost(tmp_path / "w", study.record, known, sent.update) as outpost:
            assert outpost.stage("baseline-s0.train", "fit", KEY) == b"state"
            assert not sent  # what it was given is not sent back
            outpost.put_stage("baseline-s0", "recover", OTHER, b"tuned")
            outpost.put_file("baseline-s0", "model.onnx", b"onnx")
        assert sent["baseline-s0/model.onnx"] == b"onnx"
        adopt(study, sent)
        assert study.stage("baseline-s0", "recover", OTHER) == b"tuned"
        assert study.stage("baseline-s0", "recover", KEY) is None
        assert variant_files(study.root, "baseline-s0") == {"baseline-s0/model.onnx": b"onnx"}


def test_the_records_of_a_variant_are_sent_as_they_were_written(tmp_path: Path) -> None:
    sent: dict[str, bytes] = {}
    (tmp_path / "w").mkdir()
    with Outpost(tmp_path / "w", study_record(), {}, sent.update) as outpost:
        finish_variant(outpost)
        for name in ("variant.json", "measurements.json", "model.onnx", "evidence.npz"):
            assert sent[f"baseline-s0/{name}"] == (outpost.root / "baseline-s0" / name).read_bytes()


def test_a_worker_reads_a_finished_variant_that_it_was_given(done: Path, tmp_path: Path) -> None:
    sent: dict[str, bytes] = {}
    record, given = read(done).record, variant_files(done, "baseline-s0")
    (tmp_path / "w").mkdir()
    with Outpost(tmp_path / "w", record, given, sent.update) as outpost:
        assert outpost.is_done("baseline-s0")
        assert outpost.variant("baseline-s0").params == 1
    assert not sent
