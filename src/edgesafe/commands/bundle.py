"""`edgesafe bundle`: a variant of a study as what goes to the integrator; nothing is written that would not verify."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe import files
from edgesafe.commands import gate
from edgesafe.commands.gate import GateRequest
from edgesafe.data import sets
from edgesafe.deploy.bundle import archive, card, check, layout, materials, outputs
from edgesafe.deploy.bundle.archive import Found
from edgesafe.deploy.bundle.examples import examples
from edgesafe.deploy.bundle.layout import Contents
from edgesafe.deploy.bundle.licence import apache
from edgesafe.deploy.ort_format import Platform, to_ort
from edgesafe.errors import DataError, IntegrityError, ParityError, RefusedError, UsageError, hint
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.inference.inputs import OURS, InputSpec, prepare
from edgesafe.measure.inference.session import OnnxClassifier, input_of
from edgesafe.measure.tasks import rules_of
from edgesafe.policy import lock as locks
from edgesafe.policy import policy as policies
from edgesafe.recipe import parsing, shipped
from edgesafe.recipe.sections import DataSection
from edgesafe.recipe.shipped import Kind
from edgesafe.records import (
    BundleFacts,
    BundleFile,
    BundleManifest,
    BundleOrt,
    BundleSamples,
    BundleTensors,
    Target,
    Task,
    TaskKind,
    VariantRecord,
    Verdict,
)
from edgesafe.study import signature
from edgesafe.study.host import version
from edgesafe.study.index import to_json
from edgesafe.study.study import MEASUREMENTS, MODEL, VARIANT, Study, Variant, checked_bytes

__all__ = ["BundleRequest", "Bundled", "bundle"]

_SCRATCH = "sha256:" + "0" * 64  # stands where the outputs' hash will
_RECORD_BYTES = 64_000_000
_OURS = "pixels 0 to 255 as they are, RGB; the normalisation is in the file"


@dataclass(frozen=True)
class BundleRequest:
    """What is bundled, and how.

    Attributes:
        variant: id of a finished variant.
        target: name or TOML file of the target that it is for.
        out: a folder, or a file that ends in ".zip"; None: bundles/<study>-<variant>.
        policy: file or name of a policy that the variant must pass; None: it is not judged.
        key: file of a private Ed25519 key in PEM; None: it is not signed.
        samples: images to pack, >= 1.
        generated: pack seeded noise instead of test images, which then need not be there.
        root: where the data lies, if elsewhere than when the study was made.
        ort: also the model in onnxruntime's own format, for each of these platforms: "amd64", "arm".
        licence: of the model, as its owner states it (an SPDX expression); empty: not stated.
    """

    variant: str
    target: str
    out: Path | None = None
    policy: Path | None = None
    key: Path | None = None
    samples: int = 16
    generated: bool = False
    root: str | None = None
    licence: str = ""
    ort: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundled:
    """What came of it; `place` and `manifest` are None if the variant does not pass the policy: nothing is written."""

    place: Path | None
    manifest: BundleManifest | None
    manifest_sha256: str
    verdict: Verdict | None


@dataclass(frozen=True)
class _Packed:
    """Images as the model takes them, where they are from, and the licence of the data set they are from."""

    images: NDArray[np.uint8] | NDArray[np.float32]
    index: tuple[int, ...]
    labels: NDArray[Any] | None
    licence: str


def bundle(study: Study, request: BundleRequest) -> Bundled:
    """Write a variant of a study as a bundle, after it was checked as `edgesafe verify` checks it.

    Args:
        study: as it was read.
        request: what is bundled, and how.

    Raises:
        IntegrityError: a file of the study was changed, or the test images are others.
        NothingEvaluated, UnknownNameError: the variant is not done, or not there.
        ParityError: the file answers otherwise than it did when it was measured.
        RefusedError: the bundle would not verify.
        UsageError: target, policy, key, data or place cannot be used; an extra is not installed.
    """
    materials.require()
    section = parsing.target(request.target)
    platforms = _platforms(request.ort)
    target = Target(name=section.name, threads=section.threads, provider=section.provider)
    key = signature.read_key(request.key) if request.key is not None else None
    variant = study[request.variant]
    variant.record  # noqa: B018 - raises if the variant is not done
    place = request.out or Path("bundles") / f"{study.name}-{variant.id}"
    files.refuse_inputs([place], [study.root])
    today = datetime.datetime.now(datetime.UTC).date()
    verdict = None if request.policy is None else gate.judge(study, _gates(request.policy, variant.id, today))
    if verdict is not None and verdict.exit_code:
        return Bundled(None, None, "", verdict)
    parts = _originals(study, variant) | _judged(request.policy, verdict)
    facts = _facts(study, variant, request, target).model_copy(
        update={"decided": today if _has_waivers(request.policy) else None}
    )
    packed = _samples(study, variant, request)
    facts, packed_files = _with_outputs(facts, study, variant, packed, parts[MODEL])
    parts |= packed_files
    facts, ort_files = _in_ort_format(facts, packed, parts, platforms)
    parts |= ort_files
    parts |= _derived(study, variant, facts, verdict, parts)
    manifest = BundleManifest(
        facts=facts,
        files=tuple(
            BundleFile(path=path, sha256=files.sha256_bytes(content), bytes=len(content))
            for path, content in sorted(parts.items())
        ),
    )
    written = to_json(manifest)
    whole = {**parts, layout.MANIFEST: written}
    if key is not None:
        whole[layout.SIGNATURE] = signature.sign(written, key, where=str(request.key))
    _, lines = check.check(Found(whole), None, "")
    if wrong := [f"{line.check.value}: {line.text}" for line in lines if not line.passed]:
        raise RefusedError(f"would not verify: {'; '.join(wrong)}", where=str(place), fix="report this as a bug")
    archive.write(place, whole)
    return Bundled(place, manifest, files.sha256_bytes(written), verdict)


def _platforms(names: tuple[str, ...]) -> tuple[Platform, ...]:
    unknown = [name for name in names if name not in set(Platform)]
    if unknown:
        raise UsageError(f"unknown platform '{unknown[0]}'", where="--ort", fix=hint(unknown[0], Platform))
    return tuple(Platform(name) for name in dict.fromkeys(names))


def _gates(policy: Path, variant: str, today: datetime.date) -> GateRequest:
    return GateRequest(policy=policy, variants=(variant,), today=today)


def _has_waivers(policy: Path | None) -> bool:
    return policy is not None and bool(policies.load(shipped.find(Kind.POLICY, policy)).waivers)


def _originals(study: Study, variant: Variant) -> dict[str, bytes]:
    """Files that go in as they are: the ONNX files, and the records that they rest on."""
    parts = {layout.STUDY: study.index}
    for name in layout.recorded(variant.entry):
        one = study[name]
        one.verify()
        for record in (VARIANT, MEASUREMENTS):
            path = layout.record_path(name, record)
            parts[path] = checked_bytes(one.path(record), one.entry.records[record], limit=_RECORD_BYTES)
    for artefact in variant.record.artefacts:
        if artefact.file.endswith(".onnx"):
            parts[artefact.file] = variant.file_bytes(artefact.file)
    if MODEL not in parts:
        raise UsageError(f"has no {MODEL}", where=variant.id, fix="bundle a variant of an ONNX study")
    return parts


def _judged(policy: Path | None, verdict: Verdict | None) -> dict[str, bytes]:
    """The policy as it was read, the lock that it names, and the verdict."""
    if policy is None or verdict is None:
        return {}
    path = shipped.find(Kind.POLICY, policy)
    loaded = policies.load(path)
    parts = {layout.POLICY: files.read_bounded(path, files.MAX_TEXT, "a policy"), layout.VERDICT: to_json(verdict)}
    if files.sha256_bytes(parts[layout.POLICY]) != verdict.policy_sha256:
        raise IntegrityError("changed while it was read", where=str(path), fix="run it again")
    if locks.for_policy(loaded, path) is not None:
        parts[layout.LOCK] = files.read_bounded(path.parent / str(loaded.data.lock), files.MAX_TEXT, "a lock")
    return parts


def _facts(study: Study, variant: Variant, request: BundleRequest, target: Target) -> BundleFacts:
    """The facts of a bundle, without its samples."""
    record, measured = variant.record, variant.measurements
    spec = _spec(record)
    names = spec.input_name, spec.output_name
    if record.input is not None:
        node, output, _ = input_of(variant.file_bytes(MODEL), target.provider)
        names = node.name, output
    tensors = BundleTensors(
        input=names[0],
        dtype=spec.dtype,
        layout=spec.layout,
        image=record.input_shape,
        pixels=_OURS if record.input is None else record.input.text,
        output=names[1],
        outputs=spec.outputs if study.record.data.kind is TaskKind.CLASSIFICATION else "fractions",
        task=study.record.data.kind,
        classes=study.record.data.classes,
    )
    samples = BundleSamples(
        source="generated" if request.generated else "test", index=(), labels=(), batch=1, sha256=_SCRATCH,
        answers_sha256=_SCRATCH, tolerance=1.0, runtime="",
    )  # fmt: skip
    return BundleFacts(
        name=f"{study.name}-{variant.id}"[:100],
        edgesafe=version(),
        study=study.name,
        study_sha256=files.sha256_bytes(study.index),
        variant=variant.id,
        baseline=variant.entry.baseline,
        model=MODEL,
        model_sha256=measured.onnx_sha256,
        target=target,
        tensors=tensors,
        samples=samples,
        licence=" ".join(request.licence.split()),
    )


def _spec(record: VariantRecord) -> InputSpec:
    """What the file expects: edgesafe's own input, or what was found out of a file that others made."""
    given = record.input
    if given is None:
        return OURS
    return InputSpec(given.layout, given.dtype, given.scale, given.mean, given.std, given.channels, given.outputs)


