"""One file measured in a study: on everything, or on a sample that grows; then evidence.npz and measurements.json.

Shared by `edgesafe compress` and `edgesafe evaluate`; free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from edgesafe.errors import ParityError, RefusedError
from edgesafe.files import sha256_bytes, stage_key
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure import summary
from edgesafe.measure.inference import independence
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.measure.tasks import rules_of
from edgesafe.progress import Progress
from edgesafe.recipe.sections import CertifySection
from edgesafe.records import DeviceReport, Evidence, Measurement, Measurements, Sample
from edgesafe.stages import certify, observe, sequential
from edgesafe.stages.certify import Certified, Shard
from edgesafe.stages.observe import Bench
from edgesafe.stages.sequential import judge
from edgesafe.stages.sequential.judge import Judge
from edgesafe.study.checkpoints import Kept
from edgesafe.study.study import MODEL
from edgesafe.study.writer import StudyWriter

__all__ = ["MeasureOrder", "Metrics", "certify_part", "kept_of", "measure", "observe_part"]

Metrics = dict[str, Measurement]

_CALIBRATED = "model.calibrated.onnx"
_EVIDENCE = "evidence"  # what its parts are kept as


@dataclass(frozen=True)
class MeasureOrder:
    """Which variant of which study is measured, and how.

    Attributes:
        bench: test images, corruptions, [evaluate], target and host.
        study: written to.
        progress: told what happens.
        variant: id.
        baseline: id of what it is compared with; None: nothing.
        sibling: id of the fp32 variant with the same weights, if it is not fp32 itself.
        policy: measure until this policy is decided; None: all, or the budget.
        no_baseline: gates of the policy that compare are left out on purpose.
        counted: metrics that do not come from images: sizes, latency.
        certify: sets whose every image is run, too.
        is_reference: other files will be compared with this one.
        device: what the device said that timed it; None: it was timed here.
    """

    bench: Bench
    study: StudyWriter
    progress: Progress
    variant: str
    baseline: str | None
    sibling: str | None = None
    policy: Path | None = None
    no_baseline: bool = False
    counted: Metrics = field(default_factory=dict)
    certify: CertifySection = field(default_factory=CertifySection)
    is_reference: bool = False
    device: DeviceReport | None = None

    def reference(self) -> tuple[str, Evidence] | None:
        """Id and evidence of what the variant is compared with."""
        return None if self.baseline is None else (self.baseline, self.evidence_of(self.baseline))

    def evidence_of(self, variant: str) -> Evidence:
        """The evidence of another variant of the study."""
        return evidence_files.from_bytes(self.study.evidence_bytes(variant))


def measure(order: MeasureOrder, classifier: OnnxClassifier, known: Evidence | None = None) -> None:
    """Measure a file and write what was found; parts finished before are not measured again.

    Args:
        order: what to measure.
        classifier: the open file.
        known: the file's evidence, if it was measured before.

    Raises:
        EdgesafeError: the evidence is such that no metric may rest on it, or the policy cannot be used.
    """
    reference = order.reference()
    if known is None:
        _check(classifier, order)
        evidence, certified = _measured(order, classifier, reference)
    else:
        evidence, certified = known, _certified(order, classifier)
    written = order.study.put_file(order.variant, "evidence.npz", evidence_files.to_bytes(evidence))
    measured = _assembled(order, evidence, reference, written.sha256)
    measured = _beside_sibling(order, evidence, certified.added_to(measured))
    order.study.put_measurements(_with(measured, order.counted, _calibrated(order, evidence)))


def observe_part(order: MeasureOrder, classifier: OnnxClassifier, part: str) -> None:
    """Run a file on one part of the bench and keep that, so that `measure` finds it; only where nothing is sampled.

    Args:
        order: as it will be measured.
        classifier: the open file.
        part: "" for the clean images, or a corruption.
    """
    observe.collect_part(classifier, order.bench, _kept(order, classifier), part)


def certify_part(order: MeasureOrder, shard: Shard) -> None:
    """Certify a share of the images under one set and keep that, so that `measure` finds it."""
    certify.certify_shard(_certify_order(order), _alone(order, order.bench.open(_model(order))), shard)


def kept_of(part: str) -> str:
    """How the names begin under which a part of the evidence is kept: "" for the clean images, or a corruption."""
    return f"{_EVIDENCE}-cells-{part}" if part else f"{_EVIDENCE}-clean"


def _check(classifier: OnnxClassifier, order: MeasureOrder) -> None:
    """Refuse a file that is not a function of one image, or whose scores are not what they are taken for.

    Raises:
        RefusedError: it is one.
    """
    few = order.bench.test.images[: independence.IMAGES]
    independence.require_independence(classifier, few, order.variant)
    kind_of = rules_of(order.bench.test.task).kind_of
    if classifier.input_spec.outputs == "logits" and kind_of(classifier.scores(few), order.variant) != "logits":
        raise RefusedError(
            "the network ends in a softmax: taken for logits, its calibration would be wrong",
            where=order.variant,
            fix="remove the last softmax from the network",
        )


def _certified(order: MeasureOrder, classifier: OnnxClassifier, sample: Sample | None = None) -> Certified:
    """Certify the file on all images of [certify], or on those of a look of a growing sample."""
    if not order.certify.sets:
        return Certified()
    return certify.certify(_certify_order(order), _alone(order, classifier), sample=sample)


def _certify_order(order: MeasureOrder) -> certify.CertifyOrder:
    return certify.CertifyOrder(
        section=order.certify, test=order.bench.test, population=order.bench.population, study=order.study,
        progress=order.progress, variant=order.variant, baseline=order.baseline, complete=order.is_reference,
        sibling=order.sibling,
    )  # fmt: skip


def _model(order: MeasureOrder) -> bytes:
    return order.study.file_bytes(order.variant, MODEL)


def _alone(order: MeasureOrder, classifier: OnnxClassifier) -> OnnxClassifier:
    """The file on one thread, given its input as the open one is."""
    provider, spec = classifier.providers[0], classifier.input_spec
    return OnnxClassifier(_model(order), threads=1, provider=provider, input_spec=spec)


def _measured(
    order: MeasureOrder, classifier: OnnxClassifier, reference: tuple[str, Evidence] | None
) -> tuple[Evidence, Certified]:
    """The file's evidence and its certificates: of everything, or of samples that grow until the policy is decided.

    Certificates grow where the policy has a gate on them; else all are made before, as the recipe says.
    """
    bench, base = order.bench, reference[1] if reference is not None else None
    if bench.section.mode == "full" or (base is None and order.policy is None):
        certified, kept = _certified(order, classifier), _kept(order, classifier)
        with order.progress.stage("measuring under onnxruntime", bench.inferences) as advance:
            return observe.collect(classifier, bench, kept, advance), certified
    kept = _kept(order, classifier, base.provenance.onnx_sha256 if base is not None else "")
    judged = None if order.policy is None else _Judged(order, classifier, reference, _judge(order, order.policy))
    certified = _certified(order, classifier) if judged is None or not judged.growing else Certified()
    if judged is not None:
        judged.certified = certified
    looks = sequential.plan(bench, base, escalating=judged is not None)
    with order.progress.stage("measuring under onnxruntime", looks[-1].inferences) as advance:
        runner = sequential.ModelRunner(classifier, bench, advance)
        evidence = sequential.collect(runner, bench, base, kept, judged)
    return evidence, judged.certified if judged is not None else certified


def _kept(order: MeasureOrder, classifier: OnnxClassifier, drawn_for: str = "") -> Kept:
    """Where the parts of a file's evidence are kept; a sample also depends on the baseline that it was drawn for."""
    bench = order.bench
    cells = {f"{name} {severity}": sha256_bytes(i.tobytes()) for (name, severity), i in bench.cells.items()}
    pixels = bench.corruptions.model_dump(mode="json") if bench.corruptions is not None else None
    key = stage_key(onnx=classifier.sha256, sample=cells, corruptions=pixels, baseline=drawn_for)
    return Kept(order.study, order.variant, _EVIDENCE, key)


