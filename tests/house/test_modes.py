"""Training modes: device, precision, layout; what is drawn does not depend on them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgesafe.errors import UsageError
from edgesafe.recipe.sections import TrainSection
from edgesafe.records import ImageSet, TrainingMode
from edgesafe.train import augmentation, loop, mode, steps
from edgesafe.train.augmentation import FitPlan, Normalisation
from edgesafe.train.checkpoints import Best
from edgesafe.train.mode import Mode

NORMAL = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
BF16 = pytest.mark.skipif(not mode.bf16_on_cpu(), reason="this CPU has no bfloat16 arithmetic")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def section(**keys: object) -> TrainSection:
    return TrainSection.model_validate(keys)


def plan(how: Mode = Mode(), **changes: object) -> FitPlan:  # noqa: B008  # frozen
    base = {
        "epochs": 6, "lr": 0.05, "milestones": (5,), "gamma": 0.1, "momentum": 0.9, "weight_decay": 1e-4,
        "batch_size": 16, "augment": True, "flip": True, "seed": 0, "mode": how,
    }  # fmt: skip
    return FitPlan(**(base | changes))  # type: ignore[arg-type]


def images(n: int = 50) -> ImageSet:
    labels = np.arange(n) % 3
    pixels = np.random.default_rng(0).integers(0, 128, (n, 8, 8, 3))
    pixels[np.arange(n), :, :, labels] += 100  # the class is a colour
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64), "x")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def trained(how: Mode, **changes: object) -> tuple[nn.Sequential, list[float]]:
    model = net()
    return model, list(loop.fit(model, images(), NORMAL, plan(how, **changes)).losses)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_default_is_the_plain_loop_bit_by_bit() -> None:
    """Oracle: the loop as one writes it by hand, batch by batch."""
    wanted, data, todo = net(), images(), plan(epochs=2)
    optimiser = torch.optim.SGD(wanted.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    x, y = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    for epoch in range(2):
        order = torch.randperm(50, generator=augmentation.generator(0, epoch, "order"))
        for start in range(0, 50, 16):
            batch = order[start : start + 16]
            source = augmentation.generator(0, epoch, f"crop{int(batch[0])}")
            (dy, dx), flips = torch.randint(0, 9, (2, len(batch)), generator=source), torch.rand(
                len(batch), generator=source
            ) < 0.5  # fmt: skip
            padded = F.pad(x[batch], (0, 0, 4, 4, 4, 4))
            crops = torch.stack([p[i : i + 8, j : j + 8] for p, i, j in zip(padded, dy, dx, strict=True)])
            shown = torch.where(flips[:, None, None, None], crops.flip(2), crops)
            optimiser.zero_grad()
            F.cross_entropy(wanted(NORMAL(shown)), y[batch]).backward()
            optimiser.step()
    got = net()
    loop.fit(got, data, NORMAL, todo)
    assert same(got, wanted)


def test_an_epochs_draws_show_every_image_once_and_leave_a_single_one_out() -> None:
    draws = augmentation.epoch_draws(plan(), 50, 3)
    assert sorted(draws[0].tolist()) == list(range(50))
    assert set(draws[3].tolist()) == {0, 1}
    assert (draws[1:3].min(), draws[1:3].max()) == (0, 8)
    assert augmentation.epoch_draws(plan(), 49, 3).shape == (5, 48)
    assert torch.equal(augmentation.epoch_draws(plan(augment=False), 50, 3)[1:, 0], torch.tensor([4, 4, 0, 0]))
    assert plan().batches(50) == (16, 16, 16, 2)
    assert plan().batches(49) == (16, 16, 16)


def test_layouts_differ_in_rounding_only() -> None:
    last, first = trained(Mode()), trained(Mode(channels_last=False))
    assert last[1] == pytest.approx(first[1], rel=1e-3)


@BF16
def test_bf16_learns_as_well_with_weights_and_statistics_in_float32() -> None:
    model, losses = trained(Mode(precision=mode.Arithmetic.BF16))
    _, exact = trained(Mode())
    assert losses == pytest.approx(exact, rel=0.1)
    assert losses != exact
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    again, _ = trained(Mode(precision=mode.Arithmetic.BF16))
    assert same(model, again)


@BF16
def test_accuracy_in_bf16_is_that_in_float32_where_answers_are_clear() -> None:
    model, _ = trained(Mode(), epochs=20, milestones=())
    exact = loop.accuracy(model, images(), NORMAL)
    assert exact > 0.9
    assert math.isclose(
        loop.accuracy(model, images(), NORMAL, Mode(precision=mode.Arithmetic.BF16)), exact, abs_tol=0.05
    )


def test_what_the_machine_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(mode, "bf16_on_cpu", lambda: False)
    assert mode.choose(section()) == Mode()
    with pytest.raises(UsageError, match="no CUDA device"):
        mode.choose(section(device="cuda"))
    with pytest.raises(UsageError, match="no bfloat16"):
        mode.choose(section(precision="bf16"))


def test_a_gpu_is_taken_where_there_is_one_unless_the_recipe_says_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert mode.choose(section()).device == "cuda:1"
    assert mode.choose(section(device="cpu")).device == "cpu"


def test_a_mode_says_all_that_the_weights_depend_on() -> None:
    names = {
        Mode().name, Mode(channels_last=False).name, Mode(compiled=True).name,
        Mode(precision=mode.Arithmetic.BF16).name,
    }  # fmt: skip
    assert len(names) == 4
    assert Mode().record() == TrainingMode(
        device="cpu", precision="fp32", channels_last=True, compiled=False, torch=torch.__version__
    )


def test_images_that_may_not_be_written_are_trained_on_without_a_word() -> None:
    kept = images()
    kept.images.setflags(write=False)
    kept.labels.setflags(write=False)
    loop.fit(net(), kept, NORMAL, plan(epochs=1))  # warnings are errors


def test_a_known_start_is_not_scored_again() -> None:
    nowhere = Mock(**{"get.return_value": None})
    asked: list[nn.Module] = []
    best = Best(net(), lambda model: asked.append(model) or 0.5, nowhere, 0.25)  # type: ignore[func-returns-value]
    assert not asked
    assert best.value == 0.25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_compiled_kernels_learn_alike_and_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = trained(Mode(compiled=True), epochs=1)[1]
    assert compiled == pytest.approx(trained(Mode(), epochs=1)[1], rel=1e-3)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere",))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)
    with pytest.raises(UsageError, match=r"set compile = false"):
        trained(Mode(compiled=True), epochs=1, batch_size=20)


@GPU
@pytest.mark.parametrize("precision", list(mode.Arithmetic))
def test_a_gpu_repeats_itself_and_agrees_with_the_cpu(precision: mode.Arithmetic) -> None:
    how = Mode("cuda:0", precision)
    model, losses = trained(how)
    again, _ = trained(how)
    assert same(model, again)
    assert losses == pytest.approx(trained(Mode())[1], rel=0.1)
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}


class Pretended:
    """CUDA graphs without a GPU: a capture notes the tensor it reads, a replay learns from what lies there then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.learned: list[tuple[list[int], float]] = []
        self.captures: list[tuple[int, float]] = []
        self._capturing: list[torch.Tensor] | None = None
        self.optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        self.plan = plan()
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(reads=[]))
        monkeypatch.setattr(torch.cuda, "graph", self._capture)

    @contextmanager
    def _capture(self, graph: SimpleNamespace, **_: object) -> Iterator[None]:
        self._capturing, rate = graph.reads, self.optimiser.param_groups[0]["lr"]
        yield
        self._capturing = None
        (place,) = graph.reads
        self.captures.append((place.shape[1], rate))
        graph.replay = lambda: self.learned.append((place[0].tolist(), rate))

    def __call__(self, draws: torch.Tensor) -> None:
        if self._capturing is not None:
            self._capturing.append(draws)
        else:
            self.learned.append((draws[0].tolist(), self.optimiser.param_groups[0]["lr"]))


def test_replayed_steps_learn_from_every_batch_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Pretended(monkeypatch)
    replayed, wanted = steps.Replayed(step), []  # type: ignore[arg-type]
    for epoch in range(8):
        rate = step.optimiser.param_groups[0]["lr"] = 0.1 if epoch < 6 else 0.01
        for batch in torch.split(augmentation.epoch_draws(plan(), 50, epoch), 16, dim=1):
            replayed(batch)
            wanted.append((batch[0].tolist(), rate))
    assert step.learned == wanted
    assert step.captures == [(16, 0.1), (2, 0.1), (16, 0.01), (2, 0.01)]
