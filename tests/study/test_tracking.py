"""`report --mlflow`: a study in a tracking store, read back by MLflow's own client."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

from edgesafe.errors import IntegrityError, UsageError
from edgesafe.study.study import read

mlflow = pytest.importorskip("mlflow", reason="pip install 'edgesafe[mlflow]'")
tracking = importlib.import_module("edgesafe.commands.tracking")

POLICY = """
schema = "edgesafe.policy/1"
[[gate]]
id = "floor"
metric = "accuracy"
min = "90%"
[[gate]]
id = "perfect"
metric = "accuracy"
min = "99.99%"
"""


@pytest.fixture(autouse=True)
def _file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def test_a_study_is_read_back_by_mlflows_own_client(mixed: Path, tmp_path: Path) -> None:
    policy, page = tmp_path / "p.toml", tmp_path / "index.html"
    policy.write_text(POLICY)
    page.write_text("a page")
    opened, uri = read(mixed), str(tmp_path / "runs")
    whole, *runs = tracking.track(opened, uri, [page], policy)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("s")
    found = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {whole, *runs} and len(runs) == len(opened.finished())
    top = found[whole]
    assert top.data.tags["edgesafe.digest"] == opened.digest
    assert top.data.tags["edgesafe.verdict"] == "refused" and top.data.tags["edgesafe.exit_code"] == "3"
    assert top.data.params == {"name": "s", "recover.epochs": "1"}
    assert {item.path for item in client.list_artifacts(whole)} == {"index.html", "study.json"}
    for run, variant in zip(runs, opened.finished(), strict=True):
        data, measured = found[run].data, variant.measurements
        assert data.tags["mlflow.parentRunId"] == whole and data.params["seed"] == "0"
        for name, number in measured.metrics.items():
            key = tracking.metric_name(name)
            assert data.metrics[key] == number.estimate
            assert data.metrics.get(f"{key}.low") == number.low and data.metrics.get(f"{key}.high") == number.high
        if variant.id in ("bad-s0", "good-s0"):
            assert (data.metrics["gate.floor"], data.metrics["gate.perfect"]) == (float(variant.id == "good-s0"), 0.0)
        kept = client.download_artifacts(run, "measurements.json", str(tmp_path))
        assert json.loads(Path(kept).read_text())["onnx_sha256"] == data.tags["edgesafe.onnx_sha256"]
        assert found[run].info.status == "FINISHED"
    tracking.track(opened, uri)  # again: a second set of runs in the same experiment
    assert len(client.search_runs([experiment.experiment_id])) == 2 * len(found)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("high_conf_error@0.9", "high_conf_error_at_0.9"), ("falsified.brightness=2", "falsified.brightness_2"),
     ("mpc.severity.1", "mpc.severity.1")],
)  # fmt: skip
def test_names_are_those_that_mlflow_takes(name: str, wanted: str) -> None:
    assert tracking.metric_name(name) == wanted


def test_recipes_are_told_by_dotted_keys() -> None:
    recipe = {"seeds": [0, 1], "compress": [{"method": "filter", "ratios": [0.5]}], "model": {"weights": None}}
    wanted = {"seeds": "[0, 1]", "compress.0.method": "filter", "compress.0.ratios": "[0.5]"}
    assert tracking._params("", recipe) == wanted


def test_a_store_that_cannot_be_used_is_one_line(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match="tracking store does not take it"):
        tracking.track(read(mixed), str(tmp_path / "file" / "runs"))
    with pytest.raises(UsageError, match="tracking store does not take it"):
        tracking.track(read(mixed), "nonsense://x")


def test_a_study_that_was_changed_is_not_sent(mixed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mixed, copy)
    opened = read(copy)
    (copy / "baseline-s0" / "model.onnx").write_bytes(b"another")
    with pytest.raises(IntegrityError):
        tracking.track(opened, str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
