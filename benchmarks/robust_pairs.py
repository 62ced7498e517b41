"""Variants of a keypoint study against each other on the same images: keypoints found, certified, and certified of those found.

    python benchmarks/robust_pairs.py STUDY

A study compares each variant with its baseline; which ranking is better is asked here. Found: within the tolerance on the
untouched image. The share of certified among found ones says how steady a network is, however good; its interval is that of the
linearised ratio of two means over images. Differences are paired by image, in percentage points. Each 95 % interval speaks for
itself: of 20 between equal networks one would leave zero out. Nothing is run.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.certificates import archive
from edgesafe.certificates.summary import certified_points
from edgesafe.measure import evidence
from edgesafe.measure.intervals.bounds import Interval, mean_interval, paired_difference
from edgesafe.study.study import Study, Variant, read

Columns = dict[str, NDArray[np.float64]]


def columns(study: Study, variant: Variant) -> Columns:
    """Shares of keypoints by image, float64 (n,), whose means are what is compared."""
    task = study.record.data.task
    assert task is not None and task.tolerance_px is not None, "a study of keypoints"
    errors = evidence.from_bytes(variant.evidence_bytes()).clean.errors
    assert errors is not None
    found = (errors < task.tolerance_px).mean(axis=1)
    of: Columns = {"found": found}
    for part in archive.from_bytes(variant.certificates_bytes()).sets:
        kept, there = certified_points(part, task), found[part.index]
        if kept is not None:
            ratio = kept.mean() / there.mean()
            of[f"certified, {part.id}"] = kept
            of[f"of those found, {part.id}"] = ratio + (kept - ratio * there) / there.mean()
    return of


def cell(interval: Interval, *, signed: bool) -> str:
    """Percent, or signed points, with the interval."""
    form = "+.1f" if signed else ".1f"
    low, high = (100 * (interval.estimate if end is None else end) for end in (interval.low, interval.high))
    return f"{100 * interval.estimate:{form}} [{low:{form}}, {high:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    study = read(parser.parse_args().study)
    seen = {variant.id: columns(study, variant) for variant in study.finished()}
    rows = {name: [mean_interval(values) for values in of.values()] for name, of in seen.items()}
    for other, one in combinations([v.id for v in study.finished() if not v.entry.is_baseline], 2):
        pairs = zip(seen[one].values(), seen[other].values(), strict=True)
        rows[f"{one} less {other}"] = [paired_difference(a, b, kind="mean") for a, b in pairs]
    print("| | " + " | ".join(next(iter(seen.values()))) + " |")
    for number, (name, intervals) in enumerate(rows.items()):
        if number == 0:
            print("|---" * (1 + len(intervals)) + "|")
        print(f"| {name} | " + " | ".join(cell(i, signed=name not in seen) for i in intervals) + " |")


if __name__ == "__main__":
    main()
