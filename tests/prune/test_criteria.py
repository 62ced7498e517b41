"""Criteria against torch-pruning's own importances, and against what they mean."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from edgesafe.errors import NonFiniteError, SurgeryError
from edgesafe.prune import PruneContext, prune
from edgesafe.prune.criteria import gather, score_group
from edgesafe.prune.deviations import Lighting
from edgesafe.recipe.sections import CompressSection, Criterion
from edgesafe.records import Calibration
from edgesafe.surgery.units import channel_graph

EXAMPLE = torch.zeros(1, 3, 8, 8)
CALIBRATION = Calibration(light="x", light_sha256="", images=8, images_sha256="", draws=2, seed=0)


def net() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4)
    )
    with torch.no_grad():
        model[1].weight.uniform_(-1, 1)
        model[0].weight.mul_(torch.linspace(0.5, 1.5, 12).view(-1, 1, 1, 1))
    return model.eval()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3])) for _ in range(2)]


def scores(model: nn.Module, criterion: Criterion, **kwargs: object) -> Tensor:
    graph = channel_graph(model, (EXAMPLE,))
    material = gather(model, criterion, batches, seed=0, comparable=False)
    result = score_group(graph, graph.groups[0], criterion, material)
    assert result is not None
    return result


def theirs(model: nn.Module, importance: object) -> Tensor:
    """torch-pruning's importance of the rows of the first convolution alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model, EXAMPLE)
        group = graph.get_pruning_group(model[0], tp.prune_conv_out_channels, list(range(12)))
        return importance(group)


FIRST = {"group_reduction": "first", "normalizer": None}


@pytest.mark.parametrize(
    ("criterion", "importance"),
    [
        (Criterion.L1, tp.importance.MagnitudeImportance(p=1, **FIRST)),
        (Criterion.L2, tp.importance.MagnitudeImportance(p=2, **FIRST)),
        (Criterion.BN_SCALE, tp.importance.BNScaleImportance(**FIRST)),
    ],
)
def test_the_order_is_torch_prunings(criterion: Criterion, importance: object) -> None:
    ours, other = scores(net(), criterion), theirs(net(), importance).double()
    assert torch.equal(ours.argsort(), other.argsort())
    assert torch.allclose(ours / ours.sum(), other.sqrt() / other.sqrt().sum(), rtol=1e-4) or torch.allclose(
        ours / ours.sum(), other / other.sum(), rtol=1e-4
    )


def test_fpgm_is_the_sum_of_distances() -> None:
    """Against scipy. torch-pruning measures between |w|^p: the paper's distance only for p = 1 and weights >= 0."""
    model = net()
    rows = model[0].weight.detach().double().flatten(1).numpy()
    assert scores(model, Criterion.FPGM).tolist() == pytest.approx(list(cdist(rows, rows).sum(1)), rel=1e-12)
    with torch.no_grad():
        model[0].weight.abs_()
    other = theirs(model, tp.importance.FPGMImportance(p=1, **FIRST))
    assert scores(model, Criterion.FPGM).tolist() == pytest.approx(other.tolist(), rel=1e-4)


def test_lamp_is_its_definition() -> None:
    model = net()
    squares = model[0].weight.detach().double().flatten(1).square().sum(1)
    expected = [float(s / squares[squares >= s].sum()) for s in squares]
    assert scores(model, Criterion.LAMP).tolist() == pytest.approx(expected, rel=1e-12)


def test_taylor_predicts_the_change_of_the_loss() -> None:
    """For a filter shrunk by a small share e, the loss changes by e times the signed score."""
    model = net()
    data = [(x.double(), y) for x, y in batches()]

    @torch.no_grad()
    def loss(network: nn.Module) -> float:
        return sum(float(F.cross_entropy(network(x), y, reduction="sum")) for x, y in data) / 8

    ours = scores(model, Criterion.TAYLOR)
    for channel in range(12):
        values = []
        for share in (1e-3, -1e-3):
            shrunk = net().double()
            with torch.no_grad():
                shrunk[0].weight[channel] *= 1 - share
            data = [(x.double(), y) for x, y in batches()]
            values.append(loss(shrunk))
        assert abs(values[0] - values[1]) / 2e-3 == pytest.approx(float(ours[channel]), rel=1e-3, abs=1e-6)


def test_hessian_is_the_empirical_fisher() -> None:
    model = net()
    total = torch.zeros(12, dtype=torch.float64)
    for x, y in batches():
        for i in range(len(x)):
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), model[0].weight)
            total += (gradient.double() ** 2 * model[0].weight.detach().double() ** 2).flatten(1).sum(1)
    assert torch.allclose(scores(model, Criterion.HESSIAN), total / 8 / 2, rtol=1e-5)


def test_gradients_leave_the_model_alone() -> None:
    model = net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scores(model, Criterion.TAYLOR)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("criterion", list(Criterion))
@pytest.mark.parametrize("method", ["filter", "channel"])
def test_every_criterion_prunes_and_is_proven(method: str, criterion: Criterion) -> None:
    section = CompressSection(method=method, ratios=(0.5,), criterion=criterion)
    lit = [(x, [x + 0.5, x * 0.8]) for x, _ in batches()]
    context = PruneContext(
        (8, 8, 3), gradient_batches=batches, engine=False, lighting=Lighting(lambda: iter(lit), CALIBRATION)
    )
    record = prune(net(), section, 0.5, context).record
    assert record.criterion == criterion.value
    assert record.layers[0].out_after == 6
    statistics = record.layers[0].criterion
    assert statistics["min"] <= statistics["median"] <= statistics["max"]
    assert statistics["min"] <= statistics["threshold"] <= statistics["max"]


def test_gradients_without_data_are_refused() -> None:
    section = CompressSection(method="filter", ratios=(0.5,), criterion="taylor")
    with pytest.raises(SurgeryError, match="gradient_batches"):
        prune(net(), section, 0.5, PruneContext((8, 8, 3)))
    with pytest.raises(SurgeryError, match="no images"):
        prune(net(), section, 0.5, PruneContext((8, 8, 3), gradient_batches=list))
    bad = [(torch.full((1, 3, 8, 8), math.nan), torch.tensor([0]))]
    with pytest.raises(NonFiniteError, match="gradient"):
        prune(net(), section, 0.5, PruneContext((8, 8, 3), gradient_batches=lambda: bad))
