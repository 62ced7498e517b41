"""What is shown of single variants: reliability before and after temperature, the corruption heat map, the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesafe.display import clean, sentence
from edgesafe.measure.tasks import rules_of
from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.records import Declined, Engine, Evidence, Recovery, SurgeryRecord, Temperature, VariantRecord
from edgesafe.report import svg
from edgesafe.report.figures import reliability_panel
from edgesafe.report.parts import Heading, TablePart, Td
from edgesafe.report.risk import Risk, RiskRow, risk_of
from edgesafe.report.stats import cell_differences, reliability, tempered
from edgesafe.report.svg import Panel
from edgesafe.report.tables import heat_table, layer_table
from edgesafe.report.view import Group, View

__all__ = ["Deep", "deep_parts", "risk_rows"]


@dataclass(frozen=True)
class Deep:
    """One group in detail; of several seeds, the lowest one that has the evidence."""

    group: Group
    variant: str
    panels: tuple[Panel, ...]
    bins: TablePart | None
    heat: TablePart | None
    layers: TablePart | None
    risks: tuple[Risk, Risk | None] | None  #: its own and its baseline's; None: no evidence

    @property
    def summary(self) -> str:
        """One line of text: how much of the network was removed, or "nothing removed"."""
        surgery = self.group.first.surgery
        if surgery is None:
            return "nothing removed"
        if surgery.params_before == surgery.params_after:
            return f"{surgery.sparsity * 100:.1f} % of the convolution weights are zero; no channel removed"
        return (
            f"parameters {surgery.params_before:,} → {surgery.params_after:,}, "
            f"MACs {surgery.macs_before:,} → {surgery.macs_after:,}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How the surgery was made and proven."""
        surgery = self.group.first.surgery
        if surgery is None:
            return ()
        proof = surgery.proof
        error = (
            f", largest relative difference {proof.equivalence:.1g} (limit {proof.tolerance:.0e})"
            if proof.equivalence is not None
            else ""
        )
        reason = f"; {clean(proof.reason)}" if proof.reason else ""
        rounded = f", kept channels rounded up to multiples of {surgery.round_to}" if surgery.round_to > 1 else ""
        made = f"Criterion {clean(surgery.criterion)}, scope {clean(surgery.scope)}{rounded}."
        rewrites = f"Rewritten shortcuts: {', '.join(clean(r) for r in surgery.rewrites)}." if surgery.rewrites else ""
        shown = (
            made,
            f"Proof: {clean(proof.method)}{error}{reason}.",
            rewrites,
            _recovered(self.group.first.recovery),
            _calibrated(self.group.first.calibrated),
            _engine(surgery),
            *(sentence(n) for n in surgery.notes),
        )
        return tuple(text for text in shown if text)


def _calibrated(inside: Temperature | None) -> str:
    """A sentence on the temperature inside model.onnx, if there is one."""
    if inside is None:
        return ""
    return f"model.onnx divides its logits by {inside.value:.3f}, fitted on {inside.n:,} validation images."


def _engine(surgery: SurgeryRecord) -> str:
    """A sentence on whose code removed the channels, and why it was not torch-pruning; "" if no channel was removed."""
    if surgery.engine is Engine.NONE:
        return ""
    if surgery.engine is Engine.TORCH_PRUNING:
        return "Channels removed by torch-pruning's dependency graph; equal to edgesafe's own slices bit for bit."
    reason = surgery.engine_reason
    if reason is None or reason.cause is Declined.NOT_ASKED:
        return "Channels removed by edgesafe's own slices."
    where = f" at {clean(reason.layer)}" if reason.layer else ""
    why = f"torch-pruning {_DECLINED[reason.cause]}{where}: {clean(reason.detail)}"
    return f"Channels removed by edgesafe's own slices: {why}."


_DECLINED = {Declined.DIFFERS: "differs", Declined.FAILS: "fails", Declined.TOO_LARGE: "takes too long"}


