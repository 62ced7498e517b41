"""Constructs of networks that people bring: followed, narrowed or left alone for the right reason, and counted right.

Multiply-accumulates are counted again by torch (`torch.utils.flop_counter`), on the network before and after.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import surgery_nets as nets
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgesafe.errors import RefusedError, SurgeryError
from edgesafe.models.count import macs
from edgesafe.prune import PruneContext, PruneOutcome, prune
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import Declined, LayerRecord
from edgesafe.surgery.rebuild import load_bytes, save_bytes
from edgesafe.surgery.units import channel_graph

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Around(nn.Module):
    """A stem of 16 channels, the construct, one more convolution, and a classifier."""

    def __init__(self, middle: nn.Module, width: int = 16, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.middle, self.out = nn.Conv2d(3, 16, 3, padding=1), middle, nn.Conv2d(width, 24, 3, padding=1)
        self.head = head or nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.out(self.middle(F.relu(self.stem(x))))).mean((2, 3)))


class TwoHalves(nn.Module):
    """Two branches written into one tensor that was made before."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], 32, *x.shape[2:])
        y[:, :16], y[:, 16:] = self.left(x), self.right(x)
        return y


class Bordered(nn.Module):
    """Padding by hand: the image is written into the middle of a larger tensor."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_full((x.shape[0], x.shape[1], x.shape[2] + 2, x.shape[3] + 2), 0.5)
        y[:, :, 1:-1, 1:-1].copy_(x)
        return y


class SeenEarlier(nn.Module):
    """A view taken before the write shows what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        view = y.view(y.shape)
        y.copy_(self.conv(x))
        return view


class Blur(nn.Module):
    """A fixed low-pass filter for each channel, kept as a buffer."""

    def __init__(self, *, persistent: bool, alike: bool = True) -> None:
        super().__init__()
        self.channels = 16
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = (row[:, None] * row / 16).repeat(16, 1, 1, 1)
        kernel = kernel if alike else kernel * torch.linspace(0.5, 1, 16).view(-1, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=self.channels)


class FixedLinear(nn.Module):
    """A classifier or filter whose weights are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(5, 24, generator=torch.Generator().manual_seed(2)))

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z, self.weight)


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 24))

    def forward(self, z: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(z), F.normalize(self.weight))


class ResponseNorm(nn.Module):
    """Global response normalisation, as in ConvNeXt V2."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1, 16, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x + self.gamma * x * (size / (size.mean(1, keepdim=True) + 1e-6))


class Blended(nn.Conv2d):
    """A convolution whose weight is a mixture of two others."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)
        self.other = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, (self.weight + self.other) / 2, self.bias, padding=self.padding)


class OnConstant(nn.Module):
    """A layer that runs on a constant, as position encodings do."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2, 12), nn.Linear(12, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.relu(self.hidden(self.hidden.weight.new_ones(1, 2)))).view(1, -1, 1, 1)


def pruned(model: nn.Module, scope: str | None = None, method: str = "filter") -> PruneOutcome:
    return prune(model, CompressSection(method=method, ratios=(0.5,), scope=scope), 0.5, PruneContext((16, 16, 3)))


def layers(outcome: PruneOutcome) -> dict[str, LayerRecord]:
    return {layer.name: layer for layer in outcome.record.layers}


