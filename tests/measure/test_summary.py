"""Evidence to numbers: which ids come out, what they say, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measure_fixtures import CORRUPTIONS, synthetic_evidence
from scipy import stats

from edgesafe.errors import (
    DataError,
    EdgesafeError,
    IntegrityError,
    NothingEvaluated,
)
from edgesafe.measure.metrics import calibration
from edgesafe.measure.probabilities import cell_from_logits, softmax64
from edgesafe.measure.summary import (
    calibrated,
    compare,
    flips,
    summarise,
)
from edgesafe.records import Evidence, Provenance, Unit

ALL = np.arange(400)
SHARED = {(c, s): ALL[:200] for c in ("fog", "snow", "defocus_blur") for s in (1, 3)}
FRESH = {
    (c, s): np.sort(np.random.default_rng(10 * i + s).permutation(400)[:60])
    for i, c in enumerate(("fog", "snow", "defocus_blur"))
    for s in (1, 3)
}
WHO = "images like the test set"
CLEAN = {"accuracy", "ece_em10_top1", "nll", "brier", "high_conf_error@0.9"}
REPORT = {"mce", "ece_classwise", "aurc"}
POOLED = (
    {"mpc"}
    | {
        f"{m}.{p}"
        for p in ("severity.1", "severity.3", "corruption.fog", "corruption.snow", "corruption.defocus_blur")
        for m in ("mpc", "ece_em10_top1")
    }
    | {"nll.severity.1", "nll.severity.3"}
)
CELLS = {f"accuracy.{c}.{s}" for c, s in SHARED}


@pytest.fixture(scope="module")
def full() -> Evidence:
    return synthetic_evidence(400, SHARED, seed=1, file="a")


@pytest.fixture(scope="module")
def base() -> Evidence:
    return synthetic_evidence(400, SHARED, seed=2, file="b", disagreement=0.1)


def test_metric_ids(full: Evidence) -> None:
    assert set(summarise(full, population=WHO)) == CLEAN | REPORT | POOLED | CELLS
    assert set(summarise(replace(full, cells={}), population=WHO)) == CLEAN | REPORT
    assert set(compare(full, full)) == CLEAN | POOLED | CELLS | {"flips"}
    assert set(calibrated(full, 1.5, population=WHO)) == {"ece_em10_top1.calibrated", "nll.calibrated"}


def test_every_number_says_how_it_was_got(full: Evidence, base: Evidence) -> None:
    for found in (summarise(full, population=WHO), compare(full, base)):
        for metric, m in found.items():
            assert m.metric == metric
            if metric == "mce":  # the largest of ten noisy numbers: none that covers as it says (decision 052)
                assert (m.low, m.high, m.se) == (None, None, None)
            else:
                assert m.low is not None and m.high is not None and m.se is not None
                assert m.low <= m.estimate <= m.high, metric
            assert m.n >= 60 and m.method and m.population and m.interval_level == 0.95
            assert m.unit is {"nll": Unit.NATS, "brier": Unit.SCORE, "aurc": Unit.SCORE}.get(
                metric.split(".")[0], Unit.FRACTION
            )
            if metric in POOLED:  # 2 corrupted copies of an image are one image
                assert m.details["images"] == 200 < m.n, metric
    for metric, m in summarise(full, population=WHO).items():
        assert (m.noise_floor is not None) == metric.startswith("ece_em10"), metric


@pytest.mark.data
def test_estimates_are_the_published_ones(shared_data: Path) -> None:
    """Row `r20 raw` of the reference's table in section 2: second half of the test set."""
    with np.load(shared_data / "ece_cases.npz", allow_pickle=False) as data:
        logits, labels = data["logits_r20"][5000:], data["y"][5000:].astype(np.int64)
    provenance = Provenance(test_sha256="sha256:t", onnx_sha256="a", corruptions=CORRUPTIONS)
    clean = cell_from_logits(logits, labels, np.arange(len(labels)))
    found = summarise(Evidence(clean, logits, provenance, {}), population=WHO)
    published = {"ece_em10_top1": (0.0509, 5e-5), "nll": (0.345, 5e-4), "brier": (0.131, 5e-4), "aurc": (0.0103, 5e-5),
                 "high_conf_error@0.9": (0.0406, 5e-5), "ece_classwise": (0.0050, 5e-5)}  # fmt: skip
    for metric, (value, rounding) in published.items():
        assert found[metric].estimate == pytest.approx(value, abs=rounding), metric


