"""Enumeration against brute force over all images of a set; budgets by counted inferences."""

from dataclasses import replace

import numpy as np
import pytest
from certificate_fixtures import ORIGIN, Net, Nowhere, brute_force, pictures, work
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.certificates import archive, certification
from edgesafe.certificates.certification import Work, certify_set, certify_some, shards
from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk, visiting_order
from edgesafe.certificates.ids import parse
from edgesafe.errors import IntegrityError, NothingEvaluated, RefusedError
from edgesafe.measure.tasks.classification import margins
from edgesafe.records.certificates import SetCertificates, Standing

SETS = ["brightness=9", "contrast=20%", "gamma=0.8..1.25", "contrast=5%,brightness=2", "shift=1", "dead-pixel",
        "dead-line", "occlusion=2", "jpeg=50..95"]  # fmt: skip


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("outwards", [True, False])
def test_verdicts_are_those_of_brute_force(name: str, outwards: bool) -> None:
    net, images, finite = Net(), pictures(25), parse(name)
    found = enumerate_chunk(net, images, SetPlan(finite, outwards=outwards, batch_size=16))
    clean = margins(net.logits(images.pixels), images.labels)
    for row, truth in enumerate(brute_force(net, images, finite)):
        wrong = [(distance, margin) for distance, margin, _ in truth if margin <= 0]
        want = Standing.WRONG if clean[row] <= 0 else Standing.FALSIFIED if wrong else Standing.CERTIFIED
        assert found.standing[row] == want
        if want is Standing.CERTIFIED:
            assert found.margin[row] == min(clean[row], *(margin for _, margin, _ in truth))
            assert found.distance[row] == finite.reach(images.pixels.shape[1:])
        if want is Standing.FALSIFIED and outwards:
            assert found.distance[row] == min(wrong)[0]
        if want is Standing.FALSIFIED:
            witness = finite.image(images.pixels[row], int(found.witness[row]))
            assert margins(net.logits(witness[None], 1), images.labels[row : row + 1])[0] <= 0
    standings = set(found.standing.tolist())
    assert {Standing.CERTIFIED, Standing.WRONG} <= standings or {Standing.FALSIFIED, Standing.WRONG} <= standings


def test_the_fixture_has_every_standing() -> None:
    found = enumerate_chunk(Net(), pictures(200), SetPlan(parse("brightness=9")))
    assert set(found.standing.tolist()) == {Standing.CERTIFIED, Standing.FALSIFIED, Standing.WRONG}


def test_a_tie_is_wrong() -> None:
    class Tied(Net):
        def logits(self, images, batch_size=32):  # noqa: ARG002
            z = np.zeros((len(images), 3), np.float32)
            z[images.reshape(len(images), -1).max(axis=1) < 100, 0] = 1.0  # dark images: class 0; others: all equal
            return z

    dark = Images(np.full((1, 4, 4, 3), 99, np.uint8), np.array([0]), np.array([0]))
    found = enumerate_chunk(Tied(), dark, SetPlan(parse("brightness=1")))
    assert found.standing[0] == Standing.FALSIFIED
    assert found.margin[0] == 0.0
    lighter = Images(np.full((1, 4, 4, 3), 120, np.uint8), np.array([0]), np.array([0]))
    assert enumerate_chunk(Tied(), lighter, SetPlan(parse("brightness=1"))).standing[0] == Standing.WRONG


def test_a_larger_set_is_never_more_certified() -> None:
    net, images = Net(), pictures(60)
    for smaller, larger in (
        ("brightness=2", "brightness=9"),
        ("contrast=5%", "contrast=20%"),
        ("brightness=2", "contrast=5%,brightness=2"),
        ("shift=1", "shift=2"),
        ("jpeg=70..95", "jpeg=50..95"),
    ):
        a, b = (enumerate_chunk(net, images, SetPlan(parse(name))) for name in (smaller, larger))
        assert ((b.standing == Standing.CERTIFIED) <= (a.standing == Standing.CERTIFIED)).all(), (smaller, larger)
        assert (b.margin[b.standing == Standing.CERTIFIED] <= a.margin[b.standing == Standing.CERTIFIED]).all()


