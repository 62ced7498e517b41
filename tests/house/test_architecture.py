"""The architecture, held: who may import whom (the table of docs/architecture.md), sizes, and a fast start."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "edgesafe"
MODULES = sorted(SOURCE.rglob("*.py"))
EVERYONE = {"errors", "files", "records"}


def read_table(text: str) -> dict[str, tuple[set[str], set[str]]]:
    """room -> (rooms that it may import besides `EVERYONE`, third-party libraries that it may import)."""
    rows: dict[str, tuple[set[str], set[str]]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"\| `([a-z_.]+)` \|[^|]+\|([^|]*)\|([^|]*)\|", line.strip()):
            names = [{part.strip() for part in cell.split(",") if part.strip()} for cell in match.group(2, 3)]
            assert match[1] not in rows, f"{match[1]} stands twice in the table"
            rows[match[1]] = (names[0], names[1])
    return rows


TABLE = read_table((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def dotted(path: Path) -> str:
    """ "measure.intervals.bounds"; a package by its own name; "__init__" for edgesafe itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


NAMES = {dotted(path): path for path in MODULES}


def imports(path: Path) -> Iterable[tuple[str, str]]:
    """("ours", module below edgesafe) or ("library", top-level name) of every import of a module, late ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            head, _, rest = name.partition(".")
            if head == "edgesafe":
                parts = rest.split(".")
                known = (".".join(parts[:k]) for k in range(len(parts), 0, -1))
                yield "ours", next((one for one in known if one in NAMES), "__init__")
            elif head not in sys.stdlib_module_names:
                yield "library", head


def room(module: str) -> str:
    """The row of the table that a module belongs to: the longest one that it begins with."""
    parts = module.split(".")
    rows = (".".join(parts[:k]) for k in range(len(parts), 0, -1))
    found = next((row for row in rows if row in TABLE), None)
    assert found is not None, f"{module} is in no room of docs/architecture.md"
    return found


def seen() -> dict[str, tuple[set[str], set[str]]]:
    """What the table would have to say of the code as it is."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for module, path in NAMES.items():
        ours, libraries = found.setdefault(room(module), (set(), set()))
        for kind, name in imports(path):
            if kind == "library":
                libraries.add(name)
            elif room(name) != room(module):
                ours.add(room(name))
    return found


SEEN = seen()


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_table_says_what_the_code_does(name: str) -> None:
    assert name in SEEN, f"no module is in the room {name}"
    for what, allowed, found in zip(("import", "library"), TABLE[name], SEEN[name], strict=True):
        assert not found - allowed - EVERYONE, f"{name}: {what} that is not in the table"
        assert not allowed - found, f"{name}: {what} in the table without need"
        assert not allowed & EVERYONE if what == "import" else True, f"{name}: every room may import {EVERYONE}"


def test_no_more_rooms_at_the_top_than_a_head_can_hold() -> None:
    assert len({module.partition(".")[0] for module in NAMES}) <= 25


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """A circle of names that import each other, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in arrows.get(name, ()):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in arrows if (found := walk(name, []))), [])


def test_no_circle_of_rooms_and_none_of_modules() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["a"]}) == ["a", "b", "c", "a"]  # the control
    assert circle({name: rooms for name, (rooms, _) in SEEN.items()}) == []
    faces = {module for module, path in NAMES.items() if path.name == "__init__.py"}
    arrows = {
        module: {name for kind, name in imports(path) if kind == "ours" and name != module and name not in faces}
        for module, path in NAMES.items()
    }
    assert circle(arrows) == []


ENDINGS = ("s", "er", "r", "or", "ing", "ed", "ion", "ment", "ments", "ation")


def stem(name: str) -> str:
    """A name without its ending."""
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.endswith(ending) and len(name) - len(ending) >= 3:
            return name.removesuffix(ending).rstrip("e")
    return name.rstrip("e")


def test_no_two_neighbours_differ_by_an_ending() -> None:
    assert stem("gating") == stem("gate")
    assert stem("measuring") == stem("measure")
    folders: dict[str, list[str]] = {}
    for module in NAMES:
        parent, _, leaf = module.rpartition(".")
        folders.setdefault(parent, []).append(leaf)
    for parent, leaves in folders.items():
        stems = [stem(leaf) for leaf in leaves]
        twice = sorted(leaf for leaf, one in zip(leaves, stems, strict=True) if stems.count(one) > 1)
        assert not twice, f"{parent or 'edgesafe'}: {twice}"


def test_only_one_module_knows_torch_pruning() -> None:
    users = [module for module, path in NAMES.items() if ("library", "torch_pruning") in set(imports(path))]
    assert users == ["surgery.graph"]


# What is over the limits, and why that is right.
LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_sizes_that_a_head_can_hold(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400 or name in LONG_MODULES, f"{len(lines)} lines"
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 60 or f"{name}:{node.name}" in LONG_FUNCTIONS, f"{node.name}: {length} lines"


def imported_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_edgesafe_and_the_gate_needs_no_torch() -> None:
    heavy = {"torch", "onnxruntime", "onnx", "numpy", "matplotlib"}
    assert not imported_by("import edgesafe") & heavy
    assert not imported_by("import edgesafe.commands.gate, edgesafe.cli") & heavy


def test_measuring_and_evaluating_need_no_torch() -> None:
    modules = imported_by("import edgesafe.commands.evaluate, edgesafe.stages.measure")
    assert "torch" not in modules