def test_estimates_are_the_pure_functions(full: Evidence) -> None:
    found = summarise(full, population=WHO)
    right = full.clean.prediction == full.clean.label
    probs = softmax64(full.logits)
    expected = {
        "accuracy": right.mean(),
        "ece_em10_top1": calibration.ece_equal_mass(full.clean.confidence, right).value,
        "nll": calibration.nll(full.logits, full.clean.label),
        "brier": calibration.brier(probs, full.clean.label),
        "high_conf_error@0.9": ((full.clean.confidence > 0.9) & ~right).mean(),
        "aurc": calibration.aurc(full.clean.confidence, right),
        "ece_classwise": np.mean(
            [calibration.ece_equal_mass(probs[:, k], full.clean.label == k, 15).value for k in range(probs.shape[1])]
        ),
        "mce": calibration.mce(full.clean.confidence, right),
        "mpc": np.mean([(c.prediction == c.label).mean() for c in full.cells.values()]),
        "mpc.severity.3": np.mean([(c.prediction == c.label).mean() for k, c in full.cells.items() if k[1] == 3]),
        "mpc.corruption.fog": np.mean(
            [(c.prediction == c.label).mean() for k, c in full.cells.items() if k[0] == "fog"]
        ),
        "accuracy.fog.3": (full.cells["fog", 3].prediction == full.cells["fog", 3].label).mean(),
        "nll.severity.1": np.mean([c.nll.mean() for k, c in full.cells.items() if k[1] == 1]),
    }
    pooled = [c for k, c in full.cells.items() if k[0] == "snow"]
    expected["ece_em10_top1.corruption.snow"] = calibration.ece_equal_mass(
        np.concatenate([c.confidence for c in pooled]), np.concatenate([c.prediction == c.label for c in pooled])
    ).value
    for metric, value in expected.items():
        assert found[metric].estimate == pytest.approx(value, abs=1e-12), metric


def test_differences_are_differences_of_estimates(full: Evidence, base: Evidence) -> None:
    a, b, d = summarise(full, population=WHO), summarise(base, population=WHO), compare(full, base)
    for metric, c in d.items():
        if metric != "flips":
            assert c.candidate == pytest.approx(a[metric].estimate, abs=1e-12), metric
            assert c.baseline == pytest.approx(b[metric].estimate, abs=1e-12), metric
            assert c.estimate == pytest.approx(c.candidate - c.baseline, abs=1e-12), metric
    share = (full.clean.prediction != base.clean.prediction).mean()
    assert d["flips"].estimate == pytest.approx(share)
    assert flips(full, base, population=WHO).estimate == pytest.approx(share)
    gained = ((full.clean.prediction == full.clean.label) & (base.clean.prediction != base.clean.label)).sum()
    assert d["accuracy"].details["candidate_only_right"] == gained


def test_full_is_about_images_and_quick_about_the_benchmark(full: Evidence) -> None:
    mpc = summarise(full, population=WHO)["mpc"]
    assert mpc.method == "cluster-image"
    assert mpc.population.description == f"{WHO}; the 6 cells fixed, images drawn"
    assert mpc.details["images"] == 200
    per_image = np.mean([c.prediction == c.label for c in full.cells.values()], axis=0)
    assert mpc.se == pytest.approx(stats.sem(per_image), rel=1e-9)
    quick = summarise(synthetic_evidence(400, FRESH), population=WHO)["mpc"]
    assert quick.method == "cluster-cell"
    assert quick.population.description == f"the fixed benchmark of 400 images x 6 cells ({WHO})"
    assert quick.details["se_new_images"] > quick.se  # type: ignore[operator]


def test_quick_interval_covers_the_benchmark() -> None:
    """Cells of 400 images; draws of 60: the interval is about the 400."""
    everything = synthetic_evidence(400, dict.fromkeys(FRESH, ALL), seed=1)
    rights = {k: c.prediction == c.label for k, c in everything.cells.items()}
    truth = np.mean([r.mean() for r in rights.values()])
    from edgesafe.measure.intervals.bounds import mean_over_cells
    from edgesafe.measure.intervals.clusters import design_of

    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        rows = {k: rng.choice(400, 60, replace=False) for k in rights}
        design = design_of(list(rows.values()), 400)
        i = mean_over_cells([rights[k][rows[k]].astype(float) for k in rights], design).interval
        hits += i.low <= truth <= i.high
    assert 0.91 <= hits / 400 <= 0.985


