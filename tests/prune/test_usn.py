"""Criteria usn: the statistics against numpy, what they mean, and which channels go."""

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesafe import models
from edgesafe.errors import NonFiniteError, SurgeryError
from edgesafe.prune import PruneContext, prune
from edgesafe.prune.criteria import Material, score_group
from edgesafe.prune.deviations import Deviation, Lighting, LitBatch, deviations, spots
from edgesafe.prune.schedule import prune_in_steps
from edgesafe.recipe.sections import CompressSection, Criterion
from edgesafe.records import Calibration, DataBundle, ImageSet
from edgesafe.stages import lighting
from edgesafe.surgery.propagation import Slot
from edgesafe.surgery.units import ChannelGraph, channel_graph

CALIBRATION = Calibration(light="x", light_sha256="", images=24, images_sha256="", draws=3, seed=0)
SHAPE = (8, 8, 3)


def given(batch: int = 8, draws: int = 3, n: int = 24, double: bool = False) -> Lighting:
    """The same images and lit copies whatever the batch: noise, and copies that are darker by chance."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(n, 3, 8, 8, generator=generator)
    lit = clean[None] * 0.8 + torch.randn(draws, n, 1, 1, 1, generator=generator)
    clean, lit = (clean.double(), lit.double()) if double else (clean, lit)

    def batches() -> Iterator[LitBatch]:
        for s in range(0, n, batch):
            yield clean[s : s + batch], (copies[s : s + batch] for copies in lit)

    return Lighting(batches, CALIBRATION)


class Residual(nn.Module):
    """Two layers whose channels an addition couples, one inside that is free, BatchNorm everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


def chain(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(inplace=inplace),
        nn.Conv2d(12, 10, 3), nn.BatchNorm2d(10), nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(40, 4),
    )  # fmt: skip
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.uniform_(0.3, 2)
            norm.bias.uniform_(-2, 2)
    return model.eval()


def measured(model: nn.Module, light: Lighting | None = None) -> tuple[ChannelGraph, dict[Slot, Deviation]]:
    graph = channel_graph(model, (torch.zeros(1, 3, 8, 8, dtype=next(model.parameters()).dtype),))
    where = [slot for group in graph.groups for slot in spots(model, graph, group)]
    return graph, deviations(model, where, light or given())


def by_hand(layer: Callable[[Tensor], Tensor], light: Lighting) -> tuple[np.ndarray, np.ndarray]:
    """E[(z' - z)^2] and Var[z] of each channel, everything at once, by numpy."""
    z, changes = [], []
    with torch.no_grad():
        for clean, copies in light.batches():
            z.append(layer(clean).double().numpy())
            changes += [layer(lit).double().numpy() - z[-1] for lit in copies]
    whole = np.concatenate(z)
    axes = (0, *range(2, whole.ndim))
    return np.mean(np.square(np.concatenate(changes)), axes), np.var(whole, axes)


# ------------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 24])
def test_the_statistics_are_numpys_whatever_the_batches(batch: int, inplace: bool) -> None:
    model = chain(inplace=inplace)
    _, found = measured(model, given(batch))
    for index in (1, 4):
        squared, variance = by_hand(chain()[: index + 1], given(24))
        deviation = found[Slot(f"{index}.weight", 0)]
        assert deviation.squared.numpy() == pytest.approx(squared, rel=1e-6)
        assert deviation.variance.numpy() == pytest.approx(variance, rel=1e-6)
        assert deviation.relative.numpy() == pytest.approx(squared / variance, rel=1e-6)


def test_without_batchnorm_the_layers_that_produce_the_channels_are_looked_at() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 7), nn.ReLU(), nn.Linear(7, 4))
    _, found = measured(model)
    assert set(found) == {Slot("0.weight", 0), Slot("3.weight", 0)}
    for index in (0, 3):
        squared, variance = by_hand(model[: index + 1], given())
        assert found[Slot(f"{index}.weight", 0)].squared.numpy() == pytest.approx(squared, rel=1e-6)
        assert found[Slot(f"{index}.weight", 0)].variance.numpy() == pytest.approx(variance, rel=1e-6)


