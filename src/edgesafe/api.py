"""The Python API: what the commands do, with paths, mappings and records instead of options and files.

Importing it imports neither torch nor onnxruntime nor numpy: each function imports what it needs.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesafe.errors import RecipeError
from edgesafe.executors.crew import Crew, crew_of
from edgesafe.progress import Progress
from edgesafe.records import VariantStatus, Verdict
from edgesafe.study import naming, study

if TYPE_CHECKING:
    from torch import nn

    from edgesafe.recipe.recipe import Recipe

__all__ = ["Study", "certify", "compress", "evaluate", "gate", "load", "search"]


class Study(study.Study):
    """A study, read once and checked: a mapping from the ids of its variants to `Variant`.

    >>> study = Study("export/quickstart")                              # doctest: +SKIP
    >>> study["filter-r0.50-s0"].metrics["accuracy"].estimate           # doctest: +SKIP
    0.9283333333333333
    """

    def __init__(self, path: str | Path) -> None:
        """Open a study.

        Args:
            path: the directory that `compress` or `evaluate` wrote.

        Raises:
            StoreError: not a study, damaged, or made by another version.
            IntegrityError: the index or a record is not what was written.
        """
        opened = study.read(Path(path))
        super().__init__(opened.root, opened.record, opened.variants, opened.index)

    def table(self, *metrics: str) -> list[dict[str, str | float | None]]:
        """A row per variant, for `pandas.DataFrame` or a loop: id, status, label, precision, ratio, seed, metrics.

        Args:
            *metrics: ids of metrics; none: accuracy, ECE, mPC, latency, size and parameters.

        Returns:
            Plain values; a metric that a variant does not have is None.
        """
        wanted = metrics or (
            "accuracy", "ece_em10_top1", "mpc", "latency.p50_ms", "latency.ratio", "size.onnx_bytes", "size.params",
            "macs", "sparsity",
        )  # fmt: skip
        rows: list[dict[str, str | float | None]] = []
        for variant in self.values():
            measured = variant.measured.metrics if variant.measured is not None else {}
            numbers = {name: measured[name].estimate if name in measured else None for name in wanted}
            entry = variant.entry
            head = {"variant": variant.id, "status": variant.status.value, "label": entry.label}
            head |= {"precision": entry.precision.value}
            rows.append({**head, "ratio": entry.ratio, "seed": entry.seed, **numbers})
        return rows

    def gate(
        self,
        policy: str | Path,
        *variants: str,
        baseline: str | None = None,
        lock: str | Path | None = None,
        no_baseline: bool = False,
        require_signature: str | Path | None = None,
        today: datetime.date | None = None,
    ) -> Verdict:
        """Decide it against a policy (the command `edgesafe gate`). Every file is compared with its hash first.

        Args:
            policy: a TOML file, or the name of a policy that ships.
            *variants: ids to judge instead of the policy's choice.
            baseline: id to compare with; None: for each variant the one that it was measured against.
            lock: a lock file that goes before the one that the policy names.
            no_baseline: leave out gates that compare, on purpose.
            require_signature: public Ed25519 key (PEM file): the study must be signed by its owner.
            today: for waivers; None: the day in UTC.

        Returns:
            The verdict. A failed gate is a verdict, not an error.

        Raises:
            EdgesafeError: policy or lock cannot be used, or the study was changed.
        """
        return gate(
            self, policy, *variants, baseline=baseline, lock=lock, no_baseline=no_baseline,
            require_signature=require_signature, today=today,
        )  # fmt: skip

    def report(self, out: str | Path | None = None, policy: str | Path | None = None) -> Path:
        """Write index.html, report.md, results.csv and results.json (the command `edgesafe report`).

        Args:
            out: directory; None: reports/<name of the study's directory>.
            policy: if given, the page opens with its verdict.

        Returns:
            The path of index.html.

        Raises:
            EdgesafeError: the study was changed, or the files cannot be written.
        """
        from edgesafe.commands import report

        target = Path(out) if out is not None else Path("reports") / self.root.resolve().name
        return report.write(self, target, Path(policy) if policy is not None else None)[0]

    def __repr__(self) -> str:
        statuses = [variant.status for variant in self.values()]
        counts = ", ".join(f"{statuses.count(s)} {s.value}" for s in VariantStatus if s in statuses)
        digest = f", digest {self.digest[7:23]}" if self.digest else ""
        return f"<Study {str(self.root)!r}: {counts or 'no variants'}{digest}>"

    def _repr_html_(self) -> str:
        """The table of variants as HTML, which notebooks show in place of `__repr__`."""
        from edgesafe.commands import notebook

        return notebook.table(self)


def compress(
    recipe: str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the option --set
    fresh: bool = False,
    workers: int | Crew = 1,
    progress: Progress | bool | None = None,
    **overrides: Any,
) -> Study:
    """Run a study, or go on with one (the command `edgesafe compress`).

    Args:
        recipe: a TOML file, the name of a recipe that ships, or the recipe's tables as a mapping; None: the quickstart.
        out: study directory; None: export/<name>.
        set: recipe keys to override, dotted: `{"recover.epochs": 2, "compress.0.ratios": [0.3]}`.
        fresh: start over; a study that is there is moved aside.
        workers: processes that work at once, or an `edgesafe.executors.crew.Crew`; the digest does not depend on it.
        progress: told what happens; True: bars or lines on standard error; None: nothing is printed.
        **overrides: as `set`, with "__" for the dot: `recover__epochs=2`.

    Returns:
        The study. A variant that was refused is in it, and says why; refused ones do not stop the others.

    Raises:
        EdgesafeError: see `edgesafe.errors`.
    """
    from edgesafe.commands import compress

    resolved = _recipe(recipe, _items(set, overrides))
    target = Path(out) if out is not None else Path("export") / resolved.name
    _set_aside(target, fresh)
    compress.compress(resolved, target, _progress(progress), crew_of(workers))
    return Study(target)


def search(
    recipe: str | Path | Mapping[str, Any],
    policy: str | Path,
    minimise: str,
    out: str | Path | None = None,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the option --set
    fresh: bool = False,
    progress: Progress | bool | None = None,
    **overrides: Any,
) -> Study:
    """Find the smallest variant that passes a policy (the command `edgesafe search`; docs/search.md).

    Args:
        recipe: as in `compress`; its [search] says where to look, and how long.
        policy: a file, or the name of one that ships.
        minimise: "latency", "bytes" or "macs".
        out: study directory; None: export/<name>-<minimise>.
        set: as in `compress`.
        fresh: likewise.
        progress: likewise.
        **overrides: as in `compress`: `search__trials=12`.

    Returns:
        The study; `study.search()` says what was tried and which variant was confirmed, if any.

    Raises:
        EdgesafeError: see `edgesafe.errors`.
    """
    from edgesafe.commands import search

    asked = {"search.policy": policy, "search.minimise": minimise, **(set or {})}
    resolved = _recipe(recipe, _items(asked, overrides))
    target = Path(out) if out is not None else Path("export") / f"{resolved.name}-{minimise}"
    _set_aside(target, fresh)
    search.search(resolved, target, _progress(progress))
    return Study(target)


def evaluate(
    model: str | Path,
    data: str,
    out: str | Path | None = None,
    *,
    baseline: str | Path | None = None,
    policy: str | Path | None = None,
    no_baseline: bool = False,
    budget: int | None = None,
    root: str | Path = "data",
    layout: str | None = None,
    outputs: str | None = None,
    scale: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: str | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the option --set
    fresh: bool = False,
    progress: Progress | bool | None = None,
) -> Study:
    """Audit an ONNX classifier (the command `edgesafe evaluate`).

    Args:
        model: the file.
        data: data set, as a recipe's data.name.
        out: study directory; None: export/<name of the file>.
        baseline: what to compare with: an ONNX file, a study that measured it before, or a variant's directory.
        policy: measure more and more images until this policy is decided; the verdict is `study.gate(policy)`.
        no_baseline: leave out the policy's gates that compare, on purpose.
        budget: corrupted images to measure at most (mode quick).
        root: where the data lies.
        layout: "nhwc" or "nchw"; None: detected.
        outputs: "logits" or "probabilities"; None: detected.
        scale: float32 pixels are 0 to 255 times this; None: detected, or 1/255 with a mean.
        mean: per channel, of scaled pixels; None: detected.
        std: likewise; stated together.
        channels: "rgb" or "bgr"; None: detected.
        set: keys of evaluate, data and target to override, dotted.
        fresh: start over; a study that is there is moved aside.
        progress: as in `compress`.

    Returns:
        A study with the variant `candidate-s0`, and `baseline-s0` if one is given.

    Raises:
        EdgesafeError: see `edgesafe.errors`.
    """
    from edgesafe.commands import evaluate

    path = Path(model)
    target = Path(out) if out is not None else Path("export") / naming.cleaned(path.stem)
    words = {"layout": layout, "outputs": outputs, "channels": channels}
    statement = evaluate.stated(words, {"scale": scale, "mean": mean, "std": std})
    items = tuple(_items(set, {}))
    compared = Path(baseline) if baseline is not None else None
    request = evaluate.AuditRequest(path, compared, data, str(root), statement, policy, budget, no_baseline, items)
    _set_aside(target, fresh)
    evaluate.evaluate(request, target, _progress(progress))
    return Study(target)


def certify(
    path: str | Path,
    *sets: str,
    data: str | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    baseline: str | Path | None = None,
    variants: Sequence[str] = (),
    images: int | None = None,
    max_images: int = 10_000,
    fresh: bool = False,
    progress: Progress | bool | None = None,
) -> Study:
    """Run every image of finite perturbation sets (the command `edgesafe certify`; docs/certificates.md).

    Args:
        path: a finished study, which gets the certificates, or an ONNX file.
        *sets: ids such as "brightness=2" or "jpeg=50..95".
        data: data set, as a recipe's data.name; None: the study's own.
        root: where it lies; None: where the study's recipe says, or "data".
        out: for a file: study directory; None: export/<name of the file>-certificates.
        baseline: for a file: what to compare with.
        variants: of a study: certify these and their baselines only; none: all.
        images: only the first so many test images; None: all.
        max_images: a set may make so many images of one test image.
        fresh: for a file: start over; a study that is there is moved aside.
        progress: as in `compress`.

    Returns:
        The study, or one with the variant `candidate-s0`, and `baseline-s0` if one is given.

    Raises:
        EdgesafeError: see `edgesafe.errors`.
    """
    from edgesafe.commands import certify, evaluate
    from edgesafe.recipe.sections import CertifySection

    target, compared = Path(path), Path(baseline) if baseline is not None else None
    section = CertifySection(sets=sets, images=images, max_images=max_images)
    place = str(root) if root is not None else None
    request = certify.CertifyRequest(target, section, data, place, compared, tuple(variants))
    if target.is_dir():
        certify.certify_study(request, _progress(progress))
        return Study(target)
    made = Path(out) if out is not None else Path("export") / f"{naming.cleaned(target.stem)}-certificates"
    _set_aside(made, fresh)
    evaluate.evaluate(certify.evaluation(request), made, _progress(progress))
    return Study(made)


def gate(
    study: str | Path | Study,
    policy: str | Path,
    *variants: str,
    baseline: str | None = None,
    lock: str | Path | None = None,
    no_baseline: bool = False,
    require_signature: str | Path | None = None,
    today: datetime.date | None = None,
) -> Verdict:
    """Decide a study against a policy (the command `edgesafe gate`); needs neither torch nor onnxruntime.

    `study` is an open one, or its directory, which is read after the policy. All other arguments are those of
    `Study.gate`.

    Returns:
        The verdict. A failed gate is a verdict, not an error.

    Raises:
        EdgesafeError: see `edgesafe.errors`.
    """
    from edgesafe.commands import gate

    at = Path(lock) if lock is not None else None
    key = Path(require_signature) if require_signature is not None else None
    opened = study if isinstance(study, Study) else Path(study)
    return gate.judge(opened, gate.GateRequest(Path(policy), variants, baseline, at, no_baseline, key, today))


def load(variant: str | Path, arch: str | None = None) -> nn.Module:
    """Rebuild a variant's network from its safetensors: bit-exact, no pickle, no torch-pruning.

    Args:
        variant: its directory, for example "export/quickstart/filter-r0.50-s0".
        arch: your code that builds it, such as "nets.py:make", as variant.json names it: none runs unasked.

    Raises:
        EdgesafeError: the directory is not a variant, a file is damaged, or it names code that `arch` does not.
    """
    from edgesafe.surgery import rebuild

    return rebuild.load_variant(Path(variant), arch)


def _recipe(recipe: str | Path | Mapping[str, Any] | None, items: list[str]) -> Recipe:
    from edgesafe.recipe import parsing

    return parsing.from_values(recipe, items) if isinstance(recipe, Mapping) else parsing.load(recipe, items)


def _items(dotted: Mapping[str, Any] | None, underscored: Mapping[str, Any]) -> list[str]:
    """KEY=VALUE of both kinds of overrides."""
    from edgesafe.recipe import toml

    both = {**(dotted or {}), **{key.replace("__", "."): value for key, value in underscored.items()}}
    for key, value in both.items():
        if value is None:
            raise RecipeError("None cannot be set", where=key, fix="leave the key out for its default")
    return [f"{key}={toml.toml_value(_plain(value))}" for key, value in both.items()]


def _plain(value: Any) -> Any:
    """Paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _progress(asked: Progress | bool | None) -> Progress | None:
    from edgesafe import progress

    return (progress.for_terminal() if asked else None) if isinstance(asked, bool) else asked


def _set_aside(target: Path, fresh: bool) -> None:
    from edgesafe.study import writer

    if fresh:
        writer.set_aside(target)
