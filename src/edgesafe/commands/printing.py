"""What commands print: rich tables on a terminal, the same text in a log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from edgesafe import metrics
from edgesafe.commands.columns import MISSING, Column, cells, columns_of, half
from edgesafe.commands.results import in_words
from edgesafe.display import cautions, terminal
from edgesafe.recipe import shipped
from edgesafe.records import DeviceReport, Fact, InitResult, Measurement, Measurements, PopulationKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgesafe.study.study import Study

__all__ = [
    "print_certificates",
    "print_facts",
    "print_init",
    "print_latency",
    "print_models",
    "print_search",
    "print_sensitivity",
    "print_study",
]

_ANY = 10_000  # columns: more than any table has
_WIDE = 132  # columns that a study's table with frame, units and two decimals needs


def _console() -> Console:
    """As wide as the terminal; 80 columns, or $COLUMNS, in a log."""
    return Console(highlight=False, markup=False, emoji=False)


def _line(console: Console, text: str) -> None:
    """A sentence: on a terminal folded at words, in a log one line, which can be searched."""
    console.print(terminal(text), soft_wrap=not console.is_terminal)


def print_study(study: Study) -> None:
    """The table of variants that a study ends with, and where to look."""
    console = _console()
    _line(console, f"{study.record.name} on {study.record.data.name}, measured under onnxruntime")
    wide, columns = console.width >= _WIDE, columns_of(study)
    _print_whole(console, _variants(study, columns, wide=wide))
    if units := [column.unit for column in columns if column.unit and not wide]:
        _line(console, " ".join(units))
    measured = list(study.measurements().values())
    if measured:
        for line in (*_explanation(measured[0], columns), *_sampled(measured)):
            _line(console, line)
    for each in measured:
        for line in cautions(each):
            _line(console, f"warning: {line}")
    worse = [each.variant for each in measured if _temperature_hurts(each)]
    if worse:
        _line(
            console,
            f"warning: temperature made the ECE worse on {', '.join(worse)}: do not ship model.calibrated.onnx there. "
            "Were the validation images among those that the given weights were trained on? "
            'data.validation_from = "test" takes them out of the test set instead',
        )
    if study.record.recipe.get("data", {}).get("validation_from") == "test":
        left = f"{study.record.data.test_n:,} test images that are left"
        _line(
            console,
            f"validation images were taken out of the test set, and all numbers rest on the {left}: "
            "do not compare them with numbers on the whole test set",
        )
    if study.record.digest:
        _line(console, f"study {study.root}, digest {study.record.digest[:23]}…")
    _line(console, f"next: edgesafe report {study.root} --policy POLICY")


def _variants(study: Study, columns: tuple[Column, ...], *, wide: bool) -> Table:
    """One row per variant. In 80 columns units stand in the heading and one decimal is left of rates."""
    table = Table() if wide else _plain()
    table.add_column("variant", justify="left", overflow="fold")
    for column in columns:
        table.add_column(column.wide if wide else column.narrow, justify="right", no_wrap=True)
    for variant in study.values():
        _add(table, cells(variant, columns, wide=wide))
    return table


def _print_whole(console: Console, table: Table) -> None:
    """The table with every number in full: a log takes lines of any length, a terminal folds names, if any column."""
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table, options=console.options.update(width=_ANY)).maximum)
    console.print(table)


def _plain(title: str | None = None) -> Table:
    """A table without a frame: 80 columns hold more."""
    return Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)


def _add(table: Table, cells: Sequence[str]) -> None:
    """A row; names of others are shown and never obeyed."""
    table.add_row(*map(terminal, cells))


def print_search(study: Study) -> None:
    """What was tried, what passed, what was confirmed, and what it cost."""
    console, record = _console(), study.search()
    if record is None:
        print_study(study)
        return
    _line(console, f"search for the least {record.minimise} on {study.record.data.name}")
    table = _plain()
    for name in ("variant", record.minimise, "verdict", "open or failed", "images", "s"):
        left = name in ("variant", "verdict", "open or failed")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "open or failed")
    for trial in (*record.trials, *record.finals, *record.controls):
        cost = MISSING if trial.objective is None else f"{trial.objective:.3f}x"
        gates = ", ".join(trial.open[:2]) + (f", {len(trial.open) - 2} more" if len(trial.open) > 2 else "")
        _add(table, [trial.variant, cost, trial.status.value, gates, f"{trial.inferences:,}", f"{trial.seconds:.0f}"])
    console.print(table)
    for series in record.series:
        if series.left_out:
            _line(console, f"series {series.label} was left: {series.left_out}")
    if record.stopped:
        _line(console, f"stopped before the search was through, the budget is spent: {record.stopped}")
    _line(
        console,
        f"trials are decided on {record.decision_images:,} test images, the winner is confirmed on the "
        f"{record.untouched_images:,} others; {record.inferences:,} images were run in all",
    )
    if record.winner is not None:
        _line(console, f"confirmed: {record.winner}")
        if record.passing_controls:
            named = ", ".join(record.passing_controls)
            _line(console, f"caution: {named} passes, too, and should not: the policy is too loose to tell")
        _line(console, f"next: edgesafe report {study.root} --policy POLICY")
    else:
        _line(console, "no variant was confirmed; a looser policy, another method or more recovery may find one")


_POINTS = "certified_points"


def print_certificates(study: Study) -> None:
    """One line per variant and set that it was certified for."""
    console = _console()
    _line(console, f"{study.record.name} on {study.record.data.name}, every image run; shares of all test images, %")
    table, points = _plain(), study.record.data.kind in metrics.get(f"{_POINTS}.brightness=1").tasks
    for name in ("variant", "set", *(("keypoints",) if points else ()), "certified", "falsified", "same as baseline"):
        table.add_column(name, justify="left" if name in ("variant", "set") else "right", no_wrap=True)
    for measured in study.measurements().values():
        for metric, value in measured.metrics.items():
            kind, _, name = metric.partition(".")
            if kind == "certified_accuracy":
                falsified = measured.metrics.get(f"falsified.{name}")
                same = measured.differences.get(f"certified_agreement.{name}")
                kept = (measured.metrics.get(f"{_POINTS}.{name}"),) if points else ()
                _add(
                    table,
                    [
                        measured.variant,
                        name,
                        *(half(each, 1 if points else 2) for each in (*kept, value, falsified, same)),
                    ],
                )
    console.print(table)
    _line(
        console,
        "± is half the 95 % interval. certified: right on the untouched image and on every image of the set, all of "
        "them run through this file under this onnxruntime."
        + (" keypoints: likewise, of each keypoint; shares of all keypoints." if points else ""),
    )
    if any(".line." in metric for measured in study.measurements().values() for metric in measured.metrics):
        _line(console, "line.: of the real-valued function along the range, up to float rounding; not of 8-bit images.")
    _line(console, f"next: edgesafe report {study.root} --policy POLICY")


def _temperature_hurts(measured: Measurements) -> bool:
    """Whether the calibrated file is less well calibrated than the plain one, on the test images."""
    metrics = measured.metrics
    before, after = metrics.get("ece_em10_top1"), metrics.get("ece_em10_top1.calibrated")
    return before is not None and after is not None and after.estimate > before.estimate


def _explanation(measured: Measurements, columns: tuple[Column, ...]) -> list[str]:
    target = measured.target
    meanings = ["± is half the 95 % interval.", *(column.meaning for column in columns if column.meaning)]
    if not any(column.metric == "latency.p50_ms" for column in columns):
        return [" ".join(meanings)]
    how = f"latency: batch 1, {target.threads} thread(s), {target.provider}, {measured.timed_on.cpu}"
    return [" ".join(meanings), how]


def _sampled(measured: Sequence[Measurements]) -> list[str]:
    """Which mPCs come from a sample of the corrupted images."""
    sampled = [
        m
        for m in measured
        if "mpc" in m.metrics
        and (population := m.metrics["mpc"].population) is not None
        and population.kind is PopulationKind.BENCHMARK
    ]
    if not sampled:
        return []
    names = ", ".join(f"{m.variant} ({m.metrics['mpc'].n:,} images)" for m in sampled)
    return [f"mPC from a sample, ± about this benchmark and not about new images: {names}"]


def _value(value: Measurement | None, written: Callable[[float], str]) -> str:
    """The estimate as `written` writes it, or the mark of a missing number."""
    return MISSING if value is None else written(value.estimate)


def print_latency(results: Mapping[str, Mapping[str, Measurement]], device: DeviceReport | None = None) -> None:
    """Latency of one file, or of two that were interleaved; and what the device said, if they were timed on one."""
    console = _console()
    table = _plain()
    for name in ("file", "median", "p90", "minimum", "ratio (95 %)"):
        table.add_column(name, justify="left" if name == "file" else "right")
    for name, m in results.items():
        ratio = m.get("latency.ratio")
        text = MISSING if ratio is None else f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        cells = [_value(m.get(f"latency.{key}_ms"), "{:.4f} ms".format) for key in ("p50", "p90", "min")]
        _add(table, [name, *cells, text])
    console.print(table)
    if device is not None:
        _print_device(console, tuple(results), device)


def _print_device(console: Console, names: Sequence[str], device: DeviceReport) -> None:
    """The machine, and each file's memory, opening time and agreement with this host."""
    host = device.host
    versions = ", ".join(f"{name} {version}" for name, version in host.versions.items())
    _line(
        console,
        f"on {device.target}: {host.cpu}, {host.cores} core(s), {host.system}, Python {host.python}, {versions}",
    )
    for name, file in zip(names, device.files, strict=True):
        peak = "" if file.peak_bytes is None else f", peak {file.peak_bytes / 1e6:.1f} MB"
        agreed = ""
        if file.parity is not None:
            same = "bit for bit" if file.parity.bit_equal else f"to {file.parity.max_abs:.1e}"
            agreed = f"; outputs equal this host's {same} ({file.parity.answers_equal} of {file.parity.images} answers)"
        _line(console, f"{name}: opens in {file.open_ms:.1f} ms{peak}{agreed}")


