"""Seeded damage: bytes flipped, cut, doubled, moved, replaced by what parsers stumble over."""

from __future__ import annotations

import copy
import random
from typing import Any

BAD_BYTES = (
    b"\x00", b"\xff" * 8, b"\xff\xff\xff\xff\x0f", b"\x80" * 10 + b"\x01", b"\xed\xa0\x80", b"\xc2\xb2", b"\r\n",
    b"\x1b[2J",
    b"[" * 300, b"{" * 300, b"9" * 5000, b"-1", b"1e999", b"nan", b"inf", b"null", b"\\ud800", b"../../../etc/passwd",
    b'"' * 3, b"'''", b"a." * 50, b"\x93NUMPY\x01\x00\xff\xff", b"PK\x03\x04", b"\x80\x04cos\nsystem\n",
    b"18446744073709551616",
)  # fmt: skip


BAD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 0.0, -0.0, 0.5, -1.5, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), -float("inf"), "", " ", "0", "nan", "x" * 5000, "../x", "/etc/passwd", "a\x00b",
    "\x1b[2J", "::error::x", "a\nb", "\ud800", "<script>", "sha256:" + "0" * 64, "\u202e", [], [[]], {}, {"a": 1},
    [None], [0] * 1000, {"schema": "x"},
)  # fmt: skip


def edit(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value in which one value, at any depth, is another, is gone, stands twice, or changed places."""
    whole = copy.deepcopy(value)
    places = [(whole, key) for key in _keys(whole)]
    for parent, key in places:  # grows
        places += [(parent[key], inner) for inner in _keys(parent[key])]
    parent, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        other, there = rng.choice(places)
        parent[key] = copy.deepcopy(other[there])
    elif kind == 2 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == 3 and isinstance(parent[key], int | float):
        parent[key] = type(parent[key])(rng.choice((-1, 2, 1000)) * parent[key])
    else:
        parent[key] = rng.choice(BAD_VALUES)
    return whole


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four kinds of damage, one after the other; the result may equal the original."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        out = _once(out, rng)
    return bytes(out)


def _once(out: bytearray, rng: random.Random) -> bytearray:
    size = len(out)
    a = rng.randrange(size + 1)
    b = min(size, a + rng.choice((1, 1, 2, 4, 8, 64, 1024)))
    kind = rng.randrange(9)
    if kind == 0 and size:  # a bit
        out[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 1:  # a bad value in the place of something
        out[a:b] = rng.choice(BAD_BYTES)
    elif kind == 2:  # a bad value more
        out[a:a] = rng.choice(BAD_BYTES)
    elif kind == 3:  # an end too early
        del out[a:]
    elif kind == 4:  # a piece missing
        del out[a:b]
    elif kind == 5:  # a piece twice
        out[b:b] = out[a:b]
    elif kind == 6 and size:  # a piece elsewhere
        place = rng.randrange(size)
        out[place : place + (b - a)] = out[a:b]
    elif kind == 7 and size:  # zeros
        out[a:b] = bytes(b - a)
    elif kind == 8:  # bytes at random
        out[a:b] = rng.randbytes(b - a)
    return out
