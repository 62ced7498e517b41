"""Keypoints from a recipe to a verdict: trained, pruned, exported, measured, certified, reported, gated, audited."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import edgesafe
from edgesafe import data
from edgesafe.certificates import archive
from edgesafe.commands import bundle as bundles
from edgesafe.commands import certify, compress, evaluate, printing, search, verify
from edgesafe.commands import policy as policies
from edgesafe.commands.bundle import BundleRequest
from edgesafe.errors import PolicyError, RecipeError, UsageError
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.recipe import parsing, recipe
from edgesafe.recipe.sections import CertifySection, DataSection
from edgesafe.records import TaskKind, Unit
from edgesafe.study.study import read

SIDE = 16
TOLERANCE = 2.0


def spots(n: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A red and a blue spot of 3x3 px on noise, and the places of their middles, px."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (n, SIDE, SIDE, 3)).astype(np.uint8)
    corners = rng.integers(0, SIDE - 3, (n, 2, 2))
    for image, places in zip(images, corners, strict=True):
        for channel, (x, y) in zip((0, 2), places, strict=True):
            image[y : y + 3, x : x + 3] = 20
            image[y : y + 3, x : x + 3, channel] = 250
    return images, (corners + 1.5).astype(np.float32)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spots") / "spots.npz"
    x_train, y_train = spots(600, 0)
    x_test, y_test = spots(60, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, names=np.array(["red", "blue"]))
    return path


def asked(path: Path, **more: object) -> recipe.Recipe:
    return parsing.from_values(
        {
            "name": "spots",
            "model": {"arch": "cnn7", "args": {"width": 8, "size": SIDE}},
            "data": {"name": "npz", "root": str(path), "validation": 80},
            "train": {"epochs": 7, "optimiser": "adamw", "lr": 0.01, "milestones": [5], "batch_size": 32},
            "recover": {"epochs": 1, "optimiser": "adamw", "lr": 0.002, "bn_images": 200},
            "compress": [{"method": "filter", "ratios": [0.5]}],
            "evaluate": {"corruptions": ["fog", "gaussian_noise"], "severities": [1, 5], "latency": False},
            "certify": {"sets": ["brightness=1"]},
            **more,
        }
    )


@pytest.fixture(scope="module")
def study(archived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keypoints") / "spots"
    compress.compress(asked(archived), root)
    return root


def errors_by_hand(file: bytes, images: NDArray[np.uint8], labels: NDArray[np.float32]) -> NDArray[np.float64]:
    points = OnnxClassifier(file).logits(images).reshape(len(images), -1, 2).astype(np.float64) * SIDE
    distances: NDArray[np.float64] = np.linalg.norm(points - labels, axis=2)
    return distances


def test_its_numbers_are_those_of_the_shipped_file(study: Path, archived: Path) -> None:
    found, test = read(study), data.load(DataSection(name="npz", root=str(archived))).test
    for variant in found.finished():
        errors = errors_by_hand(variant.file_bytes("model.onnx"), test.images, test.labels)
        metrics = variant.metrics
        assert metrics["accuracy"].estimate == pytest.approx((errors.max(1) < TOLERANCE).mean())
        for px in (1, 2, 3):
            assert metrics[f"pck@{px}"].estimate == pytest.approx((errors < px).mean())
        assert metrics["error.mean_px"].estimate == pytest.approx(errors.mean())
        per_image = (errors < 2).mean(1)  # keypoints of one image are not independent: images are what is drawn
        assert metrics["pck@2"].se == pytest.approx(per_image.std(ddof=1) / np.sqrt(len(per_image)))
        cell = evidence_files.from_bytes(variant.evidence_bytes()).clean
        assert ((cell.margin > 0) == (errors.max(1) < TOLERANCE)).all()
        assert ((cell.prediction == cell.label) == (cell.margin > 0)).all()
        cells = [f"accuracy.{name}.{s}" for name in ("fog", "gaussian_noise") for s in (1, 5)]
        assert metrics["mpc"].estimate == pytest.approx(np.mean([metrics[name].estimate for name in cells]))
        assert not {"ece_em10_top1", "nll", "brier", "aurc"} & set(metrics)
        assert variant.record.temperature is None
    baseline, pruned = found["baseline-s0"], found["filter-r0.50-s0"]
    assert baseline.metrics["pck@2"].estimate > 0.5  # it has learnt: chance is below 0.1
    drop = pruned.differences["error.mean_px"]
    assert drop.estimate == pytest.approx(drop.candidate - drop.baseline)
    assert "pck@2.corruption.fog" in pruned.differences


def test_certified_keypoints_are_those_of_running_every_image_by_hand(study: Path, archived: Path) -> None:
    found, test = read(study), data.load(DataSection(name="npz", root=str(archived))).test
    for variant in found.finished():
        file = variant.file_bytes("model.onnx")
        worst = np.max(
            [
                errors_by_hand(file, np.clip(test.images.astype(int) + d, 0, 255).astype(np.uint8), test.labels)
                for d in (-1, 0, 1)
            ],
            axis=0,
        )
        metrics = variant.metrics
        assert metrics["certified_points.brightness=1"].estimate == pytest.approx((worst < TOLERANCE).mean())
        assert metrics["certified_accuracy.brightness=1"].estimate == pytest.approx((worst.max(1) < TOLERANCE).mean())
        content = variant.certificates_bytes()
        assert content is not None
        least = archive.from_bytes(content).sets[0].margin
        assert least == pytest.approx(TOLERANCE - worst.max(1))


def test_a_proposed_policy_judges_it_and_one_with_calibration_is_refused(study: Path, tmp_path: Path) -> None:
    policy = tmp_path / "own.toml"
    text = policies.propose(read(study))
    assert 'metric = "pck@2"' in text
    assert "ece" not in text
    policy.write_text(text)
    verdict = edgesafe.gate(edgesafe.Study(study), policy)
    assert {result.status.value for result in verdict.gates} <= {"pass", "fail", "inconclusive"}
    policy.write_text('schema = "edgesafe.policy/1"\n[[gate]]\nid = "ece"\nmetric = "ece_em10_top1"\nmax = "5%"\n')
    with pytest.raises(PolicyError, match=r"'ece_em10_top1' is no metric of keypoints.*pck@1"):
        edgesafe.gate(edgesafe.Study(study), policy)


def test_a_policy_on_keypoints_does_not_fit_classes(study: Path, tmp_path: Path, archived: Path) -> None:
    policy = tmp_path / "own.toml"
    policy.write_text('schema = "edgesafe.policy/1"\n[[gate]]\nid = "nll"\nmetric = "nll"\nmax = "1"\n')
    asking = asked(archived, evaluate={"mode": "quick", "policy": str(policy), "corruptions": "none"})
    with pytest.raises(PolicyError, match="no metric of keypoints"):
        compress.compress(asking, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_its_report_shows_places_and_no_calibration(study: Path, tmp_path: Path) -> None:
    edgesafe.Study(study).report(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "2 keypoints" in page
    assert "Keypoints within 2 px" in page
    assert "Certified keypoints" in page
    assert "states no confidence, so there is nothing to calibrate" in page
    assert "How far lighting moves" not in page  # nothing was ranked by lighting
    assert "CPU time of certifying" not in page  # and nothing was timed
    assert not any(word in page for word in ("of class", "#calibration", ">ECE<", ">Brier score<", ">NLL<"))
    summary = (tmp_path / "report.md").read_text()
    assert "| Keypoints within 2 px |" in summary
    assert "ECE" not in summary


def test_the_terminal_and_a_notebook_show_the_columns_of_the_task(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = edgesafe.Study(study)
    printing.print_study(found)
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == [
        "variant",
        "acc.",
        "%",
        "PCK@2",
        "%",
        "px",
        "mPC",
        "%",
        "kB",
        "params",
        "zeros",
    ]
    assert "ECE" not in said
    html = found._repr_html_()
    assert "PCK@2" in html
    assert "ECE" not in html
    printing.print_certificates(found)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    kept = found["baseline-s0"].metrics["certified_points.brightness=1"].estimate
    assert ["baseline-s0", "brightness=1", f"{100 * kept:.1f}"] in [row[:3] for row in rows]


def test_an_audit_finds_out_how_the_file_takes_its_pixels(study: Path, archived: Path, tmp_path: Path) -> None:
    file = tmp_path / "some.onnx"
    file.write_bytes(read(study)["baseline-s0"].file_bytes("model.onnx"))
    options = (
        "data.validation=80",
        "evaluate.corruptions=none",
        "evaluate.latency=false",
        "certify.sets=['brightness=1']",
    )
    request = evaluate.AuditRequest(file, None, "npz", str(archived), overrides=options)
    audited = evaluate.evaluate(request, tmp_path / "audit")["candidate-s0"]
    known = read(study)["baseline-s0"]
    for metric in ("accuracy", "pck@2", "error.mean_px", "certified_points.brightness=1"):
        assert audited.metrics[metric].estimate == known.metrics[metric].estimate


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"certify": {"sets": ["shift=1"]}}, "shift=1: moves what is in the image"),
        ({"evaluate": {"corruptions": ["elastic_transform"]}}, "elastic_transform moves what is in the image"),
        ({"evaluate": {"corruptions": "dir:somewhere"}}, "have classes, no keypoints"),
    ],
)
def test_what_moves_the_keypoints_is_refused(
    archived: Path, tmp_path: Path, more: dict[str, object], told: str
) -> None:
    with pytest.raises((UsageError, RecipeError), match=told):
        compress.compress(asked(archived, **more), tmp_path / "never")


def test_what_teaches_classes_only_is_refused_before_anything_is_trained(archived: Path, tmp_path: Path) -> None:
    block = {"method": "filter", "ratios": [0.5], "recover": {"distill": {"weight": 0.5}}}
    with pytest.raises(UsageError, match="a network for keypoints gives none") as caught:
        compress.compress(asked(archived, compress=[block]), tmp_path / "never")
    assert caught.value.where == "compress.0.recover.distill"
    assert not (tmp_path / "never").exists()


def test_a_finished_study_is_certified_for_another_set(study: Path, tmp_path: Path) -> None:
    copied = tmp_path / "spots"
    shutil.copytree(study, copied)
    request = certify.CertifyRequest(copied, CertifySection(sets=("brightness=3",)))
    for variant in certify.certify_study(request).finished():
        metrics = variant.metrics
        wider, narrow = (metrics[f"certified_points.brightness={k}"].estimate for k in (3, 1))
        assert 0.0 <= wider <= narrow <= metrics["pck@2"].estimate


@pytest.mark.parametrize("engine", ["enumeration", "line"])
def test_what_a_certificate_costs_is_measured_when_it_is_asked_for(
    study: Path, tmp_path: Path, engine: Literal["enumeration", "line"]
) -> None:
    copied, name = tmp_path / "spots", "line.brightness=1" if engine == "line" else "brightness=1"
    shutil.copytree(study, copied)
    section = CertifySection(sets=("brightness=1",), engine=engine, images=20, timed=5)
    found = certify.certify_study(certify.CertifyRequest(copied, section))
    for variant in found.finished():
        cost = variant.metrics[f"certify.cpu_ms.{name}"]
        assert (cost.n, cost.unit) == (5, Unit.MS)
        assert 0.0 < cost.estimate < 1000.0
        assert not any(metric.startswith("certify.cpu_ms") for metric in read(study)[variant.id].metrics)
    edgesafe.Study(copied).report(tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "what certifying costs" in page
    assert "CPU time of an image" in page


def test_a_bundle_of_keypoints_says_and_shows_places(study: Path, archived: Path, tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx", reason="the extra bundle is not installed")
    made = bundles.bundle(read(study), BundleRequest("filter-r0.50-s0", "host-1t", out=tmp_path / "b"))
    assert made.manifest is not None
    tensors, samples = made.manifest.facts.tensors, made.manifest.facts.samples
    assert (tensors.task, tensors.outputs, tensors.columns) == (TaskKind.KEYPOINTS, "fractions", 4)
    assert (samples.labels, samples.answers_sha256, samples.tolerance) == ((), None, 1e-3)
    assert all(line.passed for line in verify.verify(tmp_path / "b").checks)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (config["keypoints"], config["tolerance_px"], "classes" in config) == (["red", "blue"], TOLERANCE, False)
    card = (tmp_path / "b" / "README.md").read_text()
    assert 'pipeline_tag: "keypoint-detection"' in card
    assert "finds the places (cnn7) of 2 keypoints (red, blue)" in card
    words = [sys.executable, str(tmp_path / "b" / "examples" / "run.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("equal, bit for bit\n")
    with np.load(archived) as arrays:
        images = arrays["x_test"][list(samples.index)]
    points = OnnxClassifier((tmp_path / "b" / "model.onnx").read_bytes()).logits(images, 1).reshape(-1, 2, 2) * SIDE
    (x1, y1), (x2, y2) = points[0].tolist()
    assert done.stdout.startswith(f"image 0: red at ({x1:.1f}, {y1:.1f}) px, blue at ({x2:.1f}, {y2:.1f}) px\n")
    moved = np.fromfile(tmp_path / "b" / "samples" / "outputs.bin", "<f4")
    moved[0] += 0.01  # the control: more than the tolerance
    moved.tofile(tmp_path / "b" / "samples" / "outputs.bin")
    text = (tmp_path / "b" / "examples" / "run.py").read_text().replace(samples.sha256, "sha256:another")
    (tmp_path / "b" / "examples" / "run.py").write_text(text)
    failed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "NOT as expected: outputs differ by up to 0.01" in failed.stderr


def test_a_network_of_another_number_of_outputs_is_one_line(archived: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def make(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 4), torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    )
    with pytest.raises(UsageError, match=r"gives torch\.float32 \(4, 3\), for 4 images and 4"):
        compress.compress(asked(archived, model={"arch": f"{tmp_path / 'net.py'}:make"}), tmp_path / "never")


@pytest.mark.slow
def test_the_smallest_that_passes_is_searched_for(tmp_path: Path) -> None:
    x_train, y_train = spots(400, 0)
    x_test, y_test = spots(160, 1)
    np.savez(tmp_path / "s.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    rules = tmp_path / "p.toml"
    gate = '[[gate]]\nid = "pck"\nmetric = "pck@2"\nmax_drop = "60pp"\n'
    rules.write_text(f'schema = "edgesafe.policy/1"\n[stats]\nconfidence = 0.9\n{gate}')
    asks = {"policy": str(rules), "lowest": 0.2, "highest": 0.6, "resolution": 0.2, "screen_images": 50}
    plain = asked(tmp_path / "s.npz", search=asks, certify={}).model_dump(mode="json", by_alias=True)
    plain["evaluate"]["corruptions"], plain["train"]["epochs"] = "none", 3
    study = search.search(recipe.Recipe.model_validate(plain), tmp_path / "study")
    record = study.search()
    assert record is not None
    assert record.finished
    assert record.trials
    assert record.winner is not None
    assert study[record.winner].metrics["pck@2"].estimate > 0
    assert len(record.controls) == 2
    with pytest.raises(PolicyError, match="is no metric of keypoints"):
        rules.write_text(rules.read_text().replace("pck@2", "ece_em10_top1").replace("max_drop", "max_increase"))
        search.search(recipe.Recipe.model_validate(plain), tmp_path / "other")