def test_a_linear_layer_over_positions_has_its_channels_last() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.linear = nn.Linear(3, 7), nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(F.relu(self.inner(x.flatten(2).transpose(1, 2))).mean(1))
            return out

    torch.manual_seed(0)
    model = Tokens()
    found = measured(model)[1][Slot("inner.weight", 0)]
    wanted = by_hand(lambda x: model.inner(x.flatten(2).transpose(1, 2)).transpose(1, 2), given())
    assert found.squared.numpy() == pytest.approx(wanted[0], rel=1e-6)


def test_a_variance_beside_a_large_mean_is_not_lost() -> None:
    model = chain().double()
    with torch.no_grad():
        model[1].bias.fill_(1e7)
    found = measured(model, given(5, double=True))[1][Slot("1.weight", 0)]
    with torch.no_grad():
        model[1].bias.zero_()
    wanted = measured(model, given(5, double=True))[1][Slot("1.weight", 0)]
    assert torch.allclose(found.variance, wanted.variance, rtol=1e-6)


def test_a_scaled_channel_keeps_its_relative_deviation_and_a_constant_one_has_none() -> None:
    plain, scaled = chain(), chain()
    with torch.no_grad():
        scaled[1].weight[2] *= 10
        scaled[1].bias[2] *= 10
        scaled[1].weight[5] = 0
    a, b = (measured(model)[1][Slot("1.weight", 0)] for model in (plain, scaled))
    assert float(b.relative[2]) == pytest.approx(float(a.relative[2]), rel=1e-6)
    assert float(b.squared[2]) == pytest.approx(100 * float(a.squared[2]), rel=1e-6)  # the control: it is not relative
    assert float(b.relative[5]) == 0
    assert float(b.squared[5]) == 0


def test_a_shared_layer_is_seen_at_each_of_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again, self.linear = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.again(F.relu(self.stem(x))))
            out: Tensor = self.linear(F.relu(self.again(x)).mean((2, 3)))
            return out

    torch.manual_seed(0)
    model = Twice()
    found = deviations(model, [Slot("again.weight", 0)], given())[Slot("again.weight", 0)]
    first = by_hand(lambda x: model.again(F.relu(model.stem(x))), given())
    second = by_hand(lambda x: model.again(F.relu(model.again(F.relu(model.stem(x))))), given())
    assert found.squared.numpy() == pytest.approx((first[0] + second[0]) / 2, rel=1e-6)


def test_the_model_is_left_alone_and_memory_does_not_grow_with_the_images() -> None:
    model = chain().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = []

    def batches() -> Iterator[LitBatch]:
        for clean, copies in given(2, n=14).batches():
            held.append(sum(type(thing) is Tensor for thing in gc.get_objects()))
            yield clean, copies

    deviations(model, [Slot("1.weight", 0), Slot("4.weight", 0)], Lighting(batches, CALIBRATION))
    assert len(held) == 7
    assert max(held[2:]) <= held[1] + 2
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


# ---------------------------------------------------------------------------------------------------------- scores


def scores(model: nn.Module, criterion: Criterion, group: int = 0) -> Tensor:
    graph, found = measured(model)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    result = score_group(graph, graph.groups[group], criterion, Material(weights, deviations=found))
    assert result is not None
    return result


def test_the_scores_are_their_definitions() -> None:
    model = chain()
    squared, variance = by_hand(model[:2], given())
    l1 = model[0].weight.detach().double().abs().flatten(1).sum(1).numpy()
    relative = squared / variance
    assert scores(model, Criterion.USN).numpy() == pytest.approx(-relative, rel=1e-6)
    assert scores(model, Criterion.USN_ABSOLUTE).numpy() == pytest.approx(-squared, rel=1e-6)
    combined = (l1 / l1.mean()) / (relative / relative.mean())
    assert scores(model, Criterion.USN_L1).numpy() == pytest.approx(combined, rel=1e-6)


