"""What a search tried, what passed, and what it cost: a section of the page where a search made the study."""

from __future__ import annotations

from dataclasses import dataclass

from edgesafe.display import ABSENT, STATUS, clean, number, size
from edgesafe.progress import clock
from edgesafe.records import SearchRecord, TrialRecord
from edgesafe.report.parts import Heading, TablePart, Td
from edgesafe.report.stats import Pareto, pareto
from edgesafe.report.view import View, grouped
from edgesafe.report.words import estimate

__all__ = ["SearchPart", "search_part", "summary_of"]


@dataclass(frozen=True)
class SearchPart:
    """The section: what came of it, the trials in their order, the series, and the front of what was tried."""

    text: str
    trials: TablePart
    series: TablePart
    front: TablePart | None


def search_part(view: View) -> SearchPart | None:
    """The section of a study that a search made; None: another command made it.

    Raises:
        StoreError, IntegrityError: search.json is damaged or was changed.
    """
    record = view.study.search()
    if record is None:
        return None
    return SearchPart(summary_of(record), _trials(record), _series(record), _front(view, record))


def summary_of(record: SearchRecord) -> str:
    """What was searched for, what came of it, and what it cost, in plain sentences."""
    passed = sum(trial.status.passes for trial in record.trials)
    seconds = sum(trial.seconds for trial in (*record.trials, *record.finals, *record.controls))
    found = (
        f"Confirmed on {record.untouched_images:,} test images that no trial saw: {clean(record.winner)}."
        if record.winner is not None
        else "None was confirmed."
    )
    spent = f" It ended when the budget was spent: {clean(record.stopped)}." if record.stopped else ""
    baselines = record.baseline_inferences + record.untouched_inferences
    return (
        f"A search for the least {record.minimise}: {len(record.trials)} variants were tried on "
        f"{record.decision_images:,} test images, {passed} of them passed. {found}{spent} {record.inferences:,} images "
        f"were run in all, the unpruned network's {baselines:,} included; trials and confirmations took "
        f"{clock(seconds)}. The verdict on a trial decides what is tried next; only the confirmed one counts as a pass."
        f"{_controlled(record)}"
    )


def _controlled(record: SearchRecord) -> str:
    """Whether networks of the winner's size that should not pass do not."""
    if not record.controls:
        return ""
    if record.passing_controls:
        return (
            f" Caution: {clean(', '.join(record.passing_controls))} passes, too: the policy does not tell the winner "
            "from a network of its size that was pruned at random or not recovered."
        )
    return f" Of {len(record.controls)} controls of the winner's size (random channels, not recovered) none passes."


def _trials(record: SearchRecord) -> TablePart:
    columns = (
        Heading("Variant"), Heading("Why it was tried"), Heading(record.minimise, "of the unpruned network's"),
        Heading("Verdict"), Heading("Images"), Heading("Time"),
    )  # fmt: skip
    rows = tuple(_row(trial) for trial in (*record.trials, *record.finals, *record.controls))
    return TablePart("Trials, confirmations and controls, in their order", columns, rows)


def _row(trial: TrialRecord) -> tuple[Td, ...]:
    look = STATUS[trial.status]
    return (
        Td(clean(trial.variant)),
        Td(clean(trial.why)),
        Td("no file" if trial.objective is None else f"{trial.objective:.3f}x"),
        Td(f"{look.mark} {look.word}", small=clean(", ".join(trial.open[:4]))),
        Td(f"{trial.inferences:,}"),
        Td(clock(trial.seconds)),
    )


def _series(record: SearchRecord) -> TablePart:
    columns = (Heading("Series"), Heading("Screened, not recovered", "ratio: cost, accuracy"), Heading("How it ended"))
    rows = tuple(
        (
            Td(clean(series.label)),
            Td("; ".join(f"{r.ratio:.2f}: {r.cost:.2f}x, {r.accuracy:.1%}" for r in series.screened) or "nothing"),
            Td(clean(series.left_out) or "searched to the end"),
        )
        for series in record.series
    )
    return TablePart("Series", columns, rows)


def _front(view: View, record: SearchRecord) -> TablePart | None:
    """Trials that no other trial matches in accuracy, latency and file size while it beats it in one; with verdicts.

    All are measured on the images that decide. The unpruned network stands above them.
    """
    trials = {trial.variant: trial for trial in record.trials if trial.objective is not None}
    groups = [group for group in grouped(view)[0] if group.first.id in trials]
    front = [point for point in pareto(groups, view) if not point.dominated]
    if not front:
        return None
    bases = {view.study[name].entry.baseline for name in trials}
    whole = [point for point in pareto(grouped(view)[0], view) if point.group.first.id in bases]
    rows = [*whole, *sorted(front, key=lambda point: (point.file or 0.0, point.group.first.id))]
    timed = any(point.ratio is not None for point in front)
    columns = (
        Heading("Variant"), Heading("Accuracy", "images that decide"), *([Heading("Latency ratio")] if timed else []),
        Heading("File to ship"), Heading(record.minimise, "of the unpruned network's"), Heading("Verdict"),
    )  # fmt: skip
    cells = tuple(_point(point, trials.get(point.group.first.id), timed=timed) for point in rows)
    return TablePart("The front of accuracy, latency and file size", columns, cells)


def _point(point: Pareto, trial: TrialRecord | None, *, timed: bool) -> tuple[Td, ...]:
    """A row of the front; no trial: the unpruned network."""
    accuracy = point.accuracy
    return (
        Td(clean(point.group.members[0].id)),
        Td(ABSENT, kind="absent")
        if accuracy is None
        else Td(number(accuracy.estimate, accuracy.unit), estimate(accuracy)),
        *([Td(ABSENT, kind="absent") if point.ratio is None else Td(f"{point.ratio:.3f}x")] if timed else []),
        Td(ABSENT, kind="absent") if point.file is None else Td(size(point.file)),
        Td("1" if trial is None or trial.objective is None else f"{trial.objective:.3f}x"),
        Td("not judged" if trial is None else STATUS[trial.status].word),
    )
