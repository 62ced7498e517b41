import errno
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_records import SHA, entry, finish_variant, study_record

from edgesafe import files
from edgesafe.errors import (
    EdgesafeError,
    ExitCode,
    IntegrityError,
    NothingEvaluated,
    StoreError,
    WorkerError,
)
from edgesafe.records import (
    Role,
)
from edgesafe.study import host, writer
from edgesafe.study.study import read as open_study


def test_a_study_reads_back_as_it_was_written(done: Path) -> None:
    study = open_study(done)
    assert [one.id for one in study.finished()] == ["baseline-s0"]
    assert study.record.digest.startswith("sha256:")
    assert study["baseline-s0"].record.params == 1
    assert study["baseline-s0"].file_bytes("model.onnx") == b"onnx bytes"
    assert study["baseline-s0"].evidence_bytes() == b"evidence bytes"
    assert study["baseline-s0"].certificates_bytes() is None
    study["baseline-s0"].verify()
    assert not (done / ".work").exists()


def test_a_directory_of_which_nothing_came_is_removed_again(tmp_path: Path) -> None:
    def refused(root: Path, *before: str) -> None:
        with pytest.raises(StoreError, match="contract"), writer.StudyWriter(root, study_record()) as study:
            study.put_samples(b"a picture")
            for owner in before:
                study.put_stage(owner, "fit", "key", b"state")
            raise StoreError("refused by its contract")

    refused(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    refused(tmp_path / "begun", "baseline-s0")  # work that another run goes on with
    assert (tmp_path / "begun" / "study.json").is_file()
    (tmp_path / "theirs").mkdir()
    refused(tmp_path / "theirs")
    assert (tmp_path / "theirs").is_dir()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"a": [1, 2]}, {"a": [1, 3]}, "a.1: 2 before, 3 now"),
        ({"a": [1]}, {"a": [1, 2]}, "a: [1] before, [1, 2] now"),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c: 2 before, 3 now"),
    ],
)  # fmt: skip
def test_the_first_difference_of_two_recipes_is_told(old: dict, new: dict, told: str) -> None:
    assert writer._first_difference(old, new) == told


