"""Threads make corrupted images and run them, each its own; what is measured does not depend on how many there are."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgesafe.corruptions import corrupt
from edgesafe.corruptions.noise import alias_table
from edgesafe.corruptions.tables import NAMES, Profile
from edgesafe.errors import DataError, NothingEvaluated
from edgesafe.records import Cell, Task
from edgesafe.stages import observe
from edgesafe.stages.beside import mapped

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
    """A classifier whose logits are sums of channels; every second piece takes its time."""

    batch = None

    def __init__(self) -> None:
        self.ran: list[int] = []

    def logits(self, images: Any, batch_size: int) -> NDArray[np.float32]:
        self.ran.append(len(images))
        time.sleep(0.002 * (len(self.ran) % 2))
        parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        return np.concatenate([np.asarray(part, np.float32).sum((1, 2)) / 1e4 for part in parts])


def bench(cores: int, source: Source) -> Any:
    test = SimpleNamespace(images=IMAGES, labels=np.arange(N) % CLASSES, task=Task.classes(("a", "b", "c")))
    return SimpleNamespace(test=test, source=source, at_once=cores, section=SimpleNamespace(batch_size=8))


def wanted(*names: str) -> dict[tuple[str, int], NDArray[np.int64]]:
    return {(name, severity): np.arange(0, N, 2) for name in names for severity in (1, 5)}


def equal(one: Cell, other: Cell) -> bool:
    fields = ("corruption", "severity", "index", "label", "prediction", "confidence", "nll", "margin")
    return all(np.array_equal(getattr(one, field), getattr(other, field)) for field in fields)


def test_the_same_cells_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_PIECE_BYTES", 8 * 16 * 16 * 3)  # one batch at a time
    cells, sources = [], []
    for threads in (1, 2, 5):
        sources.append(Source())
        counted: list[int] = []
        cells.append(
            observe.corrupted(Sums(), bench(threads, sources[-1]), wanted("gaussian_noise", "snow"), counted.append)
        )
        assert counted == [20] * 4
    for others in cells[1:]:
        assert others.keys() == cells[0].keys()
        assert all(equal(cell, others[key]) for key, cell in cells[0].items())
    made = [sorted((name, count) for _, name, count in source.made) for source in sources]
    assert made[0] == made[1] == made[2]  # nothing is made twice, or more at once
    main = threading.current_thread().name
    assert {thread for thread, _, _ in sources[0].made} == {main}
    assert main not in {thread for thread, _, _ in sources[1].made}


def test_the_same_clean_images_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_PIECE_BYTES", 2 * 8 * 16 * 16 * 3)
    indices, found = np.arange(3, N), []
    assert [s.stop - s.start for s in observe._pieces(Sums(), bench(1, Source()), 37, 64)] == [16, 16, 16]
    assert [s.stop - s.start for s in observe._pieces(Sums(), bench(1, Source()), 37, 1000)] == [16, 16, 16]  # at most
    for threads in (1, 3):
        sums = Sums()
        found.append(observe.clean(sums, bench(threads, Source()), indices))
        assert sorted(sums.ran) == [5, 8, 8, 8, 8]  # whole batches, then the rest
    assert equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
    assert np.array_equal(found[0][1], np.asarray(IMAGES[3:], np.float32).sum((1, 2)) / 1e4)


def test_an_error_while_making_is_the_error_of_the_cell() -> None:
    with pytest.raises(DataError, match="no fog today"):
        observe.corrupted(Sums(), bench(2, Source()), wanted("snow", "fog"), lambda _: None)


def test_a_cell_without_images_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Sums):
        def logits(self, images: Any, batch_size: int) -> NDArray[np.float32]:
            if not len(images):
                raise NothingEvaluated("no images", where="model")
            return super().logits(images, batch_size)

    with pytest.raises(NothingEvaluated):
        observe.corrupted(Refusing(), bench(2, Source()), {("snow", 1): np.arange(0)}, lambda _: None)


@given(items=st.lists(st.integers(), max_size=30), at_once=st.integers(1, 6))
def test_results_come_in_order_and_few_are_under_way(items: list[int], at_once: int) -> None:
    begun: list[int] = []
    for taken, result in enumerate(mapped(lambda x: begun.append(x) or -x, items, at_once)):
        assert result == -items[taken]
        assert len(begun) - taken <= 2 * at_once
    assert sorted(begun) == sorted(items)


def test_after_an_error_no_more_is_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return 1 // (item - 3)

    with pytest.raises(ZeroDivisionError):
        list(mapped(work, range(1000), 2))
    assert len(begun) < 12


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (2, 2), (6, 6), (8, 8), (11, 1), (12, 6), (64, 8)])
def test_all_cores_are_used(cores: int, at_once: int) -> None:
    found = observe.Bench(*[None] * 7, threads=cores).at_once  # type: ignore[arg-type]
    assert found == at_once
    assert cores % found == 0


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
