"""`edgesafe evaluate`: any ONNX classifier, ours or not, through the same measuring as our own.

The result is a study with the variants `baseline-s0` (if a baseline is given) and `candidate-s0`, so that report and
gate read it as any other. A baseline that was measured before, in a study, is not measured again. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgesafe import data
from edgesafe.commands import sizes
from edgesafe.errors import NothingEvaluated, RefusedError, UsageError, hint
from edgesafe.files import sha256_bytes, stage_key
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.comparison import same_pixels
from edgesafe.measure.inference import foreign, weights
from edgesafe.measure.inference.detection import Detection, Statement, detect
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.progress import Progress, Silent
from edgesafe.recipe import parsing
from edgesafe.recipe.recipe import Recipe
from edgesafe.recipe.toml import toml_value
from edgesafe.records import (
    Artefact,
    DataBundle,
    InputRecord,
    Lineage,
    Measurement,
    Provenance,
    Role,
    StudyRecord,
    VariantEntry,
    VariantRecord,
    VariantStatus,
)
from edgesafe.stages import certify, counts, measure, observe, recheck, timing
from edgesafe.stages.recheck import RecheckOrder
from edgesafe.stages.sequential import judge
from edgesafe.stages.timing import Timed, Timing
from edgesafe.study import naming, writer
from edgesafe.study.host import host, version
from edgesafe.study.inputs import input_hashes
from edgesafe.study.study import MODEL, STUDY, Study, read

__all__ = ["AuditRequest", "Statement", "evaluate", "stated"]

_NAMES = {Role.BASELINE: naming.baseline(0), Role.CANDIDATE: naming.candidate()}
_BASELINE = _NAMES[Role.BASELINE].id


@dataclass(frozen=True)
class AuditRequest:
    """What the command line asks for.

    Attributes:
        model: the file to audit.
        baseline: what to compare with: an ONNX file, a study (its baseline) or a variant's directory in one; or None.
        data: data set, as a recipe's data.name.
        root: where it lies.
        statement: what is known of the model's input and output; the rest is detected.
        policy: a file, or the name of one that ships: measure more and more images until it is decided; None: all.
        budget: corrupted images to measure at most; None: no such limit.
        no_baseline: gates of the policy that compare are left out on purpose.
        overrides: KEY=VALUE of the sections data, evaluate, certify, target; they go before policy and budget.
        hours: of measuring and certifying, at most, which chooses how many images; None: no such limit.
    """

    model: Path
    baseline: Path | None
    data: str
    root: str = "data"
    statement: Statement = field(default_factory=Statement)
    policy: str | Path | None = None
    budget: int | None = None
    no_baseline: bool = False
    overrides: tuple[str, ...] = ()
    hours: float | None = None

    def recipe(self) -> Recipe:
        """What the audit measures, as a recipe; a policy or a budget means mode quick.

        Raises:
            RecipeError: an override names no key, or a value cannot be used.
        """
        given = {"policy": self.policy, "budget": self.budget, "hours": self.hours}
        quick = {"mode": "quick" if any(value is not None for value in given.values()) else None, **given}
        asked = [
            f"evaluate.{key}={toml_value(str(value) if isinstance(value, Path) else value)}"
            for key, value in quick.items()
            if value is not None
        ]
        resolved = parsing.from_flags(
            {"model": "onnx", "data": self.data, "root": self.root}, (*asked, *self.overrides)
        )
        return resolved.model_copy(update={"compress": (), "name": f"{naming.cleaned(self.model.stem)}-audit"})

    def file(self, role: Role) -> Path | None:
        """Where the file of that role was given."""
        return self.baseline if role is Role.BASELINE else self.model


def stated(words: Mapping[str, str | None], numbers: Mapping[str, Sequence[float] | float | None]) -> Statement:
    """What a command line says of a file's input and output.

    Args:
        words: layout ("nhwc", "nchw"), channels ("rgb", "bgr"), outputs ("logits", "probabilities"), in any case.
        numbers: scale; mean and std, one per channel.

    Raises:
        UsageError: another word, or one of mean and std alone.
    """
    allowed = {"layout": ("NHWC", "NCHW"), "channels": ("RGB", "BGR"), "outputs": ("logits", "probabilities")}
    said: dict[str, Any] = {
        name: tuple(value) if isinstance(value, Sequence) else value for name, value in numbers.items() if value
    }
    for name, word in words.items():
        if word is None:
            continue
        said[name] = next((value for value in allowed[name] if value.lower() == word.lower()), None)
        if said[name] is None:
            fix = hint(word, [value.lower() for value in allowed[name]])
            raise UsageError(f"'{word}' is unknown", where=f"--{name}", fix=fix)
    return Statement(**said)


def evaluate(request: AuditRequest, out: Path, progress: Progress | None = None) -> Study:
    """Measure an ONNX classifier, and compare it with a baseline if one is given.

    Raises:
        UsageError: a file is not an ONNX classifier, or does not fit the data.
        RefusedError: no guess at its input does better than chance.
        EdgesafeError: data or directory cannot be used.
    """
    progress = progress or Silent()
    resolved = request.recipe()
    judge.check(resolved.policy_file, compared=request.baseline is not None or request.no_baseline)
    bundle = data.load(resolved.data, progress)
    certify.check(resolved.certify, bundle.test)
    judge.require_task(resolved.policy_file, bundle.task.kind)
    here = host()
    known = _known(request.baseline)
    bench_ = _on_known(observe.prepare(bundle, resolved.evaluate, resolved.target, here), known)
    contents = {Role.CANDIDATE: foreign.read(request.model)}
    if request.baseline is not None:
        contents = {Role.BASELINE: known.onnx if known is not None else foreign.read(request.baseline), **contents}
    entries = {role: _entry(role, compared=Role.BASELINE in contents) for role in contents}
    inputs = {entries[role].id: sha256_bytes(content) for role, content in contents.items()}
    # Another statement, or none, is another study: no number of this one may be shown for it.
    inputs["what is stated of the input"] = "sha256:" + stage_key(**request.statement.stated)
    if known is not None:
        inputs["evidence of the baseline"] = sha256_bytes(known.evidence)
    record = StudyRecord(
        name=resolved.name,
        edgesafe=version(),
        recipe=resolved.recorded(),
        recipe_sha256=resolved.sha256,
        inputs=inputs | input_hashes(weights={}, arch="onnx", policy=resolved.policy_file),
        data=observe.identity(bundle, resolved.evaluate),
        host=here,
        variants=tuple(entries.values()),
    )
    with writer.StudyWriter(out, record) as study:
        for note in study.record.data.notes:
            progress.note(f"data: {note}")
        bench_ = sizes.fitted(resolved, bench_, contents, known is not None, study, progress)
        audit = _Audit(resolved, bundle, bench_, study, progress, request, known)
        for role, entry in entries.items():
            if not study.is_done(entry.id):
                progress.note(f"{entry.id}: {request.file(role)}")
                audit.run(entry, contents[role])
        study.close_study()
    return read(out)


def _entry(role: Role, *, compared: bool) -> VariantEntry:
    """The line of the index that an audited file begins with."""
    name = _NAMES[role]
    return VariantEntry(
        id=name.id, role=role, label=name.label, group=name.group, method=role.value, ratio=0.0, seed=name.seed,
        baseline=_BASELINE if compared and role is Role.CANDIDATE else None, status=VariantStatus.PENDING,
    )  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """A baseline that was measured before: its file and its evidence."""

    onnx: bytes
    evidence: bytes


def _known(baseline: Path | None) -> _Known | None:
    """The baseline of a study, or the variant whose directory is given; None: a file, or nothing.

    Raises:
        UsageError: a directory that is neither, or a study of several baselines.
        StoreError, IntegrityError: the study cannot be used, or was changed.
    """
    if baseline is None or not baseline.is_dir():
        return None
    if (baseline / STUDY).is_file():
        measured = [variant for variant in read(baseline).finished() if variant.entry.is_baseline]
    elif (baseline.parent / STUDY).is_file():
        measured = [variant for variant in read(baseline.parent).finished() if variant.id == baseline.name]
    else:
        raise UsageError("neither an ONNX file nor a study", where=str(baseline), fix="give one of them as --baseline")
    if len(measured) != 1:
        what = f"{len(measured)} measured baselines" if measured else "no measured baseline"
        raise UsageError(what, where=str(baseline), fix="give the directory of one finished variant")
    return _Known(measured[0].file_bytes(MODEL), measured[0].evidence_bytes())


def _on_known(bench_: observe.Bench, known: _Known | None) -> observe.Bench:
    """The same bench, on the images that a known baseline saw.

    Raises:
        IntegrityError: it saw other test data or other corruptions.
        NothingEvaluated: it did not see a cell that is asked for.
        RefusedError: it is itself a sample by another's margins.
    """
    if known is None:
        return bench_
    evidence = evidence_files.from_bytes(known.evidence)
    if is_drawn(evidence):
        raise RefusedError(
            "was measured on a sample by another's margins", where="--baseline", fix="give a study's baseline"
        )
    here = Provenance(test_sha256=bench_.test.sha256, onnx_sha256="", corruptions=bench_.corruptions)
    same_pixels(here, evidence.provenance)
    missing = [f"{name} {severity}" for name, severity in bench_.cells if (name, severity) not in evidence.cells]
    if missing:
        raise NothingEvaluated(
            f"the baseline has no evidence of {missing[0]}", where="--baseline", fix="leave it out, or measure it anew"
        )
    cells = {key: np.sort(evidence.cells[key].index) for key in bench_.cells}
    drawn = evidence.provenance.sample
    sample = drawn.model_copy(update={"looks": 1, "look": 1}) if drawn is not None else None
    return replace(bench_, cells=cells, sample=sample)


@dataclass(frozen=True)
class _Audit:
    """The recipe, data, bench and study that the audited file and its baseline share."""

    recipe: Recipe
    bundle: DataBundle
    bench: observe.Bench
    study: writer.StudyWriter
    progress: Progress
    request: AuditRequest
    known: _Known | None

    def run(self, entry: VariantEntry, content: bytes) -> None:
        """Take a file in: find out how it expects its pixels, check its classes, write its record, and measure it."""
        variant = entry.id
        detected = self._detected(entry.role, content)
        classifier = self.bench.open(content, detected.spec)
        wanted = self.bundle.task
        if classifier.num_classes != wanted.outputs:
            raise UsageError(
                f"has {classifier.num_classes} outputs, the data's {len(wanted.names)} {wanted.noun} {wanted.outputs}",
                where=str(self.request.file(entry.role)),
                fix="give the data set that it was trained for",
            )
        self.progress.note(f"  input: {detected.spec} (accuracy {detected.accuracy:.1%} on {detected.n} images)")
        if detected.close:
            self.progress.note(f"  a close runner-up: {detected.runner_up}; state what is right if you know it")
        artefact = self.study.put_file(variant, MODEL, content)
        held = weights.count(foreign.require_whole(content, variant))
        self.study.put_variant(self._describe(entry, artefact, held, detected.record(classifier.batch)))
        timed = self._timed(entry, detected, classifier.batch)
        order = measure.MeasureOrder(
            bench=self.bench, study=self.study, progress=self.progress, variant=variant,
            baseline=entry.baseline,
            policy=None if entry.is_baseline else self.recipe.policy_file,
            no_baseline=self.request.no_baseline,
            counted=self._counted(artefact, held) | timed.candidate, device=timed.device,
            certify=self.recipe.certify, is_reference=entry.is_baseline,
        )  # fmt: skip
        known = None
        if self.known is not None and entry.is_baseline:
            self.progress.note("  measured before: its evidence is taken as it is")
            known = evidence_files.from_bytes(self.known.evidence)
        measure.measure(order, classifier, known)
        recheck.recheck(
            RecheckOrder(self.study, variant, self.recipe.target, self.bundle.test, self.progress, detected.spec)
        )
        self.study.finish(variant)

    def _counted(self, artefact: Artefact, held: weights.Weights) -> dict[str, Measurement]:
        """Bytes and parameters; what cannot be told is left out."""
        counted = {"size.onnx_bytes": counts.exact("size.onnx_bytes", float(artefact.bytes))}
        if held.params is not None:
            counted["size.params"] = counts.exact("size.params", held.params)
        else:
            self.progress.note("  weights are packed or computed in this file: parameters cannot be counted")
        return counted

    def _detected(self, role: Role, content: bytes) -> Detection:
        """What the file expects: as stated, the rest detected on validation images and confirmed.

        What is stated is said of the model; of a baseline it is used if the baseline takes float32 pixels, too.
        """
        held_out, statement = self.bundle.validation, self.request.statement
        if role is Role.BASELINE and foreign.plain_spec(content, _BASELINE).dtype == "uint8":
            statement = Statement()
        return detect(
            content,
            held_out.images,
            held_out.labels,
            statement=statement,
            normalisations=[(self.bundle.mean, self.bundle.std)],
            provider=self.recipe.target.provider,
            task=self.bundle.task,
        )

    def _timed(self, entry: VariantEntry, detected: Detection, batch: int | None) -> Timed:
        """Timed beside the baseline, if there is one of the same batch size; nothing with evaluate.latency = false."""
        if not self.recipe.evaluate.latency:
            return Timed({})
        target, specs, against = self.recipe.target, {"candidate": detected.spec}, None
        if entry.baseline is not None:
            content = self.study.file_bytes(entry.baseline, MODEL)
            baseline = self._detected(Role.BASELINE, content).spec
            if OnnxClassifier(content, provider=target.provider, input_spec=baseline).batch == batch:
                against, specs["baseline"] = self.study.path(entry.baseline, MODEL), baseline
            else:
                self.progress.note("  the files fix different batch sizes: no latency ratio")
        protocol = Timing(target, self.recipe.evaluate.latency_runs, self.bundle.task, specs)
        return timing.timed(
            self.study.path(entry.id, MODEL), against, self.bundle.test.images[: timing.PARITY_IMAGES], protocol
        )

    def _describe(
        self, entry: VariantEntry, artefact: Artefact, held: weights.Weights, expects: InputRecord
    ) -> VariantRecord:
        """variant.json of a file that edgesafe did not make."""
        return VariantRecord(
            id=entry.id,
            method=entry.method,
            ratio=0.0,
            seed=0,
            arch="onnx",
            num_classes=self.bundle.task.outputs,
            input_shape=self.bundle.test.images.shape[1:],
            artefacts=(artefact,),
            params=held.params,
            macs=None,
            sparsity=held.sparsity,
            input=expects,
            lineage=Lineage(
                recipe_sha256=self.recipe.sha256,
                baseline_sha256=self.study.record.inputs.get(_BASELINE, artefact.sha256),
                data_sha256=self.bundle.test.sha256,
                seed=0,
            ),
        )
