"""The colours of the style sheet against each other, in light and dark, by the formula of WCAG 2.1."""

from __future__ import annotations

import re
from importlib.resources import files as package_files

import pytest

CSS = (package_files("edgesafe.report") / "templates" / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = CSS.split("@media screen and (prefers-color-scheme: dark)")[:2]


def _tokens(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", css))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


TEXT = [
    ("ink", s)
    for s in (
        "paper",
        "page",
        "none-bg",
        "pass-bg",
        "fail-bg",
        "warn-bg",
        "h0",
        "hn1",
        "hn2",
        "hn3",
        "hp1",
        "hp2",
        "hp3",
    )
]
TEXT += [(t, "paper") for t in ("muted", "link", "pass", "fail", "warn")] + [
    ("muted", "page"),
    ("muted", "h0"),
    ("link", "page"),
]
TEXT += [
    ("pass", "pass-bg"),
    ("fail", "fail-bg"),
    ("warn", "warn-bg"),
    ("strong", "hn4"),
    ("strong", "hp4"),
    ("paper", "ink"),
]
LINES = [(f"c{k}", "paper") for k in range(7)] + [(f"v{k}", "paper") for k in range(6)] + [("limit", "paper")]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read(mode: str) -> None:
    tokens = _tokens(LIGHT if mode == "light" else DARK)
    low = {
        f"{a} on {b}": round(_contrast(tokens[a], tokens[b]), 2)
        for a, b in TEXT
        if _contrast(tokens[a], tokens[b]) < 4.5
    }
    assert not low


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_lines_can_be_seen(mode: str) -> None:
    tokens = _tokens(LIGHT if mode == "light" else DARK)
    low = {
        f"{a} on {b}": round(_contrast(tokens[a], tokens[b]), 2)
        for a, b in LINES
        if _contrast(tokens[a], tokens[b]) < 3.0
    }
    assert not low


def test_both_modes_define_the_same_colours() -> None:
    assert set(_tokens(LIGHT)) == set(_tokens(DARK))
