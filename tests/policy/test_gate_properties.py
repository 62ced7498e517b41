"""What must hold for any numbers: worse never looks better, and false verdicts are as rare as promised."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

from gate_fixtures import diff, judge, metric, policy
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.records import GateStatus

RANK = {GateStatus.PASS: 0, GateStatus.INCONCLUSIVE: 1, GateStatus.FAIL: 2}
RULES = policy(
    "accuracy max_drop='1.0pp'",
    "mpc.corruption.* max_drop='2pp'",
    "nll max_increase='5%'",
    "nll max_ratio='1.1x'",
    "high_conf_error@0.9 max='5pp'",
    "accuracy min='80%'",
    "mpc max_drop='3%';level='warn'",
)
SPREAD = st.floats(1e-4, 0.05)
CORRUPTIONS = ("fog", "frost", "snow")
BASE = [
    metric("accuracy", 0.9, se=0.003), metric("nll", 0.3, se=0.004), metric("mpc", 0.7, se=0.005),
    *(metric(f"mpc.corruption.{c}", 0.7, se=0.01) for c in CORRUPTIONS),
]  # fmt: skip
NAMES = ("accuracy", "nll", "mpc", *(f"mpc.corruption.{c}" for c in CORRUPTIONS))
SIGN = {"nll": 1.0}  # worse is larger; elsewhere worse is smaller


def _candidate(harms, spreads, hce, accuracy):
    """A candidate that is worse than its baseline by `harms`, in units of each metric."""
    found = []
    for name, harm, s in zip(NAMES, harms, spreads, strict=True):
        change, value = SIGN.get(name, -1.0) * harm, 0.3 if name == "nll" else 0.7
        found.append(diff(name, change, baseline=value, low=change - 2 * s, high=change + 3 * s))
    return [*found, metric("high_conf_error@0.9", hce, se=spreads[0]), metric("accuracy", accuracy, se=spreads[1])]


HARM = st.floats(-0.1, 0.1)


@given(
    st.lists(HARM, min_size=6, max_size=6), st.lists(SPREAD, min_size=6, max_size=6), st.floats(0, 0.2),
    st.floats(0.5, 1), st.lists(st.floats(0, 0.1), min_size=8, max_size=8), st.sampled_from(["holm", "none"]),
)  # fmt: skip
def test_a_worse_candidate_never_looks_better(harms, spreads, hce, accuracy, shifts, correction):
    rules = RULES
    if correction == "none":
        rules = policy(*_texts(), head='[stats]\ncorrection = "none"')
    before = judge(rules, *_candidate(harms, spreads, hce, accuracy), base=BASE)
    worse = [harm + shift for harm, shift in zip(harms, shifts[:6], strict=True)]
    after = judge(rules, *_candidate(worse, spreads, hce + shifts[6], accuracy - shifts[7]), base=BASE)
    for one, two in zip(before.gates, after.gates, strict=True):
        assert RANK[two.status] >= RANK[one.status], (one.message, two.message)
    codes = {0: 0, 2: 1, 1: 2}
    assert codes[after.exit_code] >= codes[before.exit_code]


def _texts():
    return [
        "accuracy max_drop='1.0pp'", "mpc.corruption.* max_drop='2pp'", "nll max_increase='5%'", "nll max_ratio='1.1x'",
        "high_conf_error@0.9 max='5pp'", "accuracy min='80%'", "mpc max_drop='3%';level='warn'",
    ]  # fmt: skip


def _wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's score interval, two-sided 95 %, from its textbook formula."""
    z = NormalDist().inv_cdf(0.975)
    p, middle = k / n, (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * p * (1 - p) + z * z / 4)
    return middle - half, middle + half


@given(
    st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))),
    st.integers(1, 99),
)
def test_fewer_correct_images_never_look_better(counts, percent):
    n, a, b = counts
    more, fewer = max(a, b), min(a, b)
    status = []
    for k in (more, fewer):
        low, high = _wilson(k, n)
        low, high = min(low, k / n), max(high, k / n)
        found = metric("accuracy", k / n, low=low, high=high, n=n, method="wilson")
        status.append(RANK[judge(f"accuracy min='{percent}%'", found).gates[0].status])
    assert status[1] >= status[0]


@given(HARM, SPREAD, st.floats(1.0, 20.0))
def test_more_uncertainty_never_decides(harm, spread, factor):
    narrow = judge("accuracy max_drop='1.0pp'", diff("accuracy", -harm, se=spread)).gates[0].status
    wide = judge("accuracy max_drop='1.0pp'", diff("accuracy", -harm, se=spread * factor)).gates[0].status
    assert wide in (narrow, GateStatus.INCONCLUSIVE)


@given(HARM, SPREAD, st.integers(1, 50), st.integers(1, 50))
def test_a_tighter_limit_never_passes_more(harm, spread, a, b):
    found = diff("accuracy", -harm, se=spread)
    wide = judge(f"accuracy max_drop='{max(a, b) / 10}pp'", found).gates[0].status
    tight = judge(f"accuracy max_drop='{min(a, b) / 10}pp'", found).gates[0].status
    assert RANK[tight] >= RANK[wide]


@given(st.lists(HARM, min_size=6, max_size=6), st.lists(SPREAD, min_size=6, max_size=6))
def test_the_same_input_gives_the_same_verdict(harms, spreads):
    found = _candidate(harms, spreads, 0.04, 0.9)
    assert judge(RULES, *found, base=BASE) == judge(RULES, *reversed(found), base=BASE)


def test_false_verdicts_at_the_limit_are_as_rare_as_promised():
    """True drop at the limit: PASS in 5 % and FAIL in 5 % of samples (3,000: three standard errors are 1.2 %)."""
    generator, runs, spread = random.Random(11), 3000, 0.003
    counts = dict.fromkeys(RANK, 0)
    for _ in range(runs):
        found = diff("accuracy", -generator.gauss(0.01, spread), se=spread)
        counts[judge("accuracy max_drop='1.0pp'", found).gates[0].status] += 1
    assert 0.038 < counts[GateStatus.PASS] / runs < 0.062
    assert 0.038 < counts[GateStatus.FAIL] / runs < 0.062


def test_a_share_of_the_baseline_is_not_more_often_wrong_than_promised():
    """Candidate and baseline both vary; the true drop is exactly 5 % of the baseline, whatever their correlation."""
    generator, runs = random.Random(12), 1500
    for rho in (0.0, 0.9):
        passed = 0
        for _ in range(runs):
            common, own, other = (generator.gauss(0, 1) for _ in range(3))
            b = 0.6 + 0.01 * (math.sqrt(rho) * common + math.sqrt(1 - rho) * own)
            c = 0.57 + 0.01 * (math.sqrt(rho) * common + math.sqrt(1 - rho) * other)
            spread = 0.01 * math.sqrt(2 * (1 - rho))
            found = diff("accuracy", c - b, baseline=b, se=spread)
            verdict = judge("accuracy max_drop='5%'", found, base=[metric("accuracy", b, se=0.01)])
            passed += verdict.gates[0].status is GateStatus.PASS
        assert 0.02 < passed / runs < 0.067
