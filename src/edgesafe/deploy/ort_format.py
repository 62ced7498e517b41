"""ONNX files in onnxruntime's own format (.ort), for a platform, with the operators that a minimal build needs.

Never what is published by default: the usual .ort file leaves out the blocked convolutions of x86 and takes 1.9 times
as long there, and one with them runs on processors of that kind only. So the platform is always named. Equal files give
.ort files of equal content, but not of equal bytes: onnxruntime writes tables in the order of their addresses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import onnxruntime as ort

from edgesafe.errors import RefusedError

__all__ = ["OrtFile", "Platform", "runs_here", "to_ort"]


class Platform(StrEnum):
    """The kind of processor that an .ort file is optimised for."""

    AMD64 = "amd64"  #: with the blocked convolutions of the processor it is made on: AVX-512, AVX2, …
    ARM = "arm"  #: without them


@dataclass(frozen=True)
class OrtFile:
    """A file in onnxruntime's format.

    Attributes:
        content: its bytes.
        operators: the configuration that a minimal build of onnxruntime takes (`--include_ops_by_config`): the
            operators and types that occur in the file.
    """

    content: bytes
    operators: bytes


def runs_here(platform: Platform) -> bool:
    """Whether this machine is of the kind that a file is made for; files for ARM run on x86, too, only slower."""
    return platform is Platform.ARM or os.uname().machine in ("x86_64", "amd64")


def to_ort(model: bytes, platform: Platform) -> OrtFile:
    """Convert an ONNX file as onnxruntime's own `convert_onnx_models_to_ort --optimization_style Fixed` does.

    Args:
        model: the ONNX file.
        platform: what it is optimised for; AMD64 takes the blocks of this machine's processor.

    Raises:
        RefusedError: onnxruntime cannot convert it, or not on this machine.
    """
    if not runs_here(platform):
        raise RefusedError("can only be made on such a machine", where=f".ort for {platform}", fix="make it there")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # a warning says that the file depends on the processor: so does its platform
    options.add_session_config_entry("session.save_model_format", "ORT")
    without = None if platform is Platform.AMD64 else ["NchwcTransformer"]
    with tempfile.TemporaryDirectory(prefix="edgesafe-ort-") as scratch:
        path = Path(scratch) / "model.ort"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=without)
        except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
            said = " ".join(str(error).split())[:200]
            raise RefusedError(
                f"onnxruntime cannot convert it: {said}", where=".ort", fix="ship the ONNX file"
            ) from None
        return OrtFile(path.read_bytes(), _operators(path))


_LIST = (
    "import pathlib, sys; from onnxruntime.tools.ort_format_model import create_config_from_models as create; "
    "create([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]), True)"
)


def _operators(path: Path) -> bytes:
    """The configuration for a minimal build, with the types of each operator.

    In a process of its own: onnxruntime's tools set up logging for whoever imports them.
    """
    config = path.with_name("operators.config")
    command = [sys.executable, "-I", "-c", _LIST, str(path), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603 - no shell
    if done.returncode:
        said = " ".join(done.stderr.split())[-200:]
        raise RefusedError(f"its operators cannot be listed: {said}", where=".ort", fix="ship the ONNX file")
    # The first lines name the scratch folder.
    lines = [line for line in config.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return ("\n".join(lines).strip() + "\n").encode()
