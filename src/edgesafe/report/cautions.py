"""What a reader must be told: a temperature that did not help, a sample of images, a conversion that slowed down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesafe.display import clean, slower
from edgesafe.records import PopulationKind, VariantRecord
from edgesafe.report.view import Group, View

__all__ = ["TemperatureCaution", "sampled_note", "slower_note", "temperature_caution"]

_RAW, _CALIBRATED = "ece_em10_top1", "ece_em10_top1.calibrated"
_NAMED = 8  # variants named in the text; the tables have all


@dataclass(frozen=True)
class TemperatureCaution:
    """The variants whose calibrated file is not better calibrated than the plain one, and the likely reason."""

    head: str
    variants: tuple[str, ...]  #: "baseline-s0: ECE 5.29 % before, 6.58 % after temperature 0.58"
    reason: str
    advice: str


def temperature_caution(view: View, groups: Sequence[Group]) -> TemperatureCaution | None:
    """The caution, or None if every calibrated file has a smaller ECE on the test images than its plain file."""
    both = [
        (v, before.estimate, after.estimate)
        for g in groups
        for v in g.members
        if (m := view.measurements.get(v.id)) is not None
        and (before := m.metrics.get(_RAW)) is not None
        and (after := m.metrics.get(_CALIBRATED)) is not None
    ]
    worse = [(v, before, after) for v, before, after in both if after >= before]
    if not worse:
        return None
    lines = [_line(v, before, after) for v, before, after in worse[:_NAMED]]
    if len(worse) > _NAMED:
        lines.append(f"and {len(worse) - _NAMED} more: see the table of results")
    return TemperatureCaution(
        f"Temperature scaling did not improve calibration on {len(worse)} of {len(both)} variants.",
        tuple(lines),
        _reason(view, [v for v, _, _ in worse]),
        "Do not ship model.calibrated.onnx of these variants. Fit the temperature on images that the weights never "
        'saw (data.validation_from = "test" holds some of the test images out), or set export.temperature = false.',
    )


def sampled_note(view: View, groups: Sequence[Group]) -> str | None:
    """Which variants saw only a sample of the corrupted images, and what their intervals are then about; None: none."""
    members = [v.id for g in groups for v in g.members]
    sampled = [
        f"{clean(name)} ({metric.n:,})"
        for name in members
        if (m := view.measurements.get(name)) is not None
        and (metric := m.metrics.get("mpc")) is not None
        and metric.population is not None
        and metric.population.kind is PopulationKind.BENCHMARK
    ]
    if not sampled:
        return None
    named = ", ".join(sampled[:_NAMED]) + (f" and {len(sampled) - _NAMED} more" if len(sampled) > _NAMED else "")
    return (
        f"Measured on a sample of the corrupted images, their number in brackets: {named}. Intervals of mPC and of all "
        "other numbers over corrupted images are then about this fixed benchmark (what measuring all of it would "
        "give), not about new images."
    )


def slower_note(view: View, groups: Sequence[Group]) -> str | None:
    """Which files of other precisions are slower than their fp32 siblings on the host; None: none."""
    lines = [
        text
        for g in groups
        for v in g.members
        if (m := view.measurements.get(v.id)) is not None and (text := slower(m))
    ]
    if not lines:
        return None
    more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return clean("; ".join(lines[:_NAMED])) + more + ". They are smaller; ship them for their size alone."


def _line(variant: VariantRecord, before: float, after: float) -> str:
    """The line of one variant; `before` and `after` are its ECE without and with the temperature, as fractions."""
    fitted = "" if variant.temperature is None else f" {variant.temperature.value:.2f}"
    return f"{clean(variant.id)}: ECE {before * 100:.2f} % before, {after * 100:.2f} % after temperature{fitted}"


def _reason(view: View, worse: Sequence[VariantRecord]) -> str:
    """The likely reason why a temperature made calibration worse, from what the study records about its weights."""
    model = view.study.record.recipe.get("model")
    given = isinstance(model, dict) and bool(model.get("weights"))
    sharp = [v for v in worse if v.temperature is not None and v.temperature.value < 1.0]
    if given:
        out = (
            "The likely reason: this study began with given weights, and the validation images that the temperature is "
            "fitted on may have been among those that the weights were trained on. A network is sure and right on "
            "images that it has seen, which misleads the fit: the temperature comes out too low."
        )
    else:
        out = (
            "The temperature is chosen for the smallest NLL on the validation images, not for the smallest ECE on the "
            "test images. With few validation images, or with images that the network has seen, the two disagree."
        )
    if sharp:
        out += f" Temperatures below 1 make the network surer still: {len(sharp)} of these {len(worse)} are."
    return out
