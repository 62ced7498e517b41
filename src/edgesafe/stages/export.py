"""The files of a variant: exported, proven equal to what they came from, and only then written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgesafe import data
from edgesafe.deploy import (
    export,
    int8,
    parity,
    sparse,
    temperature,
    transport,
)
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.metrics import temperature as temperature_fit
from edgesafe.measure.tasks import rules_of
from edgesafe.recipe.sections import ExportSection
from edgesafe.records import (
    Artefact,
    DataBundle,
    Parity,
    Temperature,
)
from edgesafe.study.writer import Files
from edgesafe.surgery import rebuild

__all__ = ["ExportOrder", "Exported", "ship"]

_PARITY_IMAGES = 512  # validation images on which torch and onnxruntime must agree
_CALIBRATION_IMAGES = 512  # training images from which int8 ranges are read


@dataclass(frozen=True)
class ExportOrder:
    """The files that `ship` is asked to make of a network.

    Attributes:
        section: the recipe's [export].
        bundle: validation images prove parity and fit the temperature; training images give int8 ranges.
        sparse: the variant is unstructured: store it sparse, too.
        provider: execution provider.
        threads: of onnxruntime, for the temperature's logits.
    """

    section: ExportSection
    bundle: DataBundle
    sparse: bool
    provider: str
    threads: int


@dataclass(frozen=True)
class Exported:
    """The files of a variant and what was proven about them."""

    onnx: bytes
    artefacts: tuple[Artefact, ...]
    parity: tuple[Parity, ...]
    temperature: Temperature | None


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
    section, bundle = order.section, order.bundle
    images = bundle.validation.images[:_PARITY_IMAGES]
    height, width, channels = images.shape[1:]
    mean, std = bundle.mean, bundle.std
    write("model.safetensors", rebuild.save_bytes(model, sparse=order.sparse, metadata={"variant": variant}))
    onnx = export.export_onnx(model, input_shape=(height, width, channels), mean=mean, std=std, opset=section.opset)
    checks = [parity.check_torch(model, onnx, images, mean, std, "model.onnx")]
    write("model.onnx", onnx, compressed=transport.transport_bytes(onnx))
    if order.sparse and section.sparse:
        inflating = sparse.inflate(onnx)
        sparse.assert_folds(inflating)
        checks.append(parity.check_files(inflating, onnx, images, file="model.sparse.onnx", bit_equal=True))
        write("model.sparse.onnx", inflating, compressed=transport.transport_bytes(inflating))
    if section.int8:
        quantised = int8.quantise(onnx, data.first(bundle.train, _CALIBRATION_IMAGES).images)
        checks.append(parity.observe_files(quantised, onnx, images, file="model.int8.onnx"))
        write("model.int8.onnx", quantised, compressed=transport.transport_bytes(quantised))
    calibrated = rules_of(bundle.task).calibrated
    fitted = _fitted(onnx, order) if section.temperature and calibrated else None
    if fitted is not None:
        write("model.calibrated.onnx", temperature.fold(onnx, fitted.value))
    return Exported(onnx, tuple(write.artefacts), tuple(checks), fitted)


def _fitted(onnx: bytes, order: ExportOrder) -> Temperature:
    """The temperature, fitted on the validation images with the logits of the exported file."""
    held_out = order.bundle.validation
    logits = OnnxClassifier(onnx, threads=order.threads, provider=order.provider).logits(held_out.images)
    value, before, after = temperature_fit.fit(logits, held_out.labels)
    return Temperature(value=value, nll_before=before, nll_after=after, n=len(held_out), data_sha256=held_out.sha256)
