"""What is ahead, told beforehand: certifying included."""

import pytest

from edgesafe import data
from edgesafe.certificates import ids
from edgesafe.commands import estimate, results
from edgesafe.executors.crew import Crew
from edgesafe.recipe import parsing
from edgesafe.recipe.recipe import variants
from edgesafe.records import Estimate
from edgesafe.stages import observe
from edgesafe.study.host import host


def ahead(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Estimate:
    monkeypatch.setattr(estimate, "_speed", lambda *_: estimate._Speed({}, 0.001, 0.0))
    monkeypatch.setattr(estimate, "_training_s", lambda *_: 0.0)
    monkeypatch.setattr(estimate, "_recovery_s", lambda *_: 0.0)
    small = ["evaluate.corruptions=none", "data.test_images=50", "certify.sets=[]", *overrides]
    recipe = parsing.load(None, small)
    bundle = data.load(recipe.data)
    bench = observe.prepare(bundle, recipe.evaluate, recipe.target, host())
    made = estimate.estimate(recipe, bundle, bench, variants(recipe))
    assert made is not None
    return made


def test_certifying_is_in_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    without = ahead(monkeypatch)
    assert (without.certify_s, without.certify_images) == (0.0, 0)
    with_ = ahead(monkeypatch, "certify.sets=['brightness=2', 'dead-pixel']", "certify.images=30")
    members = ids.parse("brightness=2").size((32, 32, 3)) + ids.parse("dead-pixel").size((32, 32, 3))
    assert with_.certify_images == 30 * members
    assert with_.certify_s == pytest.approx(with_.variants * 30 * members * 0.001)
    assert with_.seconds == pytest.approx(without.seconds + with_.certify_s)
    assert f"certifying, at most {30 * members:,} images a file" in results.in_words(with_)
    line = ahead(monkeypatch, "certify.sets=['brightness=2']", "certify.engine=line")
    assert line.certify_images == 0


@pytest.mark.parametrize(
    ("crew", "cores", "times"),
    [
        (Crew(), 1, 1.0),
        (Crew(), 2, 1.6),
        (Crew(2), 2, 2.0),
        (Crew(8), 2, 2.0),
        (Crew(2), 8, 2.0),
    ],
)
def test_workers_are_in_the_estimate(crew: Crew, cores: int, times: float) -> None:
    assert estimate._together(crew, cores) == pytest.approx(times)


def test_the_estimate_says_for_how_many_workers_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ahead(monkeypatch)
    assert f"for {made.variants} variants by 3 workers: " in results.in_words(made, 3)
    assert f"for {made.variants} variants: " in results.in_words(made)
