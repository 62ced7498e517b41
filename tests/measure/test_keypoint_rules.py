"""Keypoints: margins, answers and evidence, held against definitions written out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from edgesafe import metrics
from edgesafe.errors import DataError, RefusedError
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.sampling import draw
from edgesafe.measure.summary import compare, summarise
from edgesafe.measure.tasks import rules_of
from edgesafe.records import Evidence, Provenance, Sample, SampleDesign, Task, TaskKind

TASK = Task.keypoints(("a", "b", "c"), 2.0, (20, 40), (0, 2, 1))
RULES = rules_of(TASK)
KEYS = [("fog", 1), ("fog", 5), ("snow", 5)]


def outputs(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Places in px as a network for images of 20x40 px puts them out."""
    return (points / np.array([40.0, 20.0])).reshape(len(points), -1).astype(np.float32)


def answered(seed: int, n: int = 400, spread: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    labels = rng.uniform(3, 17, (n, 3, 2)).astype(np.float32)
    return outputs(labels + rng.normal(0, spread, labels.shape)), labels


def evidence(seed: int, spread: float, n: int = 400) -> Evidence:
    rng, index = np.random.default_rng(99), np.arange(n)
    labels = rng.uniform(3, 17, (n, 3, 2)).astype(np.float32)

    def seen(k: int) -> NDArray[np.float32]:
        noise = np.random.default_rng(k).normal(0, 1, labels.shape) + np.random.default_rng(seed).normal(0, 0.2)
        return outputs(labels + spread * noise)

    cells = {key: RULES.cell(seen(k + 1), labels, index, *key) for k, key in enumerate(KEYS)}
    origin = Provenance(test_sha256="sha256:t", onnx_sha256=f"sha256:{seed}")
    return Evidence(RULES.cell(seen(0), labels, index), seen(0), origin, cells, TASK)


@given(st.lists(st.tuples(*[st.floats(0.0, 6.0)] * 3), min_size=1, max_size=8))
def test_right_is_a_positive_margin_is_every_keypoint_within_the_tolerance(distances: list[tuple[float, ...]]) -> None:
    labels = np.full((len(distances), 3, 2), 8.0, np.float32)
    moved = labels + np.stack([np.array(distances), np.zeros((len(distances), 3))], axis=2)
    cell = RULES.cell(outputs(moved), labels, np.arange(len(distances)))
    assert cell.errors is not None
    assert cell.errors == pytest.approx(np.array(distances), abs=1e-4)
    right = (cell.errors < 2.0).all(axis=1)
    assert ((cell.margin > 0) == right).all()
    assert ((cell.prediction == cell.label) == right).all()
    for row, bits in enumerate(cell.prediction.tolist()):
        assert [bool(bits >> k & 1) for k in range(3)] == (cell.errors[row] < 2.0).tolist()
    assert (RULES.margins(outputs(moved), labels) == cell.margin).all()
    assert (RULES.answers(outputs(moved), labels) == cell.prediction).all()


def test_evidence_comes_back_as_it_was_and_says_its_task() -> None:
    before = evidence(1, 1.0)
    content = evidence_files.to_bytes(before)
    after = evidence_files.from_bytes(content)
    assert after.task == TASK
    assert (after.cells["fog", 5].errors == before.cells["fog", 5].errors).all()
    assert evidence_files.to_bytes(after) == content


def test_evidence_that_contradicts_itself_is_refused() -> None:
    good = evidence(1, 1.0)
    assert good.clean.errors is not None
    for change in (
        {"prediction": good.clean.prediction ^ 1},
        {"margin": good.clean.margin + 1e-9},
        {"errors": good.clean.errors[:, :2]},
        {"errors": None},
    ):
        with pytest.raises(DataError):
            evidence_files.to_bytes(dataclasses.replace(good, clean=dataclasses.replace(good.clean, **change)))


def test_every_number_is_in_the_catalogue_for_keypoints_and_none_is_of_calibration() -> None:
    found = summarise(evidence(1, 1.0), population="test")
    assert {"accuracy", "mpc", "pck@1", "pck@2", "pck@3", "error.mean_px", "pck@2.corruption.fog"} <= set(found)
    for metric, value in found.items():
        assert TaskKind.KEYPOINTS in metrics.get(metric).tasks
        assert metrics.get(metric).unit is value.unit
    assert [m for m in metrics.known() if m.startswith("ece") and TaskKind.KEYPOINTS in metrics.get(m).tasks] == []


def test_differences_are_paired_by_image() -> None:
    worse, better = evidence(1, 1.6), evidence(2, 1.0)
    found = compare(worse, better)
    for metric, values in {"pck@2": lambda e: (e < 2).mean(1), "error.mean_px": lambda e: e.mean(1)}.items():
        a, b = values(worse.clean.errors), values(better.clean.errors)
        assert found[metric].estimate == pytest.approx((a - b).mean())
        assert found[metric].se == pytest.approx((a - b).std(ddof=1) / np.sqrt(len(a)))
    assert found["mpc"].estimate < 0 < found["error.mean_px.corrupted"].estimate


def test_a_sample_by_margins_of_everything_is_the_full_evaluation() -> None:
    candidate, base = evidence(1, 1.6), evidence(2, 1.0)
    frame = draw.frame_of(base)
    units = np.arange(len(frame.cell))
    assert set(draw.margin_strata(frame.margin).of_unit[units]) == set(range(12))
    sample = Sample(design=SampleDesign.MARGIN, seed=0, benchmark=400, frame_sha256=frame.sha256, cells=frame.keys)
    origin = candidate.provenance.model_copy(update={"sample": sample})
    drawn = dataclasses.replace(candidate, provenance=origin)
    full, exact = compare(candidate, base), compare(drawn, base)
    assert set(full) == set(exact)
    for metric, wanted in full.items():
        assert exact[metric].estimate == pytest.approx(wanted.estimate, abs=1e-12), metric


def test_evidence_of_two_tasks_is_not_compared() -> None:
    other = dataclasses.replace(evidence(1, 1.0), task=TASK.model_copy(update={"tolerance_px": 3.0}))
    with pytest.raises(DataError, match="other tasks"):
        compare(other, evidence(2, 1.0))


def test_certified_points_are_those_that_every_answer_has() -> None:
    share = RULES.certified_points(np.array([0b111, 0b101]), [np.array([0b110, 0b011]), np.empty(0, np.int64)])
    assert share is not None
    assert share.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert rules_of(Task.classes("ab")).certified_points(np.array([1]), [np.array([1])]) is None


def test_pixels_and_guesses_are_refused() -> None:
    given_, labels = answered(0)
    assert RULES.better_than_chance(given_, labels) > 0.1
    with pytest.raises(RefusedError, match="divide x by 40 and y by 20"):
        RULES.kind_of(given_ * 40, "file")
    middle = np.repeat(outputs(labels.mean(axis=0, keepdims=True).astype(np.float64)), len(labels), axis=0)
    with pytest.raises(RefusedError, match="no better than the mean keypoints"):
        RULES.better_than_chance(middle, labels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mirror": (0, 1)},
        {"mirror": (1, 2, 0)},
        {"tolerance_px": None},
        {"shape": None},
        {"outputs": 5},
        {"names": ()},
    ],
)
def test_a_task_is_whole_or_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Task.model_validate({**TASK.model_dump(), **wrong})
