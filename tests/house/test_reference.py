"""Documentation that is generated must be what the code says; links must lead somewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgesafe.recipe import parsing

ROOT = Path(__file__).parents[2]


def test_the_generated_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


def test_the_shipped_schema_describes_a_recipe() -> None:
    schema = json.loads((ROOT / "src/edgesafe/schemas/recipe.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == set(parsing.load(None).resolved())
    assert schema["additionalProperties"] is False
