"""`edgesafe evaluate` and `edgesafe bench`: any ONNX classifier, ours or not, through the same measuring as our own.

The result is a study with the variants `baseline-s0` (if a baseline is given) and `candidate-s0`, so that report and
gate read it as any other. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from edgesafe import corruptions, data, evaluation, recipe, store
from edgesafe.bookkeeping import Kept, host
from edgesafe.errors import UsageError
from edgesafe.evaluation import Setting, Timing
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.inputs import InputSpec
from edgesafe.measure.session import OnnxClassifier, confirm, detect
from edgesafe.progress import Progress, Silent
from edgesafe.records import (
    Artefact,
    DataBundle,
    Lineage,
    Measurement,
    StudyRecord,
    Unit,
    VariantEntry,
    VariantRecord,
)
from edgesafe.sections import DataSection
from edgesafe.storage import atomic_write, sha256_bytes, stage_key

__all__ = ["CorruptRequest", "Request", "bench", "corrupt", "evaluate"]

_BASELINE, _CANDIDATE = "baseline-s0", "candidate-s0"


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        model: the file to audit.
        baseline: what to compare with, or None.
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


def evaluate(request: Request, out: Path, progress: Progress | None = None) -> store.StudyReader:
    """Measure an ONNX classifier, and compare it with a baseline if one is given.

    Raises:
        UsageError: a file is not an ONNX classifier, or does not fit the data.
        RefusedError: no guess at its input does better than chance.
        EdgesafeError: data or directory cannot be used.
    """
    progress = progress or Silent()
    resolved = recipe.from_flags({"model": "onnx", "data": request.data, "root": request.root}, request.overrides)
    resolved = resolved.model_copy(update={"compress": (), "name": f"{request.model.stem}-audit"})
    bundle = data.load(resolved.data)
    identity = data.identity(bundle)
    bench_ = evaluation.prepare(bundle.test, identity, resolved.evaluate)
    files = {_BASELINE: request.baseline, _CANDIDATE: request.model}
    given = {variant: path for variant, path in files.items() if path is not None}
    contents = {variant: _read_model(path)[0] for variant, path in given.items()}
    entries = tuple(
        VariantEntry(id=v, method=v.removesuffix("-s0"), ratio=0.0, seed=0, status="pending") for v in contents
    )
    record = StudyRecord(
        name=resolved.name,
        edgesafe=metadata.version("edgesafe"),
        recipe=resolved.resolved(),
        recipe_sha256=resolved.sha256,
        inputs={variant: sha256_bytes(content) for variant, content in contents.items()},
        data=identity,
        host=host(),
        variants=entries,
    )
    with store.StudyWriter(out, record) as study:
        audit = _Audit(resolved, bundle, bench_, study, progress, request)
        for variant, content in contents.items():
            if not study.is_done(variant):
                progress.note(f"{variant}: {given[variant]}")
                audit.run(variant, content)
        study.close_study()
    return study


@dataclass(frozen=True)
class _Audit:
    recipe: recipe.Recipe
    bundle: DataBundle
    bench: evaluation.Bench
    study: store.StudyWriter
    progress: Progress
    request: Request

    def run(self, variant: str, content: bytes) -> None:
        """One file from bytes to measurements."""
        spec = self._spec(content)
        classifier = OnnxClassifier(
            content, threads=host().cores, provider=self.recipe.target.provider, input_spec=spec
        )
        if classifier.num_classes != self.bundle.num_classes:
            raise UsageError(
                f"has {classifier.num_classes} classes, the data {self.bundle.num_classes}",
                where=str(self.request.model if variant == _CANDIDATE else self.request.baseline),
                fix="give the data set that it was trained for",
            )
        self.progress.note(f"  input: {spec.layout} {spec.dtype}, output: {spec.outputs}")
        artefact = self.study.put_file(variant, "model.onnx", content)
        self.study.put_variant(self._describe(variant, content, artefact))
        kept = Kept(self.study, variant, "evidence", stage_key(onnx=classifier.sha256, corruption=self.bench.identity))
        cells = self.bench.variant_cells if self._compared(variant) else self.bench.cells
        with self.progress.stage("measuring under onnxruntime", self.bench.inferences(cells)) as advance:
            evidence = evaluation.collect(classifier, self.bench, cells, kept, advance)
        written = self.study.put_file(variant, "evidence.npz", evidence_files.to_bytes(evidence))
        reference = None
        if self._compared(variant):
            reference = (_BASELINE, evidence_files.from_bytes(self.study.evidence_bytes(_BASELINE)))
        setting = Setting(self.recipe.target, host())
        measured = evaluation.assemble(variant, evidence, written.sha256, self.bench, setting, reference)
        size, count = float(len(content)), _parameters(content)
        metrics = measured.metrics | {
            "size.onnx_bytes": evaluation.exact("size.onnx_bytes", size, Unit.BYTES),
            "size.params": evaluation.exact("size.params", count, Unit.COUNT),
        }
        if self.recipe.evaluate.latency:
            metrics |= self._latency(variant, spec)
        self.study.put_measurements(measured.model_copy(update={"metrics": metrics}))
        self.study.finish(variant)

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
            against = self.study.path(_BASELINE, "model.onnx")
            specs["baseline"] = self._spec(self.study.file_bytes(_BASELINE, "model.onnx"))
        timing = Timing(target.threads, target.provider, self.recipe.evaluate.latency_runs, specs)
        return evaluation.latency(self.study.path(variant, "model.onnx"), against, self.bundle.test.images[0], timing)

    def _describe(self, variant: str, content: bytes, artefact: Artefact) -> VariantRecord:
        return VariantRecord(
            id=variant,
            method=variant.removesuffix("-s0"),
            ratio=0.0,
            seed=0,
            arch="onnx",
            num_classes=self.bundle.num_classes,
            input_shape=self.bundle.test.images.shape[1:],
            artefacts=(artefact,),
            params=_parameters(content),
            macs=None,
            sparsity=_sparsity(content),
            lineage=Lineage(
                recipe_sha256=self.recipe.sha256,
                baseline_sha256=self.study.record.inputs.get(_BASELINE, artefact.sha256),
                data_sha256=self.bundle.test.sha256,
                seed=0,
            ),
        )


def bench(model: Path, against: Path | None, target: str, runs: int) -> dict[str, Mapping[str, Measurement]]:
    """Batch-1 latency of a file, or of two interleaved; keyed by file name.

    Raises:
        UsageError: a file is not an image classifier, or the target is unknown.
    """
    where = recipe.parse(
        {"name": "bench", "model": {"arch": "onnx"}, "data": {"name": "digits"}, "target": {"name": target}}
    )
    specs = {"candidate": _plain_spec(model)}
    if against is not None:
        specs["baseline"] = _plain_spec(against)
    timing = Timing(where.target.threads, where.target.provider, runs, specs)
    opened = OnnxClassifier(model, provider=timing.provider, input_spec=specs["candidate"])
    image = np.random.default_rng(0).integers(0, 256, opened.input_shape or (32, 32, 3), dtype=np.uint8)
    first = evaluation.latency(model, against, image, timing)
    if against is None:
        return {model.name: first}
    alone = Timing(timing.threads, timing.provider, runs, {"candidate": specs["baseline"]})
    return {str(model): first, str(against): evaluation.latency(against, None, image, alone)}


@dataclass(frozen=True)
class CorruptRequest:
    """What `edgesafe corrupt` asks for; empty: all."""

    data: str
    root: str
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = ()
    seed: int = 0
    images: int | None = None
    frost_dir: str | None = None


def corrupt(request: CorruptRequest, out: Path, sheet: Path | None, progress: Progress) -> list[Path]:
    """Write the corrupted test set of a data set, and a contact sheet if one is asked for.

    Raises:
        EdgesafeError: the data cannot be used, or the directory not be written.
    """
    test = data.load(DataSection(name=request.data, root=request.root, test_images=request.images)).test
    names = request.corruptions or corruptions.NAMES
    severities = tuple(sorted(set(request.severities))) or (1, 2, 3, 4, 5)
    with progress.stage("corrupting", len(names) * len(severities) * len(test)) as advance:
        done: dict[str, int] = {}

        def told(name: str, count: int, _: int) -> None:
            advance(count - done.get(name, 0))
            done[name] = count

        written = corruptions.write_directory(
            test.images, test.labels, out, corruptions=names, severities=severities, seed=request.seed,
            frost_dir=request.frost_dir, progress=told,
        )  # fmt: skip
    if sheet is None:
        return [written]
    picture = corruptions.contact_sheet(
        test.images[0], seed=request.seed, corruptions=names, severities=severities, frost_dir=request.frost_dir
    )
    atomic_write(sheet, evaluation.png(picture))
    return [written, sheet]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(path), fix="give an ONNX file") from None


def _read_model(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """A whole ONNX file: what is hashed and measured must hold its weights.

    Raises:
        UsageError: it cannot be read, is not ONNX, or keeps weights in another file.
    """
    content = _read(path)
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        raise UsageError("not an ONNX file", where=str(path), fix="give an ONNX file") from None
    if not model.graph.node:
        raise UsageError("an ONNX file without a graph", where=str(path), fix="export it again")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UsageError(
            "keeps its weights in another file, which no hash would cover",
            where=str(path),
            fix="save it as one file: onnx.save(onnx.load(PATH), NEW_PATH)",
        )
    return content, model


def _plain_spec(path: Path) -> InputSpec:
    """What a file says of its input; enough to time it, where the values of the pixels do not matter.

    Raises:
        UsageError: not an ONNX file with one image input of type uint8 or float32.
    """
    graph = _read_model(path)[1].graph
    weights = {tensor.name for tensor in graph.initializer}
    node = next((value for value in graph.input if value.name not in weights), None)
    tensor = node.type.tensor_type if node is not None else None
    kinds: dict[int, Literal["uint8", "float32"]] = {
        onnx.TensorProto.UINT8: "uint8",
        onnx.TensorProto.FLOAT: "float32",
    }
    if node is None or tensor is None or len(tensor.shape.dim) != 4 or tensor.elem_type not in kinds:
        raise UsageError("no image input of type uint8 or float32", where=str(path), fix="give an image classifier")
    channels_first = tensor.shape.dim[1].dim_value in (1, 3)
    return InputSpec(
        layout="NCHW" if channels_first else "NHWC",
        dtype=kinds[tensor.elem_type],
        input_name=node.name,
        output_name=graph.output[0].name,
    )


def _weights(content: bytes) -> list[Any]:
    """The float initializers of a file."""
    graph = onnx.load_from_string(content).graph
    return [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]


def _parameters(content: bytes) -> int:
    return int(sum(weight.size for weight in _weights(content)))


def _sparsity(content: bytes) -> float:
    kernels = [weight for weight in _weights(content) if weight.ndim == 4]
    total = sum(weight.size for weight in kernels)
    return float(sum(int((weight == 0).sum()) for weight in kernels) / total) if total else 0.0
