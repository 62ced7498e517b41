"""Natural corruptions: CIFAR-10-C's fifteen (and four extras), exact, seeded and fast, on numpy and Pillow.

    corrupted = corrupt(images, indices, "fog", 3, seed=0)

See docs/corruptions.md. Source: Hendrycks & Dietterich, arXiv 1903.12261.
"""

from edgesafe.corruptions.engine import apply, corrupt, draw
from edgesafe.corruptions.frost import FrostBank, installed_photographs
from edgesafe.corruptions.sheet import contact_sheet
from edgesafe.corruptions.source import CorruptionSource, open_source
from edgesafe.corruptions.spec import Fields, FieldSpec
from edgesafe.corruptions.tables import (
    ALL,
    EXTRAS,
    NAMES,
    Profile,
    profile_for,
)
from edgesafe.corruptions.writer import write_directory

__all__ = [
    "ALL",
    "EXTRAS",
    "NAMES",
    "CorruptionSource",
    "FieldSpec",
    "Fields",
    "FrostBank",
    "Profile",
    "apply",
    "contact_sheet",
    "corrupt",
    "draw",
    "installed_photographs",
    "open_source",
    "profile_for",
    "write_directory",
]
