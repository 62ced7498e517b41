"""Corrupted images are made in a thread beside the inference; what is measured does not depend on it."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesafe.corruptions import corrupt
from edgesafe.corruptions.noise import alias_table
from edgesafe.corruptions.tables import NAMES, Profile
from edgesafe.errors import DataError
from edgesafe.records import Task
from edgesafe.stages import observe

N, CLASSES = 40, 3
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)


class Source:
    """Makes corrupted images and remembers where and how many at once."""

    names = NAMES

    def __init__(self) -> None:
        self.made: list[tuple[str, str, int]] = []

    def cell(self, corruption: str, severity: int, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.made.append((threading.current_thread().name, corruption, len(indices)))
        if corruption == "fog":
            raise DataError("no fog today", where="fog")
        return corrupt(IMAGES[indices], indices, corruption, severity)


class Sums:
    """A classifier whose logits are sums of channels."""

    def logits(self, images: Any, batch_size: int) -> NDArray[np.float32]:
        parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        return np.concatenate([np.asarray(part, np.float32).sum((1, 2)) / 1e4 for part in parts])


def bench(cores: int, source: Source) -> Any:
    test = SimpleNamespace(images=IMAGES, labels=np.arange(N) % CLASSES, task=Task.classes(("a", "b", "c")))
    return SimpleNamespace(test=test, source=source, cores=cores, section=SimpleNamespace(batch_size=8))


def wanted(*names: str) -> dict[tuple[str, int], NDArray[np.int64]]:
    return {(name, severity): np.arange(0, N, 2) for name in names for severity in (1, 5)}


def test_the_same_cells_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_MADE_BYTES", 8 * 16 * 16 * 3)  # one batch at a time
    cells, sources = [], []
    for cores in (1, 2):
        sources.append(Source())
        counted: list[int] = []
        cells.append(
            observe.corrupted(Sums(), bench(cores, sources[-1]), wanted("gaussian_noise", "snow"), counted.append)
        )
        assert sum(counted) == 4 * 20
    for key, cell in cells[0].items():
        for field in ("index", "label", "prediction", "confidence", "nll", "margin"):
            assert np.array_equal(getattr(cell, field), getattr(cells[1][key], field))
    alone, beside = ([(name, count) for _, name, count in sorted(source.made)] for source in sources)
    assert sorted(alone) == sorted(beside)  # nothing is made twice, or more at once
    main = threading.current_thread().name
    assert {thread for thread, _, _ in sources[0].made} == {main}
    assert main not in {thread for thread, _, _ in sources[1].made}


def test_an_error_while_making_is_the_error_of_the_cell() -> None:
    with pytest.raises(DataError, match="no fog today"):
        observe.corrupted(Sums(), bench(2, Source()), wanted("snow", "fog"), lambda _: None)


def test_tables_of_all_noises_are_built_once() -> None:
    keys = [(name, severity) for name in ("gaussian_noise", "shot_noise", "impulse_noise") for severity in range(1, 6)]
    for _ in range(2):
        for name, severity in keys:
            alias_table(name, Profile.CIFAR, severity)
    before = alias_table.cache_info()
    for name, severity in keys:
        alias_table(name, Profile.CIFAR, severity)
    assert alias_table.cache_info().misses == before.misses
    assert alias_table.cache_info().hits == before.hits + len(keys)
