"""One file certified in a study: every image of the recipe's sets through it; then certificates.npz and its numbers.

Shared by `edgesafe compress`, `evaluate` and `certify`; free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgesafe.certificates import archive, summary
from edgesafe.certificates.certification import Work, certify_set, certify_some
from edgesafe.certificates.certification import shards as shards_of
from edgesafe.certificates.enumeration import Images, SetPlan
from edgesafe.certificates.ids import parse
from edgesafe.certificates.line import PREFIX, certify_line, segment_of
from edgesafe.certificates.operators import Network
from edgesafe.certificates.sets import FiniteSet, require_room
from edgesafe.data.rows import part
from edgesafe.errors import UsageError
from edgesafe.files import stage_key
from edgesafe.measure.inference import robustness
from edgesafe.measure.inference.inputs import OURS
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.tasks import rules_of
from edgesafe.progress import Progress
from edgesafe.recipe.sections import CertifySection
from edgesafe.records import (
    CertificateProvenance,
    Certificates,
    Comparison,
    ImageSet,
    Measurement,
    Measurements,
    Population,
    PopulationKind,
    Sample,
    SetCertificates,
)
from edgesafe.stages import effort
from edgesafe.study.checkpoints import Kept
from edgesafe.study.study import CERTIFICATES, MODEL
from edgesafe.study.writer import StudyWriter

__all__ = ["KEPT", "Certified", "CertifyOrder", "Shard", "certify", "certify_shard", "check", "most_images", "shards"]

KEPT = "certificates"  #: what the chunks of a file are kept as, see `study.checkpoints.Kept`


@dataclass(frozen=True)
class CertifyOrder:
    """What is certified, and what it is compared with.

    Attributes:
        section: the recipe's [certify].
        test: the test images.
        population: what the test images stand for, in words.
        study: written to.
        progress: told what happens.
        variant: id.
        baseline: id of a variant that was certified completely; None: nothing is compared.
        complete: run every image, also after a violation, because other files will be compared with this one.
        sibling: id of the fp32 variant with the same weights, if it is not fp32 itself.
    """

    section: CertifySection
    test: ImageSet
    population: str
    study: StudyWriter
    progress: Progress
    variant: str
    baseline: str | None
    complete: bool
    sibling: str | None = None


@dataclass(frozen=True)
class Certified:
    """What certifying adds to measurements.json; as it stands: nothing was certified.

    Attributes:
        sha256: of certificates.npz.
        metrics: see `certificates.summary.summarise`.
        differences: paired, to the baseline's.
        sibling_differences: paired, to the fp32 sibling's.
    """

    sha256: str | None = None
    metrics: Mapping[str, Measurement] = field(default_factory=dict)
    differences: Mapping[str, Comparison] = field(default_factory=dict)
    sibling_differences: Mapping[str, Comparison] = field(default_factory=dict)

    def added_to(self, measured: Measurements) -> Measurements:
        """The measurements with these numbers, in the place of older ones of the same sets."""
        return measured.model_copy(
            update={
                "certificates_sha256": self.sha256,
                "metrics": {**measured.metrics, **self.metrics},
                "differences": {**measured.differences, **self.differences},
                "sibling_differences": {**measured.sibling_differences, **self.sibling_differences},
            }
        )


@dataclass(frozen=True)
class Shard:
    """A share of the images under one set: what one worker certifies.

    Attributes:
        set: id.
        number: of the share, from 1.
        of: how many shares there are.
    """

    set: str
    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.set} {self.number}/{self.of}"


@dataclass(frozen=True)
class _Ground:
    """What all sets of a file share.

    Attributes:
        images: what is certified.
        origin: of the certificates: file, images, runtime.
        base: certificates of the baseline.
        sample: the look of a growing sample that the images are of; None: they are all that [certify] asks for.
        groups: rows of the images that each look added; empty without a sample.
    """

    images: Images
    origin: CertificateProvenance
    base: Certificates | None
    sample: Sample | None = None
    groups: tuple[NDArray[np.int64], ...] = ()


def check(section: CertifySection, test: ImageSet) -> tuple[FiniteSet, ...]:
    """The sets of a recipe for these test images, before anything is computed.

    Raises:
        UsageError: an id that is no set, a set twice, one that is too large, or one that makes labels untrue.
        DataError: a set that does not fit the images.
    """
    sets = tuple(parse(text) for text in section.sets)
    ids = [finite.id for finite in sets]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise UsageError("stands twice", where=f"certify.sets, {twice}", fix="name every set once")
    if section.engine == "line":
        for finite in sets:
            segment_of(finite)
    rules = rules_of(test.task)
    moving = next((name for name in ids if name.partition("=")[0] in rules.moving), None)
    if moving is not None:
        raise UsageError(rules.untrue, where=f"certify.sets, {moving}", fix="leave it out")
    require_room(list(sets), test.images.shape[1:], section.max_images)
    return sets


def most_images(section: CertifySection, test: ImageSet) -> int:
    """How many images one file is run on to certify it, at most: a violation or a wrong answer ends a set early."""
    if section.engine == "line":
        return 0
    n = _count(section, test)
    timed = min(section.timed, n) if section.timed > 1 else 0
    return (n + timed) * sum(finite.size(test.images.shape[1:]) for finite in check(section, test))


def certify(
    order: CertifyOrder, file: OnnxClassifier, known: Certificates | None = None, sample: Sample | None = None
) -> Certified:
    """Certify a file under every set of the recipe and write certificates.npz; finished chunks are not run again.

    Args:
        order: what to certify.
        file: the file, on one thread.
        known: certificates of the same file that stay where no set of the recipe takes their place.
        sample: the look of a growing sample: enumerate as many images as it asks for; None: all.

    Raises:
        UsageError, DataError: see `check`.
        IntegrityError, NothingEvaluated: the baseline was not certified for a set, completely, on the same images.
        RefusedError: the file answers an image alone otherwise than in a batch; engine line: an unknown operator.
    """
    section = order.section
    if not section.sets:
        return Certified()
    test, ground = order.test, _ground(order, file, sample)
    images, origin, base = ground.images, ground.origin, ground.base
    sets, n = check(section, test), _count(section, test)
    certified: dict[str, SetCertificates] = (
        {certificate.id: certificate for certificate in known.sets} if known is not None else {}
    )
    for finite in sets:
        if section.engine == "line":
            with order.progress.stage(f"following {finite.id}", len(images)) as advance:
                certified[PREFIX + finite.id] = certify_line(_network(order), file, images, finite, advance)
            continue
        if base is None and _is_same(known, origin, finite, order, n):
            continue
        with order.progress.stage(f"certifying {finite.id}", len(images)) as advance:
            certified[finite.id] = certify_set(*_work(order, file, ground, finite, advance))
    certificates = Certificates(tuple(certified.values()), origin)
    written = order.study.put_file(order.variant, CERTIFICATES, archive.to_bytes(certificates))
    few = f"; the first {n:,} of them" if n < len(test) else ""
    few += f"; {len(images):,} drawn at random" if len(images) < n else ""
    population = Population(kind=PopulationKind.IMAGES, description=order.population + few)
    prefix = PREFIX if section.engine == "line" else ""
    fresh = Certificates(tuple(certified[prefix + finite.id] for finite in sets), origin)
    differences = summary.compare(fresh, base, population, task=test.task) if base is not None else {}
    own = summary.summarise(fresh, population, task=test.task)
    if sample is None:
        graph = partial(_network, order)
        own |= effort.cpu_times(file, graph, images, sets, section, order.progress)
    return Certified(written.sha256, own, differences, _beside_sibling(order, fresh, differences, population))


def _network(order: CertifyOrder) -> Network:
    """The graph of the variant's file."""
    return Network(order.study.file_bytes(order.variant, MODEL))


