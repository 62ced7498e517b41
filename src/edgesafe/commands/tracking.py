"""`edgesafe report --mlflow URI`: a study's parameters, metrics with intervals, files and verdict, where people track.

One run for the study, and one below it for each finished variant. Only stored records are sent; nothing is measured.
Needs the extra `mlflow` (mlflow-skinny); its client is given the address and no module state is changed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from edgesafe.commands import gate
from edgesafe.errors import UsageError
from edgesafe.records import GateResult, Verdict
from edgesafe.study.study import Study, Variant

__all__ = ["metric_name", "track"]

_BATCH_METRICS, _BATCH_PARAMS = 1000, 100  # most that the tracking API takes at once
_LONGEST_PARAM = 500  # characters that every store takes
_PARENT = "mlflow.parentRunId"  # the tag by which MLflow's page nests runs
_FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"  # without it MLflow 3 refuses a folder as a store


def track(study: Study, uri: str, files: Sequence[Path] = (), policy: Path | None = None) -> tuple[str, ...]:
    """Send a study to an MLflow tracking store.

    Args:
        study: every file of it is compared with its hash first.
        uri: of a tracking server ("http://…"), or a folder.
        files: of its report; kept as artefacts of the study's run.
        policy: its verdict goes with the runs; None: none is sent.

    Returns:
        Ids of the runs: the study's, then one for each finished variant.

    Raises:
        UsageError: the store cannot be reached or does not take the study.
        NothingEvaluated: no variant is finished.
        EdgesafeError: the study or the policy cannot be used, see `gate.judge`.
    """
    verdict = gate.judge(study, gate.GateRequest(policy)) if policy is not None else None
    if verdict is None:
        study.verify()
    finished = study.finished()
    if urlsplit(uri).scheme in {"", "file"}:
        os.environ.setdefault(_FILE_STORE, "true")
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(study.name)
        experiment = found.experiment_id if found is not None else client.create_experiment(study.name)
        whole = _run(client, experiment, study.name, _study_tags(study, verdict))
        _log(client, whole, {}, _params("", study.record.recipe))
        for path in files:
            client.log_artifact(whole, str(path))
        client.log_artifact(whole, str(study.root / "study.json"))
        runs = [_variant(client, experiment, whole, variant, verdict) for variant in finished]
        for run in (*runs, whole):
            client.set_terminated(run)
    except (MlflowException, OSError) as error:
        line = " ".join(str(error).split())[:300]
        raise UsageError(f"the tracking store does not take it ({line})", where=uri, fix="check the address") from error
    return (whole, *runs)


def metric_name(name: str) -> str:
    """A metric's id as MLflow takes it: "@" becomes "_at_", any other foreign character "_"."""
    return re.sub(r"[^A-Za-z0-9_\-. /:]", "_", name.replace("@", "_at_"))


def _variant(client: Any, experiment: str, whole: str, variant: Variant, verdict: Verdict | None) -> str:
    """The run of a variant."""
    record, measured = variant.record, variant.measurements
    tags = {_PARENT: whole, "edgesafe.variant": variant.id, "edgesafe.onnx_sha256": measured.onnx_sha256}
    gates = [] if verdict is None else [result for result in verdict.gates if result.variant == variant.id]
    if gates:
        tags["edgesafe.gates"] = ", ".join(f"{result.id}: {result.status.value}" for result in gates)
    run = _run(client, experiment, variant.id, tags)
    params = {"method": record.method, "ratio": record.ratio, "seed": record.seed, "arch": record.arch or "onnx"}
    values = _bounded(measured.metrics) | _bounded(measured.differences, "difference.") | _gated(gates)
    _log(client, run, values, _params("", params))
    for name in ("variant.json", "measurements.json", "model.onnx", "evidence.npz", "certificates.npz"):
        if (variant.folder / name).is_file():
            client.log_artifact(run, str(variant.folder / name))
    return run


def _bounded(measured: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Estimates, and the ends of their intervals as `NAME.low` and `NAME.high`."""
    values: dict[str, float] = {}
    for name, number in measured.items():
        ends = (("", number.estimate), (".low", number.low), (".high", number.high))
        values |= {metric_name(f"{prefix}{name}{end}"): value for end, value in ends if value is not None}
    return values


def _gated(gates: Iterable[GateResult]) -> dict[str, float]:
    """1 for each gate that does not block, else 0."""
    return {metric_name(f"gate.{result.id}"): float(not result.blocking) for result in gates}


def _study_tags(study: Study, verdict: Verdict | None) -> dict[str, str]:
    tags = {
        "edgesafe.digest": study.digest,
        "edgesafe.version": study.record.edgesafe,
        "edgesafe.test_sha256": study.record.data.test_sha256,
    }
    if verdict is not None:
        tags |= {
            "edgesafe.verdict": verdict.overall.value,
            "edgesafe.exit_code": str(verdict.exit_code),
            "edgesafe.policy_sha256": verdict.policy_sha256,
        }
    return tags


def _params(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Nested tables as dotted keys, as `--set` takes them; what is not set is left out."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        inner = dict(enumerate(value)) if isinstance(value, list | tuple) and key == "compress" else value
        if isinstance(inner, Mapping):
            flat |= _params(f"{name}.", {str(k): v for k, v in inner.items()})
        elif value is not None:
            flat[metric_name(name)] = str(value)[:_LONGEST_PARAM]
    return flat


def _run(client: Any, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    run = client.create_run(experiment, run_name=name, tags=dict(tags))
    return str(run.info.run_id)


def _log(client: Any, run: str, values: Mapping[str, float], params: Mapping[str, str]) -> None:
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in values.items()]
    sent = [Param(name, value) for name, value in params.items()]
    for start in range(0, len(metrics), _BATCH_METRICS):
        client.log_batch(run, metrics=metrics[start : start + _BATCH_METRICS])
    for start in range(0, len(sent), _BATCH_PARAMS):
        client.log_batch(run, params=sent[start : start + _BATCH_PARAMS])
