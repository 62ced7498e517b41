"""The loss of a batch: what it adds up, what it costs, and the distances in it against scipy."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from edgesafe.errors import RecipeError, RefusedError, UsageError
from edgesafe.recipe import parsing
from edgesafe.recipe.sections import RobustSection
from edgesafe.records import ImageSet, Task
from edgesafe.stages import lighting
from edgesafe.stages.train import objective
from edgesafe.train import loop
from edgesafe.train.augmentation import FitPlan, Normalisation, epoch_draws
from edgesafe.train.losses import BatchLoss, relight, watched
from edgesafe.train.mode import Mode
from edgesafe.train.objective import Need, Objective, Seen, Term
from edgesafe.train.robust import relative_deviation, wasserstein

NORMAL = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LIGHT = "contrast=20%,brightness=25"
SAMPLES = hnp.arrays(np.float64, st.integers(1, 70), elements=st.floats(-1e3, 1e3))


def net(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace),
        nn.Conv2d(6, 9, 3), nn.BatchNorm2d(9), nn.ReLU(inplace),
        nn.Conv2d(9, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


def images(n: int = 32) -> ImageSet:
    labels = np.arange(n) % 3
    pixels = np.random.default_rng(0).integers(0, 128, (n, 8, 8, 3))
    pixels[np.arange(n), :, :, labels] += 100  # the class is a colour
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64), "x")


def plan(asked: Objective, **changes: object) -> FitPlan:
    base = {
        "epochs": 3, "lr": 0.05, "milestones": (), "gamma": 0.1, "momentum": 0.9, "weight_decay": 0.0, "batch_size": 16,
        "augment": True, "flip": True, "seed": 0, "objective": asked,
    }  # fmt: skip
    return FitPlan(**(base | changes))  # type: ignore[arg-type]


def robust(**weights: object) -> Objective:
    return objective(RobustSection.model_validate(weights), Task())


# -------------------------------------------------------------------------------------------------- Wasserstein-1


@given(SAMPLES, SAMPLES)
def test_the_distance_is_scipys_for_any_two_sizes(a: np.ndarray, b: np.ndarray) -> None:
    ours = float(wasserstein(torch.from_numpy(a), torch.from_numpy(b)))
    assert ours == pytest.approx(wasserstein_distance(a, b), rel=1e-12, abs=1e-12 * (1 + np.abs(a).max()))


@given(SAMPLES, st.floats(-10, 10))
def test_a_shift_is_its_own_distance(a: np.ndarray, shift: float) -> None:
    x = torch.from_numpy(a)
    assert float(wasserstein(x, x)) == 0
    assert float(wasserstein(x, x + shift)) == pytest.approx(abs(shift), abs=1e-9)


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(1)
    a, b = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (7, 12))
    assert torch.autograd.gradcheck(wasserstein, (a, b))
    clean, lit = (torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(relative_deviation, (clean, lit))


# ----------------------------------------------------------------------------------------------------- deviations


def test_a_deviation_is_its_definition_and_does_not_see_scale_or_offset() -> None:
    torch.manual_seed(2)
    clean, lit = torch.randn(5, 4, 3, 2, dtype=torch.float64), torch.randn(5, 4, 3, 2, dtype=torch.float64)
    clean[:, 3], lit[:, 3] = 7.0, 7.0  # a channel that never changes
    found = relative_deviation(clean, lit)
    a, b = clean.numpy(), lit.numpy()
    for channel in range(3):
        wanted = np.mean((b[:, channel] - a[:, channel]) ** 2) / np.var(a[:, channel])
        assert float(found[channel]) == pytest.approx(wanted, rel=1e-12)
    assert float(found[3]) == 0
    assert torch.allclose(relative_deviation(10 * clean + 3, 10 * lit + 3), found, rtol=1e-10)


def test_a_lit_copy_is_the_table_looked_up() -> None:
    pixels = torch.from_numpy(images(4).images)
    tables = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 256)).astype(np.uint8))
    which = torch.tensor([4, 0, 0, 2])
    wanted = np.stack([tables[w].numpy()[p.numpy()] for p, w in zip(pixels, which, strict=True)])
    assert np.array_equal(relight(pixels, tables, which).numpy(), wanted)


# ------------------------------------------------------------------------------------------------- the composition


class Counted(nn.Module):
    """Counts the images that pass through a network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.images = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        out: Tensor = self.inner(x)
        return out