def test_the_cpu_is_told_by_its_model_name(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "processor\t: 0\nvendor_id\t: V\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: A CPU @ 2 GHz\nstepping\t: 8\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: lines)
    assert host._cpu() == "A CPU @ 2 GHz"


def test_a_directory_that_was_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert host.version() == "unknown"
    assert host.host().versions == {}


def kept_aside(root: Path, content: bytes) -> Path:
    """As a process leaves it that is killed while it replaces measurements.json: old file aside, new one there."""
    kept = root / ".work" / "baseline-s0" / "previous"
    kept.mkdir(parents=True)
    for name in ("variant.json", "measurements.json"):
        (kept / name).write_bytes((root / "baseline-s0" / name).read_bytes())
    (kept / "measurements.json").write_bytes(content)
    (root / "baseline-s0" / "measurements.json").write_bytes(b"half of a new one")
    return kept


def test_a_file_that_was_being_replaced_is_put_back(done: Path) -> None:
    whole = (done / "baseline-s0" / "measurements.json").read_bytes()
    kept = kept_aside(done, whole)
    with writer.StudyWriter(done, study_record()) as study:
        assert study.is_done("baseline-s0")
    assert (done / "baseline-s0" / "measurements.json").read_bytes() == whole
    assert not kept.exists()


def test_a_file_that_nobody_hashed_is_not_put_back(done: Path) -> None:
    kept_aside(done, b"another")
    with writer.StudyWriter(done, study_record()), pytest.raises(IntegrityError, match="changed after it was measured"):
        open_study(done)
    assert (done / "baseline-s0" / "measurements.json").read_bytes() == b"half of a new one"


def test_a_name_given_twice_among_many_is_found_at_once() -> None:
    entries = (*(entry(f"v{k}") for k in range(20_000)), entry("v7"))  # compared pair by pair it would take seconds
    with pytest.raises(ValueError, match="two variants are called 'v7'"):
        study_record(variants=entries)


def test_a_finished_study_is_opened_again_and_nothing_changes(done: Path) -> None:
    before = (done / "study.json").read_bytes()
    with writer.StudyWriter(done, study_record()) as study:
        assert study.is_done("baseline-s0")
    assert (done / "study.json").read_bytes() == before


@pytest.mark.parametrize("name", ["model.onnx", "evidence.npz", "measurements.json", "variant.json"])
def test_a_file_edited_after_measuring_is_refused(done: Path, name: str) -> None:
    path = done / "baseline-s0" / name
    path.write_bytes(path.read_bytes() + b"x")
    with writer.StudyWriter(done, study_record()) as study, pytest.raises(IntegrityError, match="hash differs"):
        study.is_done("baseline-s0")
    if name == "model.onnx":
        with pytest.raises(IntegrityError, match=r"model\.onnx"):
            open_study(done).verify()


def test_numbers_of_another_file_are_refused(tmp_path: Path) -> None:
    with writer.StudyWriter(tmp_path / "s", study_record()) as study, pytest.raises(IntegrityError, match="another f"):
        finish_variant(study, measured=SHA)
    assert open_study(tmp_path / "s")["baseline-s0"].status == "pending"


def test_another_recipe_in_the_same_directory_is_an_error_that_names_the_key(done: Path) -> None:
    other = study_record(recipe={"name": "s", "recover": {"epochs": 2}}, recipe_sha256="sha256:" + "1" * 64)
    with pytest.raises(StoreError, match=r"recover\.epochs: 1 before, 2 now.*--fresh"):
        writer.StudyWriter(done, other)
    assert [one.id for one in open_study(done).finished()] == ["baseline-s0"]  # nothing was lost


def test_a_first_try_that_made_nothing_binds_nobody(tmp_path: Path) -> None:
    with writer.StudyWriter(tmp_path / "s", study_record()):
        pass
    other = study_record(recipe_sha256="sha256:" + "1" * 64, inputs={"weights": "sha256:" + "2" * 64})
    with writer.StudyWriter(tmp_path / "s", other) as study:
        assert study.record.recipe_sha256 == other.recipe_sha256
        study.put_stage("v", "fit", files.stage_key(a=1), b"an hour of training")
    with pytest.raises(StoreError, match="another recipe"):
        writer.StudyWriter(tmp_path / "s", study_record())


def test_changed_inputs_are_refused(done: Path) -> None:
    with pytest.raises(IntegrityError, match="weights"):
        writer.StudyWriter(done, study_record(inputs={"weights": "sha256:" + "2" * 64}))
    data = study_record().data.model_copy(update={"test_sha256": "sha256:" + "2" * 64})
    with pytest.raises(IntegrityError, match="test_sha256"):
        writer.StudyWriter(done, study_record(data=data))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a edgesafe.study/2 file"),
        (b'{"schema": "edgesafe.study/3"}', "another version"),
        (b'{"schema": "other/1"}', "not a edgesafe.study/2 file"),
    ],
)
def test_a_study_file_that_is_not_ours(done: Path, content: bytes, says: str) -> None:
    (done / "study.json").write_bytes(content)
    for opened in (lambda: open_study(done), lambda: writer.StudyWriter(done, study_record())):
        with pytest.raises(StoreError, match=says) as caught:
            opened()
        assert caught.value.exit_code == ExitCode.USAGE
    assert (done / "study.json").read_bytes() == content


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"not empty.*thesis\.tex"):
        writer.StudyWriter(tmp_path, study_record())
    assert {p.name for p in tmp_path.iterdir()} <= {"thesis.tex", ".lock"}


def test_fresh_moves_the_old_study_aside(done: Path) -> None:
    assert writer.set_aside(done) == done.with_name("study.1")
    assert open_study(done.with_name("study.1")).finished()
    assert writer.set_aside(done) is None
    done.mkdir()
    assert writer.set_aside(done) == done.with_name("study.2")