def print_sensitivity(rows: Sequence[Any]) -> None:
    """Print the loss of accuracy that narrowing each layer alone causes, as a table with the largest loss last."""
    console = _console()
    table = _plain("accuracy on validation images, each layer narrowed alone")
    for name in ("layer", "narrowed with it", "ratio", "accuracy", "drop", "MACs saved"):
        table.add_column(name, justify="left" if name in ("layer", "narrowed with it") else "right")
    for found in sorted(rows, key=lambda r: r.drop):
        others = ", ".join(name for name in found.layers if name != found.layer)
        cells = f"{found.ratio:.2f}", f"{100 * found.score:.2f} %", f"{100 * found.drop:+.2f} pp", f"{found.macs:.1%}"
        _add(table, [found.layer, others, *cells])
    console.print(table)


def print_models(models: Any, name: str | None) -> None:
    """The architectures, or one of them with its size."""
    console = _console()
    if name is not None:
        from edgesafe.models import count

        net, shape = models.build(name, 10, {}), (224, 224, 3) if name.startswith("torchvision:") else (32, 32, 3)
        size = f"{count.params(net):,} parameters, {count.macs(net, shape):,} MACs at {shape[0]}x{shape[1]}x{shape[2]}"
        _line(console, f"{name}: {size}")
        return
    table = _plain("built in")
    for column in ("name", "family", "what"):
        table.add_column(column)
    for known in models.ARCHITECTURES.values():
        table.add_row(known.name, known.family, known.summary)
    console.print(table)
    _line(console, "also: torchvision:NAME, timm:NAME, package.module:factory, path/to/file.py:factory")
    console.print(_support())


