"""Do 95 % intervals hold the truth in 93 to 97 % of samples? On real confidences, with a known truth.

The population is the 10,000 test images of the shared ResNet-20, raw (over-confident) and tempered (2.386: nearly
calibrated; beyond: under-confident). Samples are drawn with replacement. A share of `trials` samples has a simulation
error of its own: a coverage of exactly 93 or 97 % may fail a test in 1 % of seeds (2.33 binomial standard errors).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesafe.measure.intervals.bounds import Interval, mean_interval, wilson
from edgesafe.measure.intervals.clusters import design_of
from edgesafe.measure.intervals.ece import bootstrap_ece, ece_interval
from edgesafe.measure.intervals.reported import aurc_interval, classwise_interval
from edgesafe.measure.metrics import calibration as cal
from edgesafe.measure.probabilities import softmax64

LEAST, MOST = 0.93, 0.97
TRIALS = {500: 1000, 2000: 1000, 5000: 400}


@dataclass(frozen=True)
class Rows:
    """Images of a population or of a sample."""

    probs: NDArray[np.float64]
    label: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> Rows:
        return Rows(self.probs[rows], self.label[rows], self.confidence[rows], self.right[rows])

    @property
    def nll(self) -> NDArray[np.float64]:
        loss: NDArray[np.float64] = -np.log(self.probs[np.arange(len(self.label)), self.label])
        return loss

    @property
    def sure_and_wrong(self) -> NDArray[np.float64]:
        return ((self.right == 0.0) & (self.confidence > 0.9)).astype(np.float64)


def population(shared_data: Path, temperature: float) -> Rows:
    with np.load(shared_data / "ece_cases.npz", allow_pickle=False) as data:
        probs, label = softmax64(data["logits_r20"].astype(np.float64) / temperature), data["y"].astype(np.int64)
    return Rows(probs, label, probs.max(1), (probs.argmax(1) == label).astype(np.float64))


def gaussian_ece(r: Rows, seed: int) -> Interval:
    return ece_interval(r.confidence, r.right, design_of([np.arange(len(r.right))], 10**9), seed=seed)


METHODS: dict[str, Callable[[Rows, int], Interval]] = {
    "accuracy": lambda r, _: wilson(int(r.right.sum()), len(r.right)),
    "high_conf_error": lambda r, _: wilson(int(r.sure_and_wrong.sum()), len(r.right)),
    "nll": lambda r, _: mean_interval(r.nll),
    "brier": lambda r, _: mean_interval(cal.brier_rows(r.probs, r.label)),
    "ece": lambda r, seed: bootstrap_ece(r.confidence, r.right, replicates=500, seed=seed),
    "ece_of_cells": gaussian_ece,
    "ece_classwise": lambda r, seed: classwise_interval(r.probs, r.label, replicates=400, seed=seed),
    "aurc": lambda r, _: aurc_interval(r.confidence, r.right),
}


def coverage(metric: str, everything: Rows, n: int, trials: int, seed: int = 5) -> float:
    method, rng = METHODS[metric], np.random.default_rng(seed)
    truth = method(everything, 0).estimate
    hits = 0
    for trial in range(trials):
        found = method(everything.take(rng.integers(0, len(everything.label), n)), trial)
        hits += found.low <= truth <= found.high
    return hits / trials


def within_simulation_error(share: float, trials: int) -> bool:
    slack = [2.33 * math.sqrt(p * (1 - p) / trials) for p in (LEAST, MOST)]
    return LEAST - slack[0] <= share <= MOST + slack[1]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("n", [500, 2000, 5000])
@pytest.mark.parametrize("temperature", [1.0, 2.386])
@pytest.mark.parametrize("metric", [m for m in METHODS if m != "ece_of_cells"])
def test_coverage_of_clean_metrics(shared_data: Path, metric: str, temperature: float, n: int) -> None:
    share = coverage(metric, population(shared_data, temperature), n, TRIALS[n])
    assert within_simulation_error(share, TRIALS[n]), share


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize("temperature", [1.0, 1.8, 2.1, 2.386, 3.0, 4.0])
def test_coverage_of_an_ece_from_over_to_under_confident(shared_data: Path, temperature: float, n: int) -> None:
    share = coverage("ece_of_cells", population(shared_data, temperature), n, 1000)
    assert within_simulation_error(share, 1000), share
