"""[search]: what a search makes small, what it tries, and how long."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from edgesafe.recipe.sections import Allocation, Method, Scope
from edgesafe.recipe.sections.base import Positive, Ratio, Section

__all__ = ["Objective", "SearchSection"]


class Objective(StrEnum):
    """What a search makes as small as its policy allows."""

    LATENCY = "latency"  #: median batch-1 latency as a share of the unpruned network's, both timed in turns
    BYTES = "bytes"  #: of the file that ships: model.onnx, or the sparse one where it is smaller
    MACS = "macs"  #: multiply-accumulates of one image


class SearchSection(Section):
    """[search]: what `edgesafe search` makes small, what it tries, and how long."""

    minimise: Objective = Objective.MACS
    policy: str | None = None  #: what a variant must pass: a file, or the name of one that ships
    methods: tuple[Method, ...] = ()  #: none: those of the [[compress]] blocks, without the random control
    scopes: tuple[Scope, ...] = ()  #: of structured methods; none: the block's own
    allocations: tuple[Allocation, ...] = ()  #: likewise
    round_to: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = ()  #: likewise
    calibrate: tuple[bool, ...] = ()  #: likewise: with and without the fitted temperature inside the file
    weights: tuple[Ratio, ...] = ()  #: with bytes: shares of the weights left by a structured method that become zero
    lowest: Ratio = 0.05  #: ratios that are tried, from
    highest: Ratio = 0.95  #: to
    resolution: Annotated[float, Field(ge=0.01, le=0.5)] = 0.02  #: and their distance
    share: Ratio = 0.5  #: of the test images, chosen by hash, that trials are decided on; the rest confirms the winner
    confirmations: int = Field(default=3, ge=1, le=10)  #: files that may be judged on the rest, each at a surer level
    images: int | None = Field(default=None, ge=1000)  #: corrupted images of a trial, at most; None: 19,200
    screen_images: int = Field(default=500, ge=2)  #: validation images that order the series before any recovery
    refine: int = Field(default=0, ge=0)  #: trials that narrow single layers of the best, at most, after the bisection
    controls: bool = True  #: judge a random and an unrecovered network of the winner's size, too
    trials: int | None = Field(default=24, ge=1)  #: budget: variants that are made; None: no limit
    inferences: int | None = Field(default=None, ge=1)  #: budget: images that are run for trials
    hours: Positive | None = None  #: budget: of trials; the same winner on every machine needs another budget
    seed: int = Field(default=0, ge=0)  #: of the split of the test images

    @property
    def budget(self) -> dict[str, float]:
        """The limits that are set, by name."""
        limits = {"trials": self.trials, "inferences": self.inferences, "hours": self.hours}
        return {name: value for name, value in limits.items() if value is not None}

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"search.lowest = {self.lowest:g} is above search.highest = {self.highest:g}")
        return self
