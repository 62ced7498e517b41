"""certificates.npz: round trips, deterministic bytes, and attacks that each end in a named error."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from certificate_fixtures import ORIGIN, Net, pictures, work
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesafe.certificates.archive import SCHEMA, from_bytes, to_bytes
from edgesafe.certificates.certification import certify_set
from edgesafe.certificates.enumeration import SetPlan
from edgesafe.certificates.ids import parse
from edgesafe.certificates.summary import compare, curve, summarise
from edgesafe.errors import DataError, EdgesafeError, IntegrityError, NonFiniteError, NothingEvaluated
from edgesafe.metrics import Rule, get, info
from edgesafe.records import Population, PopulationKind
from edgesafe.records.certificates import Certificates, SetCertificates, Standing

PEOPLE = Population(kind=PopulationKind.IMAGES, description="noise")


def certificates(seed: int = 0, n: int = 30, complete: bool = True) -> Certificates:
    net, images = Net(seed), pictures(n, seed + 1)
    plans = [SetPlan(parse(name), complete=complete) for name in ("brightness=9", "dead-line", "contrast=5%")]
    return Certificates(tuple(certify_set(work(net, images), plan) for plan in plans), ORIGIN)


WHOLE = certificates()
DATA = to_bytes(WHOLE)


def same(a: SetCertificates, b: SetCertificates) -> bool:
    plain = {k: v for k, v in vars(a).items() if k != "witnesses"}
    pixels = vars(a.witnesses)
    return all(np.array_equal(v, getattr(b, k)) for k, v in plain.items()) and all(
        np.array_equal(v, getattr(b.witnesses, k)) for k, v in pixels.items()
    )


def test_round_trip() -> None:
    again = from_bytes(DATA)
    assert again.provenance == ORIGIN
    assert [s.id for s in again.sets] == ["brightness=9", "dead-line", "contrast=5%"]
    assert all(same(a, b) for a, b in zip(WHOLE.sets, again.sets, strict=True))
    assert to_bytes(again) == DATA
    assert to_bytes(certificates()) == DATA
    assert any(len(s.witnesses.row) for s in again.sets)
    assert any(len(s.answers) for s in again.sets)
    assert again.of("dead-line") is again.sets[1]
    assert again.of("dead-pixel") is None


def test_witnesses_are_kept_as_pixels_and_named() -> None:
    for one in WHOLE.sets:
        shown = one.witnesses
        finite = parse(one.id)
        for row, clean, changed, text in zip(shown.row, shown.clean, shown.changed, shown.text, strict=True):
            assert one.standing[row] == Standing.FALSIFIED
            assert (finite.image(clean, int(one.witness[row])) == changed).all()
            assert text == finite.describe(int(one.witness[row]), clean.shape)
            assert text


def test_numpy_reads_it_without_pickle() -> None:
    with np.load(io.BytesIO(DATA), allow_pickle=False) as archive:
        assert json.loads(archive["header"].tobytes())["schema"] == SCHEMA


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated(share: float) -> None:
    with pytest.raises(DataError):
        from_bytes(DATA[: int(share * len(DATA))])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_flipped_bytes_never_pass_silently_as_something_else(draw: st.DataObject) -> None:
    raw = bytearray(DATA)
    raw[draw.draw(st.integers(0, len(raw) - 1))] ^= draw.draw(st.integers(1, 255))
    try:
        again = from_bytes(bytes(raw))
    except EdgesafeError:
        return
    assert to_bytes(again) == DATA


def rewritten(changes: dict[str, Any]) -> bytes:
    """The file with arrays replaced, its checksums right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(DATA)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            name = info.filename.removesuffix(".npy")
            body = io.BytesIO()
            if name in changes:
                np.save(body, changes[name])
            target.writestr(info.filename, body.getvalue() or source.read(info))
    return out.getvalue()


def column(name: str) -> Any:
    with np.load(io.BytesIO(DATA), allow_pickle=False) as archive:
        return archive[name].copy()


