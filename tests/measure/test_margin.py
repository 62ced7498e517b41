"""Estimates from a sample by the baseline's margin: exact with every unit drawn, else unbiased and covered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from measure_fixtures import synthetic_evidence
from numpy.typing import NDArray

from edgesafe.errors import (
    EdgesafeError,
    IntegrityError,
    NothingEvaluated,
    RefusedError,
)
from edgesafe.measure.metrics.calibration import ece_equal_mass
from edgesafe.measure.sampling import margin
from edgesafe.measure.sampling.draw import MarginDraw, frame_of
from edgesafe.measure.sampling.margin_metrics import bin_edges
from edgesafe.measure.summary import compare, summarise
from edgesafe.records import Evidence, Sample, SampleDesign
from edgesafe.stages.sequential import StoredRunner

WHO = "images like these"
KEYS = [(name, severity) for name in ("fog", "snow") for severity in (1, 3, 5)]
COLUMNS = ("index", "label", "prediction", "confidence", "nll", "margin")
N = 1000
CELLS_OF_ALL = {key: np.arange(N) for key in KEYS}


@pytest.fixture(scope="module")
def base() -> Evidence:
    return synthetic_evidence(N, CELLS_OF_ALL, seed=1, file="base", skill=3.0, disagreement=0.05)


@pytest.fixture(scope="module")
def candidate() -> Evidence:
    return synthetic_evidence(N, CELLS_OF_ALL, seed=2, file="cand", skill=2.9, disagreement=0.15)


def sample(candidate: Evidence, base: Evidence, total: int, seed: int = 0, benchmark: int = N) -> Evidence:
    frame, runner = frame_of(base), StoredRunner(candidate)
    draw, taken = MarginDraw(frame, seed), []
    change = np.concatenate(
        [right(candidate, key, frame.index[frame.cell == c]) - right(base, key, frame.index[frame.cell == c])
         for c, key in enumerate(frame.keys)]
    )  # fmt: skip
    while len(units := draw.ask(total)):
        draw.tell(units, change[units])
        taken.append(units)
    drawn = Sample(
        design=SampleDesign.MARGIN, seed=seed, benchmark=benchmark, frame_sha256=frame.sha256, cells=frame.keys
    )
    cells = runner.corrupted(frame.requests(np.concatenate(taken)))
    return Evidence(candidate.clean, candidate.logits, runner.provenance(drawn), cells)


def right(evidence: Evidence, key: tuple[str, int], index: NDArray[Any]) -> NDArray[np.float64]:
    cell = evidence.cells[key]
    order = np.argsort(cell.index)
    rows = order[np.searchsorted(cell.index[order], index)]
    return (cell.prediction[rows] == cell.label[rows]).astype(float)


def test_with_every_unit_drawn_it_is_the_full_evaluation(candidate: Evidence, base: Evidence) -> None:
    everything = sample(candidate, base, 10**6)
    assert sum(len(c.index) for c in everything.cells.values()) == len(KEYS) * N
    full, exact = compare(candidate, base), compare(everything, base)
    assert set(full) == set(exact)
    for metric, wanted in full.items():
        assert exact[metric].estimate == pytest.approx(wanted.estimate, abs=1e-12), metric
        assert exact[metric].baseline == pytest.approx(wanted.baseline, abs=1e-12), metric
    own, alone = summarise(everything, population=WHO, baseline=base), summarise(candidate, population=WHO)
    assert set(own) == set(alone)
    for metric, found in alone.items():
        assert own[metric].estimate == pytest.approx(found.estimate, abs=1e-12), metric
        assert own[metric].unit is found.unit
    assert exact["mpc"].se == pytest.approx(0.0, abs=1e-12)  # the whole benchmark was seen
    assert own["mpc"].se == pytest.approx(0.0, abs=1e-12)


def test_it_says_what_it_is_about(candidate: Evidence, base: Evidence) -> None:
    drawn = sample(candidate, base, 1500)
    found = compare(drawn, base)["mpc"]
    assert found.method == "paired-margin-strata"
    assert found.population.description.startswith(f"the fixed benchmark of {N} images x 6 cells (")
    assert found.n == 1500
    assert found.details["different_images"] < 1000 < found.n
    assert found.se is not None
    assert 0.0 < found.se < 0.02


def draws(candidate: Evidence, base: Evidence, trials: int, total: int) -> dict[str, list[tuple[float, bool, float]]]:
    """Error, covered, standard error of each draw, by metric."""
    truth, own = compare(candidate, base), summarise(candidate, population=WHO)
    found: dict[str, list[tuple[float, bool, float]]] = {}
    for seed in range(trials):
        drawn = sample(candidate, base, total, seed)
        some = margin.drawn(drawn, base)
        for name, keys in (("mpc", KEYS), ("mpc.severity.5", [k for k in KEYS if k[1] == 5])):
            part = some.part(set(keys))
            change = part.candidate.right - part.baseline.right
            i = part.interval(part.mean(change), part.rate_se(change), 0.95)
            error = i.estimate - truth[name].estimate
            found.setdefault(name, []).append((error, i.low <= truth[name].estimate <= i.high, i.se))
        part = some.part({k for k in KEYS if k[1] == 5})
        change = part.candidate.values["nll"] - part.baseline.values["nll"]
        i = part.interval(part.mean(change), part.mean_se(change), 0.95)
        want = truth["nll.severity.5"].estimate
        found.setdefault("nll", []).append((i.estimate - want, i.low <= want <= i.high, i.se))
    assert own["mpc"].estimate - truth["mpc"].baseline == pytest.approx(truth["mpc"].estimate)
    return found


def test_unbiased_covered_and_cheaper(candidate: Evidence, base: Evidence) -> None:
    found = draws(candidate, base, 150, 1200)
    for metric, rows in found.items():
        error, covered, se = np.array(rows, float).T
        assert abs(error.mean()) < 4 * se.mean() / np.sqrt(150), metric
        assert covered.mean() >= 0.89, metric
    change = np.concatenate([right(candidate, k, np.arange(N)) - right(base, k, np.arange(N)) for k in KEYS])
    plain = change.std() * np.sqrt((1 - 1200 / 6000) / 1200)
    assert np.array(found["mpc"])[:, 0].std() < 0.8 * plain


@pytest.mark.slow
def test_coverage(candidate: Evidence, base: Evidence) -> None:
    """Nominal 95 %, 1,000 draws: 93 to 97, or a little over where few answers change."""
    for metric, rows in draws(candidate, base, 1000, 1200).items():
        assert 0.93 <= np.mean([covered for _, covered, _ in rows]) <= 0.98, metric


@pytest.mark.slow
def test_coverage_of_calibration_errors(candidate: Evidence, base: Evidence) -> None:
    truth, own = compare(candidate, base), summarise(candidate, population=WHO)
    hits: list[tuple[bool, bool]] = []
    for seed in range(150):
        drawn = sample(candidate, base, 1500, seed)
        d, m = compare(drawn, base), summarise(drawn, population=WHO, baseline=base)
        for metric in ("ece_em10_top1.severity.5", "ece_em10_top1.corruption.fog"):
            t, o = truth[metric].estimate, own[metric].estimate
            hits.append((d[metric].low <= t <= d[metric].high, m[metric].low <= o <= m[metric].high))  # type: ignore[operator]
    assert (np.mean(hits, axis=0) >= 0.92).all()


def test_a_baseline_that_was_a_sample_itself_adds_its_own_error(candidate: Evidence, base: Evidence) -> None:
    """The frame is 1,000 of 10,000 images of each cell."""
    fixed = compare(sample(candidate, base, 2000), base)
    wider = compare(sample(candidate, base, 2000, benchmark=10 * N), base)
    for metric in ("mpc", "nll.severity.5", "ece_em10_top1.severity.5"):
        assert wider[metric].estimate == fixed[metric].estimate
        assert wider[metric].se > fixed[metric].se, metric  # type: ignore[operator]
    change = np.concatenate([right(candidate, k, np.arange(N)) - right(base, k, np.arange(N)) for k in KEYS])
    added = wider["mpc"].se ** 2 - fixed["mpc"].se ** 2  # type: ignore[operator]
    assert added == pytest.approx(change.var() / (6 * N) * 0.9, rel=0.25)


def test_the_order_of_rows_changes_nothing(candidate: Evidence, base: Evidence) -> None:
    drawn = sample(candidate, base, 1500)

    def turned(evidence: Evidence) -> Evidence:
        cells = {
            key: replace(c, **{f: getattr(c, f)[::-1] for f in COLUMNS})
            for key, c in reversed(evidence.cells.items())
        }  # fmt: skip
        return replace(evidence, cells=cells)

    a, b = compare(drawn, base), compare(turned(drawn), turned(base))
    for metric, wanted in a.items():
        assert b[metric].estimate == pytest.approx(wanted.estimate, abs=1e-12), metric
        assert b[metric].se == pytest.approx(wanted.se, rel=1e-6), metric


def test_bins_hold_equal_weight_and_equal_confidences_together() -> None:
    rng = np.random.default_rng(0)
    c = rng.random(500)
    edges = bin_edges(c, np.ones(500))
    assert np.bincount(np.searchsorted(edges, c, side="left")).tolist() == [50] * 10
    w = np.where(c > 0.5, 3.0, 1.0)
    masses = np.bincount(np.searchsorted(bin_edges(c, w), c, side="left"), w)
    assert masses / w.sum() == pytest.approx(np.full(10, 0.1), abs=0.007)
    tied = np.where(c > 0.3, 1.0, c)
    which = np.searchsorted(bin_edges(tied, np.ones(500)), tied, side="left")
    assert len(np.unique(which[tied == 1.0])) == 1
    k = (rng.random(500) < c).astype(float)
    gaps = np.bincount(np.searchsorted(edges, c, side="left"), k - c)
    assert np.abs(gaps).sum() / 500 == pytest.approx(ece_equal_mass(c, k).value, abs=1e-12)


def without_stratum(candidate: Evidence, base: Evidence) -> None:
    drawn = sample(candidate, base, 1500)
    key, cell = next(iter(drawn.cells.items()))
    few = replace(cell, **{f: getattr(cell, f)[:3] for f in COLUMNS})
    compare(replace(drawn, cells={key: few}), base)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c, b: summarise(sample(c, b, 1500), population=WHO), RefusedError),
        (lambda c, b: compare(sample(c, b, 1500), c), IntegrityError),
        (lambda c, b: compare(c, sample(c, b, 1500)), RefusedError),
        (without_stratum, NothingEvaluated),
    ],
)
def test_refusals(call: Any, error: type[EdgesafeError], candidate: Evidence, base: Evidence) -> None:
    with pytest.raises(error):
        call(candidate, base)


def test_another_label_is_noticed(candidate: Evidence, base: Evidence) -> None:
    drawn = sample(candidate, base, 1500)
    key, cell = next(iter(drawn.cells.items()))
    other = replace(cell, label=(cell.label + 1) % 5)
    with pytest.raises(IntegrityError, match="two labels"):
        compare(replace(drawn, cells={**drawn.cells, key: other}), base)
