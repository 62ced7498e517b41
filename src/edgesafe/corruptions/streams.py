"""Keyed random numbers: every image, corruption and severity has its own stream, whatever else is drawn.

A word is `mix(key + counter * GOLDEN)`: the SplitMix64 generator (Steele, Lea & Flood, OOPSLA 2014, figure 13), used by
counter. It is ten integer operations per 64 bits, vectorised over images, and gives the same bits on every machine and
with every version of numpy, which numpy's own generators do not promise.

    key of a cell  = first 8 bytes of SHA-256("edgesafe.corruptions/1|seed|corruption|severity")
    key of an image = mix(mix(key of the cell) + image index)
    word j of it    = mix(key of the image + (j + 1) * GOLDEN)
"""

from __future__ import annotations

import hashlib
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream", "normal_quantiles"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, in place: a bijection of 64-bit words that passes for random."""
    spare = z >> np.uint64(30)
    z ^= spare
    z *= _FIRST
    np.right_shift(z, np.uint64(27), out=spare)
    z ^= spare
    z *= _SECOND
    np.right_shift(z, np.uint64(31), out=spare)
    z ^= spare
    return z


@cache
def normal_quantiles() -> NDArray[np.float64]:
    """float64 (65536,): the standard normal's quantiles at (i + 0.5) / 65536, ascending, within +-4.33."""
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / 65536) for i in range(32768, 65536)])
    table = np.concatenate([-upper[::-1], upper])
    table.flags.writeable = False
    return table


class Stream:
    """The random numbers of some images in one cell (corruption, severity).

    Numbers are taken in order: each call goes on where the last one stopped, for all images alike.

    Args:
        seed: the user's seed, 0 <= seed < 2**63.
        corruption: name of the corruption.
        severity: 1..5.
        indices: int64 (n,), positions in the test set.
    """

    def __init__(self, seed: int, corruption: str, severity: int, indices: NDArray[np.int64]) -> None:
        digest = hashlib.sha256(f"edgesafe.corruptions/1|{seed}|{corruption}|{severity}".encode()).digest()
        cell = _mix(np.array([int.from_bytes(digest[:8], "little")], np.uint64))
        self._keys = _mix(indices.astype(np.uint64) + cell)
        self._used = 0

    def _words(self, count: int, *, last: bool) -> NDArray[np.uint64]:
        """uint64 (n, count), or (count, n) with the images in the last axis."""
        steps = np.arange(self._used + 1, self._used + count + 1, dtype=np.uint64) * _GOLDEN
        self._used += count
        return _mix(steps[:, None] + self._keys) if last else _mix(self._keys[:, None] + steps)

    def bits32(self, count: int) -> NDArray[np.uint32]:
        """Uniform random bits, uint32 (n, count)."""
        words = self._words((count + 1) // 2, last=False).astype("<u8", copy=False)
        return words.view("<u4")[:, :count]

    def bits16(self, count: int) -> NDArray[np.uint16]:
        """Uniform random bits, uint16 (n, count)."""
        words = self._words((count + 3) // 4, last=False).astype("<u8", copy=False)
        return words.view("<u2")[:, :count]

    def uniform(self, count: int, *, last: bool = False) -> NDArray[np.float64]:
        """float64 (n, count) in [0, 1), 53 bits; with `last`, (count, n)."""
        words = self._words(count, last=last)
        words >>= np.uint64(11)
        return words.astype(np.float64) * 2.0**-53

    def normal(self, count: int) -> NDArray[np.float32]:
        """float32 (n, count), standard normal by a table of 65,536 quantiles (tails end at 4.33)."""
        return normal_quantiles().astype(np.float32).take(self.bits16(count))

    def integers(self, limit: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """int64 (n,), uniform in [0, limit): one limit for all, or one for each image."""
        return np.floor(self.uniform(1)[:, 0] * limit).astype(np.int64)
