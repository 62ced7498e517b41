"""search.json: what a search tried, what passed, and what it cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.names import Name
from edgesafe.records.verdict import GateStatus

__all__ = ["ScreenRecord", "SearchRecord", "SeriesRecord", "TrialRecord"]


class ScreenRecord(Record):
    """A network that was pruned and not recovered, to see what the series promises."""

    ratio: float
    cost: float  #: what is minimised, as a share of the unpruned network's
    accuracy: float  #: on some validation images, as a fraction


class SeriesRecord(Record):
    """One way of compressing whose ratio is searched for."""

    label: str
    screened: tuple[ScreenRecord, ...] = ()
    left_out: str = ""  #: why nothing of it was tried, or was tried any further; empty: it was searched to the end


class TrialRecord(Record):
    """A variant that was made and judged. `objective` is what is minimised, as a share of the unpruned network's."""

    variant: Name
    series: str
    ratio: float
    why: str  #: it was tried
    objective: float | None  #: None: refused, there is no file
    status: GateStatus  #: what the policy says of it
    open: tuple[str, ...] = ()  #: gates that did not pass
    inferences: int  #: images that were run to judge it
    seconds: float  #: to make and measure it


class SearchRecord(Record):
    """The content of search.json: a search from its first trial to the variant that it confirmed."""

    schema_: Literal["edgesafe.search/1"] = Field(default="edgesafe.search/1", alias="schema")
    minimise: str  #: "latency", "bytes" or "macs"
    policy_sha256: str
    decision_images: int  #: clean test images that trials are decided on
    untouched_images: int  #: the others, which confirm
    split_sha256: str  #: of the positions of the decision images
    rivals: int  #: files that may be judged on the untouched images
    series: tuple[SeriesRecord, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    finals: tuple[TrialRecord, ...] = ()  #: confirmations, in the order in which they were tried
    controls: tuple[TrialRecord, ...] = ()  #: of the winner's size, that should not pass; on the decision images
    budget: dict[str, float] = Field(default_factory=dict)  #: of trials, when it ended: "trials", "inferences", "hours"
    baseline_inferences: int = 0  #: to measure the unpruned network on the decision images
    untouched_inferences: int = 0  #: likewise on the untouched ones
    stopped: str = ""  #: why it ended before it was through: the budget
    winner: Name | None = None
    finished: bool = False

    @property
    def inferences(self) -> int:
        """Images that were run, all together."""
        judged = sum(trial.inferences for trial in (*self.trials, *self.finals, *self.controls))
        return judged + self.baseline_inferences + self.untouched_inferences

    @property
    def passing_controls(self) -> tuple[str, ...]:
        """Controls that the policy passes, though they should not."""
        return tuple(trial.variant for trial in self.controls if trial.status.passes)
