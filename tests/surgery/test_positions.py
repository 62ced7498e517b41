"""Channels by position, in heads, branches and means: narrowed together, sizes set, proven, and rebuilt from a file.

The proof is the oracle: the pruned network equals the original one with those channels zeroed, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import surgery_nets as nets
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesafe.errors import WeightsError
from edgesafe.prune import PruneContext, PruneOutcome, prune
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import Declined
from edgesafe.surgery.format import decode, encode
from edgesafe.surgery.rebuild import load_bytes, save_bytes
from edgesafe.surgery.sizes import KEY, sizes_of

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Around(nn.Module):
    """A stem of 16 channels, the construct, one more convolution, and a classifier."""

    def __init__(self, middle: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.stem, self.middle, self.out = nn.Conv2d(3, 16, 3, padding=1), middle, nn.Conv2d(width, 24, 3, padding=1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.out(self.middle(F.relu(self.stem(x))))).mean((2, 3)))


class Mixed(nn.Module):
    """Kernels of several sizes over unequal parts (MixNet); the sizes are numbers of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = [5, 11]
        self.small, self.large = nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.Conv2d(11, 11, 5, padding=2, groups=11)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, self.splits, 1)
        return torch.cat((self.small(a), self.large(b)), 1)


class Scales(nn.Module):
    """Parts that pass through each other (Res2Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.width, 1)
        outs = [parts[0]]
        for conv, part in zip(self.convs, parts[1:], strict=True):
            outs.append(F.relu(conv(part + outs[-1])))
        return torch.cat(outs, 1)


class Partial(nn.Module):
    """Only the first channels are convolved, taken by a slice; the others pass (FasterNet, ReXNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.few = 6
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.conv(x[:, : self.few]), x[:, self.few :]), 1)


