"""A study as it is read: bound as a whole, each file read once, nothing believed that was not written so."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_records import entry, study_record

from edgesafe import cli
from edgesafe.commands import gate
from edgesafe.errors import EdgesafeError, IntegrityError, NothingEvaluated, StoreError, UnknownNameError
from edgesafe.records import Role, StudyRecord, VariantStatus
from edgesafe.study import index, study, writer
from edgesafe.study.study import read

POLICY = """schema = "edgesafe.policy/1"
variants = ["bad-*"]
[[gate]]
id = "accuracy"
metric = "accuracy"
min = "90%"
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


# ------------------------------------------------------------------------------------------------------------ reading


def test_a_study_is_a_mapping_of_its_variants_in_their_order(mixed: Path) -> None:
    found = read(mixed)
    ids = ["baseline-s0", "bad-s0", "good-s0", "refused-s0", "pending-s0"]
    assert list(found) == ids
    assert len(found) == 5
    assert "bad-s0" in found
    assert "worse-s0" not in found
    assert found.get("worse-s0") is None
    assert found["good-s0"].metrics["accuracy"].estimate == 0.94
    assert [one.id for one in found.finished()] == ids[:3]
    assert set(found.records()) == set(found.measurements()) == set(ids[:3])
    assert found.samples() == b"a picture"
    found.verify()


def test_an_unknown_variant_is_an_error_of_ours_and_a_key_error(mixed: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no variant 'god-s0'.*good-s0") as caught:
        read(mixed)["god-s0"]
    assert isinstance(caught.value, KeyError)
    assert "\n" not in str(caught.value)


def test_a_variant_without_results_says_why(mixed: Path) -> None:
    found = read(mixed)
    assert found["refused-s0"].status is VariantStatus.REFUSED
    for look in (lambda v: v.metrics, lambda v: v.differences, lambda v: v.record, lambda v: v.file_bytes("x")):
        with pytest.raises(NothingEvaluated, match="refused: layer1: cannot be proven"):
            look(found["refused-s0"])
        with pytest.raises(NothingEvaluated, match=r"no results \(pending\)"):
            look(found["pending-s0"])
    found["refused-s0"].verify()


def test_a_study_is_frozen(mixed: Path) -> None:
    found = read(mixed)
    for one, name in ((found, "record"), (found["bad-s0"], "measured"), (found.record, "variants")):
        with pytest.raises((AttributeError, ValueError)):
            setattr(one, name, None)


# ------------------------------------------------------------------------------------------------------------ binding


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in a JSON document; empty tables and lists count as values."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, item in inner:
        found = True
        yield from leaves(item, (*path, key))
    if not found:
        yield path


def replaced(document: Any, path: tuple[str | int, ...], change: Callable[[Any], Any]) -> Any:
    copy = json.loads(json.dumps(document))
    node = copy
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = change(node[path[-1]])
    return copy


def other(value: Any) -> Any:
    """Another value of the same kind, which the record would accept."""
    statuses = {"pending": "done", "done": "refused", "refused": "done", "candidate": "baseline"}
    if isinstance(value, str):
        return statuses.get(value, value + "0" if value else "x")
    return value + 1 if isinstance(value, int | float) else ("x" if value is None else {"x": "y"})


def write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def test_every_single_value_of_the_index_is_bound(mixed: Path, policy: Path) -> None:
    path = mixed / "study.json"
    document = json.loads(path.read_bytes())
    write(path, document)
    read(mixed)  # the control: written again as it was, it is believed
    paths = list(leaves(document))
    assert {("name",), ("variants", 1, "status"), ("variants", 1, "role"), ("index_sha256",)} <= set(paths)
    assert len(paths) > 60
    for where in paths:
        write(path, replaced(document, where, other))
        with pytest.raises(StoreError if where == ("schema",) else IntegrityError):
            read(mixed)
    assert cli.run(["gate", str(mixed), "--policy", str(policy)]) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[:1] + entries[2:],  # the one that fails is gone
        lambda entries: [*entries[:1], entries[1] | {"status": "refused", "records": {}}, *entries[2:]],
        lambda entries: [*entries[:1], entries[1] | {"role": "baseline", "baseline": None}, *entries[2:]],
        lambda entries: [*entries[:1], entries[1] | {"records": entries[2]["records"]}, *entries[2:]],
        lambda entries: [*entries[:1], entries[1] | {"id": "worse-s0"}, *entries[2:]],
        lambda entries: [entries[0], entries[2], entries[1], *entries[3:]],
        lambda entries: [*entries, entries[2] | {"id": "new-s0"}],
    ],
    ids=["deleted", "called refused", "called baseline", "others records", "renamed", "reordered", "added"],
)
def test_a_failing_variant_cannot_be_made_to_disappear(
    mixed: Path, policy: Path, change: Callable[[list[Any]], list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gate", str(mixed), "--policy", str(policy)]
    assert cli.run(arguments) == 1  # it fails
    path = mixed / "study.json"
    document = json.loads(path.read_bytes())
    write(path, document | {"variants": change(document["variants"])})
    capsys.readouterr()
    assert cli.run(arguments) == 3
    assert "changed after it was written" in capsys.readouterr().err


@given(data=st.data())
def test_no_byte_of_the_index_can_change(data: st.DataObject) -> None:
    _, content = index.bound(study_record())
    where = Path("study.json")
    assert index.open_index(content, where) == index.bound(study_record())[0]
    at = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "remove"]))
    damaged = {
        "flip": content[:at] + bytes([content[at] ^ (1 << data.draw(st.integers(0, 7)))]) + content[at + 1 :],
        "cut": content[:at],
        "insert": content[:at] + data.draw(st.binary(min_size=1, max_size=3)) + content[at:],
        "remove": content[:at] + content[at + 1 :],
    }[kind]
    if damaged != content:
        with pytest.raises(EdgesafeError):
            index.open_index(damaged, where)