def test_the_radius_is_what_smaller_sets_say() -> None:
    net, images = Net(), pictures(60)
    whole = enumerate_chunk(net, images, SetPlan(parse("brightness=12")))
    for levels in range(1, 13):
        part = enumerate_chunk(net, images, SetPlan(parse(f"brightness={levels}")))
        survives = (whole.standing == Standing.CERTIFIED) | (
            (whole.standing == Standing.FALSIFIED) & (whole.distance > levels)
        )
        assert (survives == (part.standing == Standing.CERTIFIED)).all()


def test_agreement_is_with_the_baseline_on_every_image_the_untouched_one_included() -> None:
    first, second, images = Net(), Net(), pictures(60)
    second.second += 0.35 * np.random.default_rng(5).normal(size=second.second.shape)
    for name in ("brightness=9", "dead-line"):
        finite = parse(name)
        base = enumerate_chunk(first, images, SetPlan(finite, complete=True))
        assert base.complete
        found = enumerate_chunk(second, images, SetPlan(finite, baseline=base))
        a, b = brute_force(first, images, finite), brute_force(second, images, finite)
        clean = first.logits(images.pixels).argmax(1) == second.logits(images.pixels).argmax(1)
        truth = [
            bool(same) and all(x[2] == y[2] for x, y in zip(one, other, strict=True))
            for same, one, other in zip(clean, a, b, strict=True)
        ]
        assert found.agrees.tolist() == [int(v) for v in truth], name
        assert 0 < sum(truth) < len(truth), name
        itself = enumerate_chunk(first, images, SetPlan(finite, baseline=base))
        assert (itself.agrees == 1).all()
        alone = enumerate_chunk(second, images, SetPlan(finite))
        assert (alone.standing == found.standing).all()
        assert (alone.agrees == -1).all()


def test_inferences_are_counted_and_stop_at_the_first_violation() -> None:
    net, images = Net(), pictures(100)
    finite = parse("brightness=9")
    found = enumerate_chunk(net, images, SetPlan(finite))
    replayed = int((found.standing == Standing.FALSIFIED).sum())
    assert net.asked == int(found.ran.sum()) + replayed
    certified, wrong = found.standing == Standing.CERTIFIED, found.standing == Standing.WRONG
    assert (found.ran[certified] == found.members[certified]).all()  # the untouched image is one of the set
    assert (found.ran[wrong] == 1).all()
    early = found.ran[found.standing == Standing.FALSIFIED]
    assert early.min() < 19
    assert max(net.batches) <= 100
    assert np.mean([size for size in net.batches if size not in (1, 100)]) > 40  # batches of 64 are mostly full


def test_extremes_come_first_then_coarse_to_fine() -> None:
    image = np.arange(256, dtype=np.uint8)[:75].reshape(5, 5, 3) + 100
    members = parse("brightness=8").members(image)
    order = visiting_order(members, outwards=False).tolist()
    assert order[:2] == [0, 16]
    assert members.clean == 8
    assert 8 not in order
    assert set(order[2:4]) == {4, 12}
    assert sorted([*order, 8]) == list(range(17))
    near = visiting_order(members, outwards=True)
    assert (np.diff(members.distance[near]) >= 0).all()


def test_any_number_of_threads_and_any_interruption_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certification, "_CHUNK_IMAGES", 7)
    images, plan = pictures(50), SetPlan(parse("brightness=9"))

    def data(found: SetCertificates) -> bytes:
        return archive.to_bytes(archive.Certificates((found,), ORIGIN))

    alone = data(certify_set(work(Net(), images), plan))
    assert data(certify_set(work(Net(), images, workers=3), plan)) == alone

    class Tired(Net):
        def logits(self, images, batch_size=32):
            if self.asked > 400:
                raise KeyboardInterrupt
            return super().logits(images, batch_size)

    keeper = Nowhere()
    with pytest.raises(KeyboardInterrupt):
        certify_set(work(Tired(), images, keeper=keeper), plan)
    assert 0 < len(keeper.parts) < 8
    fresh = Net()
    steps: list[int] = []
    resumed = certify_set(Work(fresh, images, ORIGIN, keeper, steps.append, 1), plan)
    assert data(resumed) == alone
    assert sum(steps) == 50
    again = Net()
    certify_set(work(again, images), plan)
    assert fresh.asked < again.asked


