"""Data sets: loading, splitting, hashing, fetching. Everything is numpy; nothing is ever unpickled."""

from __future__ import annotations

from edgesafe.data.sets import first, identity, load

__all__ = ["first", "identity", "load"]
