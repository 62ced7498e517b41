"""The machine and the packages that a study is made with, as study.json keeps them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from edgesafe.records import Host

__all__ = ["cores", "host", "version"]

_PACKAGES = ("edgesafe", "torch", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def version() -> str:
    """The version of edgesafe; "unknown" where it runs from a directory and was not installed."""
    try:
        return metadata.version("edgesafe")
    except metadata.PackageNotFoundError:
        return "unknown"


def host() -> Host:
    """This machine: CPU name, usable cores, system, Python, versions of what computes."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Host(
        cpu=_cpu(),
        cores=cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions,
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"