def _judge(order: MeasureOrder, policy: Path) -> Judge:
    """What asks the policy of the order about its variant."""
    names = [name for name in (order.baseline, order.sibling, order.variant) if name is not None]
    records = {name: order.study.variant(name) for name in names}
    baseline, sibling = (
        order.study.measurements(name) if name is not None else None for name in (order.baseline, order.sibling)
    )
    (rules, lock), note = judge.load(policy), order.progress.note
    return Judge(rules, lock, order.study.record, records, baseline, order.no_baseline, note, sibling)


class _Judged:
    """Asks the policy after each look whether the sample is large enough; certifies the look's images before.

    Args:
        order: what is measured.
        classifier: the open file.
        reference: id and evidence of the baseline; None: there is none.
        judge: asks the policy.
    """

    def __init__(
        self,
        order: MeasureOrder,
        classifier: OnnxClassifier,
        reference: tuple[str, Evidence] | None,
        judge: Judge,
    ) -> None:
        self._order, self._classifier, self._reference, self._judge = order, classifier, reference, judge
        self._calibrated, self._sibling = judge.names(".calibrated"), judge.compares_with_sibling
        #: whether certificates are made look by look
        self.growing = order.certify.engine == "enumeration" and judge.asks_for_certificates
        self.certified = Certified()  #: those of the last look

    def __call__(self, evidence: Evidence) -> bool:
        """Whether no more images are needed."""
        order = self._order
        if self.growing:
            self.certified = _certified(order, self._classifier, evidence.provenance.sample)
        measured = self.certified.added_to(_assembled(order, evidence, self._reference, ""))
        if self._sibling:
            measured = _beside_sibling(order, evidence, measured)
        return self._judge(_with(measured, order.counted, _calibrated(order, evidence) if self._calibrated else {}))


