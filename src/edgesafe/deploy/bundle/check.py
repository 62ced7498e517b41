"""Everything that can be checked of a bundle: what is listed, hashed, signed, bound, decided, written and put out.

Card, configuration, licences, bill of materials and examples are functions of facts and evidence: they are made again
and compared, so that what people read cannot differ from what was measured, and what is run is edgesafe's own text.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from edgesafe.deploy.bundle import card, materials, outputs
from edgesafe.deploy.bundle.archive import Found
from edgesafe.deploy.bundle.examples import examples
from edgesafe.deploy.bundle.layout import (
    CARD,
    CONFIG,
    IMAGES,
    LICENCE_TEXT,
    LICENCES,
    LOCK,
    MANIFEST,
    OUTPUTS,
    POLICY,
    SBOM,
    SIGNATURE,
    STUDY,
    VERDICT,
    Contents,
    record_path,
    recorded,
)
from edgesafe.deploy.bundle.licence import apache
from edgesafe.errors import EdgesafeError, IntegrityError
from edgesafe.files import sha256_bytes
from edgesafe.policy import lock as locks
from edgesafe.policy import policy as policies
from edgesafe.policy.decision import Options, decide
from edgesafe.records import (
    BundleCheck,
    BundleManifest,
    CheckLine,
    Measurements,
    Record,
    StudyRecord,
    VariantRecord,
    Verdict,
)
from edgesafe.study import signature
from edgesafe.study.index import from_json, open_index
from edgesafe.study.study import MEASUREMENTS, VARIANT

__all__ = ["check", "models_of"]

_FIX = "get the bundle again from who made it"
_R = TypeVar("_R", bound=Record)


def check(found: Found, key: bytes | None, where: str) -> tuple[BundleManifest | None, tuple[CheckLine, ...]]:
    """Every check of a bundle but running its example.

    Args:
        found: what lies at its place.
        key: a public Ed25519 key in PEM that must have signed it; None: a signature is not asked for.
        where: the key's file, for messages.

    Returns:
        Its manifest, None if that cannot be read; and what was found, check by check. A check that needs what an
        earlier one found missing is left out.

    Raises:
        UsageError: the key cannot be used, or an extra is not installed.
    """
    materials.require()
    try:
        manifest = _manifest(found)
    except IntegrityError as error:
        return None, (CheckLine(check=BundleCheck.MANIFEST, passed=False, text=str(error)),)
    read = f"{manifest.facts.variant} of {manifest.facts.study}, made by edgesafe {manifest.facts.edgesafe}"
    lines = [CheckLine(check=BundleCheck.MANIFEST, passed=True, text=read)]
    lines.append(_looked(BundleCheck.SIGNATURE, lambda: _signature(found, key, where)))
    lines.append(_looked(BundleCheck.FILES, lambda: _files(found, manifest)))
    lines.append(_looked(BundleCheck.HASHES, lambda: _hashes(found, manifest)))
    contents: list[Contents] = []
    lines.append(_looked(BundleCheck.EVIDENCE, lambda: _evidence(found, manifest, contents)))
    if contents:
        looks: tuple[tuple[BundleCheck, Callable[[Mapping[str, bytes], Contents], str]], ...] = (
            (BundleCheck.VERDICT, _verdict),
            (BundleCheck.CARD, _card),
            (BundleCheck.CONFIG, _config),
            (BundleCheck.LICENCES, _licences),
            (BundleCheck.MATERIALS, _materials),
            (BundleCheck.EXAMPLES, _examples),
            (BundleCheck.OUTPUTS, _outputs),
        )
        lines += [_looked(kind, lambda look=look: look(found.files, contents[0])) for kind, look in looks]  # type: ignore[misc]
    return manifest, tuple(lines)


def _looked(kind: BundleCheck, look: Callable[[], str]) -> CheckLine:
    """A check whose failure is a finding, not the end; a key that cannot be used is the end."""
    failures = IntegrityError if kind is BundleCheck.SIGNATURE else EdgesafeError
    try:
        return CheckLine(check=kind, passed=True, text=look())
    except failures as error:
        return CheckLine(check=kind, passed=False, text=str(error))


# ------------------------------------------------------------------------------------------------ what lies there


def _manifest(found: Found) -> BundleManifest:
    content = found.files.get(MANIFEST)
    if content is None:
        raise IntegrityError("is missing", where=MANIFEST, fix=_FIX)
    return _parsed(content, BundleManifest, MANIFEST)


def _parsed(content: bytes, model: type[_R], path: str) -> _R:
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError):
        raise IntegrityError("not JSON", where=path, fix=_FIX) from None
    expected = str(model.model_fields["schema_"].default)
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema != expected:
        raise IntegrityError(
            f"has the schema {schema!r}, not {expected}", where=path, fix="use the edgesafe of its time"
        )
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"damaged at '{key}': {first['msg']}", where=path, fix=_FIX) from None


def _signature(found: Found, key: bytes | None, where: str) -> str:
    signed = found.files.get(SIGNATURE)
    if key is None:
        return (
            "there is one, not checked: give --require-signature KEY" if signed is not None else "none, none asked for"
        )
    signature.verify(found.files[MANIFEST], signed, key, where=where, what=MANIFEST)
    return f"of {MANIFEST}, by {where}"


def _files(found: Found, manifest: BundleManifest) -> str:
    listed = {file.path for file in manifest.files}
    there = set(found.files) - {MANIFEST, SIGNATURE}
    problems = [f"{path} is {what}" for path, what in sorted(found.odd.items())]
    problems += [f"{path} is missing" for path in sorted(listed - there - set(found.odd))]
    problems += [f"{path} is not listed" for path in sorted(there - listed)]
    _raise(problems, MANIFEST)
    return f"{len(listed)} listed, none missing, nothing else there"


def _hashes(found: Found, manifest: BundleManifest) -> str:
    pairs = [(file, found.files[file.path]) for file in manifest.files if file.path in found.files]
    problems = [
        f"{file.path} has {len(data):,} bytes, not {file.bytes:,}" for file, data in pairs if len(data) != file.bytes
    ]
    problems += [
        f"{file.path} was changed: its hash differs"
        for file, data in pairs
        if len(data) == file.bytes and sha256_bytes(data) != file.sha256
    ]
    _raise(problems, MANIFEST)
    return f"{len(pairs)} files, {sum(file.bytes for file, _ in pairs):,} bytes"


def _raise(problems: list[str], where: str) -> None:
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise IntegrityError("; ".join(problems[:10]) + more, where=where, fix=_FIX)


# ----------------------------------------------------------------------------------------------------- what it says


def _evidence(found: Found, manifest: BundleManifest, into: list[Contents]) -> str:
    """Follow the hashes from the manifest to the index, from there to the records, and from them to the model."""
    facts, files = manifest.facts, found.files
    content = _there(files, STUDY)
    if sha256_bytes(content) != facts.study_sha256:
        raise IntegrityError("not the study that the manifest names", where=STUDY, fix=_FIX)
    study = open_index(content, Path(STUDY))
    records: dict[str, VariantRecord] = {}
    measured: dict[str, Measurements] = {}
    entry = study.entry(facts.variant)
    if entry is None or entry.baseline != facts.baseline or study.name != facts.study:
        raise IntegrityError("its variant, baseline or name is not the manifest's", where=STUDY, fix=_FIX)
    for variant in recorded(entry):
        records[variant] = _bound(files, study, variant, VARIANT, VariantRecord)
        measured[variant] = _bound(files, study, variant, MEASUREMENTS, Measurements)
    models = models_of(files)
    for path, (digest, _) in models.items():
        artefact = records[facts.variant].artefact(path)
        if artefact is None or artefact.sha256 != digest:
            raise IntegrityError(f"not a file of {facts.variant}", where=path, fix=_FIX)
    if (
        models.get(facts.model, ("",))[0] != facts.model_sha256
        or measured[facts.variant].onnx_sha256 != facts.model_sha256
    ):
        raise IntegrityError("not the file that was measured", where=facts.model, fix=_FIX)
    told = (facts.tensors.classes, facts.tensors.task, facts.tensors.image)
    if told != (study.data.classes, study.data.kind, records[facts.variant].input_shape):
        raise IntegrityError(f"{facts.tensors.noun} or image size are not the study's", where=MANIFEST, fix=_FIX)
    verdict = _parsed(files[VERDICT], Verdict, VERDICT) if VERDICT in files else None
    into.append(Contents(facts, study, records, measured, verdict, models))
    return f"study.json binds the records, and they the model ({facts.model_sha256})"


def models_of(files: Mapping[str, bytes]) -> dict[str, tuple[str, int]]:
    """Hash and size of each ONNX file at a bundle's root, by name."""
    return {
        path: (sha256_bytes(content), len(content))
        for path, content in sorted(files.items())
        if "/" not in path and path.endswith(".onnx")
    }


