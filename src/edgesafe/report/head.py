"""The first screen and the small print: what was compressed, the verdict, the best, what none of it proves."""

from __future__ import annotations

import base64
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgesafe.display import ABSENT, STATUS, TIMES, amount, clean, number, size
from edgesafe.errors import DataError
from edgesafe.measure.tasks import rules_of
from edgesafe.records import DataIdentity, GateStatus, Task, Unit, VariantRecord, Verdict
from edgesafe.report.stats import BestGroup
from edgesafe.report.view import Group, View
from edgesafe.report.words import interval, speed

__all__ = ["Card", "VerdictBox", "cards", "lead", "limits", "provenance_facts", "samples_uri", "verdict_box"]

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Card:
    """One of the best variants: (name, value, small print) facts."""

    label: str
    verdict: str
    status: str
    facts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class VerdictBox:
    """The box at the top of the page: the verdict and a row per variant, or the command that gives a verdict."""

    icon: str
    word: str
    status: str
    text: str
    command: str
    rows: tuple[tuple[str, str, str], ...]  #: variant, "✓ pass", status
    notes: tuple[str, ...]


def lead(view: View, groups: Sequence[Group]) -> tuple[tuple[str, str], ...]:
    """What was compressed, as (name, value) facts."""
    data, host = view.study.record.data, view.study.record.host
    nets = sorted({clean(v.arch) for v in view.variants})
    h, w, c = data.shape
    seeds = sorted({v.seed for v in view.variants})
    images = {m.metrics["accuracy"].n for m in view.measurements.values() if "accuracy" in m.metrics}
    measured = f"{min(images):,}" if images else ABSENT
    target = next((m.target for m in view.measurements.values()), None)
    timed = next((m.timed_on for m in view.measurements.values()), host)
    runs = clean(timed.cpu)
    if target is not None:
        runs += f", {target.threads} thread{'' if target.threads == 1 else 's'}"
    provider = clean(target.provider) if target is not None else ""
    return (
        ("Network", ", ".join(nets) + _weight_count(groups)),
        (
            "Data",
            f"{clean(data.name)}: {len(data.classes)} {data.noun}, {h}{TIMES}{w}{TIMES}{c} pixels, "
            f"{measured} test images",
        ),
        (
            "Compressed variants" if any(v.surgery for v in view.variants) else "Audited files",
            _made(groups) + (f"; {len(seeds)} seeds each" if len(seeds) > 1 else ""),
        ),
        ("Measured on", f"the ONNX files, on {runs}; onnxruntime{f', {provider}' if provider else ''}"),
    )


def _weight_count(groups: Sequence[Group]) -> str:
    """The baseline's number of parameters as a clause for the subtitle; "" if it is not known."""
    base = next((g.first for g in groups if g.is_baseline), None)
    if base is None or base.params is None:
        return ""
    return f", {number(float(base.params), Unit.COUNT)} parameters before compression"


def _made(groups: Sequence[Group]) -> str:
    """The compressed variants by method: "7: weight 30, 50, 70 %; filter 30, 50 % removed"."""
    by_series: dict[str, list[float]] = {}
    for g in groups:
        if not g.is_baseline:
            by_series.setdefault(clean(g.series).replace("_", " "), []).append(g.ratio * 100)
    if not by_series:
        return "the baseline alone"
    if not any(ratio > 0 for ratios in by_series.values() for ratio in ratios):
        return ", ".join(f"{len(ratios)} {TIMES} {name}" for name, ratios in by_series.items())
    parts = []
    for name, ratios in by_series.items():
        few = len(ratios) <= 4
        shown = ", ".join(f"{r:g}" for r in ratios) if few else f"{min(ratios):g} to {max(ratios):g}"
        parts.append(f"{name} {shown} %" + ("" if few else f" ({len(ratios)})"))
    return f"{sum(len(r) for r in by_series.values())}, by method and share removed: {'; '.join(parts)}"


def gate_command(view: View) -> str:
    """The command line that decides this study by a policy."""
    path = str(view.study.root)
    return f"edgesafe gate {shlex.quote(clean(path))} --policy POLICY.toml"


def verdict_box(view: View, groups: Sequence[Group]) -> VerdictBox:
    """The verdict, or how to get one."""
    if view.verdict is None:
        return VerdictBox(
            "○",
            "No verdict yet",
            "none",
            "This page shows measurements. Whether they are good enough is decided by your policy:",
            gate_command(view),
            (),
            (),
        )
    look = STATUS[view.verdict.overall]
    rows = []
    for g in groups:
        status = g.status(view)
        if status is not None:
            rows.append((clean(g.label), str(STATUS[status]), status.value))
    return VerdictBox(
        look.icon,
        look.word.capitalize(),
        view.verdict.overall.value,
        f"{_count_words(view.verdict)}{_why_refused(view.verdict)}",
        "",
        tuple(rows),
        tuple(clean(n) for n in view.verdict.notes),
    )


