"""Synthetic records and policies for the gate's tests. No number here was measured on anything."""

from __future__ import annotations

from datetime import date

from edgesafe.metrics import info
from edgesafe.policy.decision import Options, decide
from edgesafe.policy.policy import Policy, loads
from edgesafe.records import (
    Artefact,
    Comparison,
    DataIdentity,
    GeneratedCorruptions,
    Host,
    Lineage,
    Measurement,
    Measurements,
    Parity,
    Role,
    StudyRecord,
    Target,
    VariantEntry,
    VariantRecord,
    Verdict,
)

BASE, CAND = "baseline-s0", "weight-r0.50-s0"
TODAY = date(2026, 11, 22)
STATS = "[stats]\nconfidence = 0.95"  # what the numbers in these tests were worked out for; not the default
CORRUPTIONS = GeneratedCorruptions(
    generator="edgesafe.corruptions/1", profile="cifar", seed=0, frost="procedural", frost_sha256="f", data_sha256="d"
)
OTHER_SEED = CORRUPTIONS.model_copy(update={"seed": 1})
TARGET = Target(name="host-1t", threads=1, provider="CPUExecutionProvider")
HOST = Host(cpu="cpu", cores=1, system="linux", python="3.11", versions={})


def sha(character: str) -> str:
    return "sha256:" + character * 64


def metric(name, estimate, *, n=10_000, half=None, low=None, high=None, se=None, method="normal", floor=None, **more):
    """A measurement; `half` is the half-width of a symmetric two-sided 95 % interval."""
    if half is not None:
        low, high = estimate - half, estimate + half
    return Measurement(
        metric=name, estimate=estimate, low=low, high=high, se=se, n=n, method=method,
        unit=more.pop("unit", info(name).unit), noise_floor=floor, **more,
    )  # fmt: skip


def diff(
    name, estimate, *, baseline=0.9, n=10_000, half=None, low=None, high=None, se=None, method="paired-normal", **more
):
    if half is not None:
        low, high = estimate - half, estimate + half
    return Comparison(
        metric=name, estimate=estimate, low=low, high=high, se=se, n=n, method=method,
        unit=more.pop("unit", info(name).unit), candidate=baseline + estimate, baseline=baseline, **more,
    )  # fmt: skip


def exact(name, value):
    return metric(name, float(value), n=1, method="exact")


def measured(variant=CAND, *found, baseline=BASE, onnx="c", test="d", corruptions=CORRUPTIONS):
    """Measurements of a variant from any mixture of measurements and comparisons."""
    return Measurements(
        variant=variant,
        baseline=baseline,
        onnx_sha256=sha(onnx),
        evidence_sha256=sha("e"),
        test_sha256=sha(test),
        metrics={one.metric: one for one in found if isinstance(one, Measurement)},
        differences={one.metric: one for one in found if isinstance(one, Comparison)},
        corruptions=corruptions,
        target=TARGET,
        host=HOST,
    )


def base_measured(*found, **more):
    return measured(BASE, *found, baseline=None, onnx=more.pop("onnx", "b"), **more)


def study(*ids, test="d", **status):
    """A study; `status` maps an id with dashes and dots as underscores to its status."""
    entries = []
    for one in ids or (BASE, CAND):
        state = status.get(one.replace("-", "_").replace(".", "_"), "done")
        method = "baseline" if one.startswith("baseline") else one.split("-")[0]
        reason = "layer1: no" if state == "refused" else ""
        role = Role.BASELINE if method == "baseline" else Role.CANDIDATE
        entries.append(
            VariantEntry(
                id=one, role=role, label=method, group=one, method=method, ratio=0.5, seed=0, status=state,
                reason=reason,
            )
        )  # fmt: skip
    identity = DataIdentity(
        name="toy", classes=("a", "b"), shape=(32, 32, 3), train_n=10, validation_n=10, test_n=10_000,
        train_sha256=sha("1"), validation_sha256=sha("2"), test_sha256=sha(test), mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    host = Host(cpu="cpu", cores=2, system="Linux", python="3.11", versions={})
    return StudyRecord(
        name="toy",
        edgesafe="0.1.0",
        recipe={},
        recipe_sha256=sha("f"),
        data=identity,
        host=host,
        variants=tuple(entries),
    )


def record(variant=CAND, *, onnx="c", params=1000, macs=5000, size=300_000, sparsity=0.0, parity=1e-5):
    return VariantRecord(
        id=variant, method="weight", ratio=0.5, seed=0, arch="toy", num_classes=2, input_shape=(32, 32, 3),
        artefacts=(Artefact(file="model.onnx", sha256=sha(onnx), bytes=size),),
        parity=(Parity(file="model.onnx", reference="torch", max_abs_logit=parity, argmax_agreement=1.0, n=64),),
        params=params, macs=macs, sparsity=sparsity,
        lineage=Lineage(recipe_sha256=sha("f"), baseline_sha256=sha("b"), data_sha256=sha("d"), seed=0),
    )  # fmt: skip


def policy_text(*gates: str, head: str = STATS) -> str:
    """A policy of gates in short form: "acc accuracy max_drop='1.0pp' level='warn'"."""
    lines = ['schema = "edgesafe.policy/1"', head]
    for i, gate in enumerate(gates):
        words = gate.split(" ", 1)
        lines += [
            "[[gate]]",
            f'id = "g{i}"',
            f'metric = "{words[0]}"',
            *(words[1].split(";") if len(words) > 1 else []),
        ]
    return "\n".join(lines) + "\n"


def policy(*gates: str, head: str = STATS) -> Policy:
    return loads(policy_text(*gates, head=head))


def judge(
    rules: Policy | str, *found, base=(), baseline=None, options: Options | None = None, today=TODAY, records=()
) -> Verdict:
    """Decides one candidate against one baseline."""
    rules = policy(rules) if isinstance(rules, str) else rules
    measurements = {CAND: measured(CAND, *found), BASE: base_measured(*base)}
    return decide(
        rules, study(), measurements, {one.id: one for one in records},
        baseline=baseline, today=today, options=options or Options(),
    )  # fmt: skip


def only(verdict: Verdict):
    (result,) = verdict.gates
    return result
