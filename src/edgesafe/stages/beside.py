"""Work on several threads whose results come in order, with a bounded number of them under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["mapped"]

T = TypeVar("T")
R = TypeVar("R")


def mapped(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """As `map`, on threads: onnxruntime, NumPy and hashing work outside Python's lock.

    Args:
        work: called with each item; what it raises is raised in the place of its result, and no further item is begun.
        items: drawn as threads become free, in the caller's thread.
        at_once: threads, >= 1; 1: everything in the caller's thread. At most twice as many items are under way or done
            and not yet taken.

    Yields:
        The results, in the order of the items.
    """
    if at_once == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
