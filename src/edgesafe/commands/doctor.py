"""`edgesafe doctor`: what this machine can do, what it lacks, what will be slow and why."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from edgesafe.records import DoctorResult, Fact
from edgesafe.study.host import host

__all__ = ["examine", "features"]

_BASE = ("edgesafe", "numpy", "onnx", "onnxruntime", "pillow", "pydantic", "rich", "typer")
_EXTRAS = {
    "compress": ("torch", "torchvision", "torch-pruning", "onnxscript", "safetensors"),
    "report": ("jinja2", "matplotlib"),
    "timm": ("timm",),
}
_SMALL_DISK = 2_000_000_000  # bytes: a CIFAR-10 study of seven variants takes 100 MB, its data 180 MB, torch 1 GB

#: Instruction sets in /proc/cpuinfo: flag (x86: flags, arm64: Features) -> name, what it is good for.
_FLAGS = {
    "avx2": ("AVX2", "float32, 8 numbers at a time"),
    "avx512f": ("AVX-512", "float32, 16 numbers at a time"),
    "avx512_vnni": ("AVX-512 VNNI", "int8 dot products"),
    "avx_vnni": ("AVX-VNNI", "int8 dot products"),
    "amx_int8": ("AMX int8", "int8 matrix tiles"),
    "amx_bf16": ("AMX bfloat16", "bfloat16 matrix tiles"),
    "asimd": ("NEON", "float32, 4 numbers at a time"),
    "asimddp": ("NEON dot product", "int8 dot products"),
    "i8mm": ("NEON i8mm", "int8 matrix products"),
    "sve": ("SVE", "wider vectors"),
}
_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def examine(root: Path = Path("data"), out: Path = Path()) -> DoctorResult:
    """Look at system, processor, packages, runtime, data and disk, and give advice where something is missing or slow.

    Args:
        root: where data sets are looked for.
        out: where studies will be written.
    """
    facts = (*_system(), *_processor(), *_packages(), *_runtime(), *_data(root), *_disk(out))
    return DoctorResult(command="doctor", facts=facts)


def features(cpuinfo: str) -> tuple[str, ...]:
    """The flags of /proc/cpuinfo that we have a name for, in our order.

    Args:
        cpuinfo: the file's text; "" where there is none.
    """
    said: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            said |= set(value.split())
    return tuple(flag for flag in _FLAGS if flag in said)


def _system() -> Iterator[Fact]:
    here = host()
    yield Fact(topic="system", name="system", value=here.system)
    yield Fact(topic="system", name="python", value=here.python)
    total = os.cpu_count() or here.cores
    few = "training and measuring use every core: 4 or more shorten a study" if here.cores < 4 else ""
    yield Fact(topic="system", name="cores", value=f"{here.cores} of {total}", advice=few)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    small = "networks for 224x224 images want more" if memory < 4e9 else ""
    yield Fact(topic="system", name="memory", value=f"{memory / 1e9:.1f} GB", advice=small)


def _processor() -> Iterator[Fact]:
    yield Fact(topic="processor", name="processor", value=host().cpu)
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    flags = features(cpuinfo)
    for flag in flags:
        name, use = _FLAGS[flag]
        yield Fact(topic="processor", name=name, value=f"yes: {use}")
    if not set(flags) & set(_INT8):
        slow = "int8 files are smaller here, but hardly faster: time them on the device (edgesafe bench)"
        yield Fact(topic="processor", name="int8 instructions", value="none", advice=slow)
    if platform.machine() == "x86_64" and "avx2" not in flags:
        yield Fact(topic="processor", name="AVX2", value="no", advice="float32 runs at a fraction of usual speed")
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        slower = "torch is held to this instruction set; unset it unless that is wanted"
        yield Fact(topic="processor", name="ONEDNN_MAX_CPU_ISA", value=limit, advice=slower)


def _packages() -> Iterator[Fact]:
    for name in _BASE:
        yield Fact(topic="package", name=name, value=_version(name) or "missing")
    for extra, names in _EXTRAS.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        have = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
        fix = f"without {', '.join(missing)}: pip install 'edgesafe[{extra}]'" if missing else ""
        yield Fact(topic="package", name=f"[{extra}]", value=have or "not installed", advice=fix)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _runtime() -> Iterator[Fact]:
    """Onnxruntime's providers, and the graphics processor that torch sees."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    yield Fact(
        topic="runtime",
        name="onnxruntime",
        value=", ".join(name.removesuffix("ExecutionProvider") for name in providers),
    )
    if importlib.util.find_spec("torch") is None:
        yield Fact(topic="runtime", name="torch", value="not installed", advice="no pruning and no training here")
        return
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Fact(topic="runtime", name="GPU", value=", ".join(names))
    else:
        slow = "training runs on the processor: a ResNet-20 takes minutes an epoch on CIFAR-10; give weights instead"
        yield Fact(topic="runtime", name="GPU", value="none that torch can use", advice=slow)


def _data(root: Path) -> Iterator[Fact]:
    yield Fact(topic="data", name="digits", value="embedded")
    there = (root / "cifar10.npz").is_file()
    fix = "" if there else f"edgesafe fetch cifar10 --root {root}"
    yield Fact(topic="data", name="cifar10", value="there" if there else f"not in {root}", advice=fix)


def _disk(out: Path) -> Iterator[Fact]:
    nearest = next((folder for folder in (out.resolve(), *out.resolve().parents) if folder.is_dir()), Path("/"))
    free = shutil.disk_usage(nearest).free
    fix = "free some space: a study and its data take some hundred MB" if free < _SMALL_DISK else ""
    yield Fact(topic="disk", name="free", value=f"{free / 1e9:.1f} GB at {nearest}", advice=fix)
    if not os.access(nearest, os.W_OK):
        yield Fact(topic="disk", name="writable", value=f"no: {nearest}", advice="choose a directory with --out")