def counted(model: nn.Module) -> int:
    """Multiply-accumulates of one image, by torch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(IMAGES[:1])
    return counter.get_total_flops() // 2


ALL = {
    "two halves": lambda: Around(TwoHalves(), 32), "bordered": lambda: Around(Bordered()),
    "circular": lambda: Around(nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")),
    "seen earlier": lambda: Around(SeenEarlier()), "blur": lambda: Around(Blur(persistent=True)),
    "blur, not saved": lambda: Around(Blur(persistent=False)),
    "filters, not saved": lambda: Around(Blur(persistent=False, alike=False)),
    "fixed classifier": lambda: Around(nn.ReLU(), head=FixedLinear()),
    "grouped transpose": lambda: Around(nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=4)),
    "grouped transpose, wider": lambda: Around(nn.ConvTranspose2d(16, 32, 4, 2, 1, groups=4), 32),
    "cosine": lambda: Around(nn.ReLU(), head=Cosine()), "response norm": lambda: Around(ResponseNorm()),
    "local norm": lambda: Around(nn.LocalResponseNorm(5)),
    "blended": lambda: Around(Blended(16)),
    "on a constant": lambda: Around(OnConstant()), "one group": lambda: Around(nn.GroupNorm(1, 16)),
}  # fmt: skip


@pytest.mark.parametrize("method", ["filter", "weight"])
@pytest.mark.parametrize("name", ALL)
def test_macs_and_a_rebuilt_network(name: str, method: str) -> None:
    model = nets.seeded(ALL[name]())
    before = copy.deepcopy(model.state_dict())
    outcome = pruned(model, "all" if method == "filter" else None, method)
    assert outcome.record.macs_before == counted(model) == macs(model, (16, 16, 3))
    assert outcome.record.macs_after == counted(outcome.model)
    assert outcome.record.proof.equivalence < 1e-9 or outcome.record.proof.method == "masked-weights"
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    rebuilt = load_bytes(model, save_bytes(outcome.model, sparse=False)).eval()
    assert torch.equal(rebuilt(IMAGES), outcome.model.eval()(IMAGES))


def test_what_is_written_by_position_stays_and_what_follows_is_narrowed() -> None:
    table = layers(pruned(nets.seeded(ALL["two halves"]())))
    assert list(table) == ["stem", "middle.left", "middle.right", "out", "head"]
    for name in ("middle.left", "middle.right"):
        assert table[name].note == "16 channels: it is written into another tensor by position at middle"
    assert [table[name].out_after for name in ("stem", "out", "head")] == [8, 12, 5]
    assert "classifier" in table["head"].note


@pytest.mark.parametrize(
    "name", ["bordered", "circular", "blur", "blur, not saved", "grouped transpose, wider", "seen earlier"]
)
def test_channels_go_through_it(name: str) -> None:
    table = layers(pruned(nets.seeded(ALL[name]()), "all"))
    assert [table[layer].out_after for layer in ("stem", "out")] == [8, 12]


def test_a_view_taken_before_the_write_shows_it() -> None:
    graph = channel_graph(nets.seeded(ALL["seen earlier"]()), (IMAGES[:1],))
    (group,) = [g for g in graph.groups if g.name == "middle.conv"]
    assert {slot.tensor for slot in group.units[0].indices} >= {"middle.conv.weight", "out.weight"}


def test_a_buffer_that_is_not_saved_is_not_narrowed() -> None:
    table = layers(pruned(nets.seeded(ALL["filters, not saved"]())))
    assert "middle.kernel is a buffer that is not saved" in table["stem"].note
    assert (table["stem"].out_after, table["out"].out_after) == (16, 12)


def test_a_grouped_transposed_convolution_loses_whole_groups() -> None:
    outcome = pruned(nets.seeded(ALL["grouped transpose, wider"]()))
    middle = outcome.model.middle
    assert (middle.groups, middle.in_channels, middle.out_channels, outcome.model.out.in_channels) == (2, 8, 16, 16)


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("cosine", "out", "no rule for aten.mm (with a computed weight) at head"),
        ("local norm", "stem", "mixes neighbouring channels (as in LocalResponseNorm) at middle"),
    ],
)
def test_the_reason_is_what_it_is(name: str, layer: str, reason: str) -> None:
    assert reason in layers(pruned(nets.seeded(ALL[name]())))[layer].note


def test_layers_with_a_computed_weight_are_in_the_table() -> None:
    outcome = pruned(nets.seeded(ALL["blended"]()))
    row = layers(outcome)["middle"]
    assert (row.kind, row.out_before, row.out_after) == ("Blended", 16, 16)
    assert "its weight is computed in the forward" in row.note
    reason = outcome.record.engine_reason
    assert reason is not None
    assert (reason.cause, reason.layer) == (Declined.NOT_ASKED, "middle")
    assert any(note.startswith("layers with ") and "(middle, …)" in note for note in outcome.record.notes)


def test_a_layer_on_a_constant_is_a_layer() -> None:
    table = layers(pruned(nets.seeded(ALL["on a constant"]()), "all"))
    assert table["middle.hidden"].out_after == 6


def test_groups_of_one_unit_are_named_for_what_they_are() -> None:
    """Two halves by the normalisation, three thirds by the convolution: all twelve channels hang together."""
    body = (nn.Conv2d(3, 12, 3), nn.GroupNorm(2, 12), nn.Conv2d(12, 12, 1, groups=3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(SurgeryError, match="can only go together") as raised:
        pruned(nets.seeded(nn.Sequential(*body, nn.Flatten(), nn.Linear(12, 5))), "all")
    assert raised.value.where == "0"
    assert "(a grouped convolution at 2)" in raised.value.what
    assert "raise the ratio" not in raised.value.fix


def test_random_numbers_in_eval_mode_are_refused_by_place() -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.3)

    with pytest.raises(SurgeryError, match="draws random numbers") as raised:
        pruned(Around(Dropping()).eval())
    assert raised.value.where == "middle"
    assert pruned(Around(nn.Dropout(0.3))).record.macs_after


@pytest.mark.parametrize("draw", [torch.randn_like, torch.rand_like, lambda x: torch.randn(x.shape), torch.bernoulli])
def test_every_way_to_draw_is_seen(draw: Callable[[Tensor], Tensor]) -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + draw(torch.sigmoid(x))

    with pytest.raises(SurgeryError, match="draws random numbers"):
        pruned(Around(Noise()).eval())


def test_attention_without_dropout_draws_nothing() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)[:, None]
            return F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].transpose(1, 2).reshape(x.shape)

    assert layers(pruned(nets.seeded(Around(Attention()))))["out"].out_after == 12
    assert pruned(nets.seeded(Around(nn.RReLU()))).record.macs_after


def test_whatever_a_forward_raises_is_one_line() -> None:
    class Asserts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[1] == 16, "made for 16 channels")
            return x

    table = layers(pruned(nets.seeded(Around(Asserts())), "all"))
    assert table["stem"].note == "left alone: the pruned network does not run: made for 16 channels"
    assert table["out"].out_after == 12
    with pytest.raises(SurgeryError, match="AssertionError: made for 16 channels"):
        pruned(nets.seeded(Around(nn.Sequential(nn.Conv2d(16, 8, 1), Asserts()), 8)))


def test_an_unremoved_prune_names_the_layer() -> None:
    model = Around(nn.Conv2d(16, 16, 1))
    nn.utils.prune.l1_unstructured(model.middle, "weight", 0.3)
    with pytest.raises(RefusedError, match="middle: its weight is computed"):
        pruned(model)
