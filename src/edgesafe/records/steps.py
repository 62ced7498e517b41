"""The numbers of channels that a target's convolutions are fast at."""

from __future__ import annotations

from pydantic import Field

from edgesafe.records.base import Record

__all__ = ["Steps"]


class Steps(Record):
    """Channels in which layers are kept (fp32) and pixels grouped (int8): as the target says, or timed on a host."""

    round_to: int = Field(ge=1)  #: kept channels are rounded up to a multiple of it
    int8_step: int = Field(ge=1)  #: output channels that int8 kernels take at a time; 1: pixels are not grouped
    host: str = ""  #: what it was timed on: CPU, threads, provider, onnxruntime; empty: nothing was timed
    fp32_ms: dict[str, float] = Field(default_factory=dict)  #: by step: geometric mean over widths, rounded up to it
    int8_ms: dict[str, float] = Field(default_factory=dict)  #: by step: of a narrow network
