"""Ids of perturbation sets: what a recipe, a policy and a metric id call them.

    brightness=2 | contrast=5% | exposure=5% | gamma=0.8..1.25          one look-up table per image
    contrast=5%,brightness=2                                            point operations in sequence, 8 bits between
    shift=1 | dead-pixel | dead-line | occlusion=4 | jpeg=50..95        faults

Every set has one id: numbers are written without needless zeros, so that "contrast=5.0%" is "contrast=5%".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from edgesafe.certificates import faults, tables
from edgesafe.certificates.faults import Fault
from edgesafe.certificates.sets import FaultSet, FiniteSet, PointSet
from edgesafe.certificates.tables import Tables
from edgesafe.errors import UsageError, hint

__all__ = ["EXAMPLES", "parse"]

EXAMPLES = (
    "brightness=2", "contrast=5%", "exposure=5%", "gamma=0.8..1.25", "contrast=5%,brightness=2",
    "shift=1", "dead-pixel", "dead-line", "occlusion=4", "jpeg=50..95",
)  # fmt: skip
"""One of each kind."""

_MOST_TABLES = 1 << 20  #: of a sequence, equal ones counted apart: 256 MiB
_MOST_STAGES = 3
_NUMBER = re.compile(r"\d{1,4}(\.\d{1,4})?")


@lru_cache(maxsize=32)
def parse(text: str) -> FiniteSet:
    """The set that an id names.

    Raises:
        UsageError: no such set, a parameter out of its range, or a sequence of more tables than memory should hold.
    """
    stages = text.split(",")
    names = [stage.split("=")[0].strip() for stage in stages]
    for name in names:
        if name not in _POINT and name not in _FAULTS:
            raise UsageError(f"no set '{name}'", where=text, fix=hint(name, EXAMPLES))
    if len(stages) == 1 and names[0] in _FAULTS:
        parameter, fault = _FAULTS[names[0]](_parameter(text))
        return FaultSet(names[0] + (f"={parameter}" if parameter else ""), fault)
    single = [name for name in names if name in _FAULTS]
    if single or len(stages) > _MOST_STAGES:
        what = f"'{single[0]}' in a sequence" if single else f"{len(stages)} stages"
        raise UsageError(what, where=text, fix=f"join up to {_MOST_STAGES} of {', '.join(_POINT)}")
    made = [_POINT[name](_parameter(stage)) for name, stage in zip(names, stages, strict=True)]
    product = 1
    for _, stage_tables in made:
        product *= len(stage_tables)
    if product > _MOST_TABLES:
        raise UsageError(f"up to {product:,} images of each image", where=text, fix="give smaller ranges")
    canonical = ",".join(f"{name}={parameter}" for name, (parameter, _) in zip(names, made, strict=True))
    return PointSet(canonical, tables.compose([stage_tables for _, stage_tables in made]), tuple(names))


def _parameter(stage: str) -> str:
    return stage.partition("=")[2].strip()


def _whole(text: str, least: int, most: int, example: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text) or not least <= int(text) <= most:
        raise UsageError(f"'{text}' is no whole number from {least} to {most}", where=example, fix=f"write {example}")
    return int(text)


def _bounds(text: str) -> tuple[str, str]:
    low, dots, high = text.partition("..")
    return low, high if dots else low


# ------------------------------------------------------------------------------------------------ point operations


def _brightness(text: str) -> tuple[str, Tables]:
    if _NUMBER.fullmatch(text) and 0 < float(text) < 1:
        levels = Fraction(text) * 255
        tie = ", a tie" if (2 * levels).denominator == 1 and levels.denominator == 2 else ""
        raise UsageError(
            f"{text} is {float(levels):g} levels{tie}: a range of brightness is stated in whole levels of 0..255",
            where="brightness", fix=f"write brightness={max(1, int(levels))}",
        )  # fmt: skip
    levels_ = _whole(text, 1, 255, "brightness=2")
    return str(levels_), tables.brightness(levels_)


def _share(text: str, name: str) -> tuple[str, Fraction]:
    number = text.removesuffix("%").strip()
    if not text.endswith("%") or not _NUMBER.fullmatch(number) or not 0 < Fraction(number) < 100:
        fix = f"write {name}=5%"
        raise UsageError(f"'{text}' is no share between 0 % and 100 %, with a % sign", where=name, fix=fix)
    return f"{_plain(number)}%", Fraction(number) / 100


def _contrast(text: str) -> tuple[str, Tables]:
    canonical, share = _share(text, "contrast")
    return canonical, tables.linear(share, tables.PIVOT)


def _exposure(text: str) -> tuple[str, Tables]:
    canonical, share = _share(text, "exposure")
    return canonical, tables.linear(share, 0)


def _gamma(text: str) -> tuple[str, Tables]:
    low, high = _bounds(text)
    ok = all(_NUMBER.fullmatch(g) and Fraction(1, 10) <= Fraction(g) <= 10 for g in (low, high))
    if not ok or Fraction(low) >= Fraction(high):
        fix = "write gamma=0.8..1.25"
        raise UsageError(f"'{text}' is no range of exponents from 0.1 to 10", where="gamma", fix=fix)
    return f"{_plain(low)}..{_plain(high)}", tables.gamma(Fraction(low), Fraction(high))


def _plain(number: str) -> str:
    whole, _, rest = number.partition(".")
    rest = rest.rstrip("0")
    return f"{int(whole)}.{rest}" if rest else str(int(whole))


_POINT: dict[str, Callable[[str], tuple[str, Tables]]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "exposure": _exposure,
    "gamma": _gamma,
}

# ---------------------------------------------------------------------------------------------------------- faults


def _shift(text: str) -> tuple[str, Fault]:
    most = _whole(text, 1, 64, "shift=1")
    return str(most), faults.shift(most)


def _occlusion(text: str) -> tuple[str, Fault]:
    side = _whole(text, 1, 512, "occlusion=4")
    return str(side), faults.occlusion(side)


def _jpeg(text: str) -> tuple[str, Fault]:
    low, high = (_whole(quality, 1, 100, "jpeg=50..95") for quality in _bounds(text))
    if low > high:
        raise UsageError(f"'{text}' is no range of qualities", where="jpeg", fix="write jpeg=50..95")
    return f"{low}..{high}", faults.jpeg(low, high)


def _bare(name: str, make: Callable[[], Fault]) -> Callable[[str], tuple[str, Fault]]:
    def read(text: str) -> tuple[str, Fault]:
        if text:
            raise UsageError(f"'{name}' takes no number", where=f"{name}={text}", fix=f"write {name}")
        return "", make()

    return read


_FAULTS: dict[str, Callable[[str], tuple[str, Fault]]] = {
    "shift": _shift,
    "dead-pixel": _bare("dead-pixel", faults.dead_pixel),
    "dead-line": _bare("dead-line", faults.dead_line),
    "occlusion": _occlusion,
    "jpeg": _jpeg,
}
