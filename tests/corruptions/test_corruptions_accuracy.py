"""The network sees the same corruptions: benchmarks/corruptions_accuracy.py within its bounds (minutes)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgesafe import corruptions

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.data, pytest.mark.timeout(1800)]


def run(*options: str) -> None:
    shared = Path(os.environ.get("EDGESAFE_SHARED", ROOT.parent / "shared")) / "data"
    cifar = Path(os.environ.get("EDGESAFE_DATA", ROOT / "data")) / "cifar10.npz"
    if not (shared / "reference_accuracy.json").is_file():
        pytest.skip("reference_accuracy.json absent: set EDGESAFE_SHARED")
    if not cifar.is_file():
        pytest.skip("CIFAR-10 absent: edgesafe fetch cifar10, or set EDGESAFE_DATA")
    pytest.importorskip("torch", reason="exporting the ResNet-20 needs torch")
    script = ROOT / "benchmarks" / "corruptions_accuracy.py"
    command = [sys.executable, str(script), "--cifar", str(cifar), "--shared", str(shared), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all within bounds" in done.stdout


def test_accuracy_of_all_cells_with_the_photographs():
    if corruptions.installed_photographs() is None:
        pytest.skip("no frost photographs: pip install --no-deps imagecorruptions")
    run("--frost", "imagecorruptions")


def test_accuracy_under_procedural_frost():
    run("--only", "frost", "--seeds", "0", "1")
