"""`edgesafe evaluate` and `edgesafe bench`: any ONNX classifier, ours or not, through the same measuring as our own.

The result is a study with the variants `baseline-s0` (if a baseline is given) and `candidate-s0`, so that report and
gate read it as any other. A baseline that was measured before, in a study, is not measured again. Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from edgesafe import data
from edgesafe.errors import NothingEvaluated, RefusedError, UsageError
from edgesafe.files import sha256_bytes
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.comparison import same_pixels
from edgesafe.measure.inference import foreign
from edgesafe.measure.inference.inputs import InputSpec
from edgesafe.measure.inference.session import OnnxClassifier, confirm, detect
from edgesafe.measure.sampling.margin import is_drawn
from edgesafe.progress import Progress, Silent
from edgesafe.recipe import parsing, recipe
from edgesafe.records import (
    Artefact,
    DataBundle,
    Lineage,
    Measurement,
    Provenance,
    Role,
    StudyRecord,
    VariantEntry,
    VariantRecord,
    VariantStatus,
)
from edgesafe.stages import counts, measure, observe, timing
from edgesafe.stages.sequential import judge
from edgesafe.stages.timing import Timing
from edgesafe.study import naming, writer
from edgesafe.study.host import host
from edgesafe.study.inputs import input_hashes
from edgesafe.study.study import MODEL, STUDY, Study, read

__all__ = ["Request", "evaluate"]

_NAMES = {Role.BASELINE: naming.baseline(0), Role.CANDIDATE: naming.candidate()}
_BASELINE, _CANDIDATE = (name.id for name in _NAMES.values())


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        model: the file to audit.
        baseline: what to compare with: an ONNX file, a study (its baseline) or a variant's directory in one; or None.
        data: data set, as a recipe's data.name.
        root: where it lies.
        layout: "nhwc" or "nchw"; None: detected.
        outputs: "logits" or "probabilities"; None: detected.
        mean: per channel, of pixels in [0, 1], that a float32 input wants; None: detected.
        std: likewise; stated together.
        overrides: KEY=VALUE of the sections data, evaluate, target.
    """

    model: Path
    baseline: Path | None
    data: str
    root: str = "data"
    layout: str | None = None
    outputs: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    overrides: tuple[str, ...] = ()


def evaluate(request: Request, out: Path, progress: Progress | None = None) -> Study:
    """Measure an ONNX classifier, and compare it with a baseline if one is given.

    Raises:
        UsageError: a file is not an ONNX classifier, or does not fit the data.
        RefusedError: no guess at its input does better than chance.
        EdgesafeError: data or directory cannot be used.
    """
    progress = progress or Silent()
    resolved = parsing.from_flags({"model": "onnx", "data": request.data, "root": request.root}, request.overrides)
    resolved = resolved.model_copy(update={"compress": (), "name": f"{naming.cleaned(request.model.stem)}-audit"})
    judge.check(resolved.policy_file)
    bundle = data.load(resolved.data)
    here = host()
    known = _known(request.baseline)
    bench_ = _on_known(observe.prepare(bundle, resolved.evaluate, resolved.target, here), known)
    contents = {_CANDIDATE: foreign.read(request.model)[0]}
    if request.baseline is not None:
        contents = {_BASELINE: known.onnx if known is not None else foreign.read(request.baseline)[0], **contents}
    compared = _BASELINE if request.baseline is not None else None
    entries = tuple(_entry(role, compared) for role, name in _NAMES.items() if name.id in contents)
    inputs = {variant: sha256_bytes(content) for variant, content in contents.items()}
    if known is not None:
        inputs["evidence of the baseline"] = sha256_bytes(known.evidence)
    record = StudyRecord(
        name=resolved.name,
        edgesafe=metadata.version("edgesafe"),
        recipe=resolved.resolved(),
        recipe_sha256=resolved.sha256,
        inputs=inputs | input_hashes(weights=None, arch="onnx", policy=resolved.policy_file),
        data=data.identity(bundle),
        host=here,
        variants=entries,
    )
    with writer.StudyWriter(out, record) as study:
        audit = _Audit(resolved, bundle, bench_, study, progress, request, known)
        for variant, content in contents.items():
            if not study.is_done(variant):
                progress.note(f"{variant}: {request.model if variant == _CANDIDATE else request.baseline}")
                audit.run(variant, content)
        study.close_study()
    return read(out)