def value(asked: Objective, model: nn.Module) -> tuple[Tensor, Tensor]:
    data = images()
    loss = BatchLoss(model, asked, NORMAL, Mode())
    which = torch.arange(len(data))
    return loss(model, torch.from_numpy(data.images), torch.from_numpy(data.labels), which)


@pytest.mark.parametrize(
    ("weights", "passes"), [({}, 1), ({"lit": 0.0}, 1), ({"lit": 0.5}, 2), ({"deviation": 1.0, "wasserstein": 2.0}, 2)]
)
def test_only_what_is_asked_for_is_computed(weights: dict[str, float], passes: int) -> None:
    model = Counted(net())
    value(robust(**weights), model)
    assert model.images == passes * 32
    assert not any(module._forward_hooks for module in model.modules())


def test_the_loss_is_the_weighted_sum_of_its_named_terms() -> None:
    """Against the terms by hand, from a pass in which every layer's outputs are taken by hooks of our own."""
    asked = robust(lit=0.5, deviation=0.25, wasserstein=3.0)
    model, data = net().eval(), images()
    total, terms = value(asked, model)
    assert [term.name for term in asked.terms] == ["lit", "deviation", "wasserstein"]
    tables = lighting.tables(LIGHT)
    lit = np.stack([tables[i][image] for i, image in enumerate(data.images)])
    clean = model(NORMAL(torch.from_numpy(data.images)))
    labels = torch.from_numpy(data.labels)
    layers = []
    for pixels in (data.images, lit):
        z1 = model[:2](NORMAL(torch.from_numpy(pixels)))
        z2 = model[2:5](z1)
        layers.append((z1, z2, model[5:8](z2)))
    deviations = [
        [float(np.mean((b[:, k] - a[:, k]) ** 2) / np.var(a[:, k])) for k in range(a.shape[1])]
        for a, b in ((p.detach().double().numpy(), q.detach().double().numpy()) for p, q in zip(*layers, strict=True))
    ]
    wanted = [
        F.cross_entropy(model(NORMAL(torch.from_numpy(lit))), labels).item(),
        float(np.mean([np.mean(d) for d in deviations])),
        sum(wasserstein_distance(a, b) for a, b in pairwise(deviations)),
    ]
    assert terms.tolist() == pytest.approx(wanted, rel=1e-4)
    whole = F.cross_entropy(clean, labels).item() + float(np.dot([0.5, 0.25, 3.0], wanted))
    assert total.item() == pytest.approx(whole, rel=1e-5)


