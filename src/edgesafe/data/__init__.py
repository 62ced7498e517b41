"""Data sets: loading, splitting, hashing, fetching. Everything is numpy; nothing is ever unpickled."""

from __future__ import annotations

from edgesafe.data.sets import identity, load

__all__ = ["identity", "load"]