def _bound(files: Mapping[str, bytes], study: StudyRecord, variant: str, name: str, model: type[_R]) -> _R:
    path = record_path(variant, name)
    content, entry = _there(files, path), study.entry(variant)
    if entry is None or entry.records.get(name) != sha256_bytes(content):
        raise IntegrityError("not the record that study.json names", where=path, fix=_FIX)
    return from_json(content, model, Path(path))


def _there(files: Mapping[str, bytes], path: str) -> bytes:
    if path not in files:
        raise IntegrityError("is missing", where=path, fix=_FIX)
    return files[path]


def _verdict(files: Mapping[str, bytes], contents: Contents) -> str:
    """Decide again, from the policy and the evidence that are in the bundle."""
    if POLICY not in files:
        if contents.verdict is not None:
            raise IntegrityError("there is no policy that it was decided by", where=VERDICT, fix=_FIX)
        return "not judged: there is no policy in it"
    if contents.verdict is None:
        raise IntegrityError("is missing", where=VERDICT, fix=_FIX)
    policy = policies.loads(files[POLICY].decode("utf-8", "replace"), source=POLICY)
    lock = locks.loads(files[LOCK].decode("utf-8", "replace"), source=LOCK) if LOCK in files else None
    if lock is None and policy.data.lock is not None:
        raise IntegrityError("the policy names a lock, and there is none", where=LOCK, fix=_FIX)
    decided = decide(
        policy,
        contents.study,
        contents.measured,
        contents.records,
        baseline=None,
        today=contents.facts.decided or datetime.datetime.now(datetime.UTC).date(),
        options=Options(variants=(contents.facts.variant,), lock=lock),
    )
    if decided != contents.verdict:
        raise IntegrityError("not what the policy decides on this evidence", where=VERDICT, fix=_FIX)
    if decided.exit_code:
        raise IntegrityError(f"{decided.overall.value}: a bundle must pass its policy", where=VERDICT, fix=_FIX)
    return f"{decided.overall.value}, decided anew: {len(decided.gates)} gates"


