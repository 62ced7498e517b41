"""A study that never ran: records with plausible numbers and consistent evidence, for the report's tests.

Every number is simulated (a shared difficulty per image, a shift per variant and corruption), so pairs correlate as
real ones do. Nothing here is a measurement.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgesafe.measure.metrics.calibration import ece_equal_mass
from edgesafe.measure.probabilities import cell_from_logits, softmax64
from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.records import (
    Artefact,
    Comparison,
    DataIdentity,
    Engine,
    Evidence,
    GateResult,
    GateStatus,
    GeneratedCorruptions,
    Host,
    LayerRecord,
    Lineage,
    Measurement,
    Measurements,
    Parity,
    Population,
    PopulationKind,
    Proof,
    Provenance,
    Recovery,
    Role,
    StudyRecord,
    SurgeryRecord,
    Target,
    Temperature,
    Unit,
    VariantEntry,
    VariantRecord,
    Verdict,
)
from edgesafe.report import View
from edgesafe.study.study import Study, Variant

K = 10
SMALL = (
    ("weight", 0.3),
    ("weight", 0.5),
    ("weight", 0.7),
    ("filter", 0.3),
    ("filter", 0.5),
    ("channel", 0.3),
    ("channel", 0.5),
)
LARGE = tuple((m, r) for m in ("weight", "filter", "channel") for r in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))


@dataclass(frozen=True)
class Plan:
    """What to simulate."""

    variants: tuple[tuple[str, float], ...] = SMALL
    seeds: tuple[int, ...] = (0,)
    n: int = 2000
    per_cell: int = 400
    corruptions: tuple[str, ...] = CORRUPTIONS
    gated: bool = True
    latency: bool = True
    temperature: bool = True
    evidence: bool = True
    name: str = "resnet20-cifar10"
    layers: int = 20


def sha(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _harm(method: str, ratio: float) -> float:
    """Loss of margin: mild for weights, growing with the ratio."""
    return {"weight": 0.35, "filter": 0.8, "channel": 0.6}.get(method, 1.0) * ratio**2.2 if ratio else 0.0


def _logits(
    plan: Plan, index: np.ndarray, shift: float, rng: np.random.Generator, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    shared = np.random.default_rng(1)
    base = shared.normal(0, 1.6, (plan.n, K))
    labels = shared.integers(0, K, plan.n)
    margin = shared.gamma(4.0, 2.4, plan.n)
    z = base[index] + rng.normal(0, 0.35 + noise, (len(index), K))
    z[np.arange(len(index)), labels[index]] += margin[index] * 0.8 - shift
    return z.astype(np.float32) * 2.1, labels[index].astype(np.int64)


HOST = Host(
    cpu="Synthetic CPU 3000 @ 2.5 GHz",
    cores=2,
    system="Linux",
    python="3.11.9",
    versions={"onnxruntime": "1.31.0", "numpy": "2.4.0"},
)
ORIGIN = Provenance(
    test_sha256="t",
    onnx_sha256="x",
    corruptions=GeneratedCorruptions(
        generator="synthetic", profile="cifar", seed=0, frost="procedural", frost_sha256="f", data_sha256="d"
    ),
)


def _evidence(plan: Plan, method: str, ratio: float, seed: int) -> Evidence:
    rng = np.random.default_rng([seed, int(ratio * 100), len(method)])
    harm, everything = _harm(method, ratio) * rng.uniform(0.85, 1.15), np.arange(plan.n)
    logits, labels = _logits(plan, everything, harm * 2.2, rng, ratio * 0.5)
    cells = {}
    index = np.arange(min(plan.per_cell, plan.n))
    for k, name in enumerate(plan.corruptions):
        for s in (1, 2, 3, 4, 5):
            hard = (0.6 + 0.09 * k) * s * 0.9
            z, y = _logits(plan, index, hard + harm * 2.6, rng, 0.2 * s + ratio * 0.5)
            cells[name, s] = cell_from_logits(z, y, index, name, s)
    return Evidence(cell_from_logits(logits, labels, everything, "", 0), logits, ORIGIN, cells)


def _rate(metric: str, p: float, n: int, unit: Unit = Unit.FRACTION) -> Measurement:
    half = 1.96 * math.sqrt(max(p * (1 - p), 1e-6) / n) if unit is Unit.FRACTION else 0.03 * abs(p)
    return Measurement(
        metric=metric,
        estimate=p,
        low=max(0.0, p - half),
        high=p + half,
        se=half / 1.96,
        n=n,
        method="normal",
        unit=unit,
        population=Population(kind=PopulationKind.IMAGES, description="synthetic"),
    )


def _exact(metric: str, value: float, unit: Unit) -> Measurement:
    return Measurement(metric=metric, estimate=value, n=1, method="exact", unit=unit)


def _ece(cell) -> float:
    return ece_equal_mass(cell.confidence, cell.prediction == cell.label).value


def _pooled(cells):
    conf = np.concatenate([c.confidence for c in cells])
    right = np.concatenate([c.prediction == c.label for c in cells])
    return ece_equal_mass(conf, right).value, float(right.mean()), len(conf)


def _metrics(plan: Plan, e: Evidence, method: str, ratio: float, variant: VariantRecord) -> dict[str, Measurement]:
    right = e.clean.prediction == e.clean.label
    out = {
        "accuracy": _rate("accuracy", float(right.mean()), plan.n),
        "ece_em10_top1": _rate("ece_em10_top1", _ece(e.clean), plan.n),
        "nll": _rate("nll", float(e.clean.nll.mean()), plan.n, Unit.NATS),
        "high_conf_error@0.9": _rate(
            "high_conf_error@0.9", float(((e.clean.confidence > 0.9) & ~right).mean()), plan.n
        ),
        "size.onnx_bytes": _exact("size.onnx_bytes", variant.artefacts[0].bytes, Unit.BYTES),
        "size.params": _exact("size.params", variant.params, Unit.COUNT),
        "macs": _exact("macs", variant.macs, Unit.COUNT),
        "sparsity": _exact("sparsity", variant.sparsity, Unit.FRACTION),
    }
    if variant.temperature is not None:
        conf = softmax64(e.logits / np.float32(variant.temperature.value)).max(axis=1)
        out["ece_em10_top1.calibrated"] = _rate("ece_em10_top1.calibrated", ece_equal_mass(conf, right).value, plan.n)
    if plan.latency:
        quick = 1.0 if method in ("baseline", "weight") else 1.0 - 0.75 * ratio
        out["latency.p50_ms"] = _rate("latency.p50_ms", 1.84 * quick + 0.003, 1024, Unit.MS)
        if method != "baseline":
            low, high = (0.985, 1.012) if method == "weight" else (quick - 0.012, quick + 0.015)
            out["latency.ratio"] = Measurement(
                metric="latency.ratio",
                estimate=(low + high) / 2,
                low=low,
                high=high,
                n=1024,
                method="bootstrap",
                unit=Unit.RATIO,
            )
    if e.cells:
        per = {s: _pooled([c for (_, t), c in e.cells.items() if t == s]) for s in (1, 2, 3, 4, 5)}
        out["mpc"] = _rate("mpc", float(np.mean([a for _, a, _ in per.values()])), 75 * plan.per_cell)
        for s, (ece, acc, n) in per.items():
            out[f"mpc.severity.{s}"] = _rate(f"mpc.severity.{s}", acc, n)
            out[f"ece_em10_top1.severity.{s}"] = _rate(f"ece_em10_top1.severity.{s}", ece, n)
    return out


def _differences(mine: dict[str, Measurement], base: dict[str, Measurement]) -> dict[str, Comparison]:
    out = {}
    for k in ("accuracy", "mpc", "ece_em10_top1", "nll", "high_conf_error@0.9"):
        if k in mine and k in base:
            d, half = mine[k].estimate - base[k].estimate, 0.6 * (mine[k].se or 0.0) * 1.96
            out[k] = Comparison(
                metric=k,
                estimate=d,
                low=d - half,
                high=d + half,
                se=half / 1.96,
                n=mine[k].n,
                method="paired-normal",
                unit=mine[k].unit,
                candidate=mine[k].estimate,
                baseline=base[k].estimate,
            )
    return out


def _surgery(method: str, ratio: float, count: int) -> SurgeryRecord:
    layers, before, after = [], 0, 0
    for k in range(count):
        wide = 16 * 2 ** min(2, k * 3 // max(count, 1))
        last = k == count - 1
        structured = method != "weight" and k % 2 == 1 and not last
        kept = max(8, round(wide * (1 - ratio) / 8) * 8) if structured else wide
        p0, p1 = wide * wide * 9, wide * kept * 9
        before, after = before + p0, after + p1
        note = (
            ""
            if structured or (method == "weight" and not last)
            else "classifier: never narrowed"
            if last
            else "shortcut output: scope internal"
        )
        layers.append(
            LayerRecord(
                name="linear" if last else f"layer{k // 7 + 1}.{k % 7}.conv{k % 2 + 1}",
                kind="Linear" if last else "Conv2d",
                out_before=wide,
                out_after=kept,
                in_before=wide,
                in_after=wide,
                params_before=p0,
                params_after=p1,
                sparsity=ratio if method == "weight" and not last else 0.0,
                criterion={"min": 0.011, "median": 0.42, "max": 1.9, "threshold": 0.31} if not last else {},
                note=note,
            )
        )
    return SurgeryRecord(
        method=method,
        ratio=ratio,
        criterion="l1",
        scope="internal",
        round_to=8,
        engine=Engine.NONE if method == "weight" else Engine.TORCH_PRUNING,
        layers=tuple(layers),
        params_before=before,
        params_after=after,
        macs_before=40_810_000,
        macs_after=int(40_810_000 * after / before),
        nonzero_params=after,
        sparsity=ratio if method == "weight" else 0.0,
        proof=Proof(method="mask-equivalence", equivalence=3.1e-7, batch_sizes=(1, 3), classifier_intact=True),
    )


def _variant(plan: Plan, method: str, ratio: float, seed: int) -> VariantRecord:
    vid = f"baseline-s{seed}" if method == "baseline" else f"{method}-r{ratio:.2f}-s{seed}"
    structured = method in ("filter", "channel")
    surgery = None if method == "baseline" else _surgery(method, ratio, plan.layers)
    params = int(272_474 * (1 - 0.8 * ratio)) if structured else 272_474
    files = [Artefact(file="model.onnx", sha256=sha(f"{vid}.onnx"), bytes=params * 4 + 21_000)]
    if method == "weight":
        files.append(
            Artefact(
                file="model.sparse.onnx",
                sha256=sha(f"{vid}.sparse"),
                bytes=int(272_474 * (4 * (1 - ratio) + 0.13)) + 25_000,
            )
        )
    return VariantRecord(
        id=vid,
        method=method,
        ratio=ratio,
        seed=seed,
        arch="resnet20",
        num_classes=K,
        input_shape=(32, 32, 3),
        surgery=surgery,
        artefacts=tuple(files),
        parity=(Parity(file="model.onnx", reference="torch", max_abs_logit=4.2e-6, argmax_agreement=1.0, n=64),),
        temperature=Temperature(value=1.9 + ratio / 4, nll_before=0.35, nll_after=0.24, n=5000, data_sha256=sha("val"))
        if plan.temperature
        else None,
        opset=18,
        params=params,
        macs=int(40_810_000 * (1 - ratio)) if structured else 40_810_000,
        sparsity=ratio if method == "weight" else 0.0,
        recovery=Recovery(bn_images=2000, validation_images=5000, accuracy_pruned=0.8, accuracy_after=0.9),
        lineage=Lineage(recipe_sha256=sha("recipe"), baseline_sha256=sha("base"), data_sha256=sha("data"), seed=seed),
    )


GATES = (
    ("acc-drop", "accuracy", "max_drop 1.0pp", 0.01, Unit.FRACTION),
    ("mpc-drop", "mpc", "max_drop 3.0pp", 0.03, Unit.FRACTION),
    ("ece", "ece_em10_top1", "max 4pp", 0.04, Unit.FRACTION),
    ("nll-rise", "nll", "max_increase 0.05nats", 0.05, Unit.NATS),
    ("latency", "latency.ratio", "max 0.95x", 0.95, Unit.RATIO),
    ("size", "size.onnx_bytes", "max 1200kB", 1_200_000.0, Unit.BYTES),
)


def _gate(vid: str, spec: tuple, m: Measurements) -> GateResult:
    gid, metric, rule, limit, unit = spec
    level = "warn" if gid == "latency" else "error"
    source: Measurement | Comparison | None = (
        m.differences.get(metric) if "drop" in rule or "increase" in rule else m.metrics.get(metric)
    )
    if source is None:
        return GateResult(
            id=gid,
            variant=vid,
            metric=metric,
            level=level,
            status=GateStatus.MISSING,
            rule=rule,
            limit=limit,
            unit=unit,
            message=f"{metric} is not measured",
        )
    sign = -1.0 if "drop" in rule else 1.0
    est = sign * source.estimate
    bounds = sorted(sign * x for x in (source.low, source.high) if x is not None) or [est, est]
    status = (
        GateStatus.PASS if bounds[1] <= limit else GateStatus.FAIL if bounds[0] > limit else GateStatus.INCONCLUSIVE
    )
    low, high = (bounds[0], bounds[1]) if source.low is not None else (None, None)
    return GateResult(
        id=gid,
        variant=vid,
        metric=metric,
        level=level,
        status=status,
        rule=rule,
        limit=limit,
        estimate=est,
        low=low,
        high=high,
        n=source.n,
        method=source.method,
        unit=unit,
        message=f"{status.value} {gid}: {est:.4f}, limit {limit}",
    )


def _verdict(plan: Plan, measured: dict[str, Measurements]) -> Verdict:
    gates = tuple(_gate(v, spec, m) for v, m in measured.items() if not v.startswith("baseline") for spec in GATES)
    failed = any(g.status in (GateStatus.FAIL, GateStatus.MISSING) and g.level == "error" for g in gates)
    return Verdict(
        study=plan.name,
        policy_sha256=sha("policy"),
        profile="release",
        variants=tuple(dict.fromkeys(g.variant for g in gates)),
        gates=gates,
        overall=GateStatus.FAIL if failed else GateStatus.PASS,
        exit_code=int(failed),
    )


def study(plan: Plan | None = None) -> View:
    """The simulated study."""
    plan = plan or Plan()
    variants: list[VariantRecord] = []
    measured: dict[str, Measurements] = {}
    evidence: dict[str, Evidence] = {}
    for seed in plan.seeds:
        for method, ratio in (("baseline", 0.0), *plan.variants):
            v = _variant(plan, method, ratio, seed)
            e = _evidence(plan, method, ratio, seed)
            variants.append(v)
            evidence[v.id] = e
            metrics = _metrics(plan, e, method, ratio, v)
            base = f"baseline-s{seed}"
            differences = _differences(metrics, measured[base].metrics) if method != "baseline" else {}
            measured[v.id] = Measurements(
                variant=v.id,
                baseline=None if method == "baseline" else base,
                onnx_sha256=v.artefacts[0].sha256,
                evidence_sha256=sha(v.id),
                test_sha256=sha("test"),
                metrics=metrics,
                differences=differences,
                corruptions=ORIGIN.corruptions,
                target=Target(name="host-1t", threads=1, provider="CPUExecutionProvider"),
                host=HOST,
            )
    record = StudyRecord(
        name=plan.name,
        edgesafe="0.1.0",
        recipe={"name": plan.name, "seeds": list(plan.seeds), "model": {"arch": "resnet20"}},
        recipe_sha256=sha("recipe"),
        digest=sha(f"all of {plan.name}"),
        data=DataIdentity(
            name="cifar10",
            classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            shape=(32, 32, 3),
            train_n=45_000,
            validation_n=5_000,
            test_n=10_000,
            train_sha256=sha("train"),
            validation_sha256=sha("val"),
            test_sha256=sha("test"),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        host=HOST,
        variants=tuple(entry(v) for v in variants),
    )
    root = Path("export") / plan.name
    made = Study(root, record, tuple(Variant(entry(v), root / v.id, v, measured[v.id]) for v in variants))
    return View(made, evidence if plan.evidence else {}, _verdict(plan, measured) if plan.gated else None)


def entry(v: VariantRecord) -> VariantEntry:
    """The line of the index that belongs to a finished variant."""
    reference, group = v.method == "baseline", v.id.removesuffix(f"-s{v.seed}")
    return VariantEntry(
        id=v.id, role=Role.BASELINE if reference else Role.CANDIDATE, label=group.partition("-r")[0], group=group,
        method=v.method, ratio=v.ratio, seed=v.seed, baseline=None if reference else f"baseline-s{v.seed}",
        status="done",
    )  # fmt: skip


def changed(
    view: View,
    *,
    record: StudyRecord | None = None,
    variants: tuple[VariantRecord, ...] | None = None,
    measurements: dict[str, Measurements] | None = None,
    root: Path | None = None,
    **others: object,
) -> View:
    """`view` of a study that holds other records or measurements."""
    record, root = record or view.study.record, root or view.study.root
    if variants is not None:
        record = record.model_copy(update={"variants": tuple(entry(v) for v in variants)})
    records = {v.id: v for v in (view.variants if variants is None else variants)}
    measured = view.measurements if measurements is None else measurements
    found = tuple(Variant(e, root / e.id, records.get(e.id), measured.get(e.id)) for e in record.variants)
    return replace(view, study=Study(root, record, found), **others)
