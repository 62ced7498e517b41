"""How a device is reached, and what it said of itself and of the ONNX files that it timed."""

from __future__ import annotations

from pydantic import Field

from edgesafe.records.base import Record
from edgesafe.records.study import Host

__all__ = ["DeviceAddress", "DeviceAgreement", "DeviceFile", "DeviceParity", "DeviceRecheck", "DeviceReport"]


_LOCAL_PATH = r"^[A-Za-z0-9_./~][A-Za-z0-9_./~@+=,-]*$"  # what ssh takes without quotes or % signs
_REMOTE_PATH = r"^[A-Za-z0-9_./][A-Za-z0-9_./+-]*$"


class DeviceAddress(Record):
    """[ssh] of a target: how its device is reached, by the system's ssh."""

    host: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$", max_length=255)
    port: int = Field(default=22, ge=1, le=65535)
    user: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")  #: None: as ssh has it
    identity: str | None = Field(default=None, pattern=_LOCAL_PATH)  #: file of a private key; None: as ssh has it
    known_hosts: str | None = Field(default=None, pattern=_LOCAL_PATH)  #: None: the user's own
    workdir: str = Field(default=".edgesafe", pattern=_REMOTE_PATH)  #: on the device, below its user's home or absolute
    python: str = Field(default="python3", pattern=_REMOTE_PATH)  #: on the device, with numpy and onnxruntime
    timeout_s: int = Field(default=15, ge=1, le=600)  #: to connect


class DeviceAgreement(Record):
    """How far a device's outputs on some images are from those on the host that measured the file."""

    bit_equal: bool
    max_abs: float  #: largest difference of an output
    host_sha256: str  #: of the outputs, float32 little-endian
    device_sha256: str


class DeviceParity(DeviceAgreement):
    """The agreement on the first test images, of a file that is timed."""

    images: int
    answers_equal: int  #: images answered alike: the same class; no keypoint moved by the tolerance


class DeviceFile(Record):
    """One ONNX file on the device."""

    sha256: str
    open_ms: float  #: median over sessions of the time to open it
    peak_bytes: int | None  #: of a process that opens and runs it (VmHWM); None: the system does not say
    before_bytes: int | None  #: of that process before it opens the file
    parity: DeviceParity | None = None  #: None: no images were compared


class DeviceRecheck(DeviceAgreement):
    """A part of the certificates of one set, run on the device: the same images, its own outputs, the verdicts anew."""

    set: str  #: id
    certified: int  #: images certified by the host of which every image of the set was run there
    falsified: int  #: images falsified by the host whose witness was run there
    runs: int  #: images run there
    differ: tuple[int, ...]  #: positions in the test set of images with another verdict there


class DeviceReport(Record):
    """The machine that a target names, and the files that were timed on it."""

    target: str
    host: Host
    threads: int
    provider: str
    files: tuple[DeviceFile, ...] = Field(min_length=1)
    rechecks: tuple[DeviceRecheck, ...] = ()  #: of the first file, set by set; empty: nothing was certified
