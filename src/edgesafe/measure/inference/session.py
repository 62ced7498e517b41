"""ONNX classifiers under onnxruntime: the file that ships is the thing that is measured."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from edgesafe.errors import (
    DataError,
    NonFiniteError,
    NothingEvaluated,
    RefusedError,
    UsageError,
    hint,
)
from edgesafe.measure.inference import foreign, protos
from edgesafe.measure.inference.independence import require_fixed_operators
from edgesafe.measure.inference.inputs import OURS, InputSpec, prepare, to_logits, whole_batches
from edgesafe.records import Images

__all__ = ["OnnxClassifier", "input_of", "open_session", "require_provider"]

_CPU = "CPUExecutionProvider"
_ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(_state, name)
    for name in (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel",
        "NoSuchFile", "NotImplemented", "RuntimeException",
    )
    if hasattr(_state, name)
)  # fmt: skip
_DTYPES: dict[str, Literal["uint8", "float32"]] = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_MOST_PIXELS = 1 << 28  # numbers in one run of a file that fixes its sizes: a GiB as float32


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def require_provider(provider: str, where: str) -> None:
    """Refuse an execution provider that this onnxruntime does not have.

    Raises:
        UsageError: no such provider, or it is not in this build.
    """
    have = ort.get_available_providers()
    if provider in have:
        return
    instead = f"install a build that has it, or use one of {', '.join(have)}"
    fix = instead if provider in ort.get_all_providers() else hint(provider, ort.get_all_providers(), instead)
    raise UsageError(f"no {provider} in this onnxruntime", where=where, fix=fix)


def open_session(data: bytes, *, threads: int, provider: str = _CPU, where: str = "model") -> ort.InferenceSession:
    """A session with all graph optimisations on exactly one execution provider.

    onnxruntime falls back to the CPU with a mere warning when a provider is absent; here that is an error.

    Args:
        data: an ONNX file.
        threads: intra-op threads, >= 1; inter-op is 1.
        provider: for example "CPUExecutionProvider".
        where: named in messages.

    Raises:
        UsageError: no such provider in this build, threads < 1, or not a valid ONNX file.
        RefusedError: the session does not run on the provider asked for.
    """
    if threads < 1:
        raise UsageError(f"{threads} threads", where=where, fix="give 1 or more")
    require_provider(provider, where)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors reach us as exceptions
    if provider != _CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(data, options, providers=[provider])
    except _ORT_ERRORS as e:
        raise UsageError(
            f"onnxruntime cannot open it: {_first_line(e)}", where=where, fix="export it again, as one file"
        ) from e
    got = session.get_providers()
    if got[0] != provider or (provider == _CPU and got != [_CPU]):
        raise RefusedError(
            f"asked for {provider}, got {', '.join(got)}", where=where, fix="mend the provider's installation"
        )
    return session


class OnnxClassifier:
    """An ONNX image classifier.

    Args:
        model: a file or its bytes.
        threads: intra-op threads.
        provider: the execution provider; no other is accepted in its place.
        input_spec: None: a file of edgesafe's own (`image` uint8 NHWC in, `logits` out); see `detect` for others.

    Attributes:
        sha256: "sha256:…" of the file.
        providers: of the session, as onnxruntime reports them.
        num_classes: K.
        input_shape: (H, W, C), or None where the file leaves them open.
        input_spec: what it expects.
        batch: the batch size that the file fixes, or None.
        quantised: whether it rounds to integers on the way, so that sums in another order may differ by a step.

    Raises:
        UsageError: no such file, not ONNX, not whole, no such input or output, sizes beyond reason, provider absent.
        RefusedError: the session runs elsewhere than asked, is not a classifier of K >= 2 classes, or has operators
            that answer by chance or by the batch.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 1,
        provider: str = _CPU,
        input_spec: InputSpec | None = None,
    ) -> None:
        self.name = "model" if isinstance(model, bytes) else str(model)
        data = model if isinstance(model, bytes) else foreign.read(model)
        tree = foreign.require_whole(data, self.name)
        require_fixed_operators(tree, self.name)
        self.quantised = any("Quant" in node.op_type or "Integer" in node.op_type for node in protos.nodes(tree))
        self.sha256 = "sha256:" + hashlib.sha256(data).hexdigest()
        self.threads = threads
        self._session = open_session(data, threads=threads, provider=provider, where=self.name)
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        self.input_spec = OURS if input_spec is None else input_spec
        self._in = _pick(self._session.get_inputs(), self.input_spec.input_name, "input", self.name)
        self._out = _pick(self._session.get_outputs(), self.input_spec.output_name, "output", self.name)
        extra = [i.name for i in self._session.get_inputs() if i.name != self._in.name]
        if extra:
            raise UsageError(
                f"more than one input ({', '.join(extra)})", where=self.name, fix="export with one image input"
            )
        if _DTYPES.get(self._in.type) != self.input_spec.dtype:
            raise UsageError(
                f"input '{self._in.name}' is {self._in.type}, not {self.input_spec.dtype}",
                where=self.name,
                fix="state its type and normalisation",
            )
        shape = self._in.shape
        if len(shape) != 4:
            raise UsageError(
                f"input '{self._in.name}' has {len(shape)} dimensions, not 4",
                where=self.name,
                fix="give an image classifier",
            )
        self.batch: int | None = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        h, w, c = (shape[1], shape[2], shape[3]) if self.input_spec.layout == "NHWC" else (shape[2], shape[3], shape[1])
        known = all(isinstance(v, int) and v > 0 for v in (h, w, c))
        if math.prod(v for v in shape if isinstance(v, int)) > _MOST_PIXELS:
            raise UsageError(
                f"input '{self._in.name}' has shape {shape}, over {_MOST_PIXELS:,} numbers a run",
                where=self.name,
                fix="export with an open batch size, or a smaller one",
            )
        self.input_shape: tuple[int, int, int] | None = (h, w, c) if known else None
        self.num_classes = self._classes()

    def _classes(self) -> int:
        shape = self._out.shape
        if len(shape) != 2:
            raise RefusedError(
                f"output '{self._out.name}' has shape {shape}, not (n, K)", where=self.name, fix="give a classifier"
            )
        k = shape[1]
        if not isinstance(k, int):
            if self.input_shape is None:
                raise UsageError(
                    "neither image size nor number of classes is in the file",
                    where=self.name,
                    fix="export with fixed sizes",
                )
            k = self.scores(np.zeros((1, *self.input_shape), np.uint8), 1).shape[1]
        if k < 2:
            raise RefusedError(
                f"output '{self._out.name}' has {k} class(es)",
                where=self.name,
                fix="give a classifier of two or more classes",
            )
        return int(k)

    def scores(self, images: Images, batch_size: int = 32) -> NDArray[np.float32]:
        """What the file puts out, logits or probabilities.

        Args:
            images: uint8 (n, H, W, C), n >= 1; asked for batch by batch, so they need not be in memory.
            batch_size: images per run; a file with a fixed batch size is run with that one.

        Returns:
            float32 (n, K), finite.

        Raises:
            NothingEvaluated: n = 0.
            DataError: images of another type or size than the file takes.
            NonFiniteError: the file puts out NaN or infinity.
            RefusedError: the run fails.
        """
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(f"images are {images.dtype} {images.shape}", where=self.name, fix="give uint8 (n, H, W, C)")
        if len(images) == 0:
            raise NothingEvaluated("no images", where=self.name, fix="give at least one")
        if self.input_shape is not None and tuple(images.shape[1:]) != self.input_shape:
            raise DataError(
                f"images are {images.shape[1:]}, the file takes {self.input_shape}",
                where=self.name,
                fix="use its data set",
            )
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}", where="batch_size", fix="give 1 or more")
        size = self.batch or batch_size
        n = len(images)
        try:
            parts = [self._run(images[a : a + size], size) for a in range(0, n, size)]
        except _ORT_ERRORS as e:
            raise RefusedError(
                f"the file does not run: {_first_line(e)}", where=self.name, fix="export it again"
            ) from e
        out = np.concatenate(parts)
        if out.ndim != 2 or out.shape[0] != n:
            raise RefusedError(
                f"output of shape {out.shape} for {n} images",
                where=self.name,
                fix="give a classifier with one row per image",
            )
        if not np.isfinite(out).all():
            bad = int((~np.isfinite(out)).any(axis=1).sum())
            raise NonFiniteError(
                f"{bad} of {n} output rows hold NaN or infinity",
                where=self.name,
                fix="repair the network before export",
            )
        return out

    def _run(self, batch: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
        spec = self.input_spec
        if spec.dtype != "uint8" or spec.layout != "NHWC" or spec.channels != "RGB":
            x = prepare(batch, spec)
        else:
            x = batch if batch.flags.c_contiguous else np.ascontiguousarray(batch)
        short = size - len(x) if self.batch else 0
        out = self._session.run([self._out.name], {self._in.name: whole_batches(x, self.batch)})[0]
        if out.dtype != np.float32:
            raise RefusedError(
                f"output is {out.dtype}, not float32", where=self.name, fix="export with a float32 output"
            )
        result: NDArray[np.float32] = out[: len(out) - short] if short else out
        return result

    def logits(self, images: Images, batch_size: int = 32) -> NDArray[np.float32]:
        """Logits of images (of probabilities: their logarithms).

        Args:
            images: uint8 (n, H, W, C), n >= 1; asked for batch by batch.
            batch_size: images per run.

        Returns:
            float32 (n, K), finite.

        Raises:
            NothingEvaluated, DataError, NonFiniteError, RefusedError: see `scores`.
        """
        return to_logits(self.scores(images, batch_size), self.input_spec)

    def runner(self, batch: NDArray[np.uint8]) -> Callable[[], Any]:
        """A call that runs one prepared batch, for timing: nothing but `InferenceSession.run` inside.

        Args:
            batch: uint8 (n, H, W, C); filled up with copies of the last to the batch size that the file fixes.
        """
        feed = {self._in.name: whole_batches(prepare(batch, self.input_spec), self.batch)}
        return partial(self._session.run, [self._out.name], feed)


def _pick(nodes: Sequence[Any], name: str, kind: str, where: str) -> Any:
    if not nodes:
        raise UsageError(f"no {kind}", where=where, fix="give an image classifier")
    if not name:
        return nodes[0]
    for node in nodes:
        if node.name == name:
            return node
    have = ", ".join(n.name for n in nodes)
    raise UsageError(
        f"no {kind} named '{name}' (it has: {have})", where=where, fix=f"state the {kind}, layout and normalisation"
    )


def input_of(content: bytes, provider: str = _CPU) -> tuple[Any, str, Literal["uint8", "float32"]]:
    """The image input of a file (name, type, shape), the name of its first output, and the type of its pixels.

    Raises:
        UsageError: there is none of a known type.
    """
    foreign.require_whole(content, "model")
    session = open_session(content, threads=1, provider=provider)
    node = _pick(session.get_inputs(), "", "input", "model")
    output = _pick(session.get_outputs(), "", "output", "model")
    dtype = _DTYPES.get(node.type)
    if dtype is None or len(node.shape) != 4:
        raise UsageError(
            f"input '{node.name}' is {node.type} {node.shape}", where="model", fix="give a uint8 or float32 image input"
        )
    return node, output.name, dtype
