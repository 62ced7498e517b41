"""The committed support table: complete, rendered from its data, and true for architectures that take seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sys.modules.pop("support_table", None)
    import support_table

    return support_table


def test_the_page_is_what_the_data_say(tool: ModuleType) -> None:
    rows = json.loads(tool.TABLE.read_text())["rows"]
    families = tool.families()
    assert tool.PAGE.read_text() == tool.page(rows, families)
    assert len(families) >= 38
    for row in families:
        assert row["status"] in {"pass", "refused"}, row
        if row["status"] == "pass":
            assert row["equivalence"] < 1e-5
            assert row["rebuild_difference"] == 0.0
            assert row["macs_ratio"] < 1
    assert [row["arch"] for row in rows] == list(tool.ARCHITECTURES)
    assert sum(row["status"] != "pass" for row in rows) <= 2
    for row in rows:
        if row["status"] == "pass":
            assert row["equivalence"] < 1e-5
            assert row["rebuild_difference"] == 0.0
            assert row["argmax_agreement"] == 1.0
            assert row["macs_ratio"] < 1
            assert row["params_ratio"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet20", "torchvision:shufflenet_v2_x1_0"])
def test_the_table_is_true(tool: ModuleType, arch: str) -> None:
    rows = {row["arch"]: row for row in json.loads(tool.TABLE.read_text())["rows"]}
    new = tool.row(arch, runs=0)
    assert {key: new.get(key) for key in tool.EXACT} == {key: rows[arch].get(key) for key in tool.EXACT}
