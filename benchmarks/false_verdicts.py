"""How often a gate on 1,000 images decides otherwise than all test images would: the product's gate and point values.

    python benchmarks/false_verdicts.py BASELINE/evidence.npz CANDIDATE/evidence.npz... [--subsets 1000] [--images 1000]

Truth is the verdict of the point values of all clean images of the evidence. Three ways to decide on a random subset:

* other: the candidate's value against the baseline's on another subset, as when two jobs drew their own images;
* point: against the baseline's on the same subset;
* edgesafe: `measure.summary.compare` on the subset's evidence and `gate.decide.decide` with a policy of that one gate
  (several gates at once are more cautious still: Holm's correction), at each of --confidence.

"wrong": the verdict differs from the truth; inconclusive is no verdict. "flip": two subsets get opposite verdicts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesafe.measure.evidence import from_bytes
from edgesafe.measure.metrics.calibration import ece_equal_mass
from edgesafe.measure.summary import compare
from edgesafe.policy.decision import decide
from edgesafe.policy.policy import Policy, loads
from edgesafe.records import (
    Comparison,
    DataIdentity,
    Evidence,
    GateStatus,
    Host,
    Measurements,
    Role,
    StudyRecord,
    Target,
    VariantEntry,
)

BASE, CANDIDATE, TEST = "baseline-s0", "candidate", "sha256:test"
GATES = (
    ("accuracy", "max_drop", "0.5pp"),
    ("accuracy", "max_drop", "1.0pp"),
    ("accuracy", "max_drop", "2.0pp"),
    ("ece_em10_top1", "max_increase", "0.2pp"),
    ("ece_em10_top1", "max_increase", "0.5pp"),
    ("nll", "max_increase", "0.01nats"),
    ("nll", "max_increase", "0.02nats"),
    ("high_conf_error@0.9", "max_increase", "0.5pp"),
)
Metrics = dict[str, float]


@dataclass(frozen=True)
class Rule:
    """One gate, as policies at each confidence."""

    metric: str
    text: str
    sign: float  # of a worsening
    limit: float
    policies: tuple[Policy, ...]


def rules(confidences: list[float]) -> list[Rule]:
    found = []
    for metric, rule, limit in GATES:
        text = 'schema = "edgesafe.policy/1"\n[stats]\nconfidence = {}\n[[gate]]\nid = "g"\n'
        text += f'metric = "{metric}"\n{rule} = "{limit}"\n'
        policies = tuple(loads(text.format(c)) for c in confidences)
        value = policies[0].gates[0].clauses[0].limit.value
        found.append(Rule(metric, f"{metric} {rule} {limit}", -1.0 if rule == "max_drop" else 1.0, value, policies))
    return found


def subset(evidence: Evidence, rows: NDArray[np.int64]) -> Evidence:
    """The clean rows with these numbers."""
    names = ("index", "label", "prediction", "confidence", "nll", "margin")
    cell = replace(evidence.clean, **{name: getattr(evidence.clean, name)[rows] for name in names})
    return replace(evidence, clean=cell, logits=evidence.logits[rows], cells={})


def values(evidence: Evidence) -> Metrics:
    """The point values that a gate without intervals compares."""
    cell = evidence.clean
    right = cell.prediction == cell.label
    return {
        "accuracy": float(right.mean()),
        "ece_em10_top1": ece_equal_mass(cell.confidence, right).value,
        "nll": float(cell.nll.mean()),
        "high_conf_error@0.9": float((~right & (cell.confidence > 0.9)).mean()),
    }


def measured(name: str, differences: dict[str, Comparison]) -> Measurements:
    return Measurements(
        variant=name,
        baseline=BASE if differences else None,
        onnx_sha256=f"sha256:{name}",
        evidence_sha256="sha256:evidence",
        test_sha256=TEST,
        metrics={},
        differences=differences,
        target=Target(name="none", threads=1, provider="none"),
        host=Host(cpu="", cores=1, system="", python="", versions={}),
    )


STUDY = StudyRecord.model_construct(
    name="subsets",
    data=DataIdentity.model_construct(test_sha256=TEST),
    variants=tuple(
        VariantEntry(id=one, role=role, label=role, group=one, method=role, ratio=0.0, seed=0, status="done")
        for one, role in ((BASE, Role.BASELINE), (CANDIDATE, Role.CANDIDATE))
    ),
)


def verdict(policy: Policy, differences: dict[str, Comparison]) -> GateStatus:
    """What `edgesafe gate` says of a study with these paired differences."""
    both = {BASE: measured(BASE, {}), CANDIDATE: measured(CANDIDATE, differences)}
    return decide(policy, STUDY, both, {}, baseline=None, today=date(2026, 1, 1)).gates[0].status


def samples(net: Evidence, base: Evidence, count: int, images: int) -> list[tuple[Metrics, Metrics, dict]]:
    """Candidate's and baseline's values, and the paired differences, of random subsets."""
    rng, found = np.random.default_rng(0), []
    for seed in range(count):
        rows = np.sort(rng.choice(len(base.clean.index), images, replace=False))
        one, two = subset(net, rows), subset(base, rows)
        found.append((values(one), values(two), compare(one, two, seed=seed)))
    return found


def report(rule: Rule, truth: float, drawn: list[tuple[Metrics, Metrics, dict]], confidences: list[float]) -> str:
    bad = truth > rule.limit
    limit = rule.limit + 1e-9  # 5 of 1,000 images is 0.5 pp, also in floating point
    mine = np.array([rule.sign * one[rule.metric] for one, _, _ in drawn])
    theirs = np.array([rule.sign * two[rule.metric] for _, two, _ in drawn])
    parts = [f"{rule.text}, true {truth:+.4f} ({'FAIL' if bad else 'PASS'})"]
    for name, against in (("other", np.roll(theirs, 1)), ("point", theirs)):
        wrong = float(np.mean((mine - against > limit) != bad))
        parts.append(f"{name} wrong {wrong:.3f} flip {2 * wrong * (1 - wrong):.3f}")
    for confidence, policy in zip(confidences, rule.policies, strict=True):
        found = [verdict(policy, differences) for _, _, differences in drawn]
        passed, failed = (sum(v is s for v in found) / len(found) for s in (GateStatus.PASS, GateStatus.FAIL))
        parts.append(
            f"edgesafe {confidence} wrong {passed if bad else failed:.3f} flip {2 * passed * failed:.3f}"
            f" inconclusive {1 - passed - failed:.3f}"
        )
    return " | ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("baseline", type=Path)
    parser.add_argument("candidates", type=Path, nargs="+")
    parser.add_argument("--subsets", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.99, 0.95], help="one-sided, of each bound")
    args = parser.parse_args()
    base = from_bytes(args.baseline.read_bytes())
    n = len(base.clean.index)
    print(f"{args.subsets} subsets of {args.images} of {n} images, without replacement")
    for path in args.candidates:
        net = from_bytes(path.read_bytes())
        truth = {metric: value - values(base)[metric] for metric, value in values(net).items()}
        drawn = samples(net, base, args.subsets, args.images)
        for rule in rules(args.confidence):
            print(
                path.parent.name, report(rule, rule.sign * truth[rule.metric], drawn, args.confidence), sep=": ",
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
