"""Small networks that people really bring, one awkwardness each. All take (n, 3, 16, 16) unless they say otherwise."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and BatchNorm statistics, so that no channel is like another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                if isinstance(parameter, nn.parameter.UninitializedParameter):
                    continue
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.3)
                module.running_mean.copy_(torch.randn(module.weight.shape, generator=generator) * 0.2)
                module.running_var.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return model.eval()


class Head(nn.Module):
    """Average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Plain(nn.Module):
    """conv-bn-relu twice, and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))


class ConvClassifier(nn.Module):
    """Fully convolutional, squeezed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3)
        self.classify = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.body(x))).mean((2, 3))


class SharedWeights(nn.Module):
    """One convolution applied twice, and two names for one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.again = self.twice
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.again(F.relu(self.twice(F.relu(self.stem(x)))))))


class SeveralOutputs(nn.Module):
    """A dictionary with two heads; only the hidden layer may be narrowed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3)
        self.a, self.b = Head(16, 5), Head(16, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = F.relu(self.body(x))
        return {"a": self.a(y), "b": self.b(y)}


class SeveralInputs(nn.Module):
    """Two images, fused by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)
        self.fuse = nn.Conv2d(16, 16, 3)
        self.head = Head(16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(F.relu(self.fuse(torch.cat((F.relu(self.left(x)), F.relu(self.right(y))), 1))))


class InPlace(nn.Module):
    """Residual with in-place operations throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner, self.bn = nn.Conv2d(16, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.out = nn.Conv2d(12, 16, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.out(self.relu(self.bn(self.inner(x))))
        y += x
        y.mul_(0.5).clamp_(min=-3)
        return self.head(self.relu(y))


class DataDependent(nn.Module):
    """Takes another path for bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 10:
            x = -x
        return self.head(F.relu(self.conv(x)))


class HardCodedFlatten(nn.Module):
    """The size of the flattened features is a number in the forward; the first convolution can still be narrowed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.second(F.relu(self.first(x)))), 2)
        return self.fc(y.view(-1, 16 * 8 * 8))


class OnlyHardCoded(HardCodedFlatten):
    """The same, with nothing else to narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Conv2d(3, 16, 3, padding=1)


class SoftFlatten(HardCodedFlatten):
    """The size is taken from the tensor: every channel is 64 columns of the linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.max_pool2d(F.relu(self.second(F.relu(self.first(x)))), 2), 1))


class PixelShuffled(nn.Module):
    """Four channels become one of twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 32, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.conv = nn.Conv2d(8, 16, 3)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(F.relu(self.shuffle(self.up(x))))))


class SqueezeExcite(nn.Module):
    """Channel gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.down, self.up = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        return self.head(y * gate)


class Grouped(nn.Module):
    """Depthwise, grouped and depthwise with a multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.grouped = nn.Conv2d(16, 32, 3, groups=4)
        self.multiplied = nn.Conv2d(32, 64, 3, groups=32)
        self.norm = nn.GroupNorm(8, 64)
        self.head = Head(64)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise(F.relu(self.stem(x))))
        return self.head(F.relu(self.norm(self.multiplied(F.relu(self.grouped(x))))))


class Dense(nn.Module):
    """Concatenation, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(14, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(20)
        self.head = Head(20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat((x, F.relu(self.a(x))), 1)
        x = torch.cat((x, F.relu(self.b(x))), 1)
        return self.head(F.relu(self.bn(x)))


class ChannelSelection(nn.Module):
    """As in the network slimming code base: numpy turns a mask of ones and zeros into positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.indexes = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        selected = np.squeeze(np.argwhere(self.indexes.data.cpu().numpy()))
        return x[:, selected, :, :]


class Selected(nn.Module):
    """A pre-activation bottleneck with channel selection after its first BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1, self.select = nn.BatchNorm2d(16), ChannelSelection(16)
        self.conv1, self.bn2 = nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(F.relu(self.select(self.bn1(x))))
        return self.head(x + self.conv2(F.relu(self.bn2(y))))


class Shuffled(nn.Module):
    """A ShuffleNet unit: split, transform one half, concatenate, shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner, self.outer = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.stem(x)).chunk(2, dim=1)
        y = torch.cat((a, self.outer(F.relu(self.inner(b)))), 1)
        n, c, h, w = y.shape
        return self.head(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class Permuted(nn.Module):
    """Channels picked by positions that are numbers in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(4, 8, 3)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(F.relu(self.stem(x))[:, [3, 1, 9, 12]])))


class OptionA(nn.Module):
    """Zero-padded shortcut in three spellings: "pad", "cat", "pool"."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.conv2(F.relu(self.bn1(self.conv1(x))))
        small = F.avg_pool2d(x, 2) if self.spelling == "pool" else x[:, :, ::2, ::2]
        zeros = small.new_zeros(small.shape[0], 4, *small.shape[2:])
        short = F.pad(small, (0, 0, 0, 0, 4, 4)) if self.spelling == "pad" else torch.cat((zeros, small, zeros), 1)
        return self.head(F.relu(y + short))


class SumFromZeros(nn.Module):
    """Two branches added to a tensor that begins as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        total = torch.zeros(x.shape[0], 16, *x.shape[2:])
        for branch in (self.conv1, self.conv2):
            total = total + branch(x)
        return self.head(F.relu(total))


class LayerNormed(nn.Module):
    """A ConvNeXt-like block: LayerNorm over channels in NHWC, linear layers, a layer scale, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return self.head(x + self.scale * y)


class Functional(nn.Module):
    """Weights as bare parameters, PReLU, a transposed convolution, max over two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(12, 3, 3, 3))
        self.prelu = nn.PReLU(12)
        self.left, self.right = nn.Conv2d(12, 8, 1), nn.Conv2d(12, 8, 1)
        self.up = nn.ConvTranspose2d(8, 10, 2, 2)
        self.head = Head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(F.conv2d(x, self.kernel, padding=1))
        return self.head(F.relu(self.up(torch.maximum(self.left(x), self.right(x)))))


class Blended(nn.Module):
    """The weight that the convolution sees is a mixture of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.zeros(2, 8, 3, 3, 3))
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(F.conv2d(x, self.kernels.mean(0))))


class Attention(nn.Module):
    """Spatial attention: a mean over channels, and one channel broadcast over all."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)
        self.attend = nn.Conv2d(1, 1, 3, padding=1)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(F.relu(self.inner(x))))
        return self.head(y * torch.sigmoid(self.attend(y.mean(1, keepdim=True))))