def header(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content = json.loads(column("header").tobytes())
    change(content)
    return {"header": np.frombuffer(json.dumps(content).encode(), np.uint8)}


def edited(name: str, row: int, value: float) -> dict[str, Any]:
    array = column(name)
    array[row] = value
    return {name: array}


def row_with(standing: Standing) -> int:
    return int(np.flatnonzero(column("standing") == standing)[0])


CERTIFIED, FALSIFIED, WRONG = (row_with(s) for s in (Standing.CERTIFIED, Standing.FALSIFIED, Standing.WRONG))
ATTACKS: dict[str, Callable[[], dict[str, Any]]] = {
    "falsified sold as certified": lambda: edited("standing", FALSIFIED, Standing.CERTIFIED),
    "wrong sold as certified": lambda: edited("standing", WRONG, Standing.CERTIFIED),
    "certified sold as falsified": lambda: edited("standing", CERTIFIED, Standing.FALSIFIED),
    "unknown of an enumeration": lambda: edited("standing", CERTIFIED, Standing.UNKNOWN),
    "a standing that is none": lambda: edited("standing", 0, 9),
    "not run to the end": lambda: edited("ran", CERTIFIED, 1),
    "an index twice": lambda: edited("index", 1, int(column("index")[0])),
    "a negative distance": lambda: edited("distance", 0, -1.0),
    "a distance beyond the range": lambda: edited("distance", 0, 1e6),
    "a witness of a certified image": lambda: edited("witness", CERTIFIED, 3),
    "a witness lost": lambda: edited("witness", FALSIFIED, -1),
    "an agreement of 2": lambda: edited("agrees", 0, 2),
    "answers of another number": lambda: edited("answer_count", 0, 3),
    "answers too many": lambda: {"answers": column("answers")[:-1]},
    "a prediction that is wrong, certified": lambda: edited("prediction", CERTIFIED, 9),
    "witness pixels of another row": lambda: edited("witness_row", 0, WRONG),
    "witness of a row that is not": lambda: edited("witness_row", 0, 10_000),
    "witness answered rightly": lambda: edited("witness_prediction", 0, int(column("label")[column("witness_row")[0]])),
    "witnesses of two shapes": lambda: {"witness_clean": column("witness_clean")[:, 1:]},
    "a column too short": lambda: {"margin": column("margin")[:-1]},
    "a column of another type": lambda: {"margin": column("margin").astype(np.float32)},
    "newer schema": lambda: header(lambda h: h.update(schema="edgesafe.certificates/9")),
    "no sets": lambda: header(lambda h: h.update(sets=[])),
    "a set twice": lambda: header(lambda h: h["sets"][1].update(id="brightness=9")),
    "rows moved between sets": lambda: header(lambda h: (h["sets"][0].update(rows=1), h["sets"][1].update(rows=59))),
    "an engine that is none": lambda: header(lambda h: h["sets"][0].update(engine="trust me")),
    "an unknown key": lambda: header(lambda h: h.update(more=1)),
    "no provenance": lambda: header(lambda h: h.pop("provenance")),
}


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_attacks(name: str) -> None:
    with pytest.raises(DataError):
        from_bytes(rewritten(ATTACKS[name]()))


def test_the_attack_tool_itself_changes_nothing() -> None:
    assert to_bytes(from_bytes(rewritten({}))) == DATA


@pytest.mark.parametrize("name", ["margin", "distance"])
def test_nan_is_refused_both_ways(name: str) -> None:
    with pytest.raises(NonFiniteError):
        from_bytes(rewritten(edited(name, 0, np.nan)))
    one = WHOLE.sets[0]
    with pytest.raises(NonFiniteError):
        to_bytes(Certificates((replace(one, **{name: np.full(len(one), np.nan)}),), ORIGIN))


# --------------------------------------------------------------------------------------------------------- metrics


def test_metrics_are_shares_of_all_images_with_wilsons_interval() -> None:
    scipy = pytest.importorskip("scipy.stats")
    found = summarise(WHOLE, PEOPLE)
    for one in WHOLE.sets:
        shares = [found[f"{name}.{one.id}"].estimate for name in ("certified_accuracy", "falsified", "unknown")]
        wrong = float((one.standing == Standing.WRONG).mean())
        assert sum(shares) + wrong == pytest.approx(1.0)
        k = int((one.standing == Standing.CERTIFIED).sum())
        reference = scipy.binomtest(k, len(one)).proportion_ci(0.95, method="wilson")
        number = found[f"certified_accuracy.{one.id}"]
        assert (number.low, number.high) == (pytest.approx(reference.low), pytest.approx(reference.high))


def test_agreement_is_compared_where_a_baseline_was_given() -> None:
    net, images = Net(3), pictures(30)
    base = certify_set(work(Net(), images), SetPlan(parse("brightness=9"), complete=True))
    one = certify_set(work(net, images), SetPlan(parse("brightness=9"), baseline=base))
    found = compare(Certificates((one,), ORIGIN), Certificates((base,), ORIGIN), PEOPLE)
    number = found["certified_agreement.brightness=9"]
    assert number.estimate == number.candidate == float((one.agrees == 1).mean())
    assert number.low is not None
    assert number.low < number.estimate
    assert get(number.metric).rules() == (Rule.MIN,)
    assert all(info(metric) is not None for metric in found)


def test_differences_are_paired_over_images() -> None:
    other = certificates(seed=4, n=20)
    base = certificates(n=30, complete=False)
    found = compare(other, base, PEOPLE)
    number = found["certified_accuracy.brightness=9"]
    a = other.sets[0].standing == Standing.CERTIFIED
    b = base.sets[0].standing[:20] == Standing.CERTIFIED  # the same positions in the test set
    assert number.n == 20
    assert number.estimate == pytest.approx(float(a.mean()) - float(b.mean()))
    assert set(found) == {f"{m}.{s.id}" for m in ("certified_accuracy", "falsified", "unknown") for s in other.sets}


def test_certificates_of_something_else_are_not_compared() -> None:
    elsewhere = Certificates(WHOLE.sets, ORIGIN.model_copy(update={"test_sha256": "sha256:u"}))
    with pytest.raises(IntegrityError, match="other test images"):
        compare(WHOLE, elsewhere, PEOPLE)
    renamed = Certificates((replace(WHOLE.sets[0], sha256="sha256:x"),), ORIGIN)
    with pytest.raises(IntegrityError, match="not the same set"):
        compare(renamed, WHOLE, PEOPLE)
    with pytest.raises(NothingEvaluated, match="dead-line"):
        compare(WHOLE, Certificates((WHOLE.sets[0],), ORIGIN), PEOPLE)


def test_the_curve_falls_from_clean_to_certified_accuracy() -> None:
    one = WHOLE.sets[0]
    places, share = curve(one)
    clean = float((one.standing != Standing.WRONG).mean())
    assert places[0] == 0.0
    assert places[-1] == 9.0
    assert share[0] <= clean
    assert (np.diff(share) <= 0).all()
    assert share[-1] == float((one.standing == Standing.CERTIFIED).mean())
    smaller = certify_set(work(Net(), pictures(30)), SetPlan(parse("brightness=4")))
    at = share[np.searchsorted(places, 4.0, side="right") - 1]
    assert at == pytest.approx(float((smaller.standing == Standing.CERTIFIED).mean()))
    with pytest.raises(NothingEvaluated):
        curve(WHOLE.sets[1])  # a dead line has no range