def _why_refused(verdict: Verdict) -> str:
    """The first reason why a decision was refused: it is the policy or the data that must change, not the network."""
    refused = [g for g in verdict.gates if g.status is GateStatus.REFUSED]
    if not refused:
        return ""
    first = refused[0]
    message = clean(first.message).removeprefix(f"REFUSED {first.id}: ").rstrip(".")
    return (
        " Refused: a decision would be invalid. The first reason: "
        f"{clean(first.variant)}, {clean(first.id)}: {message}. All reasons are among the numbers of the figure below."
    )


def _count_words(verdict: Verdict) -> str:
    """How many gates, variants and decisions of each kind; what passes counts alike, whether or not it only warns."""
    warned: Counter[GateStatus] = Counter(
        g.status for g in verdict.gates if g.level == "warn" and g.status is not GateStatus.PASS
    )
    seen = Counter(g.status for g in verdict.gates) - warned
    gates = len({g.id for g in verdict.gates})
    judged = len({g.variant for g in verdict.gates})
    said = {GateStatus.PASS: "passed", GateStatus.FAIL: "failed"}
    parts = [f"{seen[s]} {said.get(s, look.word)}" for s, look in STATUS.items() if seen[s]]
    text = ", ".join(parts) or "nothing decided"
    if warned:
        words = ", ".join(f"{warned[s]} {said.get(s, look.word)}" for s, look in STATUS.items() if warned[s])
        text += f"; as warnings only: {words}"
    profile = f", profile {clean(verdict.profile)}" if verdict.profile else ""
    return (
        f"{gates} gate{'' if gates == 1 else 's'} on {judged} variant{'' if judged == 1 else 's'}{profile}: "
        f"{text}. Exit code {verdict.exit_code}."
    )


def cards(chosen: Sequence[BestGroup]) -> tuple[Card, ...]:
    """The best variants as cards."""
    out = []
    for b in chosen:
        verdict = str(STATUS[b.status]) if b.status is not None else "○ not gated"
        drop = (
            (ABSENT, "")
            if b.drop is None
            else (amount(b.drop.estimate, b.drop.unit, signed=True), interval(b.drop, signed=True))
        )
        accuracy = b.points.accuracy
        shown = (ABSENT, "") if accuracy is None else (amount(accuracy.estimate, accuracy.unit), interval(accuracy))
        file = ABSENT if b.points.file is None else size(b.points.file)
        share = "" if b.file_ratio is None else f"{TIMES}{b.file_ratio:.2f} of the baseline's"
        ratio = "" if b.latency is None else f"latency ratio {b.latency.estimate:.2f}, {interval(b.latency)}"
        facts = (
            ("Accuracy", *shown),
            ("Against baseline", *drop),
            ("Speed", speed(b.latency), ratio),
            ("File to ship", file, share),
        )
        out.append(Card(clean(b.group.label), verdict, b.status.value if b.status else "none", facts))
    return tuple(out)


def samples_uri(view: View) -> str:
    """The contact sheet as a data: address, or "".

    Raises:
        DataError: not a PNG.
    """
    if view.samples is None:
        return ""
    if not view.samples.startswith(PNG):
        raise DataError("the contact sheet is not a PNG", where="samples", fix="make it with corruptions.contact_sheet")
    return "data:image/png;base64," + base64.b64encode(view.samples).decode("ascii")


def provenance_facts(view: View) -> tuple[tuple[str, str], ...]:
    """Versions, host, data and hashes of the study, as (name, value)."""
    study, data, host = view.study.record, view.study.record.data, view.study.record.host
    versions = ", ".join(f"{clean(k)} {clean(v)}" for k, v in sorted(host.versions.items()))
    seen: dict[str, set[str]] = {}
    for measured in view.measurements.values():
        for topic, record in (
            ("corruption", measured.corruptions), ("sample", measured.sample), ("target", measured.target)
        ):  # fmt: skip
            for key, value in (
                record.model_dump(mode="json", exclude_defaults=True) if record is not None else {}
            ).items():
                if isinstance(value, str | int):
                    seen.setdefault(f"{topic}, {clean(key)}", set()).add(clean(str(value)))
    facts = [
        ("Study digest", clean(study.digest) or "not complete"),
        ("Recipe", clean(study.recipe_sha256)),
        ("edgesafe", clean(study.edgesafe)),
        ("Host", f"{clean(host.cpu)}, {host.cores} cores, {clean(host.system)}, Python {clean(host.python)}"),
        ("Libraries", versions or "not recorded"),
        ("Seeds", ", ".join(str(s) for s in sorted({v.seed for v in view.variants}))),
        ("Training images", f"{data.train_n:,}; {clean(data.train_sha256)}"),
        ("Validation images", f"{data.validation_n:,}; {clean(data.validation_sha256)}"),
        ("Test images", f"{data.test_n:,}; {clean(data.test_sha256)}"),
    ]
    facts += _about_the_device(view)
    facts += _about_the_data(data) + [fact for variant in view.variants for fact in _about_the_input(variant)]
    if view.verdict is not None:
        facts.append(("Policy", clean(view.verdict.policy_sha256)))
    facts += [(f"Measured with: {k.replace('_', ' ')}", ", ".join(sorted(v)[:4])) for k, v in sorted(seen.items())]
    return tuple(facts)


