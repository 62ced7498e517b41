"""A sample that grows until it is large enough: nested, never measured twice, resumable at every look."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from measure_fixtures import synthetic_evidence

from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.summary import compare
from edgesafe.recipe.sections import EvaluateSection
from edgesafe.records import Evidence, Host, ImageSet, SampleDesign, Target
from edgesafe.stages import sequential
from edgesafe.stages.observe import Bench

KEYS = [(name, severity) for name in ("fog", "snow") for severity in (1, 5)]
N = 2000


@pytest.fixture(scope="module")
def base() -> Evidence:
    return synthetic_evidence(N, {key: np.arange(N) for key in KEYS}, seed=1, file="base", disagreement=0.05)


@pytest.fixture(scope="module")
def candidate() -> Evidence:
    return synthetic_evidence(N, {key: np.arange(N) for key in KEYS}, seed=2, file="cand", disagreement=0.1)


class Memory(dict[str, bytes]):
    """A keeper."""

    def put(self, name: str, data: bytes) -> None:
        self[name] = data


class Counting(sequential.StoredRunner):
    """Counts the images it is asked for."""

    asked: dict[str, int]

    def clean(self, indices: Any) -> Any:
        self.asked["clean"] = self.asked.get("clean", 0) + len(indices)
        return super().clean(indices)

    def corrupted(self, wanted: Any) -> Any:
        self.asked["corrupted"] = self.asked.get("corrupted", 0) + sum(map(len, wanted.values()))
        return super().corrupted(wanted)


def counting(full: Evidence) -> Counting:
    runner = Counting(full)
    object.__setattr__(runner, "asked", {})
    return runner


def bench(**section: Any) -> Bench:
    images = ImageSet(np.zeros((N, 1, 1, 3), np.uint8), np.zeros(N, np.int64), "sha256:t")
    cells = {key: np.arange(N) for key in KEYS}
    target = Target(name="t", threads=1, provider="CPUExecutionProvider")
    host = Host(cpu="c", cores=1, system="s", python="3", versions={})
    return Bench(images, None, cells, EvaluateSection(mode="quick", **section), "images like these", target, host)


def test_one_look_without_a_policy(candidate: Evidence, base: Evidence) -> None:
    runner = counting(candidate)
    found = sequential.collect(runner, bench(budget=3000), base, Memory())
    assert runner.asked == {"clean": N, "corrupted": 3000}
    drawn = found.provenance.sample
    assert drawn is not None
    assert (drawn.design, drawn.looks, drawn.cells) == (SampleDesign.MARGIN, 1, tuple(KEYS))
    assert sum(len(c.index) for c in found.cells.values()) == 3000


def test_it_grows_and_never_measures_twice(candidate: Evidence, base: Evidence) -> None:
    runner, seen = counting(candidate), []

    def decided(evidence: Evidence) -> bool:
        seen.append(evidence)
        return len(seen) == 3

    found = sequential.collect(runner, bench(budget=6000), base, Memory(), decided)
    assert [len(e.clean.index) for e in seen] == [1200, 2000, 2000]
    assert [sum(len(c.index) for c in e.cells.values()) for e in seen] == [1200, 2400, 6000]
    assert runner.asked == {"clean": 2000, "corrupted": 6000}
    drawn = [e.provenance.sample for e in seen]
    assert [(d.look, d.looks) for d in drawn if d is not None] == [(1, 3), (2, 3), (3, 3)]
    for small, large in pairwise(seen):
        for key, cell in small.cells.items():
            assert np.isin(cell.index, large.cells[key].index).all()
    for key, cell in found.cells.items():
        assert (cell.prediction == candidate.cells[key].prediction[cell.index]).all()
    order = np.searchsorted(candidate.clean.index, found.clean.index)
    assert (found.logits == candidate.logits[order]).all()


@pytest.mark.parametrize("sampling", ["margin", "cell"])
def test_resumed_after_any_look_it_is_the_same(candidate: Evidence, base: Evidence, sampling: str) -> None:
    def never(_: Evidence) -> bool:
        return False

    whole = Memory()
    wanted = evidence_files.to_bytes(
        sequential.collect(sequential.StoredRunner(candidate), bench(sampling=sampling), base, whole, never)
    )
    for k in range(1, len(whole) + 1):
        kept = Memory({name: whole[name] for name in list(whole)[:k]})
        runner = counting(candidate)
        again = sequential.collect(runner, bench(sampling=sampling), base, kept, never)
        assert evidence_files.to_bytes(again) == wanted
        assert runner.asked.get("corrupted", 0) < 4 * N


def test_alone_it_grows_alike_in_each_cell(candidate: Evidence) -> None:
    found = sequential.collect(sequential.StoredRunner(candidate), bench(budget=2000), None, Memory(), lambda _: True)
    assert found.provenance.sample is not None
    assert found.provenance.sample.design is SampleDesign.CELL
    assert {len(c.index) for c in found.cells.values()} == {300}


def test_budget_of_everything_is_the_full_comparison(candidate: Evidence, base: Evidence) -> None:
    found = sequential.collect(sequential.StoredRunner(candidate), bench(budget=10**6), base, Memory())
    assert compare(found, base)["mpc"].estimate == pytest.approx(compare(candidate, base)["mpc"].estimate, abs=1e-12)