def test_a_key_that_stands_twice_is_not_believed(mixed: Path) -> None:
    path = mixed / "study.json"
    path.write_bytes(
        path.read_bytes().replace(b'"role": "candidate"', b'"role": "baseline",\n   "role": "candidate"', 1)
    )
    with pytest.raises(IntegrityError, match="digest differs"):
        read(mixed)


def test_the_reproducible_digest_is_bound_but_does_not_bind(done: Path, tmp_path: Path) -> None:
    """Equal results have equal digests; the index also says when and where."""
    before = read(done)
    with writer.StudyWriter(tmp_path / "again", study_record(edgesafe="another")) as again:
        from study_records import finish_variant

        finish_variant(again, accuracy=0.6)
        again.close_study()
    after = read(tmp_path / "again")
    assert before.digest == after.digest
    assert before.record.index_sha256 != after.record.index_sha256


def test_an_interrupted_run_leaves_a_bound_index(mixed: Path) -> None:
    assert not read(mixed).digest  # it was never closed
    write(mixed / "study.json", json.loads((mixed / "study.json").read_bytes()) | {"digest": "sha256:" + "1" * 64})
    with pytest.raises(IntegrityError):
        read(mixed)


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a..b", "", ".x", "-x", "a\nb", "a\x00b", "a b", "x" * 101, "é", "a\n"]
)
def test_names_that_could_leave_the_directory_are_refused_when_read(mixed: Path, name: str) -> None:
    """Also where somebody hashed the index again."""
    record = read(mixed).record
    for forged in (
        record.model_copy(update={"name": name}),
        record.model_copy(update={"variants": (record.variants[0].model_copy(update={"id": name}),)}),
    ):
        (mixed / "study.json").write_bytes(index.bound(forged)[1])
        with pytest.raises(StoreError, match=r"damaged at '(name|variants\.0\.id)'"):
            read(mixed)
    with pytest.raises(ValueError, match="id"):
        entry(name)
    with pytest.raises(ValueError, match="name"):
        study_record(name=name)


def test_entries_that_contradict_each_other_are_refused() -> None:
    base = entry("baseline-s0", Role.BASELINE)
    for entries, says in (
        ((base, base), "two variants are called 'baseline-s0'"),
        ((base, entry("x", baseline="y")), "'x' is compared with 'y'"),
        ((entry("x", baseline="x"),), "no baseline of the study"),
    ):
        with pytest.raises(ValueError, match=says):
            study_record(variants=entries)


# -------------------------------------------------------------------------------------------------------- other files


