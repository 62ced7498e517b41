"""Robust pruning from a recipe: steps, losses, calibration, and what the records say of them."""

from pathlib import Path

import numpy as np
import pytest

import edgesafe
from edgesafe.commands import compress, init
from edgesafe.errors import RecipeError
from edgesafe.recipe import parsing

SMALL = [
    "name=robust",
    "data.train_images=200",
    "data.test_images=60",
    "data.validation=60",
    "train.epochs=1",
    "train.milestones=[]",
    "train.robust={lit=1.0}",
    "recover={epochs=1, images=100, bn_images=64, milestones=[], lr=0.01, augment=true, flip=false}",
    "recover.robust={lit=1.0, deviation=0.1, wasserstein=0.1, light='brightness=20'}",
    "compress=[{method='usn', ratios=[0.4], steps=2, tune_first=true, calibration_images=40, draws=2}]",
    "evaluate.corruptions=none",
    "evaluate.latency=false",
    "export.temperature=false",
    "export.sparse=false",
    "certify.sets=[]",
]


def test_a_progressive_study_says_what_it_did(tmp_path: Path) -> None:
    study = compress.compress(parsing.load(None, SMALL), tmp_path / "a")
    assert {name: study[name].entry.status.value for name in study} == dict.fromkeys(study, "done")
    training = study["baseline-s0"].record.training
    assert training is not None
    assert set(training.terms) == {"lit"}
    usn = study["usn-r0.40-s0"].record
    assert usn.surgery is not None
    assert usn.surgery.criterion == "usn_l1"
    assert "2 proven steps of 2" in usn.surgery.notes[0]
    calibration = usn.surgery.calibration
    assert calibration is not None
    assert (calibration.light, calibration.images, calibration.draws, calibration.seed) == (
        "contrast=20%,brightness=25", 40, 2, 0,
    )  # fmt: skip
    assert usn.recovery is not None
    assert usn.recovery.fine_tuning is not None
    assert set(usn.recovery.fine_tuning.terms) == {"lit", "deviation", "wasserstein"}
    before, after = study["baseline-s0"].record.deviation, usn.deviation
    assert before is not None
    assert after is not None
    assert before.calibration == after.calibration  # the same images and lightings
    assert before.calibration.images_sha256 != calibration.images_sha256  # which the ranking has not seen
    kept = sum(len(layer.relative) for layer in after.layers)
    assert 0 < kept < sum(len(layer.relative) for layer in before.layers)
    edgesafe.Study(study.root).report(tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    medians = [np.median(np.concatenate([layer.relative for layer in one.layers])) for one in (before, after)]
    assert "How far lighting moves the channels" in page
    assert all(f">{median:.3g}<" in page for median in medians)


@pytest.mark.slow
def test_it_ends_with_the_same_bytes_and_controls_start_from_the_same_network(tmp_path: Path) -> None:
    blocks = (
        "compress=[{method='usn', ratios=[0.4], tune_first=true, calibration_images=40, draws=2}, "
        "{method='filter', label='like', criterion='usn_absolute', ratios=[0.4], calibration_images=40, draws=2}, "
        "{method='random', ratios=[0.4], tune_first=true}]"
    )
    wanted = parsing.load(None, [*SMALL, blocks])
    study, again = (compress.compress(wanted, tmp_path / name) for name in ("a", "b"))
    assert study.record.digest == again.record.digest
    usn, like, random = (study[f"{name}-r0.40-s0"].record.surgery for name in ("usn", "like", "random"))
    assert usn is not None
    assert like is not None
    assert random is not None
    assert like.calibration == usn.calibration  # the same images and draws for the same seed
    assert random.calibration is None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("compress.0.criterion=l2", "method usn ranks by"),
        ("compress.0.draws=0", "greater than or equal to 1"),
        ("compress.0.method=channel", "tune_first does not go with method channel"),
        ("compress.0.light=jpeg=50..95", "moves pixels"),
        ("compress.0.light=brightness=900", "whole number from 1 to 255"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused_before_anything_is_computed(
    override: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        compress.compress(parsing.load(None, [*SMALL, override]), tmp_path / "x")
    assert "compress.0" in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_recipe_is_tried_before_it_is_written(tmp_path: Path) -> None:
    made = init.init({"model": "smallnet", "data": "digits", "method": "usn"}, tmp_path / "usn.toml")
    assert made.narrowed > 0
    assert parsing.load(tmp_path / "usn.toml").compress[0].method == "usn"
