"""From certificates to numbers: shares of all images with their intervals, paired differences, the radius curve.

certified + falsified + unknown + wrong when untouched = all images, and all images are the denominator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import IntegrityError, NothingEvaluated
from edgesafe.measure.intervals.bounds import Interval, paired_difference, wilson
from edgesafe.records import Comparison, Measurement, Population, Unit
from edgesafe.records.certificates import Certificates, SetCertificates, Standing

__all__ = ["compare", "curve", "summarise"]

_SHARES = {
    "certified_accuracy": Standing.CERTIFIED,
    "falsified": Standing.FALSIFIED,
    "unknown": Standing.UNKNOWN,
}


def summarise(certificates: Certificates, population: Population, confidence: float = 0.95) -> dict[str, Measurement]:
    """`certified_accuracy.<set>`, `falsified.<set>`, `unknown.<set>`.

    Args:
        certificates: of one file.
        population: what the images stand for.
        confidence: of Wilson's intervals, two-sided.
    """
    found: dict[str, Measurement] = {}
    for one in certificates.sets:
        details = {"images_run": float(one.ran.sum()), "largest_set": float(one.members.max())}
        rates = {name: one.standing == standing for name, standing in _SHARES.items()}
        for name, rate in rates.items():
            metric = f"{name}.{one.id}"
            interval = wilson(int(rate.sum()), len(one), confidence)
            found[metric] = Measurement(
                metric=metric, unit=Unit.FRACTION, population=population, details=details, **interval.fields()
            )
    return found


def compare(
    candidate: Certificates, baseline: Certificates, population: Population, confidence: float = 0.95
) -> dict[str, Comparison]:
    """Paired differences, candidate minus baseline, of every set's metrics; and `certified_agreement.<set>`.

    Agreement is the share of images for which both files give the same answer, right or wrong, on every image of the
    set and on the untouched one; it stands beside the baseline's agreement with itself, 1.

    Raises:
        IntegrityError: other test images, or a set of the same id that makes other images.
        NothingEvaluated: a set that the baseline was not certified for, or fewer than two images in common.
    """
    if candidate.provenance.test_sha256 != baseline.provenance.test_sha256:
        raise IntegrityError("of other test images", where="certificates", fix="certify both on the same data")
    found: dict[str, Comparison] = {}
    for one in candidate.sets:
        other = baseline.of(one.id)
        if other is None:
            raise NothingEvaluated("the baseline has no certificates", where=one.id, fix="certify the baseline, too")
        if (one.sha256, one.engine) != (other.sha256, other.engine):
            raise IntegrityError("not the same set, or engine", where=one.id, fix="certify both with this edgesafe")
        _, here, there = np.intersect1d(one.index, other.index, assume_unique=True, return_indices=True)
        for name, standing in _SHARES.items():
            a, b = one.standing[here] == standing, other.standing[there] == standing
            interval = paired_difference(a, b, confidence, kind="rate")
            found[f"{name}.{one.id}"] = _comparison(f"{name}.{one.id}", interval, a, b, population)
        if (one.agrees >= 0).all():
            same, metric = one.agrees == 1, f"certified_agreement.{one.id}"
            interval = wilson(int(same.sum()), len(one), confidence)
            found[metric] = _comparison(metric, interval, same, np.ones_like(same), population)
    return found


def _comparison(
    metric: str, interval: Interval, a: NDArray[np.bool_], b: NDArray[np.bool_], population: Population
) -> Comparison:
    return Comparison(
        metric=metric, unit=Unit.FRACTION, candidate=float(a.mean()), baseline=float(b.mean()), population=population,
        **interval.fields(),
    )  # fmt: skip


def curve(one: SetCertificates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Certified accuracy against range: the share of all images that survive every image up to a distance.

    Args:
        one: run outwards, or complete.

    Returns:
        Distances, rising, from 0 to the whole range; and the share from each one (included) to the next (excluded).

    Raises:
        NothingEvaluated: the set has no range, or was not run outwards.
    """
    if not one.unit or not one.outwards:
        raise NothingEvaluated("no radius", where=one.id, fix="certify a set with a range, outwards")
    falsified = one.standing == Standing.FALSIFIED
    places = np.unique(np.concatenate([[0.0, one.reach], one.distance[falsified]]))
    lost = np.searchsorted(np.sort(one.distance[falsified]), places, side="right")
    survivors = int(falsified.sum() + (one.standing == Standing.CERTIFIED).sum())
    share: NDArray[np.float64] = (survivors - lost) / len(one)
    return places, share