def _beside_sibling(
    order: CertifyOrder, fresh: Certificates, differences: dict[str, Comparison], population: Population
) -> dict[str, Comparison]:
    """Paired differences to the fp32 sibling's certificates, of the sets that it has; none without a sibling."""
    if order.sibling is None or order.sibling == order.baseline:
        return differences if order.sibling is not None else {}
    content = order.study.certificates_bytes(order.sibling)
    if content is None:
        return {}
    other = archive.from_bytes(content)
    both = tuple(part for part in fresh.sets if other.of(part.id) is not None)
    ours = Certificates(both, fresh.provenance)
    return summary.compare(ours, other, population, task=order.test.task, agreement=False)


def _groups(n: int, sample: Sample) -> tuple[NDArray[np.int64], ...]:
    """Positions of the images that each look up to the sample's adds: twice as many at each, all at the last."""
    sizes = [max(2, -(-n // 2 ** (sample.looks - look))) for look in range(1, sample.look + 1)]  # 2: pairs differ
    drawn = [robustness.draw(n, size, sample.seed) for size in sizes]
    return (drawn[0], *(np.setdiff1d(more, fewer) for fewer, more in pairwise(drawn)))


def shards(section: CertifySection, test: ImageSet) -> tuple[Shard, ...]:
    """The shares of what the recipe certifies that are worth a worker each; sets that are one worker's are not shared.

    Raises:
        UsageError, DataError: see `check`.
    """
    if section.engine == "line":
        return ()
    n, shape = _count(section, test), test.images.shape[1:]
    counted = {finite.id: shards_of(n, shape, finite) for finite in check(section, test)}
    return tuple(Shard(name, k + 1, count) for name, count in counted.items() if count > 1 for k in range(count))


def certify_shard(order: CertifyOrder, file: OnnxClassifier, shard: Shard) -> None:
    """Certify a share of the images under one set and keep that, so that `certify` finds it.

    Args:
        order: as the file will be certified.
        file: the file, on one thread.
        shard: which share.

    Raises:
        UsageError, DataError, IntegrityError, NothingEvaluated, RefusedError: see `certify`.
    """
    work, plan = _work(order, file, _ground(order, file), parse(shard.set), lambda _: None)
    certify_some(work, plan, shard.number, shard.of)


def _count(section: CertifySection, test: ImageSet) -> int:
    """How many of the test images are certified."""
    return len(test) if section.images is None else min(section.images, len(test))


def _ground(order: CertifyOrder, file: OnnxClassifier, sample: Sample | None = None) -> _Ground:
    test, n = order.test, _count(order.section, order.test)
    groups = () if sample is None else _groups(n, sample)
    rows = np.sort(np.concatenate(groups)) if groups else np.arange(n, dtype=np.int64)
    images = Images(part(test.images, rows if groups else slice(n)), test.labels[rows], rows, test.task)
    origin = CertificateProvenance(
        onnx_sha256=file.sha256,
        test_sha256=test.sha256,
        provider=file.providers[0],
        runtime=f"onnxruntime {onnxruntime.__version__}",
        input="" if file.input_spec == OURS else str(file.input_spec),
    )
    at = tuple(np.searchsorted(rows, group) for group in groups)
    return _Ground(images, origin, _baseline(order), sample, at)


def _work(
    order: CertifyOrder, file: OnnxClassifier, ground: _Ground, finite: FiniteSet, advance: Callable[[int], None]
) -> tuple[Work, SetPlan]:
    """What is run under a set, and how; finished chunks are kept in the study.

    Raises:
        UsageError: the baseline was not certified for the set.
    """
    section, base, sample = order.section, ground.base, ground.sample
    reference = base.of(finite.id) if base is not None else None
    if base is not None and reference is None:
        raise UsageError(
            f"'{order.baseline}' was not certified for it", where=finite.id, fix="certify the baseline, too"
        )
    complete = order.complete or rules_of(order.test.task).every_answer
    plan = SetPlan(finite, section.outwards, complete, reference, section.batch_size)
    key = stage_key(
        origin=ground.origin.model_dump(), set=finite.sha256, n=_count(section, order.test), outwards=plan.outwards,
        complete=plan.complete, baseline=base.provenance.onnx_sha256 if base is not None else "",
        drawn=None if sample is None else (sample.seed, sample.looks),
    )  # fmt: skip
    kept = Kept(order.study, order.variant, KEPT, key)
    return Work(file, ground.images, ground.origin, kept, advance, section.workers, ground.groups), plan


def _is_same(
    known: Certificates | None, origin: CertificateProvenance, finite: FiniteSet, order: CertifyOrder, n: int
) -> bool:
    """Whether the file was certified for that set before, on the same images, at least as completely."""
    earlier = known.of(finite.id) if known is not None else None
    if known is None or earlier is None or known.provenance != origin or earlier.sha256 != finite.sha256:
        return False
    return len(earlier) == n and earlier.outwards == order.section.outwards and earlier.complete >= order.complete


def _baseline(order: CertifyOrder) -> Certificates | None:
    if order.baseline is None:
        return None
    data = order.study.certificates_bytes(order.baseline)
    if data is None:
        raise UsageError("has no certificates", where=order.baseline, fix="certify the whole study")
    return archive.from_bytes(data)
