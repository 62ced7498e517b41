"""The bill of materials of a bundle: CycloneDX 1.6, JSON, made and validated by cyclonedx-python-lib.

It names the model and its files with their hashes, the data set, the edgesafe and torch that made it, and what is
needed to run it. No time and no random number is in it. The extra `edgesafe[bundle]` brings the library.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgesafe.deploy.bundle.layout import Contents
from edgesafe.errors import UsageError

__all__ = ["Part", "differences", "expected_parts", "invalid", "require", "to_json"]

_NAMESPACE = uuid.UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff")  # of serial numbers; any constant does
_LICENCES = {"onnxruntime": "MIT", "numpy": "BSD-3-Clause", "edgesafe": "Apache-2.0"}
_MADE_WITH = ("edgesafe", "torch", "torch-pruning", "onnx", "onnxscript")


@dataclass(frozen=True, order=True)
class Part:
    """One component: what it is, its version, and the hex digits of its SHA-256 where it is a file."""

    kind: str
    name: str
    version: str = ""
    sha256: str = ""
    licence: str = ""


def expected_parts(contents: Contents) -> tuple[Part, ...]:
    """Every component that the bill must have, sorted."""
    facts, versions = contents.facts, contents.study.host.versions
    data = contents.study.data
    model = Part("machine-learning-model", facts.name, facts.model_sha256[7:19], facts.model_sha256[7:], facts.licence)
    parts = [model, Part("data", data.name, data.test_sha256[7:19], "", facts.data_licence)]
    parts += [Part("file", path, "", sha256[7:], facts.licence) for path, (sha256, _) in contents.models.items()]
    for name in ("onnxruntime", "numpy"):
        parts.append(Part("library", name, versions.get(name, ""), "", _LICENCES[name]))
    for name in _MADE_WITH:
        if name in versions or name == "edgesafe":
            parts.append(Part("application", name, versions.get(name, facts.edgesafe), "", _LICENCES.get(name, "")))
    return tuple(sorted(parts))


def to_json(contents: Contents) -> bytes:
    """The bill of materials as CycloneDX 1.6.

    Raises:
        UsageError: the extra is not installed.
    """
    require()
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    parts = [(part, _component(part)) for part in expected_parts(contents)]
    (model,) = (made for part, made in parts if part.kind == "machine-learning-model")
    tools = [made for part, made in parts if part.kind == "application"]
    others = [made for _, made in parts if made is not model and made.type is not ComponentType.APPLICATION]
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, f"{contents.facts.study_sha256} {contents.facts.variant}"),
        metadata=BomMetaData(component=model, tools=ToolRepository(components=tools)),
        components=others,
    )
    bom.register_dependency(model, others)
    plain = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    del plain["metadata"]["timestamp"]
    return (json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _component(part: Part) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from packageurl import PackageURL

    is_package = part.kind in ("library", "application")
    return Component(
        type=ComponentType(part.kind),
        name=part.name,
        version=part.version or None,
        bom_ref=f"{part.kind}:{part.name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else None,
        licenses=[DisjunctiveLicense(name=part.licence)] if part.licence else None,
        purl=PackageURL("pypi", name=part.name, version=part.version or None) if is_package else None,
    )


def invalid(content: bytes) -> str | None:
    """Why a file is no CycloneDX 1.6 JSON, by the standard's own schema; None: it is.

    Raises:
        UsageError: the extra is not installed.
    """
    require()
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        text = content.decode("utf-8")
        json.loads(text)
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    except (ValueError, RecursionError):
        return "not JSON"
    return (
        None if problem is None else " ".join(str(problem.data if hasattr(problem, "data") else problem).split())[:200]
    )


def differences(content: bytes, contents: Contents) -> tuple[str, ...]:
    """Components that a valid bill has and should not have, or lacks, in words."""
    plain = json.loads(content)
    metadata = plain.get("metadata", {})
    tools = metadata.get("tools", {})
    found = sorted(
        _parts([metadata.get("component", {}), *plain.get("components", []), *dict(tools).get("components", [])])
    )
    expected = expected_parts(contents)
    wrong = [f"{part.name}: not of this bundle" for part in found if part not in expected]
    return (*wrong, *(f"{part.name}: missing" for part in expected if part not in found))


def _parts(components: Iterable[Any]) -> Iterable[Part]:
    for one in components:
        hashes = [digest["content"] for digest in one.get("hashes", [])]
        licences = [entry.get("license", {}).get("name", "") for entry in one.get("licenses", [])]
        yield Part(one.get("type", ""), one.get("name", ""), one.get("version", ""), "".join(hashes), "".join(licences))


def require() -> None:
    """Refuse to go on without the library.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        import cyclonedx.validation.json  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'edgesafe[bundle]'") from None
