"""What a network of a series costs before any recovery, and how it does on some validation images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from edgesafe import data
from edgesafe.deploy import export
from edgesafe.errors import SurgeryError
from edgesafe.files import stage_key
from edgesafe.models import count
from edgesafe.prune import PruneContext, prune
from edgesafe.prune.plan import NothingRemovedError
from edgesafe.prune.structured import plan_of
from edgesafe.recipe.searching import Objective
from edgesafe.recipe.sections import RecoverSection
from edgesafe.records import DataBundle, ScreenRecord
from edgesafe.stages import timing
from edgesafe.stages.search.series import Series
from edgesafe.stages.search.strategy import Line, Net
from edgesafe.stages.timing import Timing
from edgesafe.stages.train import fit_plan
from edgesafe.study.checkpoints import Kept
from edgesafe.study.writer import StudyWriter
from edgesafe.surgery.rebuild import save_bytes
from edgesafe.train import batchnorm, loop
from edgesafe.train.augmentation import Normalisation

__all__ = ["Costing", "Pruning", "Survey", "line_of"]

_TIMED_RUNS = 256  # of a network that is only compared with others; the variant itself is timed as [evaluate] says
_SCREEN_BN_IMAGES = 500  # BatchNorm statistics good enough to rank by
_TOLERATED = 0.10  # accuracy that recovery is expected to bring back; what is lost beyond counts like cost
_SCREENED = 4  # ratios of a series that are screened


@dataclass(frozen=True)
class Pruning:
    """How networks of a search are pruned.

    Attributes:
        network: gives the network that a series starts from, which it must not change.
        context: gives what pruning needs; the quick way of removing is used, which gives the same network.
        recovery: gives the recovery of a series.
    """

    network: Callable[[Series], nn.Module]
    context: Callable[[Series], PruneContext]
    recovery: Callable[[Series], RecoverSection]

    def pruned(self, series: Series, ratio: float) -> nn.Module | None:
        """The network at a ratio, proven and not recovered; None: it cannot be pruned so far.

        Raises:
            NothingRemovedError: rounding leaves every channel where it is.
        """
        quick = replace(self.context(series), engine=False)
        try:
            return prune(self.network(series), series.section, ratio, quick).model
        except NothingRemovedError:
            raise
        except SurgeryError:
            return None

    def shares(self, series: Series, ratio: float) -> dict[str, float]:
        """The share of each group's channels that goes at a ratio, by the group's first layer."""
        plan = plan_of(self.network(series), series.section, ratio, self.context(series))
        return {choice.group.name: len(choice.removed) / len(choice.scores) for choice in plan.choices}


@dataclass(frozen=True)
class Costing:
    """What is minimised, and what it takes to know it of a network.

    Attributes:
        objective: what is minimised.
        bundle: data, for the input's shape and normalisation.
        baseline: model.onnx of the unpruned network.
        protocol: threads and provider of the target; objective latency.
        opset: of the export; objective latency.
    """

    objective: Objective
    bundle: DataBundle
    baseline: Path
    protocol: Timing
    opset: int

    def of(self, series: Series, network: nn.Module, whole: nn.Module) -> float:
        """What is minimised, of a pruned network as a share of the whole one's."""
        height, width, channels = self.bundle.test.images.shape[1:]
        if self.objective is Objective.MACS:
            shape = (height, width, channels)
            return count.macs(network, shape) / count.macs(whole, shape)
        if self.objective is Objective.BYTES:
            stored = len(save_bytes(network, sparse=series.section.zeroes))
            return stored / len(save_bytes(whole, sparse=False))
        onnx = export.export_onnx(
            network.eval(), input_shape=(height, width, channels), mean=self.bundle.mean, std=self.bundle.std,
            opset=self.opset,
        )  # fmt: skip
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(onnx)
            file.flush()
            timed = replace(self.protocol, runs=_TIMED_RUNS)
            metrics = timing.timed(
                Path(file.name), self.baseline, self.bundle.test.images[: timing.PARITY_IMAGES], timed
            ).candidate
        return metrics["latency.ratio"].estimate


