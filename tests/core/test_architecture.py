"""The architecture, held: who may import whom (DESIGN section 7), sizes that a head can hold, and a fast start."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "edgesafe"
MODULES = sorted(SOURCE.rglob("*.py"))
EVERYONE = {"records", "errors", "sections"}

# package -> edgesafe packages it may import, and third-party packages it may import (besides the standard library)
RULES: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "records": (set(), {"pydantic", "numpy"}),  # numpy for annotations only
    "sections": (set(), {"pydantic"}),
    "measure": (set(), {"numpy", "onnx", "onnxruntime"}),
    "corruptions": (set(), {"numpy", "PIL", "torch", "torchvision"}),  # torch: one module, see below
    "gate": (set(), {"pydantic"}),
    "report": ({"measure"}, {"numpy", "matplotlib", "jinja2", "pydantic", "markupsafe"}),
    "data": (set(), {"numpy", "PIL", "torchvision"}),
    "models": (set(), {"torch", "torchvision", "timm", "safetensors", "numpy"}),
    "surgery": ({"models"}, {"torch", "torch_pruning", "safetensors", "numpy", "pydantic"}),
    "prune": ({"surgery", "models"}, {"torch", "numpy"}),
    "deploy": ({"measure"}, {"google", "torch", "onnx", "onnxscript", "numpy", "onnxruntime"}),
    "recover": (set(), {"torch", "safetensors", "numpy"}),
    "storage": (set(), set()),
    "store": ({"storage"}, {"pydantic"}),
    "evaluation": ({"measure", "corruptions", "storage"}, {"numpy", "PIL"}),
    "escalation": ({"evaluation", "gate", "measure"}, {"numpy"}),
    "foreign": ({"measure"}, {"google", "onnx"}),
    "judging": ({"gate"}, set()),
    "measuring": (
        {"bookkeeping", "escalation", "judging", "evaluation", "measure", "progress", "storage", "store"},
        set(),
    ),
    "audit": (
        {
            "bookkeeping",
            "corruptions",
            "data",
            "evaluation",
            "foreign",
            "judging",
            "measure",
            "measuring",
            "progress",
            "recipe",
        }
        | {"storage", "store"},
        {"numpy"},
    ),
    "configs": (set(), set()),
    "recipe": ({"configs"}, {"pydantic"}),
    "progress": (set(), {"rich"}),
    "bookkeeping": ({"storage", "store"}, set()),
    "cutting": ({"data", "deploy", "evaluation", "prune", "recover"}, {"torch"}),
    "training": ({"bookkeeping", "data", "progress", "recover", "storage", "store", "surgery"}, {"torch"}),
    "shipping": ({"bookkeeping", "data", "deploy", "measure", "surgery"}, {"torch"}),
    "sensing": ({"data", "deploy", "measure", "models", "progress", "prune", "recipe"}, {"torch"}),
    "gating": ({"storage", "store", "gate", "measure"}, set()),
    "reporting": (
        {"storage", "store", "report", "measure", "corruptions", "data", "recipe", "gate", "gating"},
        {"numpy", "pydantic"},
    ),
}


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[tuple[str, str]]:
    """(kind, name) of every import of a module, also late ones; "ours" names the first part below edgesafe."""
    found: set[tuple[str, str]] = set()
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
                found.add(("ours", rest.partition(".")[0]))
            elif head not in sys.stdlib_module_names:
                found.add(("third", head))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_are_architecture(path: Path) -> None:
    name = package(path)
    if name not in RULES:
        return
    ours, third = RULES[name]
    allowed = ours | EVERYONE | {name}
    for kind, imported in imports(path):
        if kind == "ours":
            assert imported in allowed, f"{name} must not import edgesafe.{imported}"
        else:
            assert imported in third, f"{name} must not import {imported}"


def test_only_one_module_knows_torch_pruning() -> None:
    users = [str(p.relative_to(SOURCE)) for p in MODULES if ("third", "torch_pruning") in imports(p)]
    assert users == ["surgery/graph.py"]


def test_at_most_one_module_of_corruptions_knows_torch() -> None:
    users = [p.name for p in MODULES if package(p) == "corruptions" and ("third", "torch") in imports(p)]
    assert len(users) <= 1


def test_nothing_imports_pipeline_but_the_command_line() -> None:
    users = {package(p) for p in MODULES if ("ours", "pipeline") in imports(p)}
    assert users <= {"cli", "__init__"}


# What is over the limits, and why that is right.
LONG_MODULES = {"records.py": "one page of all records, no logic"}
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
    modules = imported_by("import edgesafe.commands.evaluate, edgesafe.stages.observe, edgesafe.measure.summary")
    assert "torch" not in modules