class Halves(nn.Module):
    """Half the channels of the expansion go through a block (CSP); the number is computed from another one."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 24
        self.wide, self.block = nn.Conv2d(16, 24, 1), nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.wide(x).split(self.width // 2, 1)
        return torch.cat((a, F.relu(self.block(b))), 1)


class Kernels(nn.Module):
    """Two kernels weighed against each other (selective kernels): stack, softmax over branches, sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 5, padding=2)
        self.down, self.up = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack((self.a(x), self.b(x)), 1)
        gate = self.up(F.relu(self.down(both.sum(1).mean((2, 3), keepdim=True))))
        n, c = gate.shape[:2]
        return (both * torch.softmax(gate.view(n, 2, c // 2, 1, 1), 1)).sum(1)


class Radix(nn.Module):
    """Split attention (ResNeSt): two groups of a convolution are branches of the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 32, 3, padding=1, groups=2)
        self.gate = nn.Conv2d(16, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = F.relu(self.conv(x)).reshape(n, 2, -1, h, w)
        gate = torch.softmax(self.gate(y.sum(1).mean((2, 3), keepdim=True)).view(n, 2, -1, 1, 1), 1)
        return (y * gate).sum(1)


class Slide(nn.Module):
    """Efficient channel attention: a convolution slides over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * torch.sigmoid(gate.view(x.shape[0], -1, 1, 1))


class Respond(nn.Module):
    """Global response normalisation (ConvNeXt V2), and a division by the norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1, 16, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        return F.normalize(x + self.gamma * x * (size / (size.mean(1, keepdim=True) + 1e-6)))


class Heads(nn.Module):
    """Multi-head attention over positions with a table of position biases; sizes are numbers of the module."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.size, self.fused = 4, 8, fused
        self.qkv, self.proj = nn.Linear(16, 96), nn.Linear(32, 16)
        self.bias = nn.Parameter(torch.zeros(4, 256, 256) + torch.arange(4.0).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(n, h * w, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) * 0.3, -1) @ v
        y = self.proj(y.transpose(1, 2).reshape(n, h * w, self.heads * self.size))
        return x + y.transpose(1, 2).reshape(x.shape)


class Evolved(nn.Module):
    """EvoNorm: the deviation of each group of channels, by a reshape with a number of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 8
        self.v = nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.view(n, self.groups, c // self.groups, h, w)
        deviation = torch.sqrt(y.var(dim=(2, 3, 4), keepdim=True) + 1e-3).expand(y.shape).reshape(n, c, h, w)
        return x * torch.sigmoid(x * self.v.view(1, -1, 1, 1)) / deviation


class Scaled(nn.Module):
    """A scale whose shape is kept by the module."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (16, 1, 1)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.shape)


class Twice(nn.Module):
    """One depthwise convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))


class Standard(nn.Conv2d):
    """Weight standardisation as in BiT, or with a gain for each row as in NFNets."""

    def __init__(self, *, gain: bool) -> None:
        super().__init__(16, 16, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(16, 1, 1, 1)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        gain = None if self.gain is None else (self.gain * 0.3).view(-1)
        weight = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mixed kernels": (Mixed, 16), "scales": (Scales, 16), "partial": (Partial, 16), "halves": (Halves, 24),
    "selective kernels": (Kernels, 16), "split attention": (Radix, 16), "channel attention": (Slide, 16),
    "response norm": (Respond, 16), "evolved norm": (Evolved, 16), "scale": (Scaled, 16), "twice": (Twice, 16),
    "standardised": (lambda: Standard(gain=False), 16), "standardised, gain": (lambda: Standard(gain=True), 16),
    "heads": (lambda: Heads(fused=False), 16), "fused heads": (lambda: Heads(fused=True), 16),
}  # fmt: skip


def pruned(model: nn.Module) -> PruneOutcome:
    return prune(model, CompressSection(method="filter", ratios=(0.5,), scope="all"), 0.5, PruneContext((16, 16, 3)))


def build(name: str) -> nn.Module:
    factory, width = NETS[name]
    return nets.seeded(Around(factory(), width))


@pytest.mark.parametrize("name", NETS)
def test_narrowed_proven_and_rebuilt(name: str) -> None:
    model = build(name)
    outcome = pruned(model)
    record = outcome.record
    assert record.proof.equivalence is not None
    assert record.proof.equivalence < 1e-10
    assert record.macs_after / record.macs_before < 0.36
    for layer in record.layers[:-1]:
        assert layer.out_after < layer.out_before or layer.out_before == 1, f"{layer.name}: {layer.note}"
    rebuilt = load_bytes(model, save_bytes(outcome.model, sparse=False)).eval()
    assert torch.equal(rebuilt(IMAGES), outcome.model.eval()(IMAGES))
    assert sizes_of(rebuilt) == sizes_of(outcome.model)


def test_unequal_parts_are_ranked_by_themselves_and_their_sizes_follow() -> None:
    outcome = pruned(build("mixed kernels"))
    assert outcome.model.middle.splits == [2, 5]
    assert sizes_of(outcome.model) == {"middle": {"splits": [2, 5]}}
    assert outcome.record.engine_reason is not None
    assert outcome.record.engine_reason.cause is Declined.NOT_ASKED
    assert "middle.splits" in outcome.record.engine_reason.detail


def test_whole_heads_go() -> None:
    middle = pruned(build("heads")).model.middle
    assert (middle.heads, middle.size, middle.qkv.out_features, middle.proj.in_features) == (2, 8, 48, 16)


def test_the_proof_says_what_is_computed_over_kept_channels() -> None:
    reason = pruned(build("channel attention")).record.proof.reason
    assert reason.startswith("a convolution over narrowed channels (middle.conv)")


def test_a_wrong_size_is_found_by_the_proof_and_its_layer_left_alone() -> None:
    class Wrong(nn.Module):
        """Averages the first eight channels, wherever they are: a number that nothing can follow."""

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x[:, :8].flatten(1)[:, : 8 * 256].mean(1, keepdim=True)[..., None, None])

    outcome = pruned(nets.seeded(Around(Wrong())))
    stem = outcome.record.layers[0]
    assert stem.out_after == stem.out_before
    assert "left alone: the pruned network differs" in stem.note
    assert outcome.record.layers[1].out_after == 12


@pytest.mark.parametrize(
    "text", ["[", "[1]", '{"middle": 3}', '{"middle": {"splits": ["2", 5]}}', '{"middle": {"splits": [2]}}',
             '{"middle": {"splits": [9, 5]}}', '{"middle": {"forward": 3}}', '{"nowhere": {"splits": [2, 5]}}',
             '{"middle": {"training": 1}}', '{"middle": {"splits": [0, 5]}}'],
)  # fmt: skip
def test_damaged_sizes_are_refused(text: str) -> None:
    model = build("mixed kernels")
    tensors, metadata = decode(save_bytes(pruned(model).model, sparse=False))
    with pytest.raises(WeightsError):
        load_bytes(model, encode(tensors, {**metadata, KEY: text}))
