"""The contract of a network, checked before training: each breach is refused for what it is, naming the place."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from edgesafe import models
from edgesafe.errors import EdgesafeError, NonFiniteError, RefusedError, UsageError
from edgesafe.models.contract import require_classifier, require_plain_weights

K = 5
NCHW = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
CHANNELS_LAST = NCHW.to(memory_format=torch.channels_last)  # as training gives them


class Net(nn.Module):
    """conv-bn-relu, something in the middle, mean, something at the end."""

    def __init__(self, middle: nn.Module | None = None, end: Callable[[Tensor], object] | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.middle = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), middle or nn.Identity()
        self.fc, self.end = nn.Linear(8, K), end or (lambda z: z)

    def forward(self, x: Tensor) -> object:
        return self.end(self.fc(self.middle(F.relu(self.bn(self.conv(x)))).mean((2, 3))))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(400, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(x.shape[0], -1))


class OneImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:1]


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Stubborn(nn.BatchNorm2d):
    """A BatchNorm that never leaves training mode."""

    def train(self, mode: bool = True) -> Stubborn:  # noqa: ARG002
        return super().train(True)


def check(model: nn.Module, images: Tensor = CHANNELS_LAST) -> Tensor:
    return require_classifier(model, images, K, "nets.py:net")


@pytest.mark.parametrize("model", [Net(), nn.Sequential(nn.Flatten(), nn.Linear(432, K)), Net(nn.Dropout(0.5))])
def test_ordinary_networks_pass_untouched(model: nn.Module) -> None:
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.random.get_rng_state()
    assert check(model).shape == (4, K)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(random, torch.random.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("arch", ["smallnet", "resnet20", "densenet40", "vgg16"])
def test_built_in_networks_pass(arch: str) -> None:
    images = torch.randn(3, 3, 32, 32)
    assert require_classifier(models.build(arch, 10), images, 10, arch).shape == (3, 10)


@pytest.mark.parametrize(
    ("middle", "what", "where"),
    [
        (nn.BatchNorm2d(8, track_running_stats=False), "depends on the other images", "middle (BatchNorm2d)"),
        (nn.Sequential(nn.ReLU(), Stubborn(8)), "depends on the other images", "middle.1 (Stubborn)"),
        (Centred(), "depends on the other images", "middle (Centred)"),
        (Dropping(), "two runs on the same images differ", "middle (Dropping)"),
        (nn.Sequential(nn.Identity(), Noise()), "two runs on the same images differ", "middle.1 (Noise)"),
    ],
)
def test_an_answer_that_depends_on_neighbours_or_chance(middle: nn.Module, what: str, where: str) -> None:
    with pytest.raises(RefusedError, match=what) as raised:
        check(Net(middle))
    assert raised.value.where == where


def test_the_whole_forward_is_named_if_no_layer_is_to_blame() -> None:
    with pytest.raises(RefusedError) as raised:
        check(Net(end=lambda z: z + torch.rand_like(z)))
    assert raised.value.where == "the network's forward"


def test_a_network_that_needs_contiguous_memory_gets_it() -> None:
    model = Flat()
    with pytest.raises(RuntimeError, match="view"):
        model(CHANNELS_LAST)
    check(model)
    assert torch.equal(model(CHANNELS_LAST), model(NCHW))
    assert torch.equal(copy.deepcopy(model)(CHANNELS_LAST), model(NCHW))  # also after what pruning copies
    assert model(CHANNELS_LAST[:2]).shape == (2, K)


@pytest.mark.parametrize(
    ("end", "what"),
    [
        (lambda z: (z, z), "returns a tuple"),
        (lambda z: {"out": z}, "returns a dict"),
        (lambda z: z[None], r"gives torch.float32 \(1, 4, 5\)"),
        (lambda z: z[:, :4], r"\(4, 4\), for 4 images and 5 classes"),
        (lambda z: z.double(), "gives torch.float64"),
        (lambda z: z.view(1, -1) @ torch.zeros(K, K), "takes one image, but fails on a batch of 4"),
        (lambda z: z if z.shape[0] < 2 else {}["key"], "KeyError"),
    ],
)
def test_other_outputs_are_refused_with_what_a_forward_must_do(end: Callable[[Tensor], object], what: str) -> None:
    with pytest.raises(UsageError, match=what) as raised:
        check(Net(end=end))
    assert raised.value.where == "nets.py:net"
    assert "must take float32 (n, C, H, W), any n, and return one tensor of scores (n, classes)" in raised.value.fix


def test_one_row_for_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(1, 5\), for 4 images"):
        check(OneImage())


def test_images_of_other_channels_name_both_numbers() -> None:
    with pytest.raises(UsageError) as raised:
        check(Net(), NCHW[:, :1])
    assert "first convolution takes 3 channels: build it for 1" in raised.value.fix


def test_outputs_of_training_mode_are_seen_before_the_training() -> None:
    class Auxiliary(Net):
        def forward(self, x: Tensor) -> object:
            z = super().forward(x)
            return (z, z) if self.training else z

    with pytest.raises(UsageError, match="returns a tuple in training mode"):
        check(Auxiliary())


def test_scores_that_are_not_finite() -> None:
    with pytest.raises(NonFiniteError):
        check(Net(end=lambda z: z / 0))


def _weight_normed(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what people's files hold
        nn.utils.weight_norm(layer)


def _assigned(layer: nn.Module) -> None:
    scale = nn.Parameter(torch.ones(1))
    layer.extra = scale * 2


@pytest.mark.parametrize(
    ("spoil", "mend", "remedy"),
    [
        (_weight_normed, nn.utils.remove_weight_norm, "torch.nn.utils.remove_weight_norm(layer, 'weight')"),
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm, "torch.nn.utils.remove_spectral_norm(layer, 'weight')"),
        (
            lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
            lambda layer: prune.remove(layer, "weight"),
            "torch.nn.utils.prune.remove(layer, 'weight')",
        ),
        (_assigned, lambda layer: delattr(layer, "extra"), "register_buffer"),
    ],
)
def test_computed_weights_name_the_layer_and_a_remedy_that_works(
    spoil: Callable[[nn.Module], object], mend: Callable[[nn.Module], object], remedy: str
) -> None:
    model = Net(nn.Conv2d(8, 8, 1))
    spoil(model.middle)
    with pytest.raises(RefusedError) as raised:
        check(model)
    assert raised.value.where == "middle"
    assert remedy in raised.value.fix
    mend(model.middle)
    check(model)


def test_parametrisations_are_refused_too() -> None:
    """Their weight is no parameter, so nothing could be cut from it after hours of training."""
    with pytest.raises(RefusedError, match="remove_parametrizations"):
        require_plain_weights(parametrizations.weight_norm(nn.Conv2d(3, 3, 1)))


def test_errors_are_one_line() -> None:
    with pytest.raises(EdgesafeError) as raised:
        check(Net(), NCHW[:, :2])
    assert "\n" not in str(raised.value)
