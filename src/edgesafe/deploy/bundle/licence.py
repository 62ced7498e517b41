"""The licence of edgesafe's own text that a bundle holds: its examples."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from edgesafe.errors import StoreError

__all__ = ["apache"]


def apache() -> bytes:
    """The text of edgesafe's licence, Apache 2.0: of the installed package, or of the checkout it runs from.

    Raises:
        StoreError: neither has it.
    """
    try:
        text = metadata.distribution("edgesafe").read_text("licenses/LICENSE")
    except metadata.PackageNotFoundError:
        text = None
    checkout = Path(__file__).resolve().parents[4] / "LICENSE"
    if text is None and checkout.is_file():
        text = checkout.read_text(encoding="utf-8")
    if text is None:
        raise StoreError("edgesafe's licence is not installed", where="LICENSE", fix="install edgesafe again")
    return text.encode()
