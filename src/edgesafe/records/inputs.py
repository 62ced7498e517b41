"""How pixels enter a network that edgesafe did not export, and how that was found out."""

from __future__ import annotations

from typing import Literal

from edgesafe.records.base import Record

__all__ = ["InputRecord"]


class InputRecord(Record):
    """What a file was given and what was made of its output: every number measured on it rests on this."""

    layout: Literal["NHWC", "NCHW"]
    dtype: Literal["uint8", "float32"]
    scale: float  #: float32 pixels are multiplied by this, then mean is taken away, then divided by std
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: Literal["RGB", "BGR"]
    outputs: Literal["logits", "probabilities"]
    batch: int | None = None  #: images per run that the file fixes
    text: str  #: the same in one line, for people
    stated: tuple[str, ...] = ()  #: what was stated; the rest was read from the file or tried on labelled images
    images: int  #: labelled images that it was tried on
    accuracy: float  #: on them, a fraction
    runner_up: str = ""  #: the next best guess, in one line; empty: there was no other
    runner_up_z: float | None = None  #: how much worse its likelihood is, in standard errors of the paired difference