def test_activations_that_work_in_place_change_nothing() -> None:
    asked = robust(lit=1.0, deviation=1.0, wasserstein=1.0)
    found = []
    for model in (net(), net(inplace=True)):
        loss, terms = value(asked, model)
        loss.backward()
        found.append((loss.detach(), terms, model[0].weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_without_terms_it_is_the_base_to_the_bit() -> None:
    model, data = net().eval(), images()
    loss, terms = value(Objective(), model)
    logits = model(Mode().lay(NORMAL(torch.from_numpy(data.images))))
    assert torch.equal(loss, F.cross_entropy(logits, torch.from_numpy(data.labels)))
    assert terms.shape == (0,)


def test_a_term_from_outside_is_added_and_named() -> None:
    """The seam that distillation uses: a term that looks at inputs and outputs."""
    teacher = net().eval()

    def apart(seen: Seen) -> Tensor:
        with torch.no_grad():
            told = teacher(seen.inputs)
        return (seen.outputs - told).square().mean()

    history = loop.fit(net(), images(), NORMAL, plan(Objective(terms=(Term("distillation", 2.0, apart),))))
    assert set(history.terms) == {"distillation"}
    assert len(history.terms["distillation"]) == len(history.losses) == 3
    strong = loop.fit(net(), images(), NORMAL, plan(Objective(terms=(Term("distillation", 50.0, apart),)), lr=0.001))
    weak = loop.fit(net(), images(), NORMAL, plan(Objective(terms=(Term("distillation", 1e-9, apart),)), lr=0.001))
    assert strong.terms["distillation"][-1] < weak.terms["distillation"][-1]


@pytest.mark.parametrize("weights", [{"lit": 1.0}, {"deviation": 3.0}, {"wasserstein": 3.0}])
def test_each_term_falls_where_it_has_a_weight_and_less_where_it_has_none(weights: dict[str, float]) -> None:
    (name,) = weights
    with_it = loop.fit(net(), images(), NORMAL, plan(robust(**weights), epochs=12))
    nothing = loop.fit(net(), images(), NORMAL, plan(robust(**dict.fromkeys(weights, 1e-9)), epochs=12))
    assert with_it.terms[name][-1] < nothing.terms[name][-1]
    again = loop.fit(net(), images(), NORMAL, plan(robust(**weights), epochs=12))
    assert again == with_it


def test_the_crops_are_the_same_with_and_without_terms() -> None:
    with_it, without = (epoch_draws(plan(asked), 32, 1) for asked in (robust(lit=1.0), Objective()))
    assert torch.equal(with_it[:4], without[:4])
    assert len(set(with_it[4].tolist())) > 10
    assert not without[4].any()


def test_stopped_after_an_epoch_it_ends_with_the_same_bytes_and_terms() -> None:
    class Memory:
        state: bytes | None = None

        def load(self) -> bytes | None:
            return self.state

        def save(self, state: bytes) -> None:
            self.state = state

    asked, kept = robust(lit=1.0, deviation=0.1, wasserstein=0.1), Memory()
    whole, resumed = net(), net()
    wanted = loop.fit(whole, images(), NORMAL, plan(asked))
    loop.fit(net(), images(), NORMAL, plan(asked, epochs=2), checkpoints=kept)
    assert loop.fit(resumed, images(), NORMAL, plan(asked), checkpoints=kept) == wanted
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


# -------------------------------------------------------------------------------------------------------- refusals


def test_layers_are_batchnorms_or_else_what_produces_channels() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    x = torch.rand(2, 3, 8, 8)
    with watched(net()) as none:
        pass
    assert none == []
    for model, channels in ((net(), [6, 9, 5]), (plain, [4, 3])):
        with watched(model) as seen:
            model(x)
        assert [z.shape[1] for z in seen] == channels


def test_what_cannot_be_added_is_refused() -> None:
    single = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with pytest.raises(RefusedError, match="1 layer"):
        value(robust(wasserstein=1.0), single)
    with pytest.raises(UsageError, match="no lighting"):
        Objective(terms=(Term("a", 1.0, lambda seen: seen.outputs.sum(), frozenset({Need.LIT})),))
    with pytest.raises(UsageError, match="called alike"):
        Objective(terms=(Term("a", 1.0, lambda seen: seen.outputs.sum()),) * 2)
    with pytest.raises(UsageError, match=r"Need\.LIT"):
        value(Objective(terms=(Term("a", 1.0, lambda seen: seen.of_lit().sum()),)), net())


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"robust": {"lit": -1}}, "greater than or equal to 0"),
        ({"robust": {"deviations": 1}}, "did you mean 'deviation'"),
        ({"robust": {"deviation": 1}, "compile": True}, "compile = false"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(keys: dict[str, object], says: str) -> None:
    plain = {"name": "x", "model": {"arch": "smallnet"}, "data": {"name": "digits"}, "train": keys}
    with pytest.raises(RecipeError, match=says):
        parsing.parse(plain)


@pytest.mark.parametrize(
    ("light", "says"), [("shift=1", "moves pixels"), ("brightness=0.1", "whole levels"), ("dusk=3", "no set")]
)
def test_a_lighting_that_is_none_is_refused_before_anything_is_computed(light: str, says: str) -> None:
    block = {"method": "filter", "ratios": [0.5], "recover": {"robust": {"light": light, "lit": 1.0}}}
    plain = {"name": "x", "model": {"arch": "smallnet"}, "data": {"name": "digits"}, "compress": [block]}
    with pytest.raises(RecipeError, match=says) as caught:
        lighting.check(parsing.parse(plain).lightings)
    assert caught.value.where == "compress.0.recover.robust.light"
    assert parsing.parse({**plain, "compress": [{**block, "recover": {"robust": {"light": light}}}]}).lightings == {}
