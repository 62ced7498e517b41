"""Bisection over ratios and series, the split of the test images, and the series of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe.commands import explorer
from edgesafe.errors import DataError, UsageError
from edgesafe.recipe import parsing
from edgesafe.recipe.searching import SearchSection
from edgesafe.recipe.sections import Allocation, EvaluateSection, Method, RecoverSection
from edgesafe.records import ImageSet, LayerCurve, LayerProbe, Target
from edgesafe.stages.observe import Bench
from edgesafe.stages.search.refine import refined, step_of
from edgesafe.stages.search.series import Series, bare_of, control_of, ratios_of, series_of
from edgesafe.stages.search.split import halves, restricted
from edgesafe.stages.search.strategy import Found, Line, Net, explore
from edgesafe.study.host import host


@dataclass
class World:
    """Lines whose costs and last passing positions are known."""

    costs: dict[str, list[float | None]]
    last: dict[str, int]
    asked: list[tuple[str, int]] = field(default_factory=list)

    def net(self, line: Line, position: int) -> Net | None:
        cost = self.costs[line.label][position]
        return None if cost is None else Net(cost, str(cost))

    def passes(self, line: Line, position: int, why: str) -> bool:
        assert why
        self.asked.append((line.label, position))
        return position <= self.last[line.label]

    def lines(self, guess: int = 0) -> list[Line]:
        return [Line(name, tuple(float(k) for k in range(len(costs))), guess) for name, costs in self.costs.items()]

    def explored(self, guess: int = 0) -> dict[str, Found]:
        ended: dict[str, Found] = {}
        explore(self.lines(guess), self, lambda line, found: ended.update({line.label: found}))
        return ended


worlds = st.lists(
    st.tuples(st.lists(st.integers(1, 99), min_size=1, max_size=40, unique=True), st.integers(-1, 40)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(worlds, st.integers(0, 50))
def test_it_finds_what_trying_everything_finds(made: list[tuple[list[int], int]], guess: int) -> None:
    """The oracle is the grid in full: the least cost of all that pass."""
    costs = {f"s{k}": [c / 100 for c in sorted(values, reverse=True)] for k, (values, _) in enumerate(made)}
    last = {f"s{k}": min(end, len(values) - 1) for k, (values, end) in enumerate(made)}
    world = World(dict(costs), last)
    ended = world.explored(guess)
    assert set(ended) == set(costs)
    grid = [costs[s][k] for s in costs for k in range(last[s] + 1)]
    got = [costs[s][found.best] for s, found in ended.items() if found.best is not None]
    assert min(got, default=None) == min(grid, default=None)
    assert len(set(world.asked)) == len(world.asked)
    bound = sum(1 + int(np.ceil(np.log2(len(values) + 1))) for values in costs.values())
    assert len(world.asked) <= bound + 1


def test_a_series_that_cannot_win_costs_one_trial_or_none() -> None:
    world = World({"a": [0.9, 0.7, 0.5, 0.3], "b": [0.8, 0.6, 0.4, 0.2], "c": [0.95, 0.94, 0.93, 0.92]},
                  {"a": 2, "b": 0, "c": 3})  # fmt: skip
    ended = world.explored()
    assert ended["a"].best == 2
    assert [k for name, k in world.asked if name == "b"] == [2]  # 0.4 is the first below 0.5
    assert "fails" in ended["b"].left_out
    assert [k for name, k in world.asked if name == "c"] == []
    assert "no ratio would cost less" in ended["c"].left_out


def test_networks_that_are_the_same_are_tried_once() -> None:
    world = World({"a": [0.9, 0.9, 0.9, 0.5, 0.5, 0.5]}, {"a": 2})
    assert world.explored(guess=1)["a"].best in (0, 1, 2)
    assert len(world.asked) == 2


def test_what_cannot_be_pruned_is_neither_tried_nor_passes() -> None:
    world = World({"a": [1.0, 0.8, 0.6, None, None]}, {"a": 4})
    assert world.explored(guess=4)["a"].best == 2
    assert max(k for _, k in world.asked) == 2
    assert min(k for _, k in world.asked) >= 1  # 1.0 is the unpruned network
    assert World({"a": [1.0, None]}, {"a": 1}).explored()["a"].left_out == "nothing can be removed"


def pixels(n: int, seed: int = 0) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return ImageSet(images, np.zeros(n, np.int64), "sha256:x")


def test_the_split_depends_on_pixels_alone() -> None:
    test = pixels(400)
    parts = halves(test, 0.5, 0)
    assert np.array_equal(np.sort(np.concatenate([parts.decision, parts.untouched])), np.arange(400))
    assert 150 < len(parts.decision) < 250
    order = np.random.default_rng(1).permutation(400)
    moved = halves(replace(test, images=test.images[order]), 0.5, 0)
    assert set(order[moved.decision].tolist()) == set(parts.decision.tolist())
    twice = replace(test, images=np.concatenate([test.images, test.images]), labels=np.zeros(800, np.int64))
    both = halves(twice, 0.5, 0).decision
    assert np.array_equal(both[both < 400], both[both >= 400] - 400)  # copies are on one side
    assert halves(test, 0.5, 1).sha256 != parts.sha256
    with pytest.raises(DataError, match="would confirm"):
        halves(test, 0.95, 0)


def test_a_part_is_called_after_the_whole_test_set() -> None:
    """Names of data may hold commas: those of sets whose images were partly held out do."""
    whole = "cifar10 (1,000 of 10,000 test images held out) test set, 1,400 images"
    rules = EvaluateSection(corruptions="none")
    target = Target(name="host", threads=1, provider="CPUExecutionProvider")
    bench = Bench(pixels(1400), None, {}, rules, whole, target, host())
    part = restricted(bench, np.arange(1200), "those that decide")
    named, _ = whole.rsplit(", ", 1)
    assert part.population == f"{named}, 1,200 of 1,400 images (those that decide)"


def searched(*more: str) -> tuple[Series, ...]:
    blocks = (
        "compress=[{method='filter', ratios=[0.5]}, {method='weight', ratios=[0.5]}, {method='random', ratios=[0.5]}]"
    )
    recipe = parsing.load(None, [blocks, *more])
    return series_of(recipe.compress, recipe.search)


def test_the_series_of_a_recipe() -> None:
    def labels(*more: str) -> list[str]:
        return [series.label for series in searched(*more)]

    assert labels() == ["filter"]  # zeros save no MACs; the random control is not searched
    assert labels("search.minimise=bytes") == ["filter", "weight"]
    assert labels("search.methods=['random','channel']") == ["random", "channel"]
    assert labels("search.scopes=['internal','all']", "search.round_to=[8,16]") == [
        "filter_internal_round8", "filter_internal_round16", "filter_all_round8", "filter_all_round16",
    ]  # fmt: skip
    assert labels("search.calibrate=[false,true]", "search.allocations=['uniform','sensitivity']") == [
        "filter_uniform", "filter_uniform_calibrated", "filter_sensitivity", "filter_sensitivity_calibrated",
    ]  # fmt: skip
    sparse = searched("search.minimise=bytes", "search.weights=[0.5]", "search.methods=['filter']")
    assert [(s.label, s.section.then_weight) for s in sparse] == [("filter", None), ("filter_w0.50", 0.5)]
    assert [explorer.plan_of(s, 0.25, 0).id for s in sparse] == ["filter-r0.25-s0", "filter-r0.25-w0.50-s0"]
    with pytest.raises(UsageError, match="only with --minimise bytes"):
        labels("search.methods=['weight']")
    only = searched()[0]
    assert explorer.plan_of(only, 0.25, 0).id == "filter-r0.25-s0"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(8, 40), st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=4),
    st.sampled_from([1, 8]), st.integers(0, 60),
)  # fmt: skip
def test_refinement_ends_where_no_single_step_passes(
    made: list[tuple[int, int, int]], round_to: int, allowed: int
) -> None:
    """The oracle: in a world where a network passes up to a summed loss, every step that is left out would fail."""
    curves, start, price = [], {}, {}
    for number, (channels, gone, dear) in enumerate(made):
        name = f"l{number}"
        curves.append(
            LayerCurve(layer=name, channels=channels, probes=(LayerProbe(removed=channels, loss=dear, saved=0.5),))
        )
        start[name], price[name] = min(gone, channels // 2), dear
    asked: list[dict[str, int]] = []

    def passes(gone: Mapping[str, int]) -> bool:
        return sum(price[name] * count for name, count in gone.items()) <= allowed

    def attempt(gone: Mapping[str, int]) -> bool:
        asked.append(dict(gone))
        return passes(gone)

    end = refined(curves, start, round_to, attempt)
    assert all(end[name] >= start[name] for name in start)
    assert len(asked) == len({tuple(sorted(a.items())) for a in asked})  # nothing is tried twice
    for curve in curves:
        further = end | {curve.layer: end[curve.layer] + step_of(curve.channels, round_to)}
        assert further[curve.layer] > 0.9 * curve.channels or not passes(further)
    assert end == start or passes(end)


def test_the_control_has_the_same_widths_at_random() -> None:
    only = searched()[0]
    control = control_of(only, {"a": 0.5, "b": 0.25})
    assert control.section.method is Method.RANDOM
    assert control.section.layers == {"a": 0.5, "b": 0.25}
    assert control.section.scope == only.section.scope
    assert explorer.plan_of(control, 0.3, 0).id == "control_random_filter-r0.30-s0"


@pytest.mark.parametrize("allocation", ["uniform", "sensitivity"])
def test_the_unrecovered_control_has_the_winners_cut(allocation: str) -> None:
    """Curves of a measured allocation depend on the recovery, so the cut must not be allocated anew without one."""
    (only,) = searched(f"search.allocations=['{allocation}']", "search.methods=['filter']")
    nothing = RecoverSection(epochs=0, bn_images=0)
    bare = bare_of(only, {"a": 0.5, "b": 0.25}, nothing)
    assert bare.section.allocates is Allocation.UNIFORM
    assert (bare.section.method, bare.section.layers) == (Method.FILTER, {"a": 0.5, "b": 0.25})
    assert bare.section.recover == nothing
    assert explorer.plan_of(bare, 0.3, 0).id == "control_bare_filter-r0.30-s0"


def test_ratios_are_whole_hundredths() -> None:
    assert ratios_of(SearchSection(lowest=0.05, highest=0.95, resolution=0.3)) == (0.05, 0.35, 0.65, 0.95)
    assert len(ratios_of(SearchSection())) == 46
