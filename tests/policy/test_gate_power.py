"""What `policy check` says of a gate's power is what happens: samples of a real network and a noisy copy of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from gate_fixtures import BASE, CAND, base_measured, judge, measured, policy

from edgesafe.measure.probabilities import cell_from_logits
from edgesafe.measure.summary import compare
from edgesafe.policy.proposal import check
from edgesafe.records import Comparison, Evidence, GateStatus, Provenance

ROOT = Path(__file__).resolve().parents[2]
GATES = {
    "accuracy": ("max_drop='0.5pp'", "max_drop='1.0pp'", "max_drop='2.0pp'"),
    "nll": ("max_increase=0.01", "max_increase=0.02", "max_increase=0.05"),
    "high_conf_error@0.9": ("max_increase='0.5pp'", "max_increase='1.0pp'"),
}


def said(text: str, found: Comparison) -> tuple[float, float]:
    (line,) = check(policy(f"{found.metric} {text}"), {BASE: base_measured(), CAND: measured(CAND, found)})
    match = re.search(r"pass (\d+)%, fail (\d+)% of samples", line)
    assert match is not None, line
    return int(match[1]) / 100, int(match[2]) / 100


@pytest.mark.slow
@pytest.mark.data
def test_power_is_what_simulation_gives() -> None:
    path = Path(os.environ.get("EDGESAFE_SHARED", str(ROOT.parent / "shared"))) / "data" / "ece_cases.npz"
    if not path.is_file():
        pytest.skip("no golden calibration cases: set EDGESAFE_SHARED")
    with np.load(path, allow_pickle=False) as data:
        logits, labels = data["logits_r20"].astype(np.float32), data["y"].astype(np.int64)
    rng = np.random.default_rng(0)
    noisy = (logits + rng.normal(0.0, 1.4, logits.shape)).astype(np.float32)
    n, trials = 2000, 250

    def evidence(rows: np.ndarray, scores: np.ndarray) -> Evidence:
        cell = cell_from_logits(scores[rows], labels[rows], np.arange(len(rows)))
        return Evidence(cell, scores[rows], Provenance(test_sha256="sha256:t", onnx_sha256="x"))

    everything = np.arange(len(labels))
    truth = compare(evidence(everything, noisy), evidence(everything, logits))
    draws = [rng.integers(0, len(labels), n) for _ in range(trials)]
    drawn = [compare(evidence(rows, noisy), evidence(rows, logits), seed=i) for i, rows in enumerate(draws)]
    for metric, limits in GATES.items():
        found = [one[metric] for one in drawn]
        below, above = (float(np.mean([abs(one.estimate - getattr(one, e)) for one in found])) for e in ("low", "high"))
        middle = truth[metric].estimate
        typical = found[0].model_copy(update={"estimate": middle, "low": middle - below, "high": middle + above})
        for text in limits:
            expected = said(text, typical)
            statuses = [judge(f"{metric} {text}", one).gates[0].status for one in found]
            for share, status in zip(expected, (GateStatus.PASS, GateStatus.FAIL), strict=True):
                seen = statuses.count(status) / trials
                assert abs(seen - share) < 0.04 + 2.6 * (share * (1 - share) / trials) ** 0.5, (metric, text, seen)
