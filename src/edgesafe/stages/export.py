"""The files of a variant: exported or converted, proven to be what they came from, and only then written."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from edgesafe import data
from edgesafe.deploy import (
    export,
    fp16,
    int8,
    parity,
    sparse,
    temperature,
    transport,
)
from edgesafe.deploy.template import Templates
from edgesafe.errors import UsageError
from edgesafe.files import sha256_bytes
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.metrics import temperature as temperature_fit
from edgesafe.measure.tasks import rules_of
from edgesafe.recipe.sections import ExportSection
from edgesafe.records import (
    Artefact,
    Conversion,
    DataBundle,
    Parity,
    Precision,
    RangeMethod,
    Temperature,
)
from edgesafe.study.writer import Files
from edgesafe.surgery import rebuild

__all__ = ["ExportOrder", "Exported", "Source", "convert", "ship"]

_PARITY_IMAGES = 512  # validation images on which torch and onnxruntime must agree


@dataclass(frozen=True)
class ExportOrder:
    """The files that are to be made of a network.

    Attributes:
        section: the recipe's [export].
        bundle: validation images prove parity and fit the temperature; training images give int8 ranges.
        sparse: the variant is unstructured: store it sparse, too.
        provider: execution provider.
        threads: of onnxruntime, for the temperature's logits.
        int8_step: output channels that the target's int8 kernels take at a time.
        templates: graphs of the study's networks that were exported before.
        calibrate: model.onnx has the fitted temperature inside.
    """

    section: ExportSection
    bundle: DataBundle
    sparse: bool
    provider: str
    threads: int
    int8_step: int = 16
    templates: Templates = field(default_factory=Templates)
    calibrate: bool = False


@dataclass(frozen=True)
class Source:
    """What a file of another precision is converted from.

    Attributes:
        sibling: id of the fp32 variant.
        onnx: its model.onnx, as it was hashed.
        precision: what to convert it to.
    """

    sibling: str
    onnx: bytes
    precision: Precision


@dataclass(frozen=True)
class Exported:
    """The files of a variant and what was proven about them; `conversion` where they were converted.

    `temperature` is that of model.calibrated.onnx, `calibrated` the one inside model.onnx.
    """

    onnx: bytes
    artefacts: tuple[Artefact, ...]
    parity: tuple[Parity, ...]
    temperature: Temperature | None
    conversion: Conversion | None = None
    calibrated: Temperature | None = None


def ship(model: nn.Module, order: ExportOrder, write: Files, variant: str) -> Exported:
    """Export a network.

    Args:
        model: in eval mode.
        order: see `ExportOrder`.
        write: writes a file of the variant.
        variant: its id, kept in the weights file.

    Raises:
        ParityError: a file does not give the network's logits, or not the dense file's bits.
        EdgesafeError: the network cannot be exported.
    """
    bundle = order.bundle
    images = bundle.validation.images[:_PARITY_IMAGES]
    height, width, channels = images.shape[1:]
    mean, std = bundle.mean, bundle.std
    write("model.safetensors", rebuild.save_bytes(model, sparse=order.sparse, metadata={"variant": variant}))
    onnx = export.export_onnx(
        model, input_shape=(height, width, channels), mean=mean, std=std, opset=order.section.opset,
        templates=order.templates,
    )  # fmt: skip
    rules, inside = rules_of(bundle.task), None
    if order.calibrate:
        if not rules.calibrated:
            what = f"a temperature is for classifiers, not for {bundle.task.kind.value}"
            raise UsageError(what, where="compress.calibrate", fix="leave it out")
        inside = _fitted(onnx, order)
        onnx, model = temperature.fold(onnx, inside.value), _Divided(model, inside.value)
    proven = parity.check_torch(model, onnx, images, mean, std, ranked=rules.ranked)
    more, fitted = _written(onnx, order, write)
    return Exported(onnx, tuple(write.artefacts), (proven, *more), fitted, calibrated=inside)


class _Divided(nn.Module):
    """A classifier whose logits are divided by a temperature."""

    def __init__(self, network: nn.Module, by: float) -> None:
        super().__init__()
        self.network, self.by = network, torch.tensor(by)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits / self.by


def convert(source: Source, order: ExportOrder, write: Files) -> Exported:
    """Convert the file of an fp32 variant to another precision. Nothing is pruned or trained again.

    Args:
        source: see `Source`.
        order: see `ExportOrder`.
        write: writes a file of the variant.

    Raises:
        RefusedError: a layer cannot be converted.
        ParityError: the sparse file does not give the dense file's bits.
        NonFiniteError: the file gives a NaN or an infinity.
    """
    bundle, told = order.bundle, {}
    if source.precision is Precision.INT8:
        ranged = data.first(bundle.train, order.section.calibration_images)
        made = int8.quantise(source.onnx, ranged.images[:], step=order.int8_step)
        onnx = made.onnx
        told = {
            "images": len(ranged), "images_sha256": ranged.sha256, "ranges": RangeMethod.MIN_MAX,
            "float_layers": made.float_layers, "packed_layers": made.packed_layers,
        }  # fmt: skip
    else:
        onnx = fp16.convert(source.onnx)
    few, ranked = bundle.validation.images[:_PARITY_IMAGES], rules_of(bundle.task).ranked
    seen = parity.agreement(onnx, source.onnx, few, ranked=ranked)
    checks, fitted = _written(onnx, order, write)
    conversion = Conversion(sibling=source.sibling, onnx_sha256=sha256_bytes(source.onnx), agreement=seen, **told)
    return Exported(onnx, tuple(write.artefacts), checks, fitted, conversion)


def _written(onnx: bytes, order: ExportOrder, write: Files) -> tuple[tuple[Parity, ...], Temperature | None]:
    """Write model.onnx and what goes beside it; what was proven of the files beside it, and the temperature."""
    section, checks = order.section, []
    rules = rules_of(order.bundle.task)
    write("model.onnx", onnx, compressed=transport.transport_bytes(onnx))
    if order.sparse and section.sparse:
        inflating = sparse.inflate(onnx)
        sparse.assert_folds(inflating)
        images = order.bundle.validation.images[:_PARITY_IMAGES]
        checks.append(parity.check_files(inflating, onnx, images, ranked=rules.ranked))
        write("model.sparse.onnx", inflating, compressed=transport.transport_bytes(inflating))
    beside = section.temperature and rules.calibrated and not order.calibrate
    fitted = _fitted(onnx, order) if beside else None
    if fitted is not None:
        write("model.calibrated.onnx", temperature.fold(onnx, fitted.value))
    return tuple(checks), fitted


def _fitted(onnx: bytes, order: ExportOrder) -> Temperature:
    """The temperature, fitted on the validation images with the logits of the exported file."""
    held_out = order.bundle.validation
    logits = OnnxClassifier(onnx, threads=order.threads, provider=order.provider).logits(held_out.images)
    value, before, after = temperature_fit.fit(logits, held_out.labels)
    return Temperature(value=value, nll_before=before, nll_after=after, n=len(held_out), data_sha256=held_out.sha256)
