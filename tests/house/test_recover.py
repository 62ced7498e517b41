"""Training: what is random, what is held, what stops it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgesafe.errors import NonFiniteError, RefusedError
from edgesafe.records import ImageSet
from edgesafe.train import augmentation, batchnorm, checkpoints, loop, steps
from edgesafe.train.augmentation import FitPlan, Normalisation

NORMAL = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def plan(**changes: object) -> FitPlan:
    base = {
        "epochs": 2, "lr": 0.05, "milestones": (1,), "gamma": 0.1, "momentum": 0.9, "weight_decay": 1e-4,
        "batch_size": 16, "augment": True, "flip": True, "seed": 0,
    }  # fmt: skip
    return FitPlan(**(base | changes))  # type: ignore[arg-type]


def images(n: int = 48, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    pixels = rng.integers(0, 256, (n, 8, 8, 3)) // 2
    pixels[np.arange(n), :, :, labels] += 100  # the class is a colour
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64), "x")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


class Memory:
    """Checkpoints in memory; can stop the training after a number of epochs."""

    def __init__(self, stop_after: int = 99) -> None:
        self.states: list[bytes] = []
        self.stop_after = stop_after

    def load(self) -> bytes | None:
        return self.states[-1] if self.states else None

    def save(self, state: bytes) -> None:
        self.states.append(state)
        if len(self.states) == self.stop_after:
            raise KeyboardInterrupt


def test_it_learns_and_leaves_the_model_in_eval_mode() -> None:
    model = net()
    losses = loop.fit(model, images(), NORMAL, plan(epochs=15, milestones=(12,))).losses
    assert losses[-1] < 0.6 * losses[0]
    assert not model.training


def test_same_seed_same_bytes_other_seed_others() -> None:
    a, b, c = net(), net(), net()
    loop.fit(a, images(), NORMAL, plan())
    torch.rand(3)  # the global generator does not matter
    loop.fit(b, images(), NORMAL, plan())
    loop.fit(c, images(), NORMAL, plan(seed=1))
    assert same(state(a), state(b))
    assert not same(state(a), state(c))


def test_training_leaves_the_global_generator_alone() -> None:
    model = net()
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    loop.fit(model, images(), NORMAL, plan())
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stopped_after_an_epoch_it_ends_with_the_same_bytes(stop: int) -> None:
    whole = net()
    loop.fit(whole, images(), NORMAL, plan(epochs=4, milestones=(2,)), checkpoints=Memory())
    kept = Memory(stop)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(net(), images(), NORMAL, plan(epochs=4, milestones=(2,)), checkpoints=kept)
    kept.stop_after = 99
    resumed = net(seed=9)  # another start: the state brings everything
    loop.fit(resumed, images(), NORMAL, plan(epochs=4, milestones=(2,)), checkpoints=kept)
    assert same(state(whole), state(resumed))


def test_a_damaged_state_is_not_used() -> None:
    whole, kept = net(), Memory()
    loop.fit(whole, images(), NORMAL, plan(), checkpoints=Memory())
    kept.states.append(b"not safetensors")
    again = net()
    loop.fit(again, images(), NORMAL, plan(), checkpoints=kept)
    assert same(state(whole), state(again))


def test_masked_weights_stay_zero_and_the_others_move() -> None:
    model = net()
    weight = model[0].weight
    mask = torch.rand_like(weight) < 0.5
    with torch.no_grad():
        weight.mul_(mask)
    before = weight.detach().clone()
    loop.fit(model, images(), NORMAL, plan(), masks={"0.weight": mask})
    assert (weight[~mask] == 0).all()
    assert (weight[mask] != before[mask]).all()


def test_frozen_parameters_do_not_move() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    loop.fit(model, images(), NORMAL, plan())
    assert torch.equal(model[0].weight, before)


def test_the_penalty_shrinks_batchnorm_scales() -> None:
    plain, slim = net(), net()
    loop.fit(plain, images(), NORMAL, plan(epochs=5))
    loop.fit(slim, images(), NORMAL, plan(epochs=5, bn_l1=0.5))
    assert slim[1].weight.abs().sum() < 0.9 * plain[1].weight.abs().sum()


def test_the_penaltys_gradient_is_the_sign() -> None:
    model = net()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -2.0, 0.0, 1.0, -1.0, 3.0]))
    model[1].weight.grad = torch.zeros(6)
    steps.penalise([model[1].weight], 0.1)
    assert torch.allclose(model[1].weight.grad, 0.1 * torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 1.0]))


def test_what_cannot_be_trained_is_refused() -> None:
    frozen = net()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(RefusedError, match="frozen"):
        loop.fit(frozen, images(), NORMAL, plan())
    with pytest.raises(RefusedError, match="at least two"):
        loop.fit(net(), images(1), NORMAL, plan())
    with pytest.raises(NonFiniteError, match="lower the learning rate"):
        loop.fit(net(), images(), NORMAL, plan(lr=1e30, epochs=3))


def test_a_last_batch_of_one_does_not_break_batchnorm() -> None:
    loop.fit(net(), images(33), NORMAL, plan(batch_size=16))


def test_batchnorm_statistics_are_the_plain_averages() -> None:
    """Oracle: mean and unbiased variance of the layer's inputs, by hand."""
    model, data = net(), images(40)
    done = batchnorm.reestimate_batchnorm(model, data, NORMAL, images=40, batch_size=40)
    assert done == 1
    x = model[0](NORMAL(torch.from_numpy(data.images)))
    assert torch.allclose(model[1].running_mean, x.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(model[1].running_var, x.transpose(0, 1).flatten(1).var(1), rtol=1e-5)
    assert model[1].momentum == 0.1
    assert not model[1].training
    assert batchnorm.reestimate_batchnorm(nn.Sequential(nn.Flatten()), data, NORMAL, images=40) == 0
    assert batchnorm.reestimate_batchnorm(model, data, NORMAL, images=0) == 0


def test_batchnorm_statistics_are_of_images_as_training_shows_them() -> None:
    """Crops out of a black border make the images darker, so the means must move; the same seed, the same crops."""
    data = images(400)
    found = {}
    for name, view in (("plain", None), ("off", plan(augment=False)), ("crops", plan()), ("again", plan())):
        model = net()
        batchnorm.reestimate_batchnorm(model, data, NORMAL, images=400, view=view)
        found[name] = model[1].running_mean
    assert torch.equal(found["plain"], found["off"])
    assert torch.equal(found["crops"], found["again"])
    dark = augmentation.Normalisation(NORMAL.mean, NORMAL.std)(
        torch.zeros(1, *data.images.shape[1:], dtype=torch.uint8)
    )
    black = net()[0](dark).mean((0, 2, 3))
    towards = (found["crops"] - found["plain"]) * (black - found["plain"])
    assert (towards > 0).all()


def test_normalisation_is_what_torchvision_does() -> None:
    from torchvision.transforms import v2

    data = images(4)
    wanted = v2.functional.normalize(
        v2.functional.to_dtype(torch.from_numpy(data.images).permute(0, 3, 1, 2), torch.float32, scale=True),
        list(NORMAL.mean),
        list(NORMAL.std),
    )
    assert torch.allclose(NORMAL(torch.from_numpy(data.images)), wanted, atol=1e-6)


def augment(x: torch.Tensor, shown: FitPlan) -> torch.Tensor:
    return augmentation.crop(x, augmentation.draw(shown, len(x), torch.Generator().manual_seed(0)))


def test_augmentation_is_crop_and_flip_of_the_padded_image() -> None:
    x = torch.from_numpy(images(64).images)
    out = augment(x, plan())
    assert out.shape == x.shape
    padded = torch.nn.functional.pad(x, (0, 0, 4, 4, 4, 4))
    flips = 0
    for image, source in zip(out, padded, strict=True):
        windows = {source[i : i + 8, j : j + 8].numpy().tobytes() for i in range(9) for j in range(9)}
        flipped = {source[i : i + 8, j : j + 8].flip(1).numpy().tobytes() for i in range(9) for j in range(9)}
        assert image.numpy().tobytes() in windows | flipped
        flips += image.numpy().tobytes() in flipped
    assert 12 < flips < 52
    assert torch.equal(augment(x, plan(augment=False)), x)
    no_flip = augment(x, plan(flip=False))
    for image, source in zip(no_flip, padded, strict=True):
        assert image.numpy().tobytes() in {
            source[i : i + 8, j : j + 8].numpy().tobytes() for i in range(9) for j in range(9)
        }


def test_the_schedule_divides_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return real(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    loop.fit(net(), images(16), NORMAL, plan(epochs=5, milestones=(2, 4)))
    assert all(math.isclose(a, b) for a, b in zip(rates, [0.05, 0.05, 0.005, 0.005, 0.0005], strict=True))


class Store(Memory):
    """Memory that keeps parts, too; `stop_before_state`: dies between the best and the state."""

    def __init__(self, stop_after: int = 99, *, stop_before_state: int = 99) -> None:
        super().__init__(stop_after)
        self.stop_before_state = stop_before_state
        self.parts: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.parts.get(name)

    def put(self, name: str, data: bytes) -> None:
        self.parts[name] = data

    def save(self, state: bytes) -> None:
        if len(self.states) + 1 == self.stop_before_state:
            raise KeyboardInterrupt
        super().save(state)


def scripted(scores: list[float]) -> Callable[[nn.Module], float]:
    """A score that depends on how often BatchNorm has learned: the epoch, at 3 batches each."""
    return lambda model: scores[int(model[1].num_batches_tracked) // 3]


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [([0.9, 0.1, 0.5, 0.4], 0), ([0.1, 0.6, 0.5, 0.4], 1), ([0.1, 0.6, 0.6, 0.4], 2), ([0.5, 0.5, 0.1, 0.5], 3)],
)
@pytest.mark.parametrize("stop", [{}, {"stop_after": 1}, {"stop_after": 2}, {"stop_before_state": 2}])
def test_the_best_epoch_is_kept_the_start_included(scores: list[float], wanted: int, stop: dict[str, int]) -> None:
    reference = net()
    if wanted:
        loop.fit(reference, images(), NORMAL, plan(epochs=wanted))
    kept = Store(**stop)
    try:
        model = net()
        best = checkpoints.Best(model, scripted(scores), kept)
        loop.fit(model, images(), NORMAL, plan(epochs=3), checkpoints=best)
        assert not stop
    except KeyboardInterrupt:
        kept.stop_after = kept.stop_before_state = 99
        model = net()
        best = checkpoints.Best(model, scripted(scores), kept)
        loop.fit(model, images(), NORMAL, plan(epochs=3), checkpoints=best)
    assert best.restore() == wanted
    assert same(state(model), state(reference))


def test_a_damaged_best_is_not_used() -> None:
    kept = Store()
    kept.put("best", b"not safetensors")
    best = checkpoints.Best(net(), scripted([0.5]), kept)
    assert best.restore() == 0


def test_accuracy_is_the_share_of_right_answers_and_changes_nothing() -> None:
    model, data = net().train(), images(300)
    before = state(model)
    got = loop.accuracy(model, data, NORMAL)
    assert not model.training
    assert same(state(model), before)
    predicted = model(NORMAL(torch.from_numpy(data.images))).argmax(1).numpy()
    assert got == (predicted == data.labels).mean()
