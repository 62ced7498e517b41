"""Seeded damage: bytes flipped, cut, doubled, moved, replaced by what parsers stumble over."""

from __future__ import annotations

import random

BAD_BYTES = (
    b"\x00", b"\xff" * 8, b"\xff\xff\xff\xff\x0f", b"\x80" * 10 + b"\x01", b"\xed\xa0\x80", b"\xc2\xb2", b"\r\n",
    b"\x1b[2J",
    b"[" * 300, b"{" * 300, b"9" * 5000, b"-1", b"1e999", b"nan", b"inf", b"null", b"\\ud800", b"../../../etc/passwd",
    b'"' * 3, b"'''", b"a." * 50, b"\x93NUMPY\x01\x00\xff\xff", b"PK\x03\x04", b"\x80\x04cos\nsystem\n",
    b"18446744073709551616",
)  # fmt: skip


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