@pytest.mark.parametrize("name", ["variant.json", "measurements.json"])
@pytest.mark.parametrize("what", ["changed", "another's", "missing", "a folder", "cut"])
def test_records_are_those_that_were_written(mixed: Path, name: str, what: str, policy: Path) -> None:
    path = mixed / "bad-s0" / name
    content = path.read_bytes()
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(
            {"changed": content.replace(b"1", b"2"), "cut": content[:-2]}.get(what)
            or (mixed / "good-s0" / name).read_bytes()
        )
    with pytest.raises(IntegrityError, match=name):
        read(mixed)
    assert cli.run(["gate", str(mixed), "--policy", str(policy)]) == 3


@pytest.mark.parametrize("name", ["model.onnx", "evidence.npz"])
def test_large_files_are_checked_when_they_are_read_and_before_a_verdict(mixed: Path, name: str, policy: Path) -> None:
    found = read(mixed)
    path = mixed / "good-s0" / name
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(IntegrityError, match=name):
        found["good-s0"].evidence_bytes() if name == "evidence.npz" else found["good-s0"].file_bytes(name)
    with pytest.raises(IntegrityError, match=name):
        gate.judge(found, gate.GateRequest(policy))
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{name}: recorded, but"):
        found["good-s0"].verify()


def test_the_picture_is_bound_too(mixed: Path) -> None:
    (mixed / "samples.png").write_bytes(b"another picture")
    with pytest.raises(IntegrityError, match=r"samples\.png"):
        read(mixed).samples()


def test_a_variant_whose_directory_was_removed_is_made_again(mixed: Path) -> None:
    record = read(mixed).record
    shutil.rmtree(mixed / "bad-s0")
    with writer.StudyWriter(mixed, record) as again:
        assert not again.is_done("bad-s0")
        assert again.is_done("good-s0")


# --------------------------------------------------------------------------------------------------- beside a writer


def forged(root: Path) -> dict[str, bytes]:
    """The measurements of the bad variant as somebody would like them."""
    path = root / "bad-s0" / "measurements.json"
    document = json.loads(path.read_bytes())
    document["metrics"]["accuracy"] |= {"estimate": 0.99, "low": 0.98, "high": 1.0}
    return {"true": path.read_bytes(), "false": json.dumps(document, indent=1).encode()}


def test_every_file_is_read_once(mixed: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first reading each record is replaced by another: whoever reads again, reads that."""
    better, path = forged(mixed)["false"], mixed / "bad-s0" / "measurements.json"
    real, seen = study.read_bounded, []

    def reading(file: Path, *arguments: Any) -> bytes:
        content = real(file, *arguments)
        seen.append(file)
        if file == path:
            file.write_bytes(better)
        return content

    monkeypatch.setattr(study, "read_bounded", reading)
    verdict = gate.judge(read(mixed), gate.GateRequest(policy))
    assert verdict.gates[0].estimate == 0.5
    assert verdict.exit_code == 1
    assert path.read_bytes() == better  # the attack took place
    assert len(seen) == len(set(seen)) == 1 + 2 * 3


def test_beside_a_writer_nothing_passes_on_bytes_that_nobody_hashed(mixed: Path, policy: Path) -> None:
    versions, path, stop = forged(mixed), mixed / "bad-s0" / "measurements.json", threading.Event()

    def alternate() -> None:
        for content in itertools.cycle(versions.values()):
            if stop.is_set():
                return
            scratch = path.with_suffix(".new")
            scratch.write_bytes(content)
            scratch.replace(path)

    worker = threading.Thread(target=alternate)
    worker.start()
    codes: list[int] = []
    try:
        while len(codes) < 40 or (len(set(codes)) < 2 and len(codes) < 4000):
            try:
                codes.append(gate.judge(read(mixed), gate.GateRequest(policy)).exit_code)
            except IntegrityError as error:
                codes.append(error.exit_code)
    finally:
        stop.set()
        worker.join()
    assert set(codes) == {1, 3}  # it failed on the true bytes, and refused the false ones


def test_the_index_and_its_bytes_belong_together(mixed: Path) -> None:
    found = read(mixed)
    assert found.index == (mixed / "study.json").read_bytes()
    assert StudyRecord.model_validate_json(found.index) == found.record
