"""From certificates to numbers: shares of all images with their intervals, paired differences, the radius curve.

certified + falsified + unknown + wrong when untouched = all images, and all images are the denominator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe.errors import IntegrityError, NothingEvaluated
from edgesafe.measure.intervals.bounds import Interval, mean_interval, paired_difference, wilson
from edgesafe.measure.intervals.stated import measurement
from edgesafe.measure.tasks import rules_of
from edgesafe.measure.tasks.keypoints import bounded
from edgesafe.records import Comparison, Measurement, Population, Task, Unit
from edgesafe.records.certificates import Certificates, SetCertificates, Standing

__all__ = ["certified_points", "compare", "curve", "summarise"]

_SHARES = {
    "certified_accuracy": Standing.CERTIFIED,
    "falsified": Standing.FALSIFIED,
    "unknown": Standing.UNKNOWN,
}


def summarise(
    certificates: Certificates, population: Population, confidence: float = 0.95, task: Task | None = None
) -> dict[str, Measurement]:
    """`certified_accuracy.<set>`, `falsified.<set>`, `unknown.<set>`; of keypoints `certified_points.<set>`, too.

    Args:
        certificates: of one file.
        population: what the images stand for.
        task: what was asked of the file; None: a classification.
        confidence: of Wilson's intervals, two-sided.
    """
    metrics: dict[str, Measurement] = {}
    for part in certificates.sets:
        details = {"images_run": float(part.ran.sum()), "largest_set": float(part.members.max())}
        rates = {name: part.standing == standing for name, standing in _SHARES.items()}
        for name, rate in rates.items():
            metric = f"{name}.{part.id}"
            interval = wilson(int(rate.sum()), len(part), confidence)
            metrics[metric] = Measurement(
                metric=metric, unit=Unit.FRACTION, population=population, details=details, **interval.fields()
            )
        if (points := certified_points(part, task)) is not None:
            metric = f"certified_points.{part.id}"
            interval = bounded(metric, mean_interval(points, confidence))
            metrics[metric] = measurement(metric, interval, population, details=details)
    return metrics


def certified_points(part: SetCertificates, task: Task | None) -> NDArray[np.float64] | None:
    """The share of each image's keypoints that are right on every image, float64 (n,); None: it cannot be told."""
    if not part.complete:
        return None
    answers = np.split(part.answers, np.cumsum(part.answer_count)[:-1])
    return rules_of(task or Task()).certified_points(part.prediction, answers)


def compare(
    candidate: Certificates,
    baseline: Certificates,
    population: Population,
    confidence: float = 0.95,
    *,
    task: Task | None = None,
    agreement: bool = True,
) -> dict[str, Comparison]:
    """Paired differences, candidate minus baseline, of every set's metrics; and `certified_agreement.<set>`.

    Agreement is the share of images for which both files give the same answer, right or wrong, on every image of the
    set and on the untouched one; it stands beside the baseline's agreement with itself, 1.

    Args:
        candidate: certificates of the file in question.
        baseline: certificates of what it is compared with.
        population: what the images stand for.
        confidence: of the intervals, two-sided.
        task: what was asked of the files; None: a classification.
        agreement: False where `candidate` was certified beside another baseline, whose answers it was compared with.

    Raises:
        IntegrityError: other test images, or a set of the same id that makes other images.
        NothingEvaluated: a set that the baseline was not certified for, or fewer than two images in common.
    """
    if candidate.provenance.test_sha256 != baseline.provenance.test_sha256:
        raise IntegrityError("of other test images", where="certificates", fix="certify both on the same data")
    differences: dict[str, Comparison] = {}
    for ours in candidate.sets:
        theirs = baseline.of(ours.id)
        if theirs is None:
            raise NothingEvaluated("the baseline has no certificates", where=ours.id, fix="certify the baseline, too")
        if (ours.sha256, ours.engine) != (theirs.sha256, theirs.engine):
            raise IntegrityError("not the same set, or engine", where=ours.id, fix="certify both with this edgesafe")
        _, here, there = np.intersect1d(ours.index, theirs.index, assume_unique=True, return_indices=True)
        for name, standing in _SHARES.items():
            a, b = ours.standing[here] == standing, theirs.standing[there] == standing
            interval = paired_difference(a, b, confidence, kind="rate")
            differences[f"{name}.{ours.id}"] = _comparison(f"{name}.{ours.id}", interval, a, b, population)
        mine, others = (certified_points(part, task) for part in (ours, theirs))
        if mine is not None and others is not None:
            metric, a, b = f"certified_points.{ours.id}", mine[here], others[there]
            interval = paired_difference(a, b, confidence, kind="mean")
            differences[metric] = _comparison(metric, interval, a, b, population)
        if agreement and (ours.agrees >= 0).all():
            same, metric = ours.agrees == 1, f"certified_agreement.{ours.id}"
            interval = wilson(int(same.sum()), len(ours), confidence)
            differences[metric] = _comparison(metric, interval, same, np.ones_like(same), population)
    return differences


def _comparison(
    metric: str, interval: Interval, a: NDArray[Any], b: NDArray[Any], population: Population
) -> Comparison:
    return Comparison(
        metric=metric, unit=Unit.FRACTION, candidate=float(a.mean()), baseline=float(b.mean()), population=population,
        **interval.fields(),
    )  # fmt: skip


def curve(part: SetCertificates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Certified accuracy against range: the share of all images that survive every image up to a distance.

    Args:
        part: certificates of a set with a range, run outwards.

    Returns:
        Distances, rising, from 0 to the whole range; and the share from each one (included) to the next (excluded).

    Raises:
        NothingEvaluated: the set has no range, or was not run outwards.
    """
    if not part.unit or not part.outwards:
        raise NothingEvaluated("no radius", where=part.id, fix="certify a set with a range, outwards")
    falsified = part.standing == Standing.FALSIFIED
    places = np.unique(np.concatenate([[0.0, part.reach], part.distance[falsified]]))
    lost = np.searchsorted(np.sort(part.distance[falsified]), places, side="right")
    survivors = int(falsified.sum() + (part.standing == Standing.CERTIFIED).sum())
    share: NDArray[np.float64] = (survivors - lost) / len(part)
    return places, share
