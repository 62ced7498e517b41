"""Pruned variants of a keypoint study against each other, on the same images: certified keypoints, and keypoints within 2 px.

    python benchmarks/robust_pairs.py STUDY

A study compares each variant with its baseline; which ranking is better is asked here. Differences are paired by image, in
percentage points, with 95 % intervals; each speaks for itself (of 20 of equal networks one would leave zero out). Nothing is run.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

from edgesafe.certificates import archive
from edgesafe.certificates.summary import compare
from edgesafe.measure import evidence
from edgesafe.measure.intervals.bounds import paired_difference
from edgesafe.records import Population, PopulationKind
from edgesafe.study.study import Study, Variant, read

NEAR = 2.0  # px


def differences(study: Study, one: Variant, other: Variant) -> dict[str, tuple[float, float, float]]:
    """One less the other by what is compared: estimate, low, high, as fractions."""
    files = [evidence.from_bytes(variant.evidence_bytes()).clean for variant in (one, other)]
    shares = [(file.errors < NEAR).mean(axis=1) for file in files]
    within = paired_difference(*shares, kind="mean")
    found = {"within 2 px": (within.estimate, within.low, within.high)}
    certified = [archive.from_bytes(variant.certificates_bytes()) for variant in (one, other)]
    images = Population(kind=PopulationKind.IMAGES, description="test images")
    for metric, item in compare(*certified, images, task=study.record.data.task).items():
        if metric.startswith("certified_points."):
            found[metric.removeprefix("certified_points.")] = (item.estimate, item.low, item.high)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    study = read(parser.parse_args().study)
    pruned = [variant for variant in study.finished() if not variant.entry.is_baseline]
    found = {(one.id, other.id): differences(study, one, other) for other, one in combinations(pruned, 2)}
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    print("| paired difference, points | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for (one, other), row in found.items():
        cells = [f"{100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for d, low, high in (row[c] for c in columns)]
        print(f"| {one} less {other} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
