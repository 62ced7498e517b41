import pytest
import torch
from model_fixtures import RESNET20_MEAN, randomise, shared
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgesafe import models
from edgesafe.errors import UsageError
from edgesafe.models import count

assert RESNET20_MEAN  # the fixtures are this folder's

# Parameters as published: He et al. 2015 table 6 (0.27M … 1.7M), Huang et al. 2016 table 2 (1.0M), and to the unit for
# the third-party ResNet-20 (269,722) and the CIFAR-10 ResNets of the same family.
PARAMS = {
    "resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018, "resnet110": 1_727_962,
    "vgg16": 14_724_042, "densenet40": 1_059_298, "preresnet164": 1_703_258,
}  # fmt: skip
TINY = ("smallnet", "resnet8", "preresnet8", "densenet7")


@pytest.mark.parametrize("arch", models.ARCHITECTURES)
def test_every_architecture_maps_images_to_logits(arch: str) -> None:
    model = models.build(arch, 7, {}).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(("arch", "expected"), PARAMS.items())
def test_parameters_are_those_published(arch: str, expected: int) -> None:
    model = models.build(arch, 10, {})
    assert count.params(model) == expected == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("arch", [*TINY, "resnet20", "vgg16", "torchvision:mobilenet_v3_small"])
def test_macs_agree_with_torchs_flop_counter(arch: str) -> None:
    model = models.build(arch, 10, {}).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert count.macs(model, (32, 32, 3)) * 2 == counter.get_total_flops()


def test_macs_count_grouped_and_transposed_convolutions() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), nn.Flatten())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 4, 8, 8))
    assert count.macs(net, (8, 8, 4)) * 2 == counter.get_total_flops()


def test_counting_leaves_modes_and_hooks_alone() -> None:
    model = models.build("smallnet", 10, {})
    model.layer1.eval()
    before = {name: m.training for name, m in model.named_modules()}
    count.macs(model, (32, 32, 3))
    assert {name: m.training for name, m in model.named_modules()} == before
    assert not any(m._forward_hooks for m in model.modules())


def test_macs_refuse_what_does_not_run_and_what_has_nothing_to_count() -> None:
    with pytest.raises(UsageError, match="does not take one image"):
        count.macs(models.build("smallnet", 10, {}), (32, 32, 1))
    with pytest.raises(UsageError, match="no convolution"):
        count.macs(nn.Flatten(), (8, 8, 3))


@pytest.mark.parametrize("arch", TINY)
def test_building_depends_on_the_seed_alone(arch: str) -> None:
    def state() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return models.build(arch, 10, {}).state_dict()

    a, b = state(), state()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_option_b_and_grey_images() -> None:
    model = models.build("resnet8", 4, {"option": "B", "in_channels": 1}).eval()
    assert isinstance(model.layer2[0].shortcut[0], nn.Conv2d)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 4)


def test_resnet_shortcut_takes_every_second_pixel_and_pads_a_quarter_on_each_side() -> None:
    x = torch.randn(2, 16, 8, 8)
    y = models.build("resnet8", 10, {}).layer2[0].shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_key_names_are_the_familys() -> None:
    keys = set(models.build("resnet20", 10, {}).state_dict())
    blocks = {f"layer{s}.{i}.{m}" for s in (1, 2, 3) for i in range(3) for m in ("conv1", "conv2", "bn1", "bn2")}
    assert {k.rpartition(".")[0] for k in keys} == {"conv1", "bn1", "linear"} | blocks


@pytest.mark.parametrize(
    ("arch", "args", "says"),
    [
        ("resnte20", {}, "did you mean 'resnet20'"),
        ("resnet21", {}, "6n \\+ 2"),
        ("vgg11", {}, "vgg16 or vgg19"),
        ("preresnet21", {}, "6n \\+ 2"),
        ("preresnet165", {}, "9n \\+ 2"),
        ("densenet41", {}, "3n \\+ 4"),
        ("resnet20", {"optoin": "B"}, "did you mean 'option'"),
        ("resnet20", {"option": "C"}, '"A" or "B"'),
        ("resnet20", {"num_classes": 10}, "comes from the data"),
        ("preresnet20", {"block": "wide"}, "bottleneck"),
        ("densenet40", {"growth": 0}, "growth"),
        ("resnet20", {"in_channels": "three"}, "model.args"),
        ("", {}, "unknown architecture"),
    ],
)
def test_wrong_names_and_arguments_are_usage_errors_on_one_line(arch: str, args: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        models.build(arch, 10, args)
    assert "\n" not in str(caught.value)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="1 classes"):
        models.build("resnet20", 1, {})


def test_paper_layers() -> None:
    vgg = models.build("vgg16", 10, {})
    convs = [n for n, m in vgg.named_modules() if isinstance(m, nn.Conv2d)]
    layers = models.paper_layers("vgg16", vgg)
    assert layers is not None
    assert [convs.index(n) + 1 for n in layers] == [1, 8, 9, 10, 11, 12, 13]
    resnet = models.paper_layers("resnet110", models.build("resnet110", 10, {}))
    assert resnet == tuple(f"layer1.{i}.conv1" for i in range(18))
    bottlenecks = models.paper_layers("preresnet164", models.build("preresnet164", 10, {}))
    assert bottlenecks is not None
    assert len(bottlenecks) == 3 * 18 * 2
    assert models.paper_layers("preresnet110", models.build("preresnet110", 10, {})) is None
    assert models.paper_layers("torchvision:resnet18", nn.Identity()) is None


@pytest.mark.data
def test_the_third_party_resnet20_loads() -> None:
    path = shared("resnet20-12fca82f.th")
    model = models.build("resnet20", 10, {})
    models.load_weights(model, path)
    file = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, file[f"module.{key}"])


def test_randomise_changes_something() -> None:
    model = models.build("smallnet", 10, {})
    before = model.bn1.running_mean.clone()
    assert not torch.equal(randomise(model).bn1.running_mean, before)
