"""The pattern that names of studies, variants and their files obey, when they are written and when they are read.

Such a name is a single part of a path: it begins with a letter or digit, holds letters, digits, `.`, `_` and `-`, has
no two dots in a row and at most 100 characters. It cannot leave a directory, begin an option or break a line.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

__all__ = ["MAX_LENGTH", "PATTERN", "Name"]

PATTERN = r"^[A-Za-z0-9](?:\.?[A-Za-z0-9_-])*\.?$"
MAX_LENGTH = 100

Name = Annotated[str, StringConstraints(pattern=PATTERN, max_length=MAX_LENGTH)]