def _assembled(
    order: MeasureOrder, evidence: Evidence, reference: tuple[str, Evidence] | None, evidence_sha256: str
) -> Measurements:
    """Every metric of the evidence with its interval, and the paired differences to the baseline's.

    Args:
        order: what is measured.
        evidence: of the variant's file.
        reference: id and evidence of the baseline; None: there is none.
        evidence_sha256: of the evidence as it was written; empty: it was not.
    """
    provenance, base = evidence.provenance, reference[1] if reference is not None else None
    own, differences = summary.measure(evidence, base, population=order.bench.population)
    return Measurements(
        variant=order.variant,
        baseline=reference[0] if reference is not None else None,
        onnx_sha256=provenance.onnx_sha256,
        evidence_sha256=evidence_sha256,
        test_sha256=order.bench.test.sha256,
        corruptions=provenance.corruptions,
        sample=provenance.sample,
        target=order.bench.target,
        host=order.bench.host,
        device=order.device,
        metrics=own,
        differences=differences,
    )


def _beside_sibling(order: MeasureOrder, evidence: Evidence, measured: Measurements) -> Measurements:
    """The measurements with the paired differences to the fp32 sibling's; none where the variant has no sibling.

    Where the corrupted images of either were drawn by the baseline's margins, the clean images alone are compared: the
    two saw different ones.
    """
    if order.sibling is None:
        return measured
    other = order.evidence_of(order.sibling)
    if order.sibling == order.baseline:
        differences = measured.differences
    else:
        pair = (evidence, other)
        if any(is_drawn(each) for each in pair):
            pair = (replace(evidence, cells={}), replace(other, cells={}))
        differences = {**summary.compare(*pair), **measured.sibling_differences}
    metrics = dict(measured.metrics)
    if "flips" in differences:
        flips = summary.flips(evidence, other, population=order.bench.population)
        metrics["flips.sibling"] = flips.model_copy(update={"metric": "flips.sibling"})
    return measured.model_copy(
        update={"sibling": order.sibling, "sibling_differences": differences, "metrics": metrics}
    )


def _calibrated(order: MeasureOrder, beside: Evidence) -> Metrics:
    """The clean metrics of model.calibrated.onnx, measured on that file, such as `nll.calibrated`.

    Raises:
        ParityError: temperature scaling changed a prediction.
    """
    if order.study.variant(order.variant).artefact(_CALIBRATED) is None:
        return {}
    classifier = order.bench.open(order.study.file_bytes(order.variant, _CALIBRATED))
    cell, logits = observe.clean(classifier, order.bench, beside.clean.index)
    if changed := int((logits.argmax(1) != beside.logits.argmax(1)).sum()):
        fix = "this is a defect of edgesafe: please report it"
        raise ParityError(f"{changed} predictions changed", where=_CALIBRATED, fix=fix)
    beside_it = Evidence(cell, logits, beside.provenance, task=beside.task)
    found = summary.summarise(beside_it, population=order.bench.population)
    wanted = {name: f"{name}.calibrated" for name in rules_of(beside.task).of_calibrated}
    return {metric: found[name].model_copy(update={"metric": metric}) for name, metric in wanted.items()}


def _with(measured: Measurements, *more: Metrics) -> Measurements:
    metrics = dict(measured.metrics)
    for added in more:
        metrics |= added
    return measured.model_copy(update={"metrics": metrics})
