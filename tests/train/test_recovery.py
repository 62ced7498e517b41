"""Distillation, running means of weights, and the rates of epochs."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn

from edgesafe.records import ImageSet
from edgesafe.train import loop
from edgesafe.train.augmentation import FitPlan, Normalisation
from edgesafe.train.distillation import distilled, divergence
from edgesafe.train.mode import Mode
from edgesafe.train.objective import Objective

NORMALISE = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PLAN = FitPlan(
    epochs=3, lr=0.05, milestones=(), gamma=0.1, momentum=0.9, weight_decay=0.0, batch_size=8, augment=False,
    flip=False, seed=0,
)  # fmt: skip


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def images(n: int = 32) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), rng.integers(0, 3, n), "sha256:x")


class Kept:
    """Checkpoints in memory, every state of which is remembered."""

    def __init__(self, states: list[bytes] | None = None) -> None:
        self.states = list(states or [])

    def load(self) -> bytes | None:
        return self.states[-1] if self.states else None

    def save(self, state: bytes) -> None:
        self.states.append(state)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_scipys(temperature: float) -> None:
    rng = np.random.default_rng(1)
    own, theirs = rng.normal(size=(5, 7)) * 3, rng.normal(size=(5, 7)) * 3
    wanted = rel_entr(softmax(theirs / temperature, 1), softmax(own / temperature, 1)).sum(1).mean() * temperature**2
    got = divergence(torch.tensor(own), torch.tensor(theirs), temperature)
    assert float(got) == pytest.approx(wanted, rel=1e-9)
    assert float(divergence(torch.tensor(own), torch.tensor(own), temperature)) == pytest.approx(0.0, abs=1e-12)


def test_a_network_learns_from_its_teacher_whatever_the_labels() -> None:
    """With weight 1 labels do not count: the answers come near the teacher's; trained on labels they do not."""
    teacher, data = net(1).eval(), images(64)
    before = copy.deepcopy(teacher.state_dict())
    plan = replace(PLAN, epochs=30, lr=0.2)
    taught, labelled = net(2), net(2)
    loop.fit(taught, data, NORMALISE, replace(plan, objective=distilled(Objective(), teacher, 1.0, 1.0, Mode())))
    loop.fit(labelled, data, NORMALISE, plan)
    x = NORMALISE(torch.from_numpy(data.images))
    with torch.no_grad():
        gaps = [float(divergence(model(x), teacher(x), 1.0)) for model in (taught, labelled)]
    assert gaps[0] < 0.2 * gaps[1]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_loss_is_the_weighted_sum() -> None:
    teacher = net(1)
    objective = distilled(Objective(), teacher, 0.9, 4.0, Mode())
    (term,) = objective.terms
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    wanted = 0.1 * nn.functional.cross_entropy(outputs, targets)
    assert float(objective.base(outputs, targets)) == pytest.approx(float(wanted), rel=1e-6)
    assert (term.name, term.weight) == ("distillation", 0.9)


def test_running_means_are_those_of_every_step() -> None:
    """The oracle: torch's own AveragedModel over the same steps."""
    decay, data = 0.8, images(16)
    plan = replace(PLAN, epochs=2, average=decay)
    model = net()
    loop.fit(model, data, NORMALISE, plan)

    plain = net()
    oracle = torch.optim.swa_utils.AveragedModel(
        plain, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    oracle.update_parameters(plain)  # the start counts
    training = loop.Training(plain, data, NORMALISE, replace(plan, average=0.0))
    for _ in range(2):
        with training.epoch() as sizes:
            for _ in sizes:
                training.step()
                oracle.update_parameters(plain)
    for name, value in oracle.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(model.state_dict()[name], value, atol=1e-6), name
    assert not torch.equal(model.state_dict()["0.weight"], plain.state_dict()["0.weight"])  # the control


def test_resumed_running_means_end_the_same() -> None:
    plan, data, whole = replace(PLAN, average=0.9), images(), Kept()
    straight = net()
    loop.fit(straight, data, NORMALISE, plan, checkpoints=whole)
    for k in range(1, 3):
        again = net()
        loop.fit(again, data, NORMALISE, plan, checkpoints=Kept(whole.states[:k]))
        for name, value in straight.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


def test_rates_of_a_cosine_are_torchs() -> None:
    plan = replace(PLAN, epochs=8, lr=0.1, cosine=True)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=8)
    for epoch in range(8):
        assert plan.rate(epoch) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    warm = replace(plan, warmup=3)
    assert [warm.rate(k) for k in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert warm.rate(7) < warm.rate(4) < 0.1