def _recovered(recovery: Recovery | None) -> str:
    """A sentence on BatchNorm re-estimation, fine-tuning and the validation accuracies after each step."""
    if recovery is None:
        return "Not fine-tuned after pruning."
    accuracies = [f"{recovery.accuracy_pruned:.2%} pruned"]
    done = [f"BatchNorm statistics of {recovery.bn_images:,} images"] if recovery.bn_images else []
    if (tuned := recovery.fine_tuning) is not None:
        kept = f", epoch {tuned.kept_epoch} kept" if tuned.kept_epoch is not None else ""
        falls = f", falling at {', '.join(map(str, tuned.milestones))}" if tuned.milestones else ""
        done.append(f"{tuned.epochs} epochs on {tuned.images:,} images at rate {tuned.lr:g}{falls}{kept}")
        accuracies.append(f"{tuned.accuracy_before:.2%} before fine-tuning")
    accuracies.append(f"{recovery.accuracy_after:.2%} after")
    with_what = "; ".join(done) or "nothing: it has no BatchNorm layer"
    judged = f"accuracy on {recovery.validation_images:,} validation images {', '.join(accuracies)}"
    return f"Recovered with: {with_what}; {judged}."


def deep_parts(view: View, groups: Sequence[Group]) -> tuple[Deep, ...]:
    """Details of every group, in order. Evidence is loaded once per variant; only baselines are kept."""
    baselines: dict[str, Evidence] = {}
    out = []
    for k, group in enumerate(groups):
        variant = next((v for v in group.members if v.id in view.evidence), None)
        layers = layer_table(group.first)
        if variant is None:
            out.append(Deep(group, group.first.id, (), None, None, layers, None))
            continue
        evidence = baselines.get(variant.id) or view.evidence[variant.id]
        if group.is_baseline:
            baselines[variant.id] = evidence
        base = view.baseline_of(variant)
        if base is not None and (base.id == variant.id or base.id not in view.evidence):
            base = None
        if base is not None and base.id not in baselines:
            baselines[base.id] = view.evidence[base.id]
        sure = rules_of(evidence.task).calibrated
        panels, bins = _reliability(f"rel-{k}", variant, evidence) if sure else ((), None)
        heat = None if base is None else _heat(group, variant, evidence, baselines[base.id])
        risks = (
            (
                risk_of(evidence.clean, view, variant.id),
                None if base is None else risk_of(baselines[base.id].clean, view, base.id),
            )
            if sure
            else None
        )
        out.append(Deep(group, variant.id, panels, bins, heat, layers, risks))
    return tuple(out)


def risk_rows(parts: Sequence[Deep], series_of: Sequence[str]) -> tuple[RiskRow, ...]:
    """What the risk-coverage figure draws of these groups: each in the colour and marker of its method."""
    out = []
    for part in parts:
        if part.risks is None:
            continue
        k = series_of.index(part.group.series) if part.group.series in series_of else -1
        look = (svg.INK, "o") if k < 0 else (svg.series(k), svg.MARKERS[k % len(svg.MARKERS)])
        name = clean(part.group.label)
        out.append(RiskRow(part.group.key, name if len(name) <= 24 else f"{name[:23]}…", *look, *part.risks))
    return tuple(out)


def _heat(group: Group, variant: VariantRecord, evidence: Evidence, baseline: Evidence) -> TablePart | None:
    """The paired differences of every cell, if both sides have cells."""
    name = clean(group.label) + (f", seed {variant.seed}" if len(group.members) > 1 else "")
    cells = cell_differences(evidence, baseline)
    return heat_table(name, cells, CORRUPTIONS) if cells else None


def _reliability(name: str, variant: VariantRecord, evidence: Evidence) -> tuple[tuple[Panel, ...], TablePart]:
    """Diagrams of the clean images before and, if a temperature was fitted, after scaling, and their bins."""
    correct = evidence.clean.prediction == evidence.clean.label
    steps = [("Before temperature", reliability(evidence.clean.confidence, correct))]
    if variant.temperature is not None:
        after = reliability(tempered(evidence, variant.temperature.value), correct)
        steps.append((f"After temperature {variant.temperature.value:.2f}", after))
    panels = tuple(reliability_panel(f"{name}-{k}", head, diagram) for k, (head, diagram) in enumerate(steps))
    rows = []
    for head, diagram in steps:
        for i, (conf, right) in enumerate(zip(diagram.bins.confidence, diagram.bins.accuracy, strict=True)):
            rows.append(
                (
                    Td(f"{head}, bin {i + 1}"),
                    Td(f"{conf * 100:.2f}"),
                    Td(f"{right * 100:.2f}", f"{diagram.low[i] * 100:.2f} to {diagram.high[i] * 100:.2f}"),
                    Td(f"{diagram.bins.count[i]:,}"),
                )
            )
    heads = (
        Heading("Bin"),
        Heading("Mean confidence", "%"),
        Heading("Accuracy", "%, 95 % interval"),
        Heading("Images"),
    )
    return panels, TablePart(f"Bins of equal mass, {clean(variant.id)}", heads, tuple(rows))
