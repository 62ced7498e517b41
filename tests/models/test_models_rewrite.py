import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from model_fixtures import randomise, shared
from torch import Tensor, nn

from edgesafe import models
from edgesafe.errors import SurgeryError, UsageError
from edgesafe.models.rewrite import fixed_convolution, option_a_to_conv


class Shortcut(nn.Module):
    """Any function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def padded(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half), "constant", 0)


def zeros_after(x: Tensor) -> Tensor:
    y = F.avg_pool2d(x, 2)
    return torch.cat((y, torch.zeros(y.size(0), y.size(1), y.size(2), y.size(3))), 1)


def zeros_around(x: Tensor) -> Tensor:
    y = x[..., ::2, ::2]
    z = y.new_zeros(y.size(0), y.size(1) // 2, y.size(2), y.size(3))
    return torch.cat([z, y, z], dim=1)


def times_zero(x: Tensor) -> Tensor:
    y = F.avg_pool2d(x, 1, 2)
    return torch.cat((y, y.mul(0)), 1)


def max_pooled(x: Tensor) -> Tensor:
    y = F.max_pool2d(x, 2)
    return torch.cat((y, torch.zeros_like(y)), 1)


SPELLINGS = {f.__name__: f for f in (padded, zeros_after, zeros_around, times_zero)}


class Block(nn.Module):
    """A residual block; the shortcut is a module, or is written into forward."""

    def __init__(self, channels: int, function: Callable[[Tensor], Tensor], inline: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, 2, 1)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.shortcut = nn.Identity() if inline else Shortcut(function)
        self.function = function if inline else None
        self.never_used = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return F.relu(y + (self.shortcut(x) if self.function is None else self.function(x)))


def network(function: Callable[[Tensor], Tensor], inline: bool) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(Block(8, function, inline), Block(16, function, inline))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return randomise(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), body, *head))


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_recognised_and_bit_equal(spelling: str, inline: bool) -> None:
    model = network(SPELLINGS[spelling], inline).train()
    original = copy.deepcopy(model)
    names = option_a_to_conv(model, (16, 16, 3))
    assert names == (("2.0", "2.1") if inline else ("2.0.shortcut", "2.1.shortcut"))
    assert model.training
    assert all(m.training for m in model.modules())
    x = torch.randn(5, 3, 16, 16)
    assert torch.equal(model.eval()(x), original.eval()(x))
    old, new = original.state_dict(), model.state_dict()
    assert all(torch.equal(new[k], old[k]) for k in old)
    assert [p.numel() for n, p in model.named_parameters() if n not in old] == [8 * 16, 16 * 32]


@pytest.mark.parametrize("inline", [False, True])
def test_the_fixed_convolution_is_frozen_and_the_rest_is_not(inline: bool) -> None:
    model = network(padded, inline)
    old = set(model.state_dict())
    option_a_to_conv(model, (16, 16, 3))
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(model.state_dict()) - old
    assert len(frozen) == 2


def test_gradients_flow_through_the_rewritten_shortcut() -> None:
    original = network(padded, True)
    model = copy.deepcopy(original)
    option_a_to_conv(model, (16, 16, 3))
    x = torch.randn(2, 3, 16, 16)
    grads = []
    for net in (original, model):
        net.eval()(x).square().sum().backward()
        grads.append(net[0].weight.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_our_resnet_keeps_its_parameter_names() -> None:
    model = randomise(models.build("resnet20", 10, {}))
    before = set(model.state_dict())
    assert option_a_to_conv(model, (32, 32, 3)) == ("layer2.0.shortcut", "layer3.0.shortcut")
    assert set(model.state_dict()) - before == {"layer2.0.shortcut.weight", "layer3.0.shortcut.weight"}
    assert sum(model.state_dict()[f"layer{s}.0.shortcut.weight"].numel() for s in (2, 3)) == 2560


@pytest.mark.data
def test_the_third_party_resnet20_is_bit_equal() -> None:
    model = models.build("resnet20", 10, {})
    models.load_weights(model, shared("resnet20-12fca82f.th"))
    original = copy.deepcopy(model).eval()
    option_a_to_conv(model, (32, 32, 3))
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert torch.equal(model.eval()(x), original(x))


@pytest.mark.parametrize("arch", ["smallnet", "preresnet8", "vgg16", "densenet7"])
def test_a_network_without_option_a_is_refused_and_unchanged(arch: str) -> None:
    model = models.build(arch, 10, {})
    before = [type(m) for m in model.modules()]
    with pytest.raises(SurgeryError, match="no option-A shortcut"):
        option_a_to_conv(model, (32, 32, 3))
    assert [type(m) for m in model.modules()] == before


def test_padding_with_anything_but_zeros_is_refused() -> None:
    net = network(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2), value=1.0), False)
    with pytest.raises(SurgeryError, match="no option-A"):
        option_a_to_conv(net, (16, 16, 3))


WITH_MORE = {
    "max pooling": max_pooled,
    "scaled": lambda x: padded(x * 2),
    "odd pixels": lambda x: F.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2)),
    "rectified": lambda x: padded(x).relu(),
    "permuted": lambda x: padded(x.flip(1)),
}


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("name", WITH_MORE)
def test_what_a_shortcut_does_besides_stays(name: str, inline: bool) -> None:
    model = network(WITH_MORE[name], inline)
    original = copy.deepcopy(model).eval()
    assert option_a_to_conv(model, (16, 16, 3)) == ("2.0", "2.1")
    x = torch.randn(3, 3, 16, 16)
    assert torch.equal(model.eval()(x), original(x))


class Shared(nn.Module):
    """One stateless shortcut module used at two widths: a convolution cannot stand for it."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = Shortcut(padded)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pad(self.pad(x)).mean((2, 3)))


def test_a_shortcut_shared_between_widths_is_refused_and_restored() -> None:
    model = Shared()
    x = torch.randn(2, 4, 8, 8)
    before = model(x)
    with pytest.raises(SurgeryError, match=r"pad: the rewritten network does not run"):
        option_a_to_conv(model, (8, 8, 4))
    assert isinstance(model.pad, Shortcut)
    assert torch.equal(model(x), before)


def test_a_wrong_input_shape_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="does not take images"):
        option_a_to_conv(models.build("resnet8", 10, {}), (32, 32, 1))


def test_the_fixed_convolution_copies_exactly() -> None:
    convolution, x = fixed_convolution(6, 12, 3, 2), torch.randn(2, 6, 9, 9)
    y = convolution(x)
    assert torch.equal(y[:, 3:9], x[:, :, ::2, ::2])
    assert not y[:, :3].any()
    assert not y[:, 9:].any()


def test_a_shortcut_that_behaves_otherwise_in_the_network_is_refused_and_restored() -> None:
    """On random numbers it selects and pads; on what a ReLU lets through it doubles. Only the final proof can tell."""
    model = network(lambda x: padded(x) * (2 if x.min() >= 0 else 1), False)
    x = torch.randn(3, 3, 16, 16)
    before = model.eval()(x)
    with pytest.raises(SurgeryError, match=r"2\.0\.shortcut.*differs by"):
        option_a_to_conv(model, (16, 16, 3))
    assert isinstance(model[2][0].shortcut, Shortcut)
    assert torch.equal(model(x), before)