def test_shares_together_are_the_whole_and_nothing_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certification, "_CHUNK_IMAGES", 7)
    images, plan = pictures(50), SetPlan(parse("brightness=9"))
    alone = certify_set(work(Net(), images), plan)
    keeper, counts = Nowhere(), []
    for number in (2, 3, 1):
        certify_some(work(Net(), images, keeper=keeper), plan, number, 3)
        counts.append(len(keeper.parts))
    assert counts == [3, 5, 8]
    last = Net()
    whole = certify_set(work(last, images, keeper=keeper), plan)
    assert archive.to_bytes(archive.Certificates((whole,), ORIGIN)) == archive.to_bytes(
        archive.Certificates((alone,), ORIGIN)
    )
    assert last.asked == len(whole.witnesses.row)  # what is shown is run once more


@given(st.integers(1, 100_000), st.sampled_from(["brightness=2", "jpeg=50..95", "contrast=2%,brightness=2"]))
def test_no_share_is_smaller_than_what_is_worth_a_worker(n: int, name: str) -> None:
    finite, shape = parse(name), (32, 32, 3)
    count = shards(n, shape, finite)
    assert count == 1 or n * finite.size(shape) / count > 10_000
    assert 1 <= count <= n


def test_large_images_go_in_small_chunks_and_a_growing_sample_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    images, plan, whole = pictures(50), SetPlan(parse("dead-line")), Net()
    alone = certify_set(work(whole, images), plan)
    monkeypatch.setattr(certification, "_CHUNK_BYTES", 10 * 22 * 6 * 5 * 3)  # ten images of 22 faults each
    keeper = Nowhere()
    again = certify_set(work(Net(), images, keeper=keeper), plan)
    assert len(keeper.parts) == 5
    even, odd = np.arange(0, 50, 2), np.arange(1, 50, 2)
    net, more, grown = Net(), Net(), Nowhere()
    first = certify_set(replace(work(net, images.part(even), keeper=grown), groups=(np.arange(25),)), plan)
    assert first.index.tolist() == images.index[even].tolist()
    grouped = certify_set(replace(work(more, images, keeper=grown), groups=(even, odd)), plan)
    assert len(grown.parts) == 6
    assert whole.asked <= net.asked + more.asked <= whole.asked + 8  # none twice, but for the witnesses that are shown
    for found in (again, grouped):
        assert archive.to_bytes(archive.Certificates((found,), ORIGIN)) == archive.to_bytes(
            archive.Certificates((alone,), ORIGIN)
        )


def test_what_cannot_be_compared_is_refused() -> None:
    net, images = Net(), pictures(10)
    nine = enumerate_chunk(net, images, SetPlan(parse("brightness=9"), complete=True))
    with pytest.raises(IntegrityError, match="another set"):
        certify_set(work(net, images), SetPlan(parse("brightness=8"), baseline=nine))
    with pytest.raises(IntegrityError, match="not run on every image"):
        certify_set(work(net, images), SetPlan(parse("brightness=9"), baseline=replace(nine, complete=False)))
    with pytest.raises(IntegrityError, match="not run on every image"):
        certify_set(work(net, replace(images, index=images.index + 1)), SetPlan(parse("brightness=9"), baseline=nine))
    with pytest.raises(NothingEvaluated):
        certify_set(work(net, images.part(slice(0, 0))), SetPlan(parse("brightness=9")))


def test_a_witness_that_does_not_replay_is_refused() -> None:
    class Mood(Net):
        def logits(self, images, batch_size=32):
            z = super().logits(images, batch_size)
            return z if batch_size > 1 else 0 * z + np.array([5.0, 0, 0], np.float32)

    net = Mood()
    images = pictures(200)
    with pytest.raises(RefusedError, match="run alone"):
        enumerate_chunk(net, images, SetPlan(parse("brightness=9")))