def test_no_study_and_no_finished_variant(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no study here"):
        open_study(tmp_path)
    with writer.StudyWriter(tmp_path / "s", study_record()), pytest.raises(NothingEvaluated):
        open_study(tmp_path / "s").finished()


def test_one_process_at_a_time(done: Path) -> None:
    with writer.StudyWriter(done, study_record()):
        code = "import sys, pathlib, edgesafe.study.writer as w; w.set_aside(pathlib.Path(sys.argv[1]))"
        second = subprocess.run([sys.executable, "-c", code, str(done)], capture_output=True, text=True, check=False)
        assert "another process" in second.stderr
        with pytest.raises(StoreError, match="another process"):
            writer.StudyWriter(done, study_record())


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_a_disk_that_cannot_be_written_is_one_helpful_line(
    done: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file()}

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with writer.StudyWriter(done, study_record()) as study:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match=says) as caught:
            study.put_file("baseline-s0", "model.onnx", b"new")
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in done.rglob("*") if p.is_file()} == before  # nothing lost, no litter


def test_a_path_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="choose another"):
        writer.StudyWriter(tmp_path / "file" / "study", study_record())
    with pytest.raises(StoreError):
        files.atomic_write(tmp_path / "file" / "x", b"")


@given(payload=st.binary(max_size=200), cut=st.integers(0, 400), flip=st.integers(0, 399))
def test_a_stage_is_found_whole_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes, cut: int, flip: int
) -> None:
    root = tmp_path_factory.mktemp("s") / "study"
    with writer.StudyWriter(root, study_record()) as study:
        key = files.stage_key(a=1)
        study.put_stage("v", "fit", key, payload)
        assert study.stage("v", "fit", key) == payload
        assert study.stage("v", "fit", files.stage_key(a=2)) is None
        assert study.stage("v", "other", key) is None
        path = root / ".work" / "v" / "fit"
        whole = path.read_bytes()
        if cut < len(whole):
            path.write_bytes(whole[:cut])
            assert study.stage("v", "fit", key) is None
        if flip < len(whole):
            path.write_bytes(whole[:flip] + bytes([whole[flip] ^ 1]) + whole[flip + 1 :])
            assert study.stage("v", "fit", key) is None
        study.drop_stages("v")
        assert study.stage("v", "fit", key) is None


def test_refused_variants_say_why_and_a_changed_digest_shows(tmp_path: Path) -> None:
    entries = (entry("baseline-s0", Role.BASELINE), entry("x"))
    with writer.StudyWriter(tmp_path / "s", study_record(variants=entries)) as study:
        finish_variant(study)
        study.refuse("x", "because")
        first = study.close_study()
        study.put_file("baseline-s0", "model.onnx", b"other")
        study.finish("baseline-s0")
        assert study.close_study() != first
    refused = open_study(tmp_path / "s")["x"].entry
    assert (refused.status, refused.reason) == ("refused", "because")


def test_every_error_is_one_line_with_an_exit_code() -> None:
    def all_of(kind: type[EdgesafeError]) -> list[type[EdgesafeError]]:
        return [kind, *(k for sub in kind.__subclasses__() for k in all_of(sub))]

    kinds = all_of(EdgesafeError)[1:]
    assert len(kinds) >= 12
    for kind in kinds:
        error = kind("what\n happened", where="file", fix="do that")
        assert str(error) == "file: what happened; do that"
        assert error.exit_code in ({70} if kind is WorkerError else {3, 4, 5})  # a crash beside us is internal


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"seeds": [0, 1]}, {"seeds": [0, 2]}, "seeds.1: 1 before, 2 now"),
        ({"seeds": [0, 1]}, {"seeds": [0, 1, 2]}, "seeds: [0, 1] before, [0, 1, 2] now"),
        ({"train": {"epochs": 3}}, {"train": {"epochs": 4}}, "train.epochs: 3 before, 4 now"),
        ({"name": "a", "compress": [{"ratio": 0.3}]}, {"name": "b", "compress": [{"ratio": 0.5}]},
         "compress.0.ratio: 0.3 before, 0.5 now"),
    ],
)  # fmt: skip
def test_the_first_difference_of_two_recipes_is_told_by_its_place(old: object, new: object, told: str) -> None:
    assert writer._first_difference(old, new) == told
