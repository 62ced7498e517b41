"""The latency protocol: interleaved, refused when it would say nothing, and its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measure_fixtures import SIDE, classifier_bytes
from scipy import stats

from edgesafe.errors import DataError, NothingEvaluated, UsageError
from edgesafe.measure.inference import latency
from edgesafe.measure.inference.inputs import InputSpec
from edgesafe.measure.inference.latency import (
    LatencySamples,
    interleaved,
    summarise,
)
from edgesafe.records import Unit

IMAGE = np.zeros((SIDE, SIDE, 3), np.uint8)


def samples(times: np.ndarray, sessions: int = 8) -> LatencySamples:
    return LatencySamples(times.reshape(sessions, -1), 1, "CPUExecutionProvider")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    out = {}
    for name in ("a", "b"):
        out[name] = tmp_path / f"{name}.onnx"
        out[name].write_bytes(classifier_bytes())
    return out


def test_all_files_are_timed(files: dict[str, Path]) -> None:
    seen: list[tuple[int, int]] = []
    found = interleaved(files, image=IMAGE, runs=128, progress=lambda a, b: seen.append((a, b)))
    assert set(found) == {"a", "b"}
    assert all(s.milliseconds.shape == (8, 16) and (s.milliseconds > 0).all() for s in found.values())
    assert seen == [(16 * k, 128) for k in range(1, 9)]
    both = summarise(found["a"], found["b"])
    assert set(both) == {"latency.p50_ms", "latency.p90_ms", "latency.min_ms", "latency.ratio"}
    assert both["latency.min_ms"].estimate <= both["latency.p50_ms"].estimate <= both["latency.p90_ms"].estimate
    assert "1 thread(s), batch 1" in both["latency.p50_ms"].population.description


def test_runs_alternate(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    """A clock that ticks once per reading: each run takes one tick; the order of runs and of sessions rotates."""
    order: list[str] = []
    opened: list[str] = []

    class Fake:
        def __init__(self, path: Path, **_: object) -> None:
            self.name = path.stem
            self.batch = None
            opened.append(self.name)

        def scores(self, *_: object) -> None: ...

        def runner(self, _: object) -> object:
            return lambda: order.append(self.name)

    monkeypatch.setattr(latency, "OnnxClassifier", Fake)
    ticks = iter(range(10**9))
    monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: next(ticks) * 1_000_000)
    found = interleaved(files, image=IMAGE, runs=64)
    assert opened == ["a", "b", "b", "a"] * 2  # 64 runs are four sessions of 16
    assert len(order) == 2 * (64 + 4 * latency.WARMUP)
    assert order[:4] == ["a", "b", "b", "a"] or order[:4] == ["b", "a", "a", "b"]
    assert all(set(order[i : i + 2]) == {"a", "b"} for i in range(0, len(order), 2))
    assert (found["a"].milliseconds == 1.0).all()


def test_foreign_files_are_timed_by_their_specification(tmp_path: Path, files: dict[str, Path]) -> None:
    files["theirs"] = tmp_path / "theirs.onnx"
    files["theirs"].write_bytes(classifier_bytes(layout="NCHW", dtype="float32", names=("x", "y")))
    spec = InputSpec(layout="NCHW", dtype="float32")
    found = interleaved(files, image=IMAGE, runs=64, specs={"theirs": spec})
    assert set(found) == {"a", "b", "theirs"}
    with pytest.raises(UsageError, match="no input named 'image'"):
        interleaved(files, image=IMAGE, runs=64)


def test_ratio_is_candidate_over_baseline() -> None:
    rng = np.random.default_rng(0)
    mood = 1 + 0.3 * (rng.random(1024) < 0.1)  # disturbances hit both
    base = samples(2.0 * mood * (1 + 0.02 * rng.random(1024)))
    fast = samples(1.0 * mood * (1 + 0.02 * rng.random(1024)))
    ratio = summarise(fast, base)["latency.ratio"]
    assert ratio.estimate == pytest.approx(0.5, abs=0.01)
    assert ratio.low is not None and ratio.high is not None
    assert ratio.low <= ratio.estimate <= ratio.high
    assert ratio.unit is Unit.RATIO
    assert ratio.details["speed_up"] == pytest.approx(2.0, abs=0.05)
    assert ratio.high < 1.0  # a speed-up beyond doubt
    assert summarise(base, fast)["latency.ratio"].low > 1.0
    again = samples(2.0 * mood * (1 + 0.02 * rng.random(1024)))
    assert summarise(again, base)["latency.ratio"].high >= 1.0


def test_order_statistics_are_numpys() -> None:
    t = np.random.default_rng(1).gamma(9, 0.1, (5, 100))
    found = summarise(samples(t, 5))
    assert found["latency.p50_ms"].estimate == pytest.approx(stats.gmean(np.median(t, axis=1)))
    assert found["latency.p90_ms"].estimate == pytest.approx(stats.gmean(np.percentile(t, 90, axis=1)))
    assert found["latency.min_ms"].estimate == t.min()
    assert "latency.ratio" not in found


def test_the_interval_is_students_and_as_wide_as_a_gate_needs() -> None:
    t = np.random.default_rng(2).gamma(9, 0.1, (8, 64))
    found = summarise(samples(t))["latency.p50_ms"]
    logs = np.log(np.median(t, axis=1))
    low, high = stats.t.interval(0.95, 7, loc=logs.mean(), scale=stats.sem(logs))
    assert found.low is not None and found.high is not None
    assert found.low < np.exp(low) and found.high > np.exp(high)
    at_the_gate = stats.t.ppf(0.99, 7) * stats.sem(logs)
    spread = (np.log(found.high) - logs.mean()) / stats.norm.ppf(0.975)
    assert spread * stats.norm.ppf(0.99) == pytest.approx(at_the_gate, rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 8, 31])
@pytest.mark.parametrize("p", [0.6, 0.975, 0.9995])
def test_quantiles_of_students_t_are_scipys(degrees: int, p: float) -> None:
    assert latency.student_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-9)


def test_sessions_that_differ_widen_the_interval() -> None:
    """When whole sessions differ, runs within them say nothing about the next session."""
    rng = np.random.default_rng(2)
    mood = np.repeat(rng.normal(0, 0.2, 8), 128)
    steady = summarise(samples(2 + rng.permutation(mood) + 0.01 * rng.random(1024)))["latency.p50_ms"]
    moving = summarise(samples(2 + mood + 0.01 * rng.random(1024)))["latency.p50_ms"]
    assert moving.se is not None and steady.se is not None
    assert moving.se > 2 * steady.se


@pytest.mark.parametrize("seed", range(3))
def test_a_file_against_itself_covers_1(seed: int) -> None:
    """Sessions of one file differ by 0.5 %, runs by 2 %."""
    rng = np.random.default_rng(seed)

    def drawn() -> np.ndarray:
        return np.exp(0.005 * rng.standard_normal((8, 1)) + 0.02 * rng.random((8, 128)))

    covered = 0
    for _ in range(400):
        ratio = summarise(samples(drawn()), samples(drawn()))["latency.ratio"]
        assert ratio.low is not None and ratio.high is not None
        covered += ratio.low <= 1.0 <= ratio.high
    assert covered >= 0.93 * 400


def test_refusals(files: dict[str, Path]) -> None:
    with pytest.raises(NothingEvaluated):
        interleaved({}, image=IMAGE)
    with pytest.raises(UsageError, match="at least 64"):
        interleaved(files, image=IMAGE, runs=10)
    with pytest.raises(DataError):
        interleaved(files, image=IMAGE[None])
    with pytest.raises(DataError, match="the file takes"):
        interleaved(files, image=np.zeros((4, 4, 3), np.uint8), runs=64)
    with pytest.raises(NothingEvaluated):
        summarise(samples(np.ones(10), 2))
    with pytest.raises(DataError):
        summarise(samples(np.zeros(96)))
    with pytest.raises(DataError, match="rounds"):
        summarise(samples(np.ones(96)), samples(np.ones(104)))
