"""`edgesafe certify`: every image of finite perturbation sets through an ONNX file, or through every file of a study.

A file becomes a study of its own, as `edgesafe evaluate` makes one, without corruptions and latency, so that report and
gate read it as any other. A study gets certificates beside what it holds; its digest changes with them. Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgesafe import data
from edgesafe.certificates import archive
from edgesafe.commands import evaluate
from edgesafe.errors import IntegrityError, UsageError
from edgesafe.measure.inference.inputs import InputSpec
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.progress import Progress, Silent
from edgesafe.recipe import parsing
from edgesafe.recipe.recipe import Recipe
from edgesafe.recipe.sections import CertifySection
from edgesafe.recipe.toml import toml_value
from edgesafe.records import Certificates, DataBundle
from edgesafe.stages import certify
from edgesafe.study import study as studies
from edgesafe.study.study import MODEL, Study, Variant
from edgesafe.study.writer import StudyWriter

__all__ = ["CertifyRequest", "certify_study", "evaluation"]


@dataclass(frozen=True)
class CertifyRequest:
    """What the command line asks for.

    Attributes:
        target: an ONNX file, or a study.
        section: sets, images, limits.
        data: data set, as a recipe's data.name; None: the study's own.
        root: where it lies; None: where the study's recipe says, or "data".
        baseline: for a file: what to compare with, as in `edgesafe evaluate`; None: nothing.
        variants: of a study: certify these and their baselines only; empty: all.
    """

    target: Path
    section: CertifySection
    data: str | None = None
    root: str | None = None
    baseline: Path | None = None
    variants: tuple[str, ...] = ()


def evaluation(request: CertifyRequest) -> evaluate.AuditRequest:
    """The audit that certifies a file and measures nothing else but the clean test images.

    Raises:
        UsageError: no data set is named, or variants, which a file has none of.
    """
    if request.variants:
        fix = "leave it out, or give the study"
        raise UsageError("goes with a study, and this is a file", where=f"--variant {request.variants[0]}", fix=fix)
    if request.data is None:
        raise UsageError("no data set", where="--data", fix="name the data set that the file was trained for")
    section = request.section.model_dump(exclude_defaults=True)
    overrides = ["evaluate.corruptions=none", "evaluate.latency=false"]
    overrides += [f"certify.{key}={toml_value(value)}" for key, value in section.items()]
    root = request.root or "data"
    return evaluate.AuditRequest(request.target, request.baseline, request.data, root, overrides=tuple(overrides))


def certify_study(request: CertifyRequest, progress: Progress | None = None) -> Study:
    """Certify variants of a finished study, baselines first, and add the numbers to their measurements.

    Raises:
        UsageError: a variant or a set that is not there, or too large; a baseline, which a study has of its own.
        IntegrityError: the data are not those of the study, or a file was changed.
        StoreError: not a study, or another process is working on it.
    """
    progress = progress or Silent()
    if request.baseline is not None:
        fix = "leave it out: variants are compared with their own baselines"
        raise UsageError("goes with a file, and this is a study", where=f"--baseline {request.baseline}", fix=fix)
    with StudyWriter(request.target, studies.read_index(request.target)[0]) as study:
        known = studies.read(request.target)
        recipe = parsing.parse(known.record.recipe, where="study.json, recipe")
        bundle = _data(request, recipe, known)
        certify.check(request.section, bundle.test)
        chosen = _chosen(known, request.variants)
        for variant in chosen:
            variant.verify()
        for variant in chosen:
            progress.note(variant.id)
            order = certify.CertifyOrder(
                section=request.section, test=bundle.test, study=study, progress=progress, variant=variant.id,
                population=f"{bundle.name} test set, {len(bundle.test):,} images", baseline=variant.entry.baseline,
                complete=variant.entry.is_baseline, sibling=variant.entry.sibling,
            )  # fmt: skip
            study.keep_previous(variant.id)
            certified = certify.certify(order, _open(variant, recipe), _earlier(variant))
            study.put_variant(variant.record)
            study.put_measurements(certified.added_to(variant.measurements))
            study.finish(variant.id)
        study.close_study()
    return studies.read(request.target)


def _data(request: CertifyRequest, recipe: Recipe, known: Study) -> DataBundle:
    """The data that a study was measured on, from where the request or else its recipe says."""
    named = {"name": request.data, "root": request.root}
    section = recipe.data.model_copy(update={key: value for key, value in named.items() if value is not None})
    bundle = data.load(section)
    if bundle.test.sha256 != known.record.data.test_sha256:
        raise IntegrityError("not the test images of the study", where=section.name, fix="give --data and --root")
    return bundle


def _chosen(study: Study, names: tuple[str, ...]) -> list[Variant]:
    """The finished variants to certify, each after its baseline and its fp32 sibling."""
    chosen = [study[name] for name in names] if names else list(study.finished())
    bases = [study[variant.entry.baseline] for variant in chosen if variant.entry.baseline is not None]
    siblings = [study[variant.entry.sibling] for variant in chosen if variant.entry.sibling is not None]
    return list({variant.id: variant for variant in [*bases, *siblings, *chosen]}.values())


def _open(variant: Variant, recipe: Recipe) -> OnnxClassifier:
    """The variant's file on one thread, given its input as it was when it was measured."""
    given = variant.record.input
    spec = None if given is None else InputSpec(
        given.layout, given.dtype, given.scale, given.mean, given.std, given.channels, given.outputs
    )  # fmt: skip
    return OnnxClassifier(variant.file_bytes(MODEL), threads=1, provider=recipe.target.provider, input_spec=spec)


def _earlier(variant: Variant) -> Certificates | None:
    """The certificates that the variant has from an earlier run, or None."""
    content = variant.certificates_bytes()
    return archive.from_bytes(content) if content is not None else None