def _entry(role: Role, compared: str | None) -> VariantEntry:
    """The line of the index that an audited file begins with."""
    name = _NAMES[role]
    return VariantEntry(
        id=name.id, role=role, label=name.label, group=name.group, method=role.value, ratio=0.0, seed=name.seed,
        baseline=compared if role is Role.CANDIDATE else None, status=VariantStatus.PENDING,
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
        found = [one for one in read(baseline).finished() if one.entry.is_baseline]
    elif (baseline.parent / STUDY).is_file():
        found = [one for one in read(baseline.parent).finished() if one.id == baseline.name]
    else:
        raise UsageError("neither an ONNX file nor a study", where=str(baseline), fix="give one of them as --baseline")
    if len(found) != 1:
        what = f"{len(found)} measured baselines" if found else "no measured baseline"
        raise UsageError(what, where=str(baseline), fix="give the directory of one finished variant")
    return _Known(found[0].file_bytes(MODEL), found[0].evidence_bytes())


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
    recipe: recipe.Recipe
    bundle: DataBundle
    bench: observe.Bench
    study: writer.StudyWriter
    progress: Progress
    request: Request
    known: _Known | None

    def run(self, variant: str, content: bytes) -> None:
        """One file from bytes to measurements."""
        spec = self._spec(content)
        classifier = self.bench.open(content, spec)
        if classifier.num_classes != self.bundle.num_classes:
            raise UsageError(
                f"has {classifier.num_classes} classes, the data {self.bundle.num_classes}",
                where=str(self.request.model if variant == _CANDIDATE else self.request.baseline),
                fix="give the data set that it was trained for",
            )
        self.progress.note(f"  input: {spec.layout} {spec.dtype}, output: {spec.outputs}")
        artefact = self.study.put_file(variant, MODEL, content)
        self.study.put_variant(self._describe(variant, content, artefact))
        candidate = variant == _CANDIDATE
        task = measure.Task(
            bench=self.bench, study=self.study, progress=self.progress, variant=variant,
            baseline=_BASELINE if self._compared(variant) else None,
            policy=self.recipe.policy_file if candidate else None,
            counted=self._counted(variant, content, spec),
        )  # fmt: skip
        known = None
        if self.known is not None and not candidate:
            self.progress.note("  measured before: its evidence is taken as it is")
            known = evidence_files.from_bytes(self.known.evidence)
        measure.measure(task, classifier, known)
        self.study.finish(variant)

    def _counted(self, variant: str, content: bytes, spec: InputSpec) -> dict[str, Measurement]:
        """Size, parameters, latency."""
        found = {
            "size.onnx_bytes": counts.exact("size.onnx_bytes", float(len(content))),
            "size.params": counts.exact("size.params", foreign.parameters(content)),
        }
        return found | (self._latency(variant, spec) if self.recipe.evaluate.latency else {})

    def _compared(self, variant: str) -> bool:
        return variant == _CANDIDATE and self.request.baseline is not None

    def _spec(self, content: bytes) -> InputSpec:
        """What the file expects: ours by its names, else detected on validation images and confirmed."""
        held_out = self.bundle.validation
        normalisation = [(self.bundle.mean, self.bundle.std)]
        if (self.request.mean is None) != (self.request.std is None):
            raise UsageError("one of mean and std is stated", where="--mean, --std", fix="state both, or neither")
        found = detect(content, held_out.images, held_out.labels, normalisations=normalisation).spec
        if self.request.mean is not None and self.request.std is not None and found.dtype == "float32":
            found = replace(found, scale=1 / 255, mean=self.request.mean, std=self.request.std)
            confirm(OnnxClassifier(content, input_spec=found), held_out.images, held_out.labels)
        stated = {"layout": (self.request.layout or "").upper(), "outputs": (self.request.outputs or "").lower()}
        for key, value in stated.items():
            if value and value != getattr(found, key):
                raise UsageError(
                    f"--{key} {value.lower()} was stated, but the file behaves as {getattr(found, key).lower()}",
                    where=str(self.request.model),
                    fix="state what it is, or leave the flag out",
                )
        return found

    def _latency(self, variant: str, spec: InputSpec) -> dict[str, Measurement]:
        target, specs, against = self.recipe.target, {"candidate": spec}, None
        if self._compared(variant):
            against = self.study.path(_BASELINE, MODEL)
            specs["baseline"] = self._spec(self.study.file_bytes(_BASELINE, MODEL))
        protocol = Timing(target.threads, target.provider, self.recipe.evaluate.latency_runs, specs)
        return timing.latency(self.study.path(variant, MODEL), against, self.bundle.test.images[0], protocol)

    def _describe(self, variant: str, content: bytes, artefact: Artefact) -> VariantRecord:
        return VariantRecord(
            id=variant,
            method=(Role.CANDIDATE if variant == _CANDIDATE else Role.BASELINE).value,
            ratio=0.0,
            seed=0,
            arch="onnx",
            num_classes=self.bundle.num_classes,
            input_shape=self.bundle.test.images.shape[1:],
            artefacts=(artefact,),
            params=foreign.parameters(content),
            macs=None,
            sparsity=foreign.sparsity(content),
            lineage=Lineage(
                recipe_sha256=self.recipe.sha256,
                baseline_sha256=self.study.record.inputs.get(_BASELINE, artefact.sha256),
                data_sha256=self.bundle.test.sha256,
                seed=0,
            ),
        )