def print_init(result: InitResult) -> None:
    """What was tried, what it will cost, and what to type next."""
    console = _console()
    shape = "x".join(map(str, result.shape))
    _line(
        console,
        f"{result.params:,} parameters, {result.macs:,} MACs; {result.classes} {result.noun}, images {shape}; "
        f"{result.train_images:,} images to train on, {result.validation_images:,} to judge recovery, "
        f"{result.test_images:,} to measure on",
    )
    _line(console, f"tried: the network runs, and pruning changes {result.narrowed} layers, proven")
    if result.estimate is not None:
        _line(console, in_words(result.estimate))
    _line(console, f"next: edgesafe compress {result.file}")


def print_facts(facts: Sequence[Fact]) -> None:
    """What this machine can do, topic by topic; advice under what it is about."""
    console = _console()
    topic = ""
    for fact in facts:
        if fact.topic != topic:
            topic = fact.topic
            _line(console, topic)
        _line(console, f"  {fact.name:<20} {fact.value}")
        if fact.advice:
            _line(console, f"  {'':<20} -> {fact.advice}")


def _support() -> Table:
    """The committed support table (docs/support.md): every row was really pruned, proven, exported and compared."""
    rows = json.loads(shipped.support_table().read_text(encoding="utf-8"))["rows"]
    table = _plain("pruned by half, proven, exported and compared (docs/support.md)")
    for column in ("architecture", "result", "MACs", "params", "left alone", "latency"):
        table.add_column(column, justify="left" if column in ("architecture", "result") else "right")
    for row in rows:
        if row["status"] != "pass":
            table.add_row(row["arch"], f"refused: {row['reason']}", *[MISSING] * 4)
            continue
        table.add_row(
            row["arch"], "proven", f"{row['macs_ratio']:.3f}", f"{row['params_ratio']:.3f}", str(row["left_alone"]),
            f"{row['latency_ratio']:.2f}",
        )  # fmt: skip
    return table