def test_quick_candidate_against_full_baseline_uses_common_images(base: Evidence) -> None:
    quick = synthetic_evidence(400, FRESH, seed=1)
    d = compare(quick, base)
    common = {k: np.intersect1d(FRESH[k], SHARED[k]) for k in FRESH}
    assert d["mpc"].n == sum(map(len, common.values()))
    assert d["mpc"].method == "paired-cluster-cell"
    k = ("fog", 3)
    right = [(c.prediction == c.label)[np.isin(c.index, common[k])].mean() for c in (quick.cells[k], base.cells[k])]
    assert d["accuracy.fog.3"].estimate == pytest.approx(right[0] - right[1])


def test_order_of_rows_changes_nothing(full: Evidence, base: Evidence) -> None:
    def shuffled(e: Evidence) -> Evidence:
        rng = np.random.default_rng(3)

        def turn(c: Any, p: Any) -> Any:
            return replace(
                c, **{n: getattr(c, n)[p] for n in ("index", "label", "prediction", "confidence", "nll", "margin")}
            )

        p = rng.permutation(len(e.clean.index))
        cells = {k: turn(c, rng.permutation(len(c.index))) for k, c in e.cells.items()}
        return Evidence(turn(e.clean, p), e.logits[p], e.provenance, cells)

    a, b = summarise(full, population=WHO), summarise(shuffled(full), population=WHO)
    for metric, m in a.items():
        assert b[metric].estimate == pytest.approx(m.estimate, abs=1e-12), metric
    c, d = compare(full, base), compare(shuffled(full), base)
    for metric, x in c.items():
        assert d[metric].estimate == pytest.approx(x.estimate, abs=1e-12), metric


def test_same_evidence_same_numbers(full: Evidence, base: Evidence) -> None:
    assert summarise(full, population=WHO) == summarise(full, population=WHO)
    assert compare(full, base) == compare(full, base)


def test_against_itself_nothing_differs_but_nothing_is_certain(full: Evidence) -> None:
    d = compare(full, full)
    assert all(c.estimate == 0.0 for c in d.values())
    for metric in ("accuracy", "mpc", "high_conf_error@0.9", "flips", "accuracy.fog.1"):
        assert d[metric].high > 0.0, metric  # type: ignore[operator]


def test_temperature_one_is_the_raw_value(full: Evidence) -> None:
    raw, scaled = summarise(full, population=WHO), calibrated(full, 1.0, population=WHO)
    assert scaled["ece_em10_top1.calibrated"].estimate == pytest.approx(raw["ece_em10_top1"].estimate)
    assert calibrated(full, 3.0, population=WHO)["nll.calibrated"].estimate != raw["nll"].estimate


def without(e: Evidence, key: tuple[str, int]) -> Evidence:
    return replace(e, cells={k: c for k, c in e.cells.items() if k != key})


def relabelled(e: Evidence) -> Evidence:
    return replace(e, clean=replace(e.clean, label=(e.clean.label + 1) % 5))


def saw(e: Evidence, **changes: Any) -> Evidence:
    return replace(e, provenance=e.provenance.model_copy(update=changes))


def only(e: Evidence, rows: Any) -> Evidence:
    names = ("index", "label", "prediction", "confidence", "nll", "margin")
    return replace(e, clean=replace(e.clean, **{n: getattr(e.clean, n)[rows] for n in names}), logits=e.logits[rows])


@pytest.mark.parametrize(
    ("candidate", "baseline", "error"),
    [
        (lambda a: a, lambda b: without(b, ("fog", 1)), NothingEvaluated),
        (lambda a: a, relabelled, IntegrityError),
        (lambda a: only(a, slice(0, 50)), lambda b: only(b, slice(50, 400)), NothingEvaluated),
        (lambda a: only(a, slice(0, 51)), lambda b: only(b, slice(50, 400)), DataError),
        (lambda a: a, lambda b: saw(b, corruptions=CORRUPTIONS.model_copy(update={"seed": 1})), IntegrityError),
        (lambda a: a, lambda b: saw(b, test_sha256="other"), IntegrityError),
        (lambda a: a, lambda b: saw(b, corruptions=None), IntegrityError),
        (lambda a: a, lambda b: replace(b, logits=b.logits[:, :4]), DataError),
    ],
)
def test_what_cannot_be_compared(
    full: Evidence, base: Evidence, candidate: Any, baseline: Any, error: type[EdgesafeError]
) -> None:
    with pytest.raises(error) as caught:
        compare(candidate(full), baseline(base))
    assert caught.value.fix
    with pytest.raises(NothingEvaluated):
        summarise(only(full, slice(0, 1)), population=WHO)


def test_baseline_may_have_more_cells(full: Evidence, base: Evidence) -> None:
    assert "accuracy.fog.1" not in compare(without(full, ("fog", 1)), base)
