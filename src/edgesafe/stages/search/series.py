"""The ways of compressing that a search tries: the recipe's blocks, times what [search] adds to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgesafe.errors import UsageError
from edgesafe.recipe.searching import Objective, SearchSection
from edgesafe.recipe.sections import Allocation, CompressSection, Method, RecoverSection

__all__ = ["Series", "bare_of", "control_of", "ratios_of", "series_of", "shaped"]


@dataclass(frozen=True)
class Series:
    """A way of compressing whose ratio is searched for.

    Attributes:
        label: of the series, unlike those of the others.
        section: the block without its own ratios.
        stem: what its variants' names begin with; what is in `then_weight` is told after the ratio.
    """

    label: str
    section: CompressSection
    stem: str

    @property
    def structured(self) -> bool:
        """Whether channels are removed, so that networks of neighbouring ratios may be the same one."""
        return self.section.method is not Method.WEIGHT


def series_of(blocks: Sequence[CompressSection], section: SearchSection) -> tuple[Series, ...]:
    """The series that a recipe's blocks and its [search] ask for, in the order of the blocks.

    A block is taken once for each of `search.scopes`, `search.allocations`, `search.round_to`, `search.calibrate` and,
    beside its own, `search.weights`, and named after what differs. `search.methods` chooses blocks, and adds a block
    with its defaults for a method that has none.

    Raises:
        UsageError: nothing is left that could make the objective smaller, or `weights` could not.
    """
    if section.weights and section.minimise is not Objective.BYTES:
        what = f"weights that become zero do not make the {section.minimise.value} smaller"
        raise UsageError(what, where="search.weights", fix="leave it out, or minimise bytes")
    made: list[Series] = []
    for block in _wanted(blocks, section):
        if block.method is Method.WEIGHT and section.minimise is not Objective.BYTES:
            continue  # zeros make nothing faster, and MACs count them
        made += list(_variations(block, section))
    if not made:
        what = f"no method that makes the {section.minimise.value} smaller"
        fix = "add a block of method filter or channel (weight: only with --minimise bytes), or name search.methods"
        raise UsageError(what, where="search.methods", fix=fix)
    twice = sorted({s.label for s in made if [other.label for other in made].count(s.label) > 1})
    if twice:
        raise UsageError(f"two series are called '{twice[0]}'", where="compress", fix="give one block a label")
    return tuple(made)


def _wanted(blocks: Sequence[CompressSection], section: SearchSection) -> Iterator[CompressSection]:
    """The blocks to search in, one for each label, with a ratio in place of a budget."""
    wanted = section.methods or tuple(m for m in Method if m is not Method.RANDOM)
    taken: dict[str, CompressSection] = {}
    for block in blocks:
        taken.setdefault(block.label or block.method.value, block)
    chosen = [block for block in taken.values() if block.method in wanted]
    have = {block.method for block in chosen}
    missing = [method for method in section.methods if method not in have]
    chosen += [CompressSection(method=method, ratios=(section.lowest,)) for method in missing]
    for block in chosen:
        yield block.model_copy(update={"budget": None, "ratios": (section.lowest,)})


def _variations(block: CompressSection, section: SearchSection) -> Iterator[Series]:
    """The block with each combination of the keys that [search] varies."""
    name = block.label or block.method.value
    if block.method is Method.WEIGHT:
        for calibrate in section.calibrate or (block.calibrate,):
            told_of = _told("calibrate", calibrate) if len(section.calibrate) > 1 else ""
            label = "_".join(filter(None, (name, told_of)))
            yield Series(label, block.model_copy(update={"calibrate": calibrate}), label)
        return
    keys: dict[str, Sequence[Any]] = {
        "scope": section.scopes or (block.scope,),
        "allocation": section.allocations or (block.allocation,),
        "round_to": section.round_to or (block.round_to,),
        "calibrate": section.calibrate or (block.calibrate,),
    }
    for values in itertools.product(*keys.values()):
        changes = dict(zip(keys, values, strict=True))
        told = [_told(key, changes[key]) for key in keys if len(keys[key]) > 1]
        stem = "_".join(filter(None, (name, *told)))
        for share in (block.then_weight, *section.weights):
            label = stem if share == block.then_weight else f"{stem}_w{share:.2f}"
            yield Series(label, block.model_copy(update=changes | {"then_weight": share}), stem)


def _told(key: str, value: Any) -> str:
    """A value of a varied key as a part of a label."""
    if key == "calibrate":
        return "calibrated" if value else ""
    return f"round{value}" if key == "round_to" else str(value)


def shaped(series: Series, gone: Mapping[str, float], name: str) -> Series:
    """A series whose networks have given shares of their layers, by the same criterion.

    Args:
        series: that it comes from.
        gone: the share of each group's channels that goes, by its first layer.
        name: of the new series.
    """
    changes = {"allocation": Allocation.UNIFORM, "layers": dict(gone), "steps": 1}
    return Series(name, series.section.model_copy(update=changes), name)


def control_of(series: Series, gone: Mapping[str, float]) -> Series:
    """Channels at random, as many of each layer as of a network of the series, recovered alike: it should not pass."""
    alike = shaped(series, gone, f"control_random_{series.stem}")
    changes = {"method": Method.RANDOM, "criterion": None, "tune_first": False}
    return replace(alike, section=alike.section.model_copy(update=changes))


def bare_of(series: Series, gone: Mapping[str, float], recovery: RecoverSection) -> Series:
    """The cut of a network of the series with another recovery: it should not pass where that is none.

    A measured allocation looks at networks as they recover, so the layers' shares are given and not measured again.

    Args:
        series: that the network is of.
        gone: as of `shaped`; empty for method weight, which has none.
        recovery: the one it gets.
    """
    name = f"control_bare_{series.stem}"
    same = shaped(series, gone, name) if series.structured else Series(name, series.section, name)
    return replace(same, section=same.section.model_copy(update={"recover": recovery}))


def ratios_of(section: SearchSection) -> tuple[float, ...]:
    """The ratios that may be tried, rising, in whole hundredths, since names have two digits.

    Example:
        >>> ratios_of(SearchSection(lowest=0.1, highest=0.3, resolution=0.1))
        (0.1, 0.2, 0.3)
    """
    first, last, step = (round(100 * v) for v in (section.lowest, section.highest, section.resolution))
    return tuple(number / 100 for number in range(max(1, first), min(99, last) + 1, step))