def _about_the_device(view: View) -> list[tuple[str, str]]:
    """Where latency was measured, if not on the study's host."""
    devices = {measured.device.target: measured.device for measured in view.measurements.values() if measured.device}
    rechecked = [
        (f"Certificates on {clean(name)}", text) for name in sorted(devices) if (text := _about_rechecks(view, name))
    ]
    timed = [
        (
            f"Latency timed on {clean(name)}",
            f"{clean(one.host.cpu)}, {one.host.cores} core(s), {clean(one.host.system)}, "
            + ", ".join(f"{clean(package)} {clean(version)}" for package, version in sorted(one.host.versions.items())),
        )
        for name, one in sorted(devices.items())
    ]
    return timed + rechecked


def _about_rechecks(view: View, device: str) -> str:
    """What a device said of the certificates' images; "" where none were run there."""
    found = [
        one
        for measured in view.measurements.values()
        if measured.device is not None and measured.device.target == device
        for one in measured.device.rechecks
    ]
    if not any(one.runs for one in found):
        return ""
    images, wrong = sum(one.certified + one.falsified for one in found), sum(len(one.differ) for one in found)
    apart = max(one.max_abs for one in found)
    same = "bit-equal outputs" if all(one.bit_equal for one in found) else f"outputs within {apart:.1e}"
    verdict = f"{wrong:,} with another verdict" if wrong else "the same verdicts"
    runs = sum(one.runs for one in found)
    return f"{images:,} certified or falsified images run again, {runs:,} runs: {verdict}, {same}"


def _about_the_data(data: DataIdentity) -> list[tuple[str, str]]:
    """What a reader of numbers must know of the images: repeated ones, ones that are also in train, what was odd."""
    facts = []
    if data.test_distinct is not None and data.test_distinct < data.test_n:
        facts.append(("Different test images", f"{data.test_distinct:,} of {data.test_n:,}"))
    if data.test_in_train:
        facts.append(("Test images that are also training images", f"{data.test_in_train:,} of {data.test_n:,}"))
    if data.notes:
        facts.append(("Seen while the data were read", "; ".join(map(clean, data.notes))))
    return facts


def _about_the_input(variant: VariantRecord) -> list[tuple[str, str]]:
    """What a file of others was given: all its numbers rest on that."""
    given = variant.input
    if given is None:
        return []
    how = f"stated: {', '.join(map(clean, given.stated))}" if given.stated else "detected"
    text = f"{clean(given.text)} ({how}; accuracy {given.accuracy:.1%} on {given.images:,} labelled images)"
    if given.runner_up:
        distance = f", {given.runner_up_z:.1f} standard errors behind" if given.runner_up_z is not None else ""
        text += f"; next best: {clean(given.runner_up)}{distance}"
    return [(f"Input of {clean(variant.id)}", text)]


def limits(view: View) -> tuple[str, ...]:
    """What the numbers do and do not say."""
    methods = {v.method for v in view.variants}
    seeds = {v.seed for v in view.variants}
    corrupted = any(any(k.startswith("mpc") for k in m.metrics) for m in view.measurements.values())
    out = [
        "This page is evidence for a safety argument. It makes no product conform to any standard.",
        "No standard sets limits for these metrics; those of the gate are the policy's.",
        f"All rates hold for {clean(view.study.record.data.name)} and images like it; "
        "other conditions need their own data.",
        "Latency holds for the machine named above, batch 1. It says nothing about another processor or a board; "
        "measure there with the benchmark script in export/.",
        "Compare latency by the ratio: variant and baseline were timed in turns. Medians come from different sessions. "
        "A variant is called faster only where the whole interval of its ratio is below 1.",
    ]
    if "weight" in methods:
        out.append(
            "Method weight is unstructured: it saves storage (the sparse file) and does not make inference faster."
        )
    if len(seeds) == 1:
        out.append("One seed: intervals are over test images; the spread between training runs is not measured.")
    if corrupted:
        out.append(
            "Heat maps: each cell has its own 95 % interval; of 75 cells of an unchanged network, "
            "about 4 would leave zero out."
        )
    else:
        out.append(f"Robustness to corruptions: {ABSENT}.")
    task = view.study.record.data.task or Task()
    if rules_of(task).calibrated:
        out.append(
            "ECE is biased upwards at small n and can fall while accuracy falls: read it together with NLL and "
            "accuracy."
        )
    else:
        out.append(f"A network for {task.noun} states no confidence, so there is nothing to calibrate.")
    return tuple(out)
