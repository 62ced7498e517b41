"""Every method on nets of the CIFAR families: amounts, invariants, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgesafe import models
from edgesafe.errors import NonFiniteError, RecipeError, SurgeryError
from edgesafe.models.count import macs, params
from edgesafe.prune import PruneContext, PruneOutcome, prune
from edgesafe.recipe.sections import CompressSection

CONTEXT = PruneContext((32, 32, 3), engine=False)


def section(method: str, **kwargs: object) -> CompressSection:
    return CompressSection(method=method, ratios=(0.5,), **kwargs)


def net(arch: str = "resnet8", seed: int = 0) -> nn.Module:
    """A network whose BatchNorms differ from channel to channel, so that rankings mean something."""
    torch.manual_seed(seed)
    model = models.build(arch, 10, {})
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def run(arch: str, method: str, ratio: float = 0.5, **kwargs: object) -> tuple[nn.Module, PruneOutcome]:
    model = net(arch)
    return model, prune(model, section(method, **kwargs), ratio, CONTEXT)


def test_weight_removes_the_exact_number_and_the_smallest() -> None:
    model, outcome = run("resnet8", "weight", 0.37)
    convs = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    before = torch.cat([model.get_submodule(n).weight.flatten() for n in convs])
    after = torch.cat([outcome.model.get_submodule(n).weight.flatten() for n in convs])
    assert int((after == 0).sum()) == round(0.37 * before.numel())
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert torch.equal(before[after != 0], after[after != 0])
    assert outcome.masks is not None
    assert sorted(outcome.masks) == sorted(f"{n}.weight" for n in convs)
    assert all(outcome.masks[f"{n}.weight"].dtype is torch.bool for n in convs)
    assert outcome.record.proof.method == "masked-weights"
    assert outcome.record.sparsity == pytest.approx(0.37, abs=1e-5)
    assert torch.equal(outcome.model.linear.weight, model.linear.weight)


def test_weight_breaks_ties_the_same_way_and_exactly() -> None:
    model = net()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.sign(module.weight))  # all magnitudes 1
    first = prune(model, section("weight"), 0.3, CONTEXT)
    second = prune(model, section("weight"), 0.3, CONTEXT)
    total = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    assert sum(int((~mask).sum()) for mask in first.masks.values()) == round(0.3 * total)
    assert all(torch.equal(first.masks[k], second.masks[k]) for k in first.masks)


@pytest.mark.parametrize("method", ["filter", "channel", "random"])
@pytest.mark.parametrize("arch", ["resnet8", "vgg16", "preresnet8"])
def test_structured_methods_shrink_and_are_proven(arch: str, method: str) -> None:
    model, outcome = run(arch, method)
    record = outcome.record
    assert record.proof.method == "mask-equivalence"
    assert record.proof.equivalence is not None
    assert record.proof.equivalence < 1e-10  # float64
    assert record.proof.batch_sizes == (1, 2, 3)
    assert record.params_after == params(outcome.model) < record.params_before == params(model)
    assert record.macs_after == macs(outcome.model, (32, 32, 3)) < record.macs_before == macs(model, (32, 32, 3))
    assert outcome.masks is None
    assert record.scope == ("all" if arch == "vgg16" else "internal")
    assert outcome.model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    named = dict(outcome.model.named_modules())
    for layer in record.layers:
        assert named[layer.name].weight.shape[0] == layer.out_after
        assert layer.params_after == sum(p.numel() for p in named[layer.name].parameters())
        assert layer.params_before == sum(p.numel() for p in model.get_submodule(layer.name).parameters())
        assert layer.out_after < layer.out_before or layer.note


def test_filter_removes_the_smallest_l1_rows_of_each_layer() -> None:
    model, outcome = run("resnet8", "filter", 0.25)
    for name in ("layer1.0.conv1", "layer3.0.conv1"):
        old, new = model.get_submodule(name).weight, outcome.model.get_submodule(name).weight
        order = old.flatten(1).abs().sum(1).argsort()
        kept = sorted(order[len(order) // 4 :].tolist())
        assert torch.equal(new, old[kept])
    assert outcome.model.layer1[0].conv2.weight.shape[:2] == (16, 12)
    assert outcome.model.conv1.out_channels == 16  # the stem feeds the residual stream
    stem = outcome.record.layers[0]
    assert "outside scope internal" in stem.note


def test_channel_uses_one_global_threshold_on_batchnorm_scales() -> None:
    model, outcome = run("vgg16", "channel", 0.3)
    convs = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([model.get_submodule(n).weight.abs() for n in norms]).sort().values
    threshold = scales[int(0.3 * len(scales) + 0.5)]
    for conv, norm in zip(convs, norms, strict=True):
        scale = model.get_submodule(norm).weight.abs()
        assert outcome.model.get_submodule(conv).out_channels == int((scale >= threshold).sum())
        assert torch.equal(
            outcome.model.get_submodule(norm).weight, model.get_submodule(norm).weight[scale >= threshold]
        )


def test_channel_never_empties_a_layer() -> None:
    model = net("vgg16")
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        first.weight.mul_(1e-6)  # the whole layer is below the threshold
    outcome = prune(model, section("channel"), 0.5, CONTEXT)
    layer = outcome.record.layers[0]
    assert layer.out_after == 7  # 64 channels, at most 90 % go
    assert "limit" in layer.note


def test_equal_scales_are_noted() -> None:
    outcome = prune(models.build("resnet8", 10, {}), section("channel"), 0.3, CONTEXT)
    assert any("scales are equal" in note for note in outcome.record.notes)
    assert not any("scales are equal" in note for note in prune(net(), section("channel"), 0.3, CONTEXT).record.notes)


def test_random_is_seeded() -> None:
    model = net()

    def weights(seed: int) -> torch.Tensor:
        context = PruneContext((32, 32, 3), seed=seed)
        return prune(model, section("random"), 0.5, context).model.layer1[0].conv1.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_input_is_untouched_modes_and_flags_survive() -> None:
    model = net().train()
    model.layer1[0].bn1.eval()
    model.layer2[0].conv1.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    for method in ("weight", "filter", "channel"):
        outcome = prune(model, section(method), 0.5, CONTEXT)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        for name, module in outcome.model.named_modules():
            assert module.training == (name != "layer1.0.bn1"), name
            assert module.training == model.get_submodule(name).training
        for name, parameter in outcome.model.named_parameters():
            assert parameter.requires_grad == (name != "layer2.0.conv1.weight"), name
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("method", ["filter", "channel"])
def test_round_to_rounds_up_and_macs_fall_monotonically(method: str, round_to: int) -> None:
    model = net()
    counted = [macs(model, (32, 32, 3))]
    for ratio in (0.1, 0.3, 0.6, 0.9):
        try:
            outcome = prune(model, section(method, round_to=round_to), ratio, CONTEXT)
        except SurgeryError as error:
            assert ratio == 0.1  # 16 channels: 14 rounds up to 16
            assert "round_to" in str(error)
            continue
        counted.append(outcome.record.macs_after)
        for layer in outcome.record.layers:
            assert layer.out_after == layer.out_before or layer.out_after % round_to == 0
            assert 0 < layer.out_after <= layer.out_before
    assert counted == sorted(counted, reverse=True)
    assert counted[-1] < counted[0]


def test_round_to_of_the_target_is_the_default() -> None:
    outcome = prune(net(), section("filter"), 0.4, PruneContext((32, 32, 3), round_to=8))
    assert outcome.record.round_to == 8
    assert outcome.model.layer1[0].conv1.out_channels == 16  # 10 -> 16: all
    assert "round_to = 8" in next(r.note for r in outcome.record.layers if r.name == "layer1.0.conv1")
    assert outcome.model.layer2[0].conv1.out_channels == 24  # 20 -> 24


def test_scope_all_on_padded_shortcuts_needs_the_rewrite() -> None:
    model = net()
    with pytest.raises(SurgeryError, match="rewrite = true"):
        prune(model, section("filter", scope="all"), 0.5, CONTEXT)
    outcome = prune(model, section("filter", scope="all", rewrite=True), 0.5, CONTEXT)
    assert outcome.record.rewrites
    assert outcome.record.macs_before / outcome.record.macs_after > 3.7
    assert outcome.record.params_before == params(model)


def test_scope_paper() -> None:
    model = net("vgg16")
    names = models.paper_layers("vgg16", model)
    context = PruneContext((32, 32, 3), paper_layers=names)
    record = prune(model, section("filter", scope="paper"), 0.5, context).record
    narrowed = {layer.name for layer in record.layers if layer.out_after < layer.out_before}
    assert narrowed == set(names)
    with pytest.raises(SurgeryError, match="names no layers"):
        prune(model, section("filter", scope="paper"), 0.5, CONTEXT)
    with pytest.raises(SurgeryError, match="no such"):
        prune(model, section("filter", scope="paper"), 0.5, PruneContext((32, 32, 3), paper_layers=("nope",)))


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.2, 1.5, float("nan")])
@pytest.mark.parametrize("method", ["weight", "filter"])
def test_ratio_outside_is_refused(method: str, ratio: float) -> None:
    with pytest.raises(RecipeError, match="outside"):
        prune(net(), section(method), ratio, CONTEXT)


def test_frozen_non_finite_and_batchnorm_less_nets_are_refused() -> None:
    with pytest.raises(SurgeryError, match="frozen"):
        prune(net().requires_grad_(False), section("filter"), 0.5, CONTEXT)
    broken = net()
    with torch.no_grad():
        broken.layer1[0].conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"layer1\.0\.conv1\.weight"):
        prune(broken, section("weight"), 0.5, CONTEXT)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(SurgeryError, match="no removable channel has a BatchNorm"):
        prune(plain, section("channel"), 0.5, CONTEXT)
    only = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SurgeryError, match="outputs"):
        prune(only, section("filter"), 0.5, CONTEXT)
    with pytest.raises(SurgeryError, match="no Conv2d"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), section("weight"), 0.5, CONTEXT)


def test_nothing_removed_is_refused_with_the_cause() -> None:
    with pytest.raises(SurgeryError, match="lower round_to"):
        prune(net(), section("filter", round_to=64), 0.5, CONTEXT)
    with pytest.raises(SurgeryError, match="lower min_channels"):
        prune(net(), section("filter", min_channels=512), 0.5, CONTEXT)


def test_min_channels_holds() -> None:
    outcome = prune(net(), section("filter", min_channels=12), 0.9, CONTEXT)
    assert min(layer.out_after for layer in outcome.record.layers[1:-1]) == 12
    assert outcome.record.proof.min_channels == 12


def test_global_ranking_takes_more_where_more_is_unimportant() -> None:
    """Over the whole network, a layer of mostly dead filters loses them; layer by layer, each loses the same share."""
    torch.manual_seed(0)
    model = models.build("vgg16", 10, {})
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        model.get_submodule(convolutions[4]).weight[:200].mul_(0.01)  # of 256
    left = {}
    for allocation in ("uniform", "global"):
        record = prune(model, section("filter", allocation=allocation), 0.3, CONTEXT).record
        left[allocation] = {layer.name: layer.out_after / layer.out_before for layer in record.layers}
    assert all(abs(left["uniform"][name] - 0.7) < 0.02 for name in convolutions)
    assert left["global"][convolutions[4]] < 0.3
    assert left["global"][convolutions[7]] > left["global"][convolutions[4]] + 0.3
