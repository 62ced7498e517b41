"""What narrowing each layer alone costs and saves, for allocations that are measured: once for each network and block.

Losses are means over validation images, after BatchNorm statistics were re-estimated. Savings are MACs, or the time of
the exported file beside the unpruned network's. What was measured is kept in the study, since a time is not the same
twice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from edgesafe import data
from edgesafe.deploy import export
from edgesafe.deploy.template import Templates
from edgesafe.files import stage_key
from edgesafe.models import count
from edgesafe.progress import Progress
from edgesafe.prune import PruneContext
from edgesafe.prune.curves import Seen, curves
from edgesafe.recipe.sections import Allocation, CompressSection, ExportSection, RecoverSection, TargetSection
from edgesafe.records import AllocationRecord, DataBundle
from edgesafe.stages import timing
from edgesafe.stages.timing import Timing
from edgesafe.stages.train import fit_plan, weights_hash
from edgesafe.study.checkpoints import Kept
from edgesafe.study.writer import StudyWriter
from edgesafe.train import batchnorm
from edgesafe.train.augmentation import FitPlan, Normalisation, shared
from edgesafe.train.tasks import lesson_of

__all__ = ["Probing", "allocation_of"]

_IMAGES = 512  # validation images that losses are means over: enough to order layers by
_BN_IMAGES = 500  # training images for BatchNorm statistics, at most
_BATCH = 64
_TIMED_RUNS = 128  # of each: layers are put in an order, no latency is published


@dataclass(frozen=True)
class Probing:
    """What looking at narrowed networks needs.

    Attributes:
        bundle: the data.
        recovery: of the block: images of BatchNorm statistics.
        export: opset of files that are timed.
        target: they are timed for.
        study: keeps what was measured.
        progress: told what happens.
    """

    bundle: DataBundle
    recovery: RecoverSection
    export: ExportSection
    target: TargetSection
    study: StudyWriter
    progress: Progress


def allocation_of(
    network: nn.Module, section: CompressSection, context: PruneContext, probing: Probing
) -> AllocationRecord:
    """The curves of a network's layers, measured now or kept from before.

    Args:
        network: that the block starts from; not modified.
        section: with an allocation that is measured.
        context: see `prune.PruneContext`.
        probing: see `Probing`.
    """
    names = {"method", "scope", "criterion", "allocation", "round_to", "min_channels", "rewrite", "light", "draws"}
    block = section.model_dump(mode="json", include=names | {"calibration_images"})
    shown = {"validation": probing.bundle.validation.sha256, "train": probing.bundle.train.sha256}
    bn_images = min(probing.recovery.bn_images, _BN_IMAGES)
    key = stage_key(
        what="allocation", start=weights_hash(network), block=block, seed=context.seed, round_to=context.round_to,
        bn_images=bn_images, opset=probing.export.opset, target=probing.target.model_dump(mode="json"), **shown,
    )  # fmt: skip
    kept = Kept(probing.study, f"allocation-s{context.seed}", key[:16], key)
    known = kept.load()
    if known is None:
        plan = fit_plan(probing.recovery, context.seed, probing.bundle.task)
        look = _Look(network, probing, plan, timed=section.allocates is Allocation.LATENCY)
        probing.progress.note(f"  narrowing each layer alone ({section.allocates.value})")
        rows = curves(network, section, context, look)
        images = min(_IMAGES, len(probing.bundle.validation))
        found = AllocationRecord(by=section.allocates.value, images=images, bn_images=bn_images, layers=rows)
        known = found.model_dump_json().encode()
        kept.save(known)
    return AllocationRecord.model_validate_json(known)


class _Look:
    """Mean loss and cost of a network, which gets new BatchNorm statistics."""

    def __init__(self, whole: nn.Module, probing: Probing, plan: FitPlan, *, timed: bool) -> None:
        self._whole, self._probing, self._plan, self._timed = whole, probing, plan, timed
        bundle = probing.bundle
        self._normalise = Normalisation(bundle.mean, bundle.std)
        self._some = data.first(bundle.validation, _IMAGES)
        self._templates = Templates()  # narrowed networks differ from the whole one in their shapes

    def __call__(self, network: nn.Module) -> Seen:
        bundle = self._probing.bundle
        bn_images = min(self._probing.recovery.bn_images, _BN_IMAGES)
        batchnorm.reestimate_batchnorm(network, bundle.train, self._normalise, images=bn_images, view=self._plan)
        return Seen(self._loss(network.eval()), self._latency(network) if self._timed else self._macs(network))

    def _loss(self, network: nn.Module) -> float:
        lesson, total = lesson_of(self._probing.bundle.task), 0.0
        with torch.no_grad():
            for start in range(0, len(self._some), _BATCH):
                images = self._normalise(shared(self._some.images[start : start + _BATCH]))
                total += float(lesson.total(network(images), shared(self._some.labels[start : start + _BATCH])))
        return total / len(self._some)

    def _macs(self, network: nn.Module) -> float:
        return count.macs(network, self._shape) / self._whole_macs

    @cached_property
    def _whole_macs(self) -> int:
        return count.macs(self._whole, self._shape)

    @property
    def _shape(self) -> tuple[int, int, int]:
        height, width, channels = self._some.images.shape[1:]
        return height, width, channels

    def _latency(self, network: nn.Module) -> float:
        """Of its exported file, in turns with the unpruned network's."""
        with tempfile.TemporaryDirectory() as place:
            files = [Path(place) / "narrowed.onnx", Path(place) / "whole.onnx"]
            for file, content in zip(files, (self._exported(network), self._whole_onnx), strict=True):
                file.write_bytes(content)
            protocol = Timing(self._probing.target, _TIMED_RUNS, self._probing.bundle.task)
            found = timing.timed(files[0], files[1], self._some.images[: timing.PARITY_IMAGES], protocol)
        return found.candidate["latency.ratio"].estimate

    @cached_property
    def _whole_onnx(self) -> bytes:
        return self._exported(self._whole)

    def _exported(self, network: nn.Module) -> bytes:
        bundle = self._probing.bundle
        return export.export_onnx(
            network.eval(), input_shape=self._shape, mean=bundle.mean, std=bundle.std,
            opset=self._probing.export.opset, templates=self._templates,
        )  # fmt: skip