class Survey:
    """Prunes networks to see what they cost. What was seen is kept, since a latency is not the same twice."""

    def __init__(self, pruning: Pruning, costing: Costing, study: StudyWriter, basis: str) -> None:
        """Survey the networks of a study; `basis` hashes all that they depend on besides series and ratio."""
        self._pruning, self._costing, self._study, self._basis = pruning, costing, study, basis
        self._last: tuple[str, float, nn.Module] | None = None  # what was pruned last, by label and ratio

    def net(self, series: Series, ratio: float) -> Net | None:
        """The network of a series at a ratio; None: it cannot be pruned so far."""
        section = series.section.model_dump(mode="json")
        asked = {"section": section, "ratio": ratio, "minimise": self._costing.objective.value}
        kept = Kept(self._study, "search", f"{series.label}-{ratio:.2f}", stage_key(of=self._basis, **asked))
        known = kept.load()
        if known is None:
            known = json.dumps(self._seen(series, ratio)).encode()
            kept.save(known)
        plain = json.loads(known)
        return None if plain is None else Net(**plain)

    def cost(self, series: Series, ratio: float) -> float:
        """What the network costs as a share of the unpruned one; 1 where it cannot be pruned so far."""
        net = self.net(series, ratio)
        return 1.0 if net is None else net.cost

    def _seen(self, series: Series, ratio: float) -> dict[str, float | str] | None:
        try:
            network = self._pruning.pruned(series, ratio)
        except NothingRemovedError:
            return {"cost": 1.0, "key": "unpruned"}
        if network is None:
            return None
        self._last = series.label, ratio, network
        cost = self._costing.of(series, network, self._pruning.network(series))
        widths = [list(parameter.shape) for parameter in network.parameters()]
        return {"cost": cost, "key": json.dumps(widths) if series.structured else f"{ratio:.2f}"}

    def screen(self, series: Series, ratios: Sequence[float], images: int) -> tuple[ScreenRecord, ...]:
        """Cost and validation accuracy at a few ratios, BatchNorm statistics re-estimated, not recovered.

        Args:
            series: to look at.
            ratios: all that may be tried.
            images: of the validation images.
        """
        bundle, rows = self._costing.bundle, []
        some, normalise = data.first(bundle.validation, images), Normalisation(bundle.mean, bundle.std)
        for position in _spread(len(ratios)):
            net = self.net(series, ratios[position])
            if net is None or net.cost >= 1.0:
                continue
            network = self._again(series, ratios[position])
            if network is None:
                continue
            recovery = self._pruning.recovery(series)
            plan = fit_plan(recovery, self._pruning.context(series).seed, bundle.task)
            batchnorm.reestimate_batchnorm(
                network, bundle.train, normalise, images=min(recovery.bn_images, _SCREEN_BN_IMAGES), view=plan
            )
            accuracy = float(loop.right(network, some, normalise, plan.mode).float().mean())
            rows.append(ScreenRecord(ratio=ratios[position], cost=net.cost, accuracy=accuracy))
        return tuple(rows)

    def _again(self, series: Series, ratio: float) -> nn.Module | None:
        """A network whose cost was asked for, to be changed by the caller."""
        if self._last is not None and self._last[:2] == (series.label, ratio):
            network, self._last = self._last[2], None
            return network
        return self._pruning.pruned(series, ratio)

    def accuracy(self, series: Series, images: int) -> float:
        """Of the network that a series starts from, on the same validation images."""
        bundle = self._costing.bundle
        plan = fit_plan(self._pruning.recovery(series), self._pruning.context(series).seed, bundle.task)
        some, normalise = data.first(bundle.validation, images), Normalisation(bundle.mean, bundle.std)
        return float(loop.right(self._pruning.network(series), some, normalise, plan.mode).float().mean())


def _spread(count: int) -> list[int]:
    """A few positions of 0..count - 1, evenly spread and away from the ends."""
    return sorted({(2 * k + 1) * count // (2 * _SCREENED) for k in range(_SCREENED)} & set(range(count)))


def line_of(
    series: Series, ratios: tuple[float, ...], screened: Sequence[ScreenRecord], accuracy: float
) -> tuple[float, Line]:
    """What a series promises to cost, and the series with the ratio to try first.

    A point of accuracy lost beyond what recovery usually brings back counts like a point of cost.

    Args:
        series: that was screened.
        ratios: that may be tried.
        screened: what was seen; none: nothing could be pruned.
        accuracy: of the unpruned network on the same images.
    """
    if not screened:
        return 1.0, Line(series.label, ratios, len(ratios) // 2)
    worth = partial(_worth, accuracy=accuracy)
    best = min(screened, key=lambda row: (worth(row), row.ratio))
    return worth(best), Line(series.label, ratios, ratios.index(best.ratio))


def _worth(row: ScreenRecord, accuracy: float) -> float:
    return row.cost + max(0.0, accuracy - row.accuracy - _TOLERATED)
