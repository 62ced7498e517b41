"""The JSON Schemas of policies and verdicts, as they ship in `policy/schemas/`.

`python -m edgesafe.policy.schema` writes them again after a change of the records; a test compares.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgesafe.policy.lock import Lock
from edgesafe.policy.policy import PolicyFile
from edgesafe.records import Verdict

__all__ = ["MODELS", "generate", "shipped", "write"]

MODELS: dict[str, type[BaseModel]] = {"policy": PolicyFile, "verdict": Verdict, "lock": Lock}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def generate(name: str) -> str:
    """The schema of "policy", "verdict" or "lock", generated from the records: JSON text with sorted keys."""
    model = MODELS[name]
    mode: Any = "serialization" if name == "verdict" else "validation"
    schema = {
        "$schema": _DIALECT,
        "$id": f"edgesafe.{name}/1",
        **model.model_json_schema(by_alias=True, mode=mode),
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def shipped(name: str) -> str:
    """The JSON text of the schema of "policy", "verdict" or "lock" that ships with the package."""
    return (resources.files("edgesafe.policy") / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")


def write(folder: Path) -> None:
    """Writes every schema as `generate` gives it into `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        (folder / f"{name}.schema.json").write_text(generate(name), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "schemas")
