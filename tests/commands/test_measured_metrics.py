"""Whatever is measured stands in the catalogue of metrics, in the catalogue's unit, and can be gated."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesafe.commands import compress, evaluate
from edgesafe.metrics import Basis, Rule, info
from edgesafe.policy.policy import loads
from edgesafe.recipe import parsing
from edgesafe.records import Measurement, Unit
from edgesafe.study.study import read

from .conftest import TINY

OPTIONS = [
    *TINY,
    'compress=[{method="weight", ratios=[0.5]}]',
    "export.precisions=['fp32', 'int8']",
    "evaluate.mode=quick",
]
LIMITS = {
    Unit.FRACTION: '"90%"', Unit.NATS: '"1nats"', Unit.MS: '"9ms"', Unit.BYTES: '"9GB"', Unit.PIXELS: '"9px"',
}  # fmt: skip


@pytest.fixture(scope="module")
def with_every_option(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with int8, temperature, corruptions, latency and a quick sample."""
    root = tmp_path_factory.mktemp("options") / "s"
    compress.compress(parsing.load(None, OPTIONS), root)
    return root


@pytest.fixture(scope="module")
def audited(with_every_option: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of its files, audited against its baseline."""
    out = tmp_path_factory.mktemp("audit") / "a"
    few = (
        "data.test_images=80",
        "evaluate.images_per_cell=20",
        "evaluate.latency_runs=64",
        'evaluate.corruptions=["fog"]',
    )
    files = (with_every_option / name / "model.onnx" for name in ("weight-r0.50-s0", "baseline-s0"))
    evaluate.evaluate(evaluate.AuditRequest(*files, "digits", overrides=few), out)
    return out


def measured(root: Path) -> dict[str, Measurement]:
    """Every metric of every variant of a study, paired differences among them."""
    records = read(root).measurements().values()
    return {key: value for m in records for part in (m.metrics, m.differences) for key, value in part.items()}


@pytest.mark.parametrize("source", ["study", "with_every_option", "audited"])
def test_what_is_measured_is_in_the_catalogue_and_can_be_gated(source: str, request: pytest.FixtureRequest) -> None:
    found = measured(request.getfixturevalue(source))
    for metric, value in found.items():
        one = info(metric)
        assert one is not None, metric
        assert (value.metric, value.unit) == (metric, one.unit)
        assert (one.basis is Basis.EXACT) <= (value.low is None), metric
        limit, rule = LIMITS.get(one.unit, "1"), one.rules()[0]
        gate = f'schema = "edgesafe.policy/1"\n[[gate]]\nid = "g"\nmetric = "{metric}"\n{rule.value} = {limit}\n'
        assert loads(gate).gates[0].clauses[0].rule in (Rule.MIN, Rule.MAX)


def test_the_options_that_this_rests_on_were_in_force(with_every_option: Path) -> None:
    found = measured(with_every_option)
    wanted = {
        "flips.sibling", "latency.ratio.sibling", "size.sparse_onnx_bytes", "nll.calibrated",
        "mpc.corruption.fog", "accuracy.fog.5", "latency.ratio", "flips", "parity.max_abs_logit", "macs",
    }  # fmt: skip
    assert wanted <= set(found)
