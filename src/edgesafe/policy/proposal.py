"""Writing a policy from what was measured (`init`), and saying which gates a sample can decide (`check`).

Power, with spread s (standard error), limit L, true value d, one-sided confidence g: a gate passes with probability
Phi((L - d) / s - z(g)) and fails with Phi((d - L) / s - z(g)); what is left is inconclusive. That is of one gate alone:
Holm's correction makes the failures of several gates together rarer, and passes not at all. Held against simulation in
`tests/gate/test_gate_power.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from edgesafe.display import RULE_NOUNS, show, show_limit
from edgesafe.errors import NothingEvaluated
from edgesafe.metrics import (
    SHIPPED_BYTES,
    Basis,
    Rule,
    expand,
    info,
    members,
)
from edgesafe.policy.counted import exact_values
from edgesafe.policy.limits import (
    Limit,
    canonical,
)
from edgesafe.policy.policy import DEFAULT_CONFIDENCE, Against, Clause, Gate, Policy
from edgesafe.policy.readings import (
    Problem,
    Reading,
    Subject,
    metrics_of,
    read,
    valid,
)
from edgesafe.policy.subjects import compares_with_sibling
from edgesafe.records import Measurements, StudyRecord

__all__ = ["check", "init"]

POWER = 0.8  #: how often a gate should be decided, by convention
_NORMAL = NormalDist()
_Z = _NORMAL.inv_cdf(DEFAULT_CONFIDENCE)
#: Spread of a paired difference where no candidate was measured, as a share of the baseline's own: the least gain from
#: pairing that was seen on a ResNet-20 and its sparse versions (variance ratio 1.8, at 60 % sparsity).
_PAIRED_SHARE = 0.75


@dataclass(frozen=True)
class _Wish:
    """A gate to propose: the limit that one would like, which is widened if the sample cannot decide it."""

    id: str
    metric: str
    rule: Rule
    limit: float
    level: str
    why: str
    against: Against = Against.BASELINE


_WISHES = (
    _Wish("accuracy-drop", "accuracy", Rule.MAX_DROP, 0.01, "error", "paired with the baseline on the same images"),
    _Wish("mpc-drop", "mpc", Rule.MAX_DROP, 0.01, "error", "mean accuracy under corruption, on the same pixels"),
    _Wish("worst-corruption", "mpc.corruption.*", Rule.MAX_DROP, 0.03, "error", "no single corruption may suffer more"),
    _Wish(
        "certified-drop",
        "certified_accuracy.*",
        Rule.MAX_DROP,
        0.01,
        "error",
        "right on every image of the set, on the same images",
    ),
    _Wish("pck-drop", "pck@2", Rule.MAX_DROP, 0.01, "error", "keypoints nearer than 2 px to their labels"),
    _Wish("error-increase", "error.mean_px", Rule.MAX_INCREASE, 0.1, "error", "mean distance of keypoints, in px"),
    _Wish(
        "certified-points-drop", "certified_points.*", Rule.MAX_DROP, 0.01, "error", "right on every image of the set"
    ),
    _Wish("falsified-increase", "falsified.*", Rule.MAX_INCREASE, 0.01, "error", "right, until the set is run"),
    _Wish("ece", "ece_em10_top1", Rule.MAX, 0.02, "error", "calibration error of the file as shipped"),
    _Wish("ece-increase", "ece_em10_top1", Rule.MAX_INCREASE, 0.005, "error", "and against the baseline"),
    _Wish("nll-increase", "nll", Rule.MAX_INCREASE, 0.02, "error", "a proper score: an ECE alone can be gamed"),
    _Wish("sure-and-wrong", "high_conf_error@0.9", Rule.MAX_INCREASE, 0.005, "error", "wrong with confidence over 0.9"),
    _Wish("parity", "parity.max_abs_logit", Rule.MAX, 1e-4, "error", "the file equals the network that was trained"),
    _Wish("size", SHIPPED_BYTES, Rule.MAX_RATIO, 1.0, "error", "what goes to the device: no larger than the baseline"),
    _Wish("latency", "latency.ratio", Rule.MAX, 1.0, "warn", "noisy on shared machines: a warning"),
)
#: Of files of other precisions, beside the fp32 files that they were converted from: what the conversion alone may do.
_OF_CONVERTED = (
    _Wish(
        "conversion-accuracy", "accuracy", Rule.MAX_DROP, 0.005, "error",
        "what a conversion alone may cost: paired with the fp32 file of the same weights", Against.SIBLING,
    ),
    _Wish(
        "conversion-certified", "certified_accuracy.*", Rule.MAX_DROP, 0.01, "error",
        "the same, right on every image of the set", Against.SIBLING,
    ),
    _Wish(
        "conversion-latency", "latency.ratio.sibling", Rule.MAX, 1.0, "warn",
        "converted, and no slower than the fp32 file; noisy on shared machines: a warning", Against.SIBLING,
    ),
)  # fmt: skip


def init(study: StudyRecord, measurements: Mapping[str, Measurements]) -> str:
    """Proposes a policy: the usual gates for what was measured, each with a limit that this n can decide.

    A limit is the wished one, or, where that is tighter, the limit that a candidate equal to the baseline passes in
    80 % of samples; an absolute ECE limit is never below its noise floor nor below what the baseline itself reaches.

    Args:
        study: its name and which variants are baselines.
        measurements: by variant id.

    Returns:
        TOML text that `policy.load` accepts, with the reasons as comments.

    Raises:
        NothingEvaluated: no baseline was measured, or nothing that can be gated.
    """
    baselines = [entry.id for entry in study.variants if entry.is_baseline and entry.id in measurements]
    if not baselines:
        raise NothingEvaluated("no measured baseline", where=study.name, fix="run compress first")
    base = measurements[baselines[0]]
    others = [
        _subject(measurements[e.id], base, measurements)
        for e in study.variants
        if not e.is_baseline and e.id in measurements
    ]
    converted = [other.compared(Against.SIBLING) for other in others if other.candidate.sibling is not None]
    blocks = [text for wish in _WISHES if (text := _block(wish, base, others))]
    blocks += [text for wish in _OF_CONVERTED if converted and (text := _block(wish, base, converted))]
    if not blocks:
        raise NothingEvaluated("no metric that can be gated", where=study.name, fix="measure the baseline again")
    seen = (
        ""
        if others
        else "\n# No candidate was measured yet, so the spreads of paired differences are guessed: check again."
    )
    head = [
        f"# Proposed from the study '{_comment(study.name)}', baseline '{_comment(base.variant)}'.{seen}",
        "# A proposal fits the numbers; whether the limits are safe for the product is for you to say.",
        'schema = "edgesafe.policy/1"',
        "",
        "[data]",
        f"min_samples = {_least_n(base, others)}",
        "",
        "[stats]",
        f"confidence = {DEFAULT_CONFIDENCE}  # one-sided, of each bound",
        'on_inconclusive = "fail"',
        'correction = "holm"',
        "",
    ]
    return "\n".join([*head, *blocks])


def _subject(candidate: Measurements, base: Measurements | None, measurements: Mapping[str, Measurements]) -> Subject:
    """A candidate as the measurements alone tell of it."""
    sibling = measurements.get(candidate.sibling or "")
    return Subject(candidate.variant, candidate, None, candidate.baseline, base, None, sibling=sibling)


def _block(wish: _Wish, base: Measurements, others: list[Subject]) -> str:
    """One [[gate]], or "" where its metric was not measured."""
    have = base.metrics.keys() | exact_values(base, None).keys()
    measured = list(expand(wish.metric, have))
    if wish.metric.startswith("latency.ratio"):
        measured = [wish.metric] if any(wish.metric in other.candidate.metrics for other in others) else []
    elif wish.against is Against.SIBLING:
        measured = [metric for metric in measured if any(metric in one.candidate.differences for one in others)]
    if not measured:
        return ""
    limit, reason = _limit(wish, measured, base, others)
    unit = members(wish.metric)[0].unit
    text = canonical(Limit(limit, of_baseline=False, text=""), unit, wish.rule)
    lines = [
        f"# {wish.why[:1].upper()}{wish.why[1:]}.",
        *([f"# {reason}"] if reason else []),
        "[[gate]]",
        f'id = "{wish.id}"',
        f'metric = "{wish.metric}"',
        *([f'against = "{wish.against}"'] if wish.rule.relative and wish.against is Against.SIBLING else []),
        f'{wish.rule.value} = "{text}"',
        f'level = "{wish.level}"',
        "",
    ]
    return "\n".join(lines)


def _limit(wish: _Wish, measured: list[str], base: Measurements, others: list[Subject]) -> tuple[float, str]:
    """The limit to propose, in the unit of the metric, and a sentence with its reason; "" where it needs none."""
    entry = info(measured[0])
    if entry is None or entry.basis is not Basis.IMAGES:
        return wish.limit, ""
    if wish.rule is Rule.MAX:
        measurement = base.metrics[wish.metric]
        floor, reached = (
            measurement.noise_floor or 0.0,
            measurement.high if measurement.high is not None else measurement.estimate,
        )
        (told_floor, told_value), unit = show((floor, measurement.estimate), measurement.unit)
        reason = f"Noise floor at n={measurement.n:,}: {told_floor}{unit}; the baseline shows {told_value}{unit}."
        return _round_up(max(wish.limit, floor, reached)), reason
    spread, n = _paired_spread(measured, base, others)
    needed = (_Z + _NORMAL.inv_cdf(POWER)) * spread
    (told,), unit = show((needed,), entry.unit, difference=True)
    reason = f"At n={n:,} an equal model passes 80 % of the time from a limit of {told}{unit} on."
    return max(wish.limit, _round_up(needed)), reason


def _paired_spread(measured: list[str], base: Measurements, others: list[Subject]) -> tuple[float, int]:
    """The largest spread of a paired difference of these metrics, and its n; guessed without a measured candidate."""
    spreads = []
    for other in others:
        for metric in measured:
            item = _read(other, metric, Rule.MAX_INCREASE)
            if item is not None:
                spreads.append((max(item.below, item.above), item.n))
    if spreads:
        return max(spreads)
    subject = Subject(base.variant, base, None, None, None, None)
    alone = [item for metric in measured if (item := _read(subject, metric, Rule.MAX)) is not None]
    return max(((_PAIRED_SHARE * max(item.below, item.above), item.n) for item in alone), default=(0.0, 0))


def _read(subject: Subject, metric: str, rule: Rule) -> Reading | None:
    entry = info(metric)
    item = read(subject, entry, Clause(rule, Limit(0.0, of_baseline=False, text="")), _Z) if entry else None
    return item if isinstance(item, Reading) else None


def _least_n(base: Measurements, others: list[Subject]) -> int:
    """The smallest n behind a proposed gate: fewer, next time, is a mistake."""
    wanted = {member.id for wish in _WISHES for member in members(wish.metric) if member.basis is Basis.IMAGES}
    sizes = [value.n for metric, value in base.metrics.items() if metric in wanted]
    sizes += [value.n for other in others for metric, value in other.candidate.differences.items() if metric in wanted]
    return min(sizes, default=1)


def _round_up(value: float) -> float:
    """Rounds up to the next of 1, 1.5, 2, 3, 5, 7 or 10 times a power of ten; 0 for what is not positive."""
    if value <= 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
    return float(f"{next((s for s in steps if s * power >= value * (1 - 1e-12)), 10.0) * power:.6g}")


def _comment(text: str) -> str:
    """The text with a blank for each character that is not printable, so that it stays within one comment line."""
    return "".join(c if c.isprintable() else " " for c in text)


# ------------------------------------------------------------------------------------------------------------ check


def check(policy: Policy, measurements: Mapping[str, Measurements]) -> list[str]:
    """Says, for each gate and candidate, how often samples of this size decide it.

    Args:
        policy: the gates.
        measurements: by variant id, baselines included. Those that no other is compared with are candidates; where
            there is none, absolute gates are checked on the baselines.

    Returns:
        One line each, in the order of policy and measurements: "ok", "weak" (decided in fewer than 80 % of samples),
        "missing" or "refused", then the numbers.

    Raises:
        NothingEvaluated: there are no measurements.
    """
    if not measurements:
        raise NothingEvaluated("no measurements", fix="run compress first")
    baselines = {candidate.baseline for candidate in measurements.values() if candidate.baseline is not None}
    candidates = [candidate for name, candidate in measurements.items() if name not in baselines] or list(
        measurements.values()
    )
    z = _NORMAL.inv_cdf(policy.stats.confidence)
    lines = []
    for gate in policy.gates:
        for clause in gate.clauses:
            for candidate in candidates:
                base = measurements.get(candidate.baseline) if candidate.baseline is not None else None
                if candidate.sibling is None and compares_with_sibling(gate):
                    continue  # fp32: not asked of it
                subject = _subject(candidate, base, measurements).compared(gate.against)
                lines.append(_line(gate, clause, _hardest(subject, gate, clause, policy), (candidate.variant, z)))
    return lines


def _hardest(subject: Subject, gate: Gate, clause: Clause, policy: Policy) -> Reading | Problem | None:
    """The member of a gate that is hardest to decide: a problem, else the widest spread. None: no member at all."""
    infos = metrics_of(subject, gate.metric)
    z = _NORMAL.inv_cdf(policy.stats.confidence)
    items = [valid(read(subject, metric, clause, z), policy.data.min_samples) for metric in infos]
    problems = [item for item in items if isinstance(item, Problem)]
    readings = [item for item in items if isinstance(item, Reading)]
    return problems[0] if problems else max(readings, key=lambda item: item.below + item.above, default=None)


def _line(gate: Gate, clause: Clause, item: Reading | Problem | None, context: tuple[str, float]) -> str:
    name = f"{gate.id} [{context[0]}]"
    if item is None:
        return f"missing {name}: nothing of the family '{gate.metric}' was measured"
    if isinstance(item, Problem):
        return f"{item.status.value} {name}: {item.reason}"
    if item.exact:
        return f"ok {name}: counted, so every sample decides it"
    word, text = _told(item, clause, context[1])
    return f"{word} {name}: {text}"


def _told(item: Reading, clause: Clause, z: float) -> tuple[str, str]:
    """The word "ok" or "weak", and how often samples of this size pass and fail, were what was seen the truth."""
    excess, spread = item.excess(), max(item.below, item.above)
    passes, fails = _power(-excess, spread, z), _power(excess, spread, z)
    (told, told_spread), unit = show((item.estimate, spread), item.unit, difference=clause.rule.relative)
    text = f"{item.metric}{RULE_NOUNS[item.rule]} {told}{unit}, limit {show_limit(clause.limit.text)}, "
    text += f"spread {told_spread}{unit} (n={item.n:,}); were that the truth: "
    text += f"pass {passes:.0%}, fail {fails:.0%} of samples"
    if excess == 0.0 and spread > 0.0:
        return "weak", f"{text}; it stands at its limit"
    if spread > 0.0:
        needed = math.ceil(item.n * ((z + _NORMAL.inv_cdf(POWER)) * spread / excess) ** 2)
        text += f"; n of about {needed:,} decides in {POWER:.0%}"
    return ("ok" if max(passes, fails) >= POWER else "weak"), text


def _power(room: float, spread: float, z: float) -> float:
    if spread == 0.0:
        return 1.0 if room >= 0.0 else 0.0
    return _NORMAL.cdf(room / spread - z)
