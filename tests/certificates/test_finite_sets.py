"""Finite sets: exact tables against fractions, all images distinct, counts known beforehand, ids that mean one set."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe.certificates import faults, tables
from edgesafe.certificates.ids import EXAMPLES, parse
from edgesafe.certificates.sets import FaultSet, PointSet, require_room
from edgesafe.errors import DataError, UsageError

IMAGE = np.random.default_rng(3).integers(0, 256, (8, 10, 3), dtype=np.uint8)
SHARE = Fraction(1, 50)
GAMMAS = tables.gamma(Fraction(4, 5), Fraction(5, 4))
TABLES = {pivot: tables.linear(SHARE, pivot) for pivot in (255, 0)}


def rounded_away(x: int, c: Fraction, pivot2: int) -> int:
    """A definition of its own: the value as a fraction; a half goes away from the pivot; clipped."""
    value = Fraction(pivot2, 2) + (1 + c) * (x - Fraction(pivot2, 2))
    low = math.floor(value)
    part = value - low
    if part == Fraction(1, 2):
        whole = low + 1 if value >= Fraction(pivot2, 2) else low
    else:
        whole = low if part < Fraction(1, 2) else low + 1
    return min(255, max(0, whole))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("brightness=2", 5),
        ("brightness=25", 51),
        ("contrast=5%", 657),
        ("contrast=20%", 2427),
        ("exposure=5%", 2594),
        ("exposure=20%", 9683),
        ("contrast=5%,brightness=2", 3285),
        ("contrast=20%,brightness=25", 123_777),
    ],
)
def test_the_numbers_of_tables_are_those_of_the_reference(name: str, count: int) -> None:
    shape = parse(name)
    assert shape.size((32, 32, 3)) == count
    assert isinstance(shape, PointSet)
    assert len(np.unique(shape.tables.luts, axis=0)) == count


@pytest.mark.parametrize("pivot2", [255, 0])
@given(
    c=st.one_of(
        st.fractions(-SHARE, SHARE, max_denominator=5000),
        st.floats(-0.02, 0.02).map(Fraction),
        # ties of some entry, exactly
        st.tuples(st.integers(0, 255), st.integers(0, 254)).map(
            lambda p: Fraction(2 * p[1] + 1 - 255, 2 * p[0] - 255) - 1
        ),
    ).filter(lambda c: -SHARE <= c <= SHARE)
)
@settings(deadline=None, max_examples=60)
def test_every_parameter_of_the_range_makes_a_table_of_the_list(pivot2: int, c: Fraction) -> None:
    made = TABLES[pivot2]
    row = np.array([rounded_away(x, c, pivot2) for x in range(256)])
    assert (made.luts == row).all(axis=1).any()


@pytest.mark.parametrize("pivot2", [255, 0])
def test_every_table_of_the_list_is_reached(pivot2: int) -> None:
    made = TABLES[pivot2]
    places = {-SHARE, SHARE}
    for x in range(256):
        for n in range(255):
            if 2 * x != pivot2 and -SHARE <= (c := Fraction(2 * n + 1 - pivot2, 2 * x - pivot2) - 1) <= SHARE:
                places.add(c)
    points = sorted(places | {(a + b) / 2 for a, b in pairwise(sorted(places))})
    reached = {bytes(rounded_away(x, c, pivot2) for x in range(256)) for c in points}
    assert reached == {table.tobytes() for table in made.luts}


def test_along_contrast_bright_never_falls_and_dark_never_rises() -> None:
    steps = np.diff(tables.linear(Fraction(1, 5), tables.PIVOT).luts.astype(int), axis=0)
    assert (steps[:, 128:] >= 0).all()
    assert (steps[:, :128] <= 0).all()


@given(st.fractions(Fraction(4, 5), Fraction(5, 4), max_denominator=10_000))
@settings(deadline=None, max_examples=30)
def test_every_gamma_makes_a_table_of_the_list(g: Fraction) -> None:
    made = GAMMAS
    values = [255 * (x / 255) ** float(g) for x in range(256)]  # float64: the nearest a half comes is 1e-7 here
    row = np.array([math.floor(v + 0.5) for v in values])
    assert (made.luts == row).all(axis=1).any()


def test_gamma_is_monotone_and_no_two_thresholds_are_near_each_other() -> None:
    made = tables.gamma(Fraction(1, 2), Fraction(2))
    assert (np.diff(made.luts.astype(int), axis=0) <= 0).all()
    assert (np.diff(made.luts.astype(int), axis=0).sum(axis=1) == -1).all()  # one entry, one level, at a time
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        logs = [mpmath.log(mpmath.mpf(x) / 255) for x in range(1, 255)]
        found = sorted(mpmath.log(mpmath.mpf(2 * n + 1) / 510) / log for log in logs[::5] for n in range(255))
        assert min(b - a for a, b in pairwise(found)) > mpmath.mpf(10) ** -30


def test_a_sequence_stores_eight_bits_between() -> None:
    contrast, brightness = TABLES[255], tables.brightness(2)
    both = tables.compose([contrast, brightness])
    brute = {b[a].tobytes() for a in contrast.luts for b in brightness.luts}
    assert {table.tobytes() for table in both.luts} == brute
    assert both.distance.min() == 0.0
    assert both.distance.max() == pytest.approx(1.0)


def test_the_identity_is_at_distance_zero_and_distances_grow_outwards() -> None:
    for name in ("brightness=7", "contrast=5%", "exposure=5%", "gamma=0.8..1.25", "contrast=5%,brightness=2"):
        shape = parse(name)
        assert isinstance(shape, PointSet)
        at = int((shape.tables.luts == np.arange(256)).all(axis=1).argmax())
        assert shape.tables.distance[at] == 0.0, name
        if "," not in name:
            assert (np.diff(shape.tables.distance[at:]) >= 0).all(), name
            assert (np.diff(shape.tables.distance[: at + 1]) <= 0).all(), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_members_are_all_distinct_and_are_what_brute_force_makes(name: str) -> None:
    shape = parse(name)
    image = IMAGE.copy()
    image[:4] = 90  # equal pixels: some shifts and tables make the same image
    members = shape.members(image)
    made = members.make(np.arange(len(members)))
    assert made.dtype == np.uint8
    assert made.shape == (len(members), *image.shape)
    brute = {shape.image(image, number).tobytes() for number in range(shape.size(image.shape))}
    assert len({one.tobytes() for one in made}) == len(members) == len(brute)
    assert {one.tobytes() for one in made} == brute
    assert (members.clean >= 0) == (image.tobytes() in brute)
    if members.clean >= 0:
        assert (made[members.clean] == image).all()
    assert all((shape.image(image, int(n)) == one).all() for n, one in zip(members.number[:5], made, strict=False))
    assert shape.describe(int(members.number[-1]), image.shape)


def test_only_pixel_values_that_occur_count() -> None:
    flat = np.full((4, 4, 3), 200, np.uint8)
    brute = {rounded_away(200, Fraction(k, 10_000), 255) for k in range(-500, 501)}
    assert len(parse("contrast=5%").members(flat)) == len(brute)
    assert len(parse("brightness=25").members(np.full((4, 4, 3), 250, np.uint8))) == 31  # 225..255


def test_faults_do_what_their_names_say() -> None:
    image = IMAGE
    shift = faults.shift(1)
    down = shift.make(image, np.array([7]))[0]  # +1 down, 0 right
    assert (down[1:] == image[:-1]).all()
    assert (down[0] == image[0]).all()
    pixel = faults.dead_pixel().make(image, np.array([2 * (3 * 10 + 4) + 1]))[0]
    assert (pixel[3, 4] == 255).all()
    assert (pixel != image).any(axis=2).sum() <= 1
    lines = faults.dead_line()
    assert (lines.make(image, np.array([2 * 8 + 6]))[0][:, 3] == 0).all()
    assert lines.size((32, 32, 3)) == 128
    assert faults.dead_pixel().size((32, 32, 3)) == 2048
    assert faults.occlusion(4).size((32, 32, 3)) == 841
    assert faults.jpeg(50, 95).size((32, 32, 3)) == 46
    patch = faults.occlusion(4).make(image, np.array([0]))[0]
    assert (patch[:4, :4] == 127).all()
    assert (patch[4:] == image[4:]).all()


def test_images_too_large_to_keep_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = parse("dead-line").members(IMAGE)
    monkeypatch.setattr("edgesafe.certificates.sets.KEEP_BYTES", 0)
    monkeypatch.setattr("edgesafe.certificates.sets._BLOCK_BYTES", 1000)
    again = FaultSet("dead-line", faults.dead_line()).members(IMAGE)
    everything = np.arange(len(kept))
    assert (kept.number == again.number).all()
    assert (kept.make(everything) == again.make(everything)).all()


@given(
    st.one_of(
        st.integers(1, 255).map(lambda n: f"brightness={n}"),
        st.integers(1, 999).map(lambda n: f"contrast={n / 10}%"),
        st.integers(1, 64).map(lambda n: f"shift={n}"),
        st.tuples(st.integers(1, 50), st.integers(50, 100)).map(lambda q: f"jpeg={q[0]}..{q[1]}"),
        st.sampled_from(EXAMPLES),
    )
)
@settings(deadline=None, max_examples=40)
def test_an_id_reads_back_as_itself(text: str) -> None:
    canonical = parse(text).id
    assert parse(canonical).id == canonical
    assert parse(canonical).sha256 == parse(text).sha256


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=150)
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    try:
        shape = parse(text)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert parse(shape.id).sha256 == shape.sha256


def test_one_set_has_one_id_and_other_sets_other_hashes() -> None:
    assert parse("contrast=5.0%").id == "contrast=5%"
    assert parse("gamma=0.80..1.250").id == "gamma=0.8..1.25"
    assert parse("jpeg=70").id == "jpeg=70..70"
    hashes = [parse(name).sha256 for name in (*EXAMPLES, "brightness=3", "shift=2", "occlusion=5", "jpeg=50..94")]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brightnes=2", "did you mean 'brightness=2'"),
        ("dead_pixel", "did you mean 'dead-pixel'"),
        ("brightness=0.1", "25.5 levels, a tie"),
        ("brightness=0.2", "51 levels"),
        ("brightness=0", "no whole number"),
        ("brightness=256", "no whole number"),
        ("contrast=5", "with a % sign"),
        ("contrast=100%", "between 0 % and 100 %"),
        ("gamma=1.25..0.8", "range of exponents"),
        ("jpeg=95..50", "range of qualities"),
        ("dead-line=2", "takes no number"),
        ("shift=1,brightness=2", "in a sequence"),
        ("brightness=1,brightness=1,brightness=1,brightness=1", "4 stages"),
        ("exposure=20%,exposure=20%", "images of each image"),
        ("", "no set"),
    ],
)
def test_what_is_no_set_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        parse(text)


def test_a_set_that_is_too_large_is_refused_with_its_count() -> None:
    with pytest.raises(UsageError, match="123,777 images of each image, the limit is 10,000"):
        require_room([parse("contrast=20%,brightness=25")], (32, 32, 3), 10_000)
    with pytest.raises(DataError, match="occlusion=40, images of 32 x 32"):
        require_room([parse("occlusion=40")], (32, 32, 3), 10_000)
    require_room([parse(name) for name in EXAMPLES], (32, 32, 3), 10_000)