def _samples(study: Study, variant: Variant, request: BundleRequest) -> _Packed:
    """Images for the examples: test images at equal distances, or seeded noise."""
    record = variant.record
    batch = (record.input.batch if record.input is not None else None) or 1
    count = -(-request.samples // batch) * batch
    if request.generated:
        noise = np.random.default_rng(0).integers(0, 256, (count, *record.input_shape), dtype=np.uint8)
        return _Packed(prepare(noise, _spec(record)), tuple(range(count)), None, "")
    section = DataSection.model_validate(study.record.recipe["data"])
    if request.root is not None:
        section = section.model_copy(update={"root": request.root})
    try:
        data = sets.load(section)
    except DataError as error:
        fix = "give --root DATA, or --generated to pack seeded noise instead of test images"
        raise DataError(f"no test images to pack: {error.what}", where=error.where, fix=fix) from error
    if data.test.sha256 != variant.measurements.test_sha256:
        raise IntegrityError("the test images are not those of the study", where="data", fix="give --root DATA")
    n = len(data.test)
    if count > n:
        raise UsageError(f"{count} images asked for, {n} there", where="--samples", fix=f"ask for at most {n}")
    index = np.arange(count) * n // count
    return _Packed(
        prepare(np.ascontiguousarray(data.test.images[index]), _spec(record)),
        tuple(int(i) for i in index),
        data.test.labels[index],
        data.licence,
    )


def _with_outputs(
    facts: BundleFacts, study: Study, variant: Variant, packed: _Packed, model: bytes
) -> tuple[BundleFacts, dict[str, bytes]]:
    """The facts with what the model puts out on the packed images, and the files that hold both."""
    given, task = variant.record.input, study.record.data.task or Task()
    classes, rules = packed.labels if task.kind is TaskKind.CLASSIFICATION else None, rules_of(task)
    file = OnnxClassifier(model, provider=facts.target.provider, input_spec=_spec(variant.record))
    samples = facts.samples.model_copy(
        update={
            "index": packed.index,
            "labels": () if classes is None else tuple(classes.tolist()),
            "batch": (given.batch if given is not None else None) or 1,
            "tolerance": rules.tolerance(quantised=file.quantised),
            "runtime": outputs.runtime(),
        }
    )
    facts = facts.model_copy(update={"samples": samples, "data_licence": packed.licence})
    found = outputs.outputs_of(model, packed.images, facts)
    if packed.labels is not None:
        _require_same_answers(variant, packed.index, rules.answers(found, packed.labels))
    samples = samples.model_copy(
        update={
            "sha256": outputs.outputs_sha256(found),
            "answers_sha256": outputs.answers_sha256(found, facts.tensors),
        }
    )
    little = np.dtype(packed.images.dtype).newbyteorder("<")
    parts = {layout.IMAGES: packed.images.astype(little).tobytes(), layout.OUTPUTS: found.tobytes()}
    return facts.model_copy(update={"samples": samples}), parts


def _in_ort_format(
    facts: BundleFacts, packed: _Packed, parts: Mapping[str, bytes], platforms: tuple[Platform, ...]
) -> tuple[BundleFacts, dict[str, bytes]]:
    """The model in onnxruntime's format for each platform, its operators, and how far its outputs are from the model's.

    Raises:
        RefusedError: it cannot be made, or puts out something else.
    """
    wanted = np.frombuffer(parts[layout.OUTPUTS], "<f4").reshape(len(packed.index), -1)
    made: dict[str, bytes] = {}
    facts_of: list[BundleOrt] = []
    for platform in platforms:
        converted = to_ort(parts[MODEL], platform)
        path, operators = layout.ort_paths(platform)
        apart = float(np.abs(outputs.outputs_of(converted.content, packed.images, facts, path) - wanted).max())
        if not apart <= facts.samples.tolerance:
            raise ParityError(f"outputs differ by up to {apart:.2g}", where=path, fix="ship the ONNX file")
        made |= {path: converted.content, operators: converted.operators}
        facts_of.append(BundleOrt(platform=platform.value, file=path, operators=operators, max_abs=apart))
    return facts.model_copy(update={"ort": tuple(facts_of)}), made


def _require_same_answers(variant: Variant, index: tuple[int, ...], found: NDArray[np.int64]) -> None:
    """Refuse a file that answers otherwise than the evidence says it did.

    Raises:
        ParityError: names the first such image.
    """
    clean = evidence_files.from_bytes(variant.evidence_bytes()).clean
    answered = dict(zip(clean.index.tolist(), clean.prediction.tolist(), strict=True))
    for position, answer in zip(index, found.tolist(), strict=True):
        if answered.get(position, answer) != answer:
            raise ParityError(
                f"answers {answer} on test image {position}; {answered[position]} when it was measured",
                where=variant.id, fix="bundle it where it was measured, or measure it here",
            )  # fmt: skip


def _derived(
    study: Study, variant: Variant, facts: BundleFacts, verdict: Verdict | None, parts: Mapping[str, bytes]
) -> dict[str, bytes]:
    """What is a function of facts and evidence: card, configuration, licences, materials, examples."""
    chosen = [study[name] for name in layout.recorded(variant.entry)]
    contents = Contents(
        facts,
        study.record,
        {one.id: one.record for one in chosen},
        {one.id: one.measurements for one in chosen},
        verdict,
        check.models_of(parts),
    )
    return {
        **card.written(contents),
        **examples(facts, study.record),
        layout.SBOM: materials.to_json(contents),
        layout.LICENCE_TEXT: apache(),
    }