def test_constant_channels_score_nothing() -> None:
    """By deviation they are the steadiest of all; weighed with L1 they are the first to go, since they say nothing."""
    model = chain()
    with torch.no_grad():
        model[1].weight[5] = 0
    for criterion in (Criterion.USN, Criterion.USN_ABSOLUTE, Criterion.USN_L1):
        found = scores(model, criterion)
        assert float(found[5]) == 0
        assert (found[5] == found.min()) == (criterion is Criterion.USN_L1)
        assert (found[5] == found.max()) == (criterion is not Criterion.USN_L1)


def test_where_an_addition_couples_channels_the_layers_are_averaged() -> None:
    torch.manual_seed(1)
    model = Residual().eval()
    graph, found = measured(model)
    coupled = next(i for i, group in enumerate(graph.groups) if len(group.producers) == 2)
    assert set(spots(model, graph, graph.groups[coupled])) == {Slot("bn1.weight", 0), Slot("bn3.weight", 0)}
    wanted = -(found[Slot("bn1.weight", 0)].relative + found[Slot("bn3.weight", 0)].relative) / 2
    assert torch.allclose(scores(model, Criterion.USN, coupled), wanted)


def lamp() -> nn.Sequential:
    """Channels 0..3 see the mean of their surroundings, 4..7 only edges: brightness moves the former alone."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        weight = model[0].weight
        weight -= weight.mean((1, 2, 3), keepdim=True)
        weight[:4] += 0.2
        weight[4:] *= 0.3  # and smaller: by L1 these are the ones to go
    return model.eval()


def brighter() -> Lighting:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(32, 3, 8, 8, generator=generator)
    return Lighting(lambda: iter([(clean, [clean + 0.7, clean - 0.4])]), CALIBRATION)


@pytest.mark.parametrize(
    ("criterion", "stays"), [("usn", [4, 5, 6, 7]), ("usn_l1", [4, 5, 6, 7]), ("l1", [0, 1, 2, 3])]
)
def test_the_channels_that_brightness_moves_go_first(criterion: str, stays: list[int]) -> None:
    model = lamp()
    section = CompressSection(method="filter", ratios=(0.5,), criterion=criterion)
    made = prune(model, section, 0.5, PruneContext(SHAPE, engine=False, lighting=brighter()))
    assert torch.equal(made.model[0].weight, model[0].weight[stays])
    assert made.record.calibration == (None if criterion == "l1" else CALIBRATION)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_both_allocations_and_all_scopes_are_pruned_and_proven(allocation: str) -> None:
    torch.manual_seed(1)
    model = Residual().eval()
    for scope in ("internal", "all"):
        for criterion in ("usn", "usn_absolute", "usn_l1"):
            asked = {"scope": scope, "criterion": criterion, "allocation": allocation}
            section = CompressSection(method="usn", ratios=(0.4,), **asked)
            record = prune(model, section, 0.4, PruneContext(SHAPE, engine=False, lighting=given())).record
            assert record.proof.equivalence is not None
            assert record.proof.equivalence < 1e-5
            assert record.params_after < record.params_before


def test_in_steps_the_deviations_are_measured_anew() -> None:
    times: list[int] = []
    light = given()

    def batches() -> Iterator[LitBatch]:
        times.append(1)
        yield from light.batches()

    section = CompressSection(method="usn", ratios=(0.6,), steps=3)
    context = PruneContext(SHAPE, engine=False, lighting=Lighting(batches, CALIBRATION))
    made = prune_in_steps(chain(), section, 0.6, context, 3, lambda model: model)
    assert len(times) == 3
    assert made.record.criterion == "usn_l1"
    assert made.record.calibration == CALIBRATION


def test_what_cannot_be_measured_is_refused() -> None:
    section = CompressSection(method="usn", ratios=(0.5,))
    with pytest.raises(SurgeryError, match=r"PruneContext\.lighting"):
        prune(chain(), section, 0.5, PruneContext(SHAPE))
    for empty in (lambda: iter([]), lambda: iter([(torch.zeros(2, 3, 8, 8), [])])):
        with pytest.raises(SurgeryError, match="no lit copy"):
            prune(chain(), section, 0.5, PruneContext(SHAPE, lighting=Lighting(empty, CALIBRATION)))
    bad = torch.full((2, 3, 8, 8), float("nan"))
    with pytest.raises(NonFiniteError, match="pre-activation"):
        prune(chain(), section, 0.5, PruneContext(SHAPE, lighting=Lighting(lambda: iter([(bad, [bad])]), CALIBRATION)))

    class ByFunction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.linear = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(F.relu(F.conv2d(x, self.weight)).mean((2, 3)))
            return out

    with pytest.raises(SurgeryError, match="pre-activations could be seen"):
        prune(ByFunction(), section, 0.5, PruneContext(SHAPE, lighting=given()))


# ------------------------------------------------------------------------------------------- calibration by a recipe


def bundle(n: int = 300, side: int = 8) -> DataBundle:
    rng = np.random.default_rng(0)
    part = ImageSet(rng.integers(0, 256, (n, side, side, 3)).astype(np.uint8), np.arange(n) % 2, "x")
    return DataBundle("d", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), part, part, part)


def test_images_and_lit_copies_are_drawn_by_the_seed_from_the_stated_range() -> None:
    data = bundle()
    section = CompressSection(method="usn", ratios=(0.5,), light="brightness=3", calibration_images=50, draws=20)
    got, again, other = (lighting.lighting_of(data, section, seed) for seed in (1, 1, 2))
    assert got.calibration == again.calibration
    assert (got.calibration.light, got.calibration.images, got.calibration.draws) == ("brightness=3", 50, 20)
    assert got.calibration.images_sha256 != other.calibration.images_sha256
    scale = torch.tensor(data.std).view(1, 3, 1, 1) * 255
    counts = dict.fromkeys(range(-3, 4), 0)
    for clean, copies in got.batches():
        for lit in copies:
            change = ((lit - clean) * scale).round()
            inner = change.flatten(1).median(1).values.int()  # few pixels are near black or white
            for level in inner.tolist():
                counts[level] += 1
    assert sum(counts.values()) == 1000
    assert all(90 < count < 200 for count in counts.values())  # 143 each, 4.8 standard deviations of 11.1


def test_few_training_images_are_all_taken() -> None:
    section = CompressSection(method="usn", ratios=(0.5,), calibration_images=1000, draws=1)
    made = lighting.lighting_of(bundle(), section, 0)
    assert made.calibration.images == 300
    assert sum(len(clean) for clean, _ in made.batches()) == 300


@pytest.mark.parametrize(("side", "most"), [(8, 32), (64, 32), (128, 8), (224, 2), (400, 1)])
def test_fewer_images_are_held_at_a_time_where_they_are_large(side: int, most: int) -> None:
    section = CompressSection(method="usn", ratios=(0.5,), calibration_images=33, draws=1)
    made = lighting.lighting_of(bundle(34, side), section, 0)
    sizes = [len(clean) for clean, _ in made.batches()]
    assert max(sizes) == most
    assert sum(sizes) == 33


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("vgg16", 32), ("preresnet110", 32), ("densenet40", 32), ("torchvision:resnet18", 64),
        ("torchvision:mobilenet_v3_small", 64), ("torchvision:shufflenet_v2_x1_0", 64),
        ("torchvision:convnext_tiny", 64), ("torchvision:squeezenet1_1", 64),
    ],
)  # fmt: skip
def test_kinds_of_architectures_are_ranked_pruned_and_proven(arch: str, size: int) -> None:
    torch.manual_seed(0)
    model = models.build(arch, 10, {"weights": None} if arch.startswith("torchvision") else {}).eval()
    clean = torch.randn(2, 3, size, size)
    light = Lighting(lambda: iter([(clean, [clean + 0.3, clean * 0.8])]), CALIBRATION)
    section = CompressSection(method="usn", ratios=(0.5,), scope="all")
    made = prune(model, section, 0.5, PruneContext((size, size, 3), engine=False, lighting=light))
    assert made.record.params_after < 0.6 * made.record.params_before
    assert not [layer.note for layer in made.record.layers if "cannot be seen" in layer.note]
