"""Certificates run again by a device: the verdicts anew from its own outputs; another device as the control."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgesafe import data
from edgesafe.certificates import archive
from edgesafe.commands import evaluate
from edgesafe.display import cautions
from edgesafe.errors import IntegrityError
from edgesafe.files import sha256_bytes
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.progress import Silent
from edgesafe.recipe.sections import DataSection, TargetSection
from edgesafe.recipe.shipped import device_script
from edgesafe.records import DeviceRecheck, DeviceReport, Standing
from edgesafe.stages import recheck
from edgesafe.stages.recheck import RecheckOrder
from edgesafe.study.study import Study

SET = "brightness=40"


@pytest.fixture(scope="module")
def certified(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A linear classifier of the digits, certified on 60 images: some certified, some falsified."""
    asked = evaluate.AuditRequest(
        models[0], None, "digits",
        overrides=(
            "data.test_images=60", "evaluate.corruptions=none", "evaluate.latency=false", f"certify.sets=['{SET}']",
        ),
    )  # fmt: skip
    return evaluate.evaluate(asked, tmp_path_factory.mktemp("certified") / "s")


class Reading:
    """The part of a study that a recheck reads."""

    def __init__(self, study: Study) -> None:
        (self.variant,) = study.finished()

    def file_bytes(self, variant: str, name: str) -> bytes:
        assert variant == self.variant.id
        return self.variant.file_bytes(name)


def run(study: Study, outputs: Callable[..., NDArray[np.float32]]) -> DeviceRecheck:
    reading = Reading(study)
    test = data.load(DataSection(name="digits", test_images=60)).test
    content = reading.variant.certificates_bytes()
    assert content is not None
    order = RecheckOrder(reading, reading.variant.id, TargetSection(), test, Silent())  # type: ignore[arg-type]
    file = OnnxClassifier(reading.variant.file_bytes("model.onnx"))
    return recheck.rechecked(archive.from_bytes(content).sets[0], order, file, outputs)


def alike(target: TargetSection, model: bytes, images: NDArray[Any]) -> NDArray[np.float32]:
    """A device that computes what the file says, image by image."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(len(images))])


def test_a_device_that_computes_the_same_gives_the_same_verdicts(certified: Study) -> None:
    found = run(certified, alike)
    (variant,) = certified.finished()
    content = variant.certificates_bytes()
    assert content is not None
    (part,) = archive.from_bytes(content).sets
    falsified = np.flatnonzero(part.standing == Standing.FALSIFIED)[: recheck.FALSIFIED]
    whole = np.flatnonzero(part.standing == Standing.CERTIFIED)[: recheck.CERTIFIED]
    assert 0 < len(falsified) < recheck.FALSIFIED
    assert len(whole) == recheck.CERTIFIED
    assert (found.falsified, found.certified) == (len(falsified), len(whole))
    assert found.runs == len(falsified) + int(part.members[whole].sum())
    assert (found.set, found.differ, found.bit_equal, found.max_abs) == (SET, (), True, 0.0)
    assert found.host_sha256 == found.device_sha256 != sha256_bytes(b"")


def test_a_device_that_computes_otherwise_is_found_image_by_image(certified: Study) -> None:
    def swapped(target: TargetSection, model: bytes, images: NDArray[Any]) -> NDArray[np.float32]:
        """Takes zeros for ones and ones for zeros."""
        return alike(target, model, images)[:, [1, 0, *range(2, 10)]]

    same, other = run(certified, alike), run(certified, swapped)
    (variant,) = certified.finished()
    content = variant.certificates_bytes()
    assert content is not None
    (part,) = archive.from_bytes(content).sets
    looked = part.standing == Standing.CERTIFIED
    looked &= np.cumsum(looked) <= recheck.CERTIFIED
    expected = part.index[looked & (part.label < 2)].tolist()
    assert expected
    assert other.differ == tuple(expected)
    assert not other.bit_equal
    assert other.max_abs > 0.1
    assert other.host_sha256 == same.host_sha256 != other.device_sha256


def test_a_difference_is_a_warning_everywhere_and_agreement_is_none(certified: Study) -> None:
    (variant,) = certified.finished()
    measured = variant.measurements
    report = DeviceReport.model_construct(target="board", host=measured.host, threads=1, provider="CPU", files=())
    found = run(certified, alike)
    for differ, said in (((), 0), ((3, 7), 1)):
        told = report.model_copy(update={"rechecks": (found.model_copy(update={"differ": differ}),)})
        lines = cautions(measured.model_copy(update={"device": told}))
        assert len(lines) == said
    assert f"answers otherwise than certified on board: 2 of {found.certified + found.falsified} of {SET}" in lines[0]


def test_images_that_do_not_fit_are_left_out_and_counted(certified: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recheck, "MOST_BYTES", 32 * 32 * 3 * 100)  # 100 images; a set has up to 81
    found = run(certified, alike)
    assert found.runs <= 100
    assert found.certified == 1
    monkeypatch.setattr(recheck, "MOST_BYTES", 0)
    none = run(certified, alike)
    assert (none.certified, none.falsified, none.runs, none.differ) == (0, 0, 0, ())


def test_another_definition_of_the_set_is_refused(certified: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    wider = recheck.parse("brightness=41")
    monkeypatch.setattr(recheck, "parse", lambda _: wider)
    with pytest.raises(IntegrityError, match="makes other images"):
        run(certified, alike)


def test_the_script_alone_gives_outputs_and_times_nothing(models: tuple[Path, Path], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    words = [sys.executable, str(device_script()), str(models[0]), "--only-outputs"]
    done = subprocess.run(
        [*words, "--images", str(tmp_path / "images.npy")], capture_output=True, check=True, text=True
    )
    (result,) = json.loads(done.stdout)["results"]
    assert set(result) == {"file", "sha256", "outputs"}
    expected = alike(TargetSection(), models[0].read_bytes(), images)
    assert result["outputs"]["sha256"] == sha256_bytes(expected.astype("<f4").tobytes())
    assert result["outputs"]["shape"] == [3, 10]
    bare = subprocess.run(words, capture_output=True, check=False, text=True)
    assert "--only-outputs needs --images" in bare.stderr
