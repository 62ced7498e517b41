"""The pieces a page is made of: tables and figures, as plain records that the template lays out."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgesafe.report.svg import Panel

__all__ = ["FigurePart", "Heading", "TablePart", "Td"]


@dataclass(frozen=True)
class Td:
    """A table cell: text, a second line in small print, and a class of the style sheet ("bad", "h3", …)."""

    text: str
    small: str = ""
    kind: str = ""
    bar: float | None = None  #: 0..1: a bar behind the number


@dataclass(frozen=True)
class Heading:
    """A column heading, with a second line for the unit."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class TablePart:
    """A table: the first cell of each row is its heading."""

    caption: str
    columns: tuple[Heading, ...]
    rows: tuple[tuple[Td, ...], ...]
    kind: str = ""


@dataclass(frozen=True)
class FigurePart:
    """One numbered figure: panels side by side, a text, and the numbers as a table."""

    id: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    table: TablePart
    note: str = ""
    notes: tuple[str, ...] = field(default=())
