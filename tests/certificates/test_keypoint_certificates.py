"""Certificates of keypoints: brute force for every set, and the line against enumeration and a dense grid."""

from __future__ import annotations

import numpy as np
import pytest
from certificate_fixtures import ORIGIN, Net, pictures, work
from numpy.typing import NDArray
from test_line import IMAGES, residual

from edgesafe.certificates import archive, summary
from edgesafe.certificates.certification import certify_set
from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.certificates.ids import parse
from edgesafe.certificates.line import certify_line
from edgesafe.certificates.operators import Network
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.tasks import rules_of
from edgesafe.records import Certificates, Population, PopulationKind, Standing, Task

WHO = Population(kind=PopulationKind.IMAGES, description="noise")


def asked(
    outputs: NDArray[np.float32], tolerance: float, pixels: NDArray[np.uint8], off: float = 0.7
) -> tuple[Task, NDArray[np.float32]]:
    """A task of two points, and labels some way off what a network answers, so that some images are wrong at once."""
    height, width = pixels.shape[1:3]
    task = Task.keypoints(("a", "b"), tolerance, (height, width))
    places = outputs.reshape(len(outputs), 2, 2) * np.array([width, height])
    noise = np.random.default_rng(5).normal(0, off * tolerance, places.shape)
    return task, (places + noise).astype(np.float32)


def test_points_and_verdicts_are_those_of_running_every_image_by_hand() -> None:
    net, noise = Net(seed=2, classes=4, scale=0.1), pictures(40)
    task, labels = asked(net.logits(noise.pixels), 2.0, noise.pixels, 0.4)
    images = Images(noise.pixels, labels, noise.index, task)
    finite = parse("brightness=6")
    found = certify_set(work(net, images), SetPlan(finite, complete=True))
    assert archive.from_bytes(archive.to_bytes(Certificates((found,), ORIGIN))).sets[0].answers.tolist() == (
        found.answers.tolist()
    )
    rules, kept, least = rules_of(task), [], []
    for pixels, label in zip(images.pixels, labels, strict=True):
        members = finite.members(pixels)
        outputs = net.logits(members.make(np.arange(len(members)))).astype(np.float64)
        points = outputs.reshape(-1, 2, 2) * np.array([pixels.shape[1], pixels.shape[0]])
        errors = np.linalg.norm(points - label, axis=2)
        kept.append((errors < 2.0).all(axis=0))
        least.append(2.0 - errors.max())
    assert found.margin == pytest.approx(np.array(least), abs=1e-5)
    assert ((found.standing == Standing.CERTIFIED) == np.all(kept, axis=1)).all()
    assert set(found.standing.tolist()) == {Standing.CERTIFIED, Standing.FALSIFIED, Standing.WRONG}
    numbers = summary.summarise(Certificates((found,), ORIGIN), WHO, task=task)
    assert numbers["certified_points.brightness=6"].estimate == pytest.approx(np.mean(kept))
    shares = np.mean(kept, axis=1)
    assert numbers["certified_points.brightness=6"].se == pytest.approx(shares.std(ddof=1) / np.sqrt(len(shares)))
    answers = np.split(found.answers, np.cumsum(found.answer_count)[:-1])
    assert rules.certified_points(found.prediction, answers) == pytest.approx(shares)
    without = summary.summarise(Certificates((found,), ORIGIN), WHO)
    assert "certified_points.brightness=6" not in without  # the control: taken for classes


@pytest.mark.parametrize("seed", range(4))
def test_what_the_line_certifies_of_whole_levels_every_image_confirms(seed: int) -> None:
    content = residual(seed)
    file, pixels = OnnxClassifier(content), IMAGES
    task, labels = asked(file.logits(pixels), 0.35, pixels, 0.5)
    images, finite = Images(pixels, labels, np.arange(len(pixels)), task), parse("brightness=4")
    line = certify_line(Network(content), file, images, finite, lambda _: None)
    every = enumerate_chunk(file, images, SetPlan(finite, complete=True))
    ran = line.standing != Standing.WRONG
    stopped = line.standing == Standing.FALSIFIED  # the line stops at the first piece that decides
    assert (line.margin[ran] <= every.margin[ran] + 1e-4)[~stopped[ran]].all()
    certified = line.standing == Standing.CERTIFIED
    assert {0, 1, 3} == set(line.standing.tolist())  # all three verdicts occur
    assert (every.standing[certified] == Standing.CERTIFIED).all()
    assert ((line.standing == Standing.WRONG) == (every.standing == Standing.WRONG)).all()
