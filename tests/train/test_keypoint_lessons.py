"""Keypoints in training: labels move with the image, the loss is Huber's, AdamW goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgesafe import models
from edgesafe.errors import NonFiniteError
from edgesafe.recipe.sections import Optimiser
from edgesafe.records import ImageSet, Task
from edgesafe.train import loop
from edgesafe.train.augmentation import FitPlan, Normalisation, crop, shifts
from edgesafe.train.objective import Objective
from edgesafe.train.tasks import lesson_of

SIDE = 16
TASK = Task.keypoints(("nose", "left", "right"), 2.0, (SIDE, SIDE), (0, 2, 1))
LESSON = lesson_of(TASK)


@given(
    st.tuples(st.integers(5, SIDE - 6), st.integers(5, SIDE - 6)),
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
    st.booleans(),
)
def test_labels_go_where_the_pixels_go(place: tuple[int, int], corner: tuple[int, int], flipped: bool) -> None:
    """One bright pixel, cropped and mirrored as training does it: its middle is where the label says."""
    image = torch.zeros((1, SIDE, SIDE, 1), dtype=torch.uint8)
    image[0, place[1], place[0]] = 255
    label = torch.tensor([[[place[0] + 0.5, place[1] + 0.5]] * 3])
    draws = torch.tensor([[corner[0]], [corner[1]], [int(flipped)]])
    seen = crop(image, draws)[0, :, :, 0].numpy()
    moved = LESSON.moved(label, shifts(draws), draws[2].bool())[0]
    y, x = np.unravel_index(int(seen.argmax()), seen.shape)
    assert seen.max() == 255
    assert moved.tolist() == [[x + 0.5, y + 0.5]] * 3


def test_left_and_right_change_places_in_a_mirrored_image_and_twice_is_identity() -> None:
    labels = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    none, both = torch.zeros((2, 1), dtype=torch.int64), torch.tensor([True])
    once = LESSON.moved(labels, none, both)
    assert once.tolist() == [[[15.0, 2.0], [11.0, 6.0], [13.0, 4.0]]]
    assert torch.equal(LESSON.moved(once, none, both), labels)


def test_the_loss_is_hubers_of_fractions_and_right_is_within_the_tolerance() -> None:
    outputs, labels = torch.rand((5, 6)), torch.rand((5, 3, 2)) * SIDE
    by_hand = 2 / SIDE * F.huber_loss(outputs.view(5, 3, 2) * SIDE / 2, labels / 2)
    assert LESSON.loss(outputs, labels).item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert LESSON.total(outputs, labels).item() == pytest.approx(5 * by_hand.item(), rel=1e-6)
    mean = labels.mean(0).expand_as(labels)
    assert LESSON.constant_loss(labels) == pytest.approx(float(2 / SIDE * F.huber_loss(mean / 2, labels / 2)), rel=1e-6)
    near = (labels + torch.tensor([1.9, 0.0])) / SIDE
    assert bool(LESSON.right(near.flatten(1), labels).all())
    assert not bool(LESSON.right(((labels + 2.0) / SIDE).flatten(1), labels).any())


def plan(**more: object) -> FitPlan:
    whole = FitPlan(
        epochs=2, lr=0.01, milestones=(), gamma=0.1, momentum=0.9, weight_decay=0.01, batch_size=8, augment=True,
        flip=True, seed=0, optimiser=Optimiser.ADAMW, objective=Objective(LESSON.loss),
    )  # fmt: skip
    return replace(whole, **more)  # type: ignore[arg-type]


class Kept:
    """The latest state, in memory."""

    def __init__(self) -> None:
        self.states: list[bytes] = []

    def load(self) -> bytes | None:
        return self.states[-1] if self.states else None

    def save(self, state: bytes) -> None:
        self.states.append(state)


@pytest.mark.parametrize("optimiser", list(Optimiser))
def test_a_training_that_was_stopped_ends_with_the_same_weights(optimiser: Optimiser) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, SIDE, SIDE, 3), np.uint8)
    data = ImageSet(images, rng.uniform(0, SIDE, (24, 3, 2)).astype(np.float32), "x", TASK)
    normalise = Normalisation((0.5,) * 3, (0.25,) * 3)

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return models.build("cnn7", 6, {"width": 2, "size": SIDE})

    through, kept = network(), Kept()
    loop.fit(through, data, normalise, plan(epochs=3, optimiser=optimiser), checkpoints=kept)
    stopped, half = network(), Kept()
    loop.fit(stopped, data, normalise, plan(epochs=2, optimiser=optimiser), checkpoints=half)
    again = network()
    loop.fit(again, data, normalise, plan(epochs=3, optimiser=optimiser), checkpoints=half)
    for name, value in through.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(stopped.state_dict()["linear.weight"], again.state_dict()["linear.weight"])


def test_adamw_is_torchs_own() -> None:
    """The same steps by hand on one batch: nothing of the loop stands between."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    labels = rng.uniform(0, SIDE, (8, 3, 2)).astype(np.float32)
    normalise = Normalisation((0.5,) * 3, (0.25,) * 3)
    torch.manual_seed(0)
    ours = models.build("cnn7", 6, {"width": 2, "size": SIDE})
    torch.manual_seed(0)
    theirs = models.build("cnn7", 6, {"width": 2, "size": SIDE}).train()
    loop.fit(ours, ImageSet(images, labels, "x", TASK), normalise, plan(epochs=1, augment=False))
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.01)
    LESSON.loss(theirs(normalise(torch.from_numpy(images))), torch.from_numpy(labels)).backward()
    optimiser.step()
    for name, value in theirs.named_parameters():
        assert torch.allclose(value, dict(ours.named_parameters())[name], atol=2e-3), name


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    data = ImageSet(np.zeros((8, SIDE, SIDE, 3), np.uint8), np.full((8, 3, 2), np.inf, np.float32), "x", TASK)
    with pytest.raises(NonFiniteError):
        loop.fit(
            models.build("cnn7", 6, {"width": 2, "size": SIDE}), data, Normalisation((0.5,) * 3, (0.25,) * 3), plan()
        )
