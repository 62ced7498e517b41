"""CIFAR-10's hashes, and how much a data set may take of the memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgesafe.errors import DataError

__all__ = ["CIFAR10_SHA256", "check_cifar10", "memory_budget"]

# SHA-256 of the C-contiguous uint8 arrays, order as in the original data set.
CIFAR10_SHA256 = {
    "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "x_test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}


def memory_budget() -> int:
    """Bytes that a data set may take: half of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def check_cifar10(arrays: Mapping[str, Any], path: Path) -> None:
    """Refuse anything that is not CIFAR-10 to the bit.

    Args:
        arrays: x_train, y_train, x_test, y_test; uint8.
        path: the file that messages name.

    Raises:
        DataError: an array's hash differs.
    """
    for name, expected in CIFAR10_SHA256.items():
        if (
            arrays[name].dtype != np.uint8
            or hashlib.sha256(np.ascontiguousarray(arrays[name]).tobytes()).hexdigest() != expected
        ):
            raise DataError(
                f"{name} is not CIFAR-10's", where=str(path), fix="delete the file and run: edgesafe fetch cifar10"
            )
