"""How many images a study is measured on, where a time was given instead of a number."""

from __future__ import annotations

from pydantic import Field

from edgesafe.records.base import Record

__all__ = ["SampleSize"]


class SampleSize(Record):
    """What evaluate.hours was turned into, by a short timing: chosen once, and kept when the study is gone on with.

    Half-widths are those of 95 % intervals at their widest: half of the answers right; for the difference, right or
    wrong changed on 6 % of the images.
    """

    hours: float  #: that were asked for
    images_per_cell: int | None = None  #: of each cell, for a file that is measured by itself; None: there is none
    budget: int | None = None  #: corrupted images of a file that is compared; None: there is none
    seconds: float  #: that measuring and certifying all files should take
    corruption_s: float  #: of one corrupted image, as timed
    inference_s: float  #: of one image through the slowest file, as timed
    host: str  #: CPU that this was timed on
    accuracy: float = Field(ge=0.0)  #: half-width of a file's clean accuracy
    mpc: float | None = None  #: half-width of the mPC of a file that is measured by itself
    difference: float | None = None  #: half-width of the difference of two mPC
