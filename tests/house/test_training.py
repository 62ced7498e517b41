"""What recovery says of itself; that it trains right is tested with whole studies, in tests/pipeline."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from edgesafe.progress import Silent
from edgesafe.recipe.sections import Device, RecoverSection
from edgesafe.records import DataBundle, ImageSet, Recovery, Task
from edgesafe.stages.train import RecoveryPlan, Trainer, is_loss
from edgesafe.train import loop
from edgesafe.train.tasks import lesson_of

HALF = (0.5, 0.5, 0.5)


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def trainer(heard: Heard, *, familiar: bool) -> Trainer:
    images = ImageSet(np.zeros((200, 8, 8, 3), np.uint8), np.zeros(200, np.int64), "x")
    bundle = DataBundle("d", HALF, HALF, images, images, images)
    return Trainer(bundle, None, heard, {}, familiar)  # type: ignore[arg-type]  # no state is kept without an epoch


@pytest.mark.parametrize(
    ("scores", "familiar", "says"),
    [
        (
            [0.915, 0.88],
            False,
            "lowered the accuracy by 7 of 200 validation images, from 91.50% to 88.00%: set compress.1",
        ),
        (
            [0.915, 0.88],
            True,
            'these images; data.validation_from = "test" takes others): set compress.1.recover.bn_images',
        ),
        ([0.88, 0.88], True, None),
        ([0.88, 0.86], True, None),  # 4 of 200 are lost by chance one time in sixteen
        ([0.15, 0.40], False, None),
    ],
)
def test_a_batchnorm_re_estimation_that_hurts_is_said(
    monkeypatch: pytest.MonkeyPatch, scores: list[float], familiar: bool, says: str | None
) -> None:
    left = iter([torch.arange(200) < round(200 * score) for score in scores])
    monkeypatch.setattr(Trainer, "_right", lambda *_: next(left))
    heard = Heard()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    how = RecoveryPlan(RecoverSection(epochs=0, bn_images=100), "compress.1.recover", 0, "v")
    assert trainer(heard, familiar=familiar).recover(net, None, how) == Recovery(
        bn_images=100, validation_images=200, accuracy_pruned=scores[0], accuracy_after=scores[1]
    )
    assert len(heard.said) == (says is not None)
    assert says is None or says in heard.said[0]


@given(lost=st.integers(0, 60), gained=st.integers(0, 60))
def test_a_loss_is_said_where_the_exact_sign_test_would_say_it(lost: int, gained: int) -> None:
    """Against scipy's one-sided binomial test: never where p is above 4 %, always where it is below 2 %."""
    before, after = torch.zeros(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)
    before[:lost], after[lost : lost + gained] = True, True
    before[150:], after[150:] = True, True
    said = is_loss(before, after)
    p = stats.binomtest(lost, lost + gained, alternative="greater").pvalue if lost + gained else 1.0
    assert not (said and p > 0.04)
    assert said or p >= 0.02


@given(st.lists(st.integers(0, 6), min_size=1, max_size=50))
def test_the_loss_of_an_answer_that_looks_at_no_image_is_the_entropy_of_the_classes(labels: list[int]) -> None:
    found = lesson_of(Task()).constant_loss(torch.tensor(labels))
    assert found == pytest.approx(stats.entropy(np.bincount(labels)), abs=1e-9)


@pytest.mark.parametrize(("rate", "images", "says"), [(0.01, 2200, 0), (30.0, 2200, 1), (30.0, 1000, 0)])
def test_a_rate_at_which_fine_tuning_unlearns_is_said(
    monkeypatch: pytest.MonkeyPatch, rate: float, images: int, says: int
) -> None:
    """Dark and bright images, easily told apart; 1,000 of them are 16 steps, which say nothing."""
    labels = np.arange(images) % 2
    shades = np.broadcast_to((60 + 120 * labels).astype(np.uint8)[:, None, None, None], (images, 8, 8, 3)).copy()
    part = ImageSet(shades, labels, "x")
    heard = Heard()
    plain = Trainer(DataBundle("d", HALF, HALF, part, part, part), None, heard, {}, False)  # type: ignore[arg-type] # `_fit` keeps nothing
    monkeypatch.setattr(
        Trainer, "_fit", lambda self, net, plan, training, _: loop.fit(net, training.images, self.normalise, plan)
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    section = RecoverSection(epochs=1, bn_images=0, lr=rate, device=Device.CPU)
    plain.recover(net, None, RecoveryPlan(section, "compress.1.recover", 0, "v"))
    said = [text for text in heard.said if "constant answer" in text]
    assert len(said) == says
    assert not said or said[0].endswith("0.693: lower compress.1.recover.lr (now 30), or remove less")


def test_no_recovery_is_not_judged() -> None:
    heard, net = Heard(), nn.Linear(2, 2)
    weight = net.weight.clone()
    done = trainer(heard, familiar=False).recover(
        net, None, RecoveryPlan(RecoverSection(epochs=0, bn_images=0), "recover", 0, "v")
    )
    assert done is None
    assert torch.equal(net.weight, weight)