def _same(files: Mapping[str, bytes], expected: Mapping[str, bytes], what: str) -> None:
    for path, content in expected.items():
        if _there(files, path) != content:
            raise IntegrityError(f"{what} is not what facts and evidence say", where=path, fix=_FIX)


def _card(files: Mapping[str, bytes], contents: Contents) -> str:
    _same(files, {CARD: card.written(contents)[CARD]}, "the model card")
    return "in step with the evidence"


def _config(files: Mapping[str, bytes], contents: Contents) -> str:
    _same(files, {CONFIG: card.written(contents)[CONFIG]}, "the configuration")
    return f"{len(contents.facts.tensors.classes)} {contents.facts.tensors.noun}"


def _licences(files: Mapping[str, bytes], contents: Contents) -> str:
    _same(files, {LICENCES: card.written(contents)[LICENCES], LICENCE_TEXT: apache()}, "a licence")
    return f"model: {contents.facts.licence or 'not stated'}; data: {contents.facts.data_licence or 'not known'}"


def _materials(files: Mapping[str, bytes], contents: Contents) -> str:
    content = _there(files, SBOM)
    problem = materials.invalid(content)
    if problem is not None:
        raise IntegrityError(f"not valid CycloneDX 1.6: {problem}", where=SBOM, fix=_FIX)
    _raise(list(materials.differences(content, contents)), SBOM)
    return f"valid CycloneDX 1.6, {len(materials.expected_parts(contents))} components"


def _examples(files: Mapping[str, bytes], contents: Contents) -> str:
    _same(files, examples(contents.facts, contents.study), "the example")
    return "edgesafe's own text with this bundle's names and hashes"


def _outputs(files: Mapping[str, bytes], contents: Contents) -> str:
    facts = contents.facts
    images, wanted = _there(files, IMAGES), _there(files, OUTPUTS)
    said = [outputs.compare(_there(files, facts.model), images, wanted, facts)]
    packed, rows = outputs.unpacked(images, facts.tensors, len(facts.samples.index)), len(facts.samples.index)
    expected = np.frombuffer(wanted, "<f4").reshape(rows, -1)
    said += [outputs.compare_ort(_there(files, one.file), one, packed, expected, facts) for one in facts.ort]
    return "; ".join(said)
