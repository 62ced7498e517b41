"""The Python API: the public names, what they take, and the session of docs/python.md."""

from __future__ import annotations

import doctest
import re
import shutil
import subprocess
import sys
import tomllib
import types
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import edgesafe
from edgesafe.commands.evaluate import AuditRequest
from edgesafe.progress import Silent
from edgesafe.recipe import parsing, recipe, toml
from edgesafe.recipe.sections import EvaluateSection
from edgesafe.records import VariantStatus

from .conftest import TINY

ROOT = Path(__file__).parents[2]
POLICY = """schema = "edgesafe.policy/1"
[data]
min_samples = 10
[[gate]]
id = "accuracy-drop"
metric = "accuracy"
max_drop = "99pp"
"""


@pytest.fixture
def there(study: Path, tiny: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a finished study, its recipe and a policy that passes."""
    shutil.copytree(study, tmp_path / "export" / "small")
    (tmp_path / "small.toml").write_text(toml.dump_toml(tiny))
    (tmp_path / "policy.toml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_public_names_are_exactly_these() -> None:
    errors = set(edgesafe.errors.__all__)
    others = {
        "__version__", "Comparison", "GateResult", "GateStatus", "Measurement", "Study", "Unit", "Variant",
        "VariantStatus", "Verdict", "certify", "compress", "evaluate", "gate", "load", "search",
    }  # fmt: skip
    assert set(edgesafe.__all__) == errors | others
    assert all(hasattr(edgesafe, name) for name in edgesafe.__all__)
    code = "import edgesafe, types; print([n for n in vars(edgesafe) if n[0] != '_' and n not in edgesafe.__all__])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rest = set(re.findall(r"'(\w+)'", done.stdout))
    assert all(
        isinstance(getattr(edgesafe, name), types.ModuleType) for name in rest - {"annotations", "TYPE_CHECKING"}
    ), rest


def test_the_version_is_looked_up_when_asked_for_and_unknown_without_an_installation() -> None:
    assert edgesafe.__version__ == metadata.version("edgesafe")
    code = (
        "import sys, importlib.metadata as m\n"
        "def absent(name): raise m.PackageNotFoundError(name)\n"
        "m.version = absent\n"
        "import edgesafe; print(edgesafe.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "unknown\n"
    with pytest.raises(AttributeError, match="module 'edgesafe' has no attribute 'versoin'"):
        getattr(edgesafe, "versoin")  # noqa: B009 - a type checker would know better


def test_the_session_of_the_docs(there: Path) -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    session = doctest.DocTestParser().get_doctest(text, {}, "docs/python.md", "docs/python.md", 0)
    assert len(session.examples) > 20
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(session, out=said.append)
    assert not runner.failures, "".join(said)


def test_what_the_readme_shows_is_what_there_is(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's lines on a study that is there: making the quickstart takes longer than a test may."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:] if "edgesafe.compress" in part]
    code = code.replace('edgesafe.compress("quickstart", progress=True)', 'edgesafe.Study("export/small")')
    named = re.findall(r'study\["([^"]+)"\]', code)
    assert named
    assert set(named) <= {plan.id for plan in recipe.variants(parsing.load(None))}  # the quickstart has them
    code = code.replace("filter-r0.30-s0", "filter-r0.50-s0")  # and this small study another ratio
    names: dict[str, object] = {}
    exec(compile(code.replace('"quickstart"', '"policy.toml"'), "README.md", "exec"), names)  # noqa: S102
    assert isinstance(names["verdict"], edgesafe.Verdict)
    assert (there / "reports" / "quickstart" / "index.html").is_file()


def test_a_finished_study_is_found_again_by_file_by_mapping_and_by_overrides(there: Path, study: Path) -> None:
    """Nothing is computed again, since the recipe is the same however it is given."""

    class Heard(Silent):
        said: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.said.append(text)

    out = there / "export" / "small"
    dotted = {key: parsing.files.parse_toml(f"v = {raw}", "t")["v"] for key, raw in (i.split("=", 1) for i in TINY[1:])}
    ways = (
        edgesafe.compress(there / "small.toml", out, progress=Heard()),
        edgesafe.compress(tomllib.loads((there / "small.toml").read_text()), str(out), progress=Heard()),
        edgesafe.compress(out=out, set={"name": "tiny", **dotted}, progress=Heard()),
        edgesafe.compress(None, out, **{"name": "tiny"} | {k.replace(".", "__"): v for k, v in dotted.items()}),
    )
    assert len({one.digest for one in ways}) == 1
    assert sum("done before" in line for line in Heard.said) == 3 * len(ways[0])
    assert all(isinstance(one, edgesafe.Study) for one in ways)


def test_a_policy_is_read_before_the_study(tmp_path: Path) -> None:
    with pytest.raises(edgesafe.PolicyError, match="release"):
        edgesafe.gate(tmp_path / "absent", "relase")
    with pytest.raises(edgesafe.StoreError, match="absent"):
        edgesafe.gate(tmp_path / "absent", "release")


def test_an_audit_with_a_policy_or_a_budget_is_quick_and_overrides_go_before_both(tmp_path: Path) -> None:
    odd = tmp_path / "1 'policy'.toml"
    odd.write_text(POLICY)

    def section(**asked: Any) -> EvaluateSection:
        return AuditRequest(tmp_path / "m.onnx", None, "digits", **asked).recipe().evaluate

    assert section().mode == "full"
    assert (section(budget=2000).mode, section(budget=2000).budget) == ("quick", 2000)
    assert (section(policy=odd).mode, section(policy=odd).policy) == ("quick", str(odd))
    assert section(budget=2000, overrides=("evaluate.budget=3000",)).budget == 3000


def test_overrides_that_cannot_be_said_are_errors(there: Path) -> None:
    with pytest.raises(edgesafe.RecipeError, match=r"model\.weights: None cannot be set"):
        edgesafe.compress(set={"model.weights": None})
    with pytest.raises(edgesafe.RecipeError, match=r"recover\.epoch: unknown key.*recover\.epochs|epochs"):
        edgesafe.compress(recover__epoch=2)
    with pytest.raises(edgesafe.RecipeError, match="name"):
        edgesafe.compress({"schema": "edgesafe.recipe/1"})


def test_fresh_moves_a_study_aside(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise edgesafe.RefusedError("stopped")

    monkeypatch.setattr("edgesafe.commands.compress.compress", stop)
    with pytest.raises(edgesafe.RefusedError, match="stopped"):
        edgesafe.compress("small.toml", "export/small", fresh=True)
    assert edgesafe.Study("export/small.1").digest
    assert not Path("export/small").exists()


def test_a_verdict_is_the_same_however_it_is_asked_for(there: Path) -> None:
    study = edgesafe.Study("export/small")
    verdict = study.gate("policy.toml")
    assert verdict == edgesafe.gate("export/small", Path("policy.toml")) == edgesafe.gate(study, "policy.toml")
    assert verdict.exit_code == 0
    other = edgesafe.gate(study, "policy.toml", "weight-r0.50-s0", baseline="filter-r0.50-s0")
    assert (other.variants, other.gates[0].baseline) == (("weight-r0.50-s0",), "filter-r0.50-s0")
    with pytest.raises(edgesafe.NothingEvaluated, match="needs a baseline"):
        study.gate("policy.toml", no_baseline=True)
    with pytest.raises(edgesafe.PolicyError):
        study.gate("policy.toml", lock="absent.lock")


def test_the_table_has_a_row_per_variant_and_none_for_what_is_not_there(there: Path) -> None:
    study = edgesafe.Study("export/small")
    rows = study.table()
    assert [row["variant"] for row in rows] == list(study)
    for row in rows:
        assert row["accuracy"] == study[str(row["variant"])].metrics["accuracy"].estimate
        assert (row["latency.ratio"] is None) is (row["label"] == "baseline")
    assert study.table("no.such.metric")[0]["no.such.metric"] is None


class Cells(HTMLParser):
    """The texts of the cells of a table, row by row, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_a_notebook_shows_the_table_and_nothing_runs_in_it(there: Path) -> None:
    study = edgesafe.Study("export/small")
    html = study._repr_html_()
    found = Cells(html)
    assert found.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert [row[0] for row in found.rows] == ["variant", *study]
    assert {len(row) for row in found.rows} == {9}
    assert (
        f"{100 * study['filter-r0.50-s0'].metrics['accuracy'].estimate:.2f}"
        in {row[0]: row[1] for row in found.rows}["filter-r0.50-s0"]
    )
    refused = study["filter-r0.50-s0"].entry.model_copy(
        update={"status": VariantStatus.REFUSED, "reason": "<script>alert(1)</script>"}
    )
    hostile = edgesafe.Study.__new__(edgesafe.Study)
    vars(hostile).update(vars(study), variants=(edgesafe.Variant(refused, study.root),))
    shown = Cells(hostile._repr_html_())
    assert shown.tags == found.tags
    assert shown.rows[1] == ["filter-r0.50-s0", "refused: <script>alert(1)</script>"]
    assert repr(hostile) == f"<Study 'export/small': 1 refused, digest {study.digest[7:23]}>"


def test_an_audit_from_python(there: Path) -> None:
    keys = {"data.test_images": 80, "evaluate.latency": False, "evaluate.corruptions": ["fog", "gaussian_noise"]}
    keys |= {"evaluate.severities": (1, 5), "evaluate.images_per_cell": 20}
    model = there / "export" / "small" / "filter-r0.50-s0" / "model.onnx"
    found = edgesafe.evaluate(model, "digits", baseline=Path("export/small"), set=keys)
    assert found.root == Path("export/model")
    assert list(found) == ["baseline-s0", "candidate-s0"]
    ours = edgesafe.Study("export/small")["filter-r0.50-s0"].metrics["accuracy"]
    assert found["candidate-s0"].metrics["accuracy"].estimate == ours.estimate
    assert found.gate("policy.toml").exit_code == 0
