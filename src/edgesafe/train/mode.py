"""Where and in which arithmetic a network is trained: device, precision, memory layout, compiler.

The same mode on the same machine gives the same weights, bit for bit. Another mode, or another machine, gives other
roundings, and so another network of the same quality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgesafe.errors import UsageError
from edgesafe.recipe.sections import Arithmetic, Device, ModeSection
from edgesafe.records import TrainingMode

__all__ = ["Mode", "bf16_on_cpu", "choose", "placed"]


@dataclass(frozen=True)
class Mode:
    """How a network is trained.

    Attributes:
        device: "cpu" or "cuda:N": where weights, images and random draws lie.
        precision: of forward pass and loss; weights, BatchNorm statistics and momentum are always float32.
        channels_last: whether activations lie as NHWC in memory, else as NCHW.
        compiled: whether torch.compile makes the kernels.
    """

    device: str = "cpu"
    precision: Arithmetic = Arithmetic.FP32
    channels_last: bool = True
    compiled: bool = False

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU of CUDA."""
        return self.device.startswith("cuda")

    @property
    def name(self) -> str:
        """All that weights depend on besides the recipe, as one string."""
        return self.record().model_dump_json()

    def record(self) -> TrainingMode:
        """What is kept of it."""
        return TrainingMode(
            device=torch.cuda.get_device_name(self.device) if self.cuda else "cpu",
            precision=self.precision.value,
            channels_last=self.channels_last,
            compiled=self.compiled,
            torch=str(torch.__version__),
        )

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 where the precision says so. Casts are not cached, so that CUDA graphs see every one."""
        bf16 = self.precision is Arithmetic.BF16
        return torch.autocast("cuda" if self.cuda else "cpu", torch.bfloat16, enabled=bf16, cache_enabled=False)

    def lay(self, x: Tensor) -> Tensor:
        """A batch (n, C, H, W) in this layout."""
        return x.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def compile(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """The network's forward function; of batches of one size only, if it is compiled.

        That function raises UsageError where torch.compile does not get through: no compiler, or an operation it
        does not know.
        """
        if not self.compiled:
            return model
        from torch._dynamo.exc import TorchDynamoException  # a second and a half that few need

        made = torch.compile(model, dynamic=False)

        def forward(x: Tensor) -> Tensor:
            try:
                logits: Tensor = made(x)
            except TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                raise UsageError(f"torch.compile: {reason}", where="compile", fix="set compile = false") from error
            return logits

        return forward


def choose(section: ModeSection, key: str = "") -> Mode:
    """The mode that [train] or [recover] asks for, on this machine.

    Args:
        section: what is asked for.
        key: where the recipe says so, such as "recover", for messages.

    Raises:
        UsageError: this machine has no such device, or no bfloat16 arithmetic.
    """
    place = f"{key}." if key else ""
    available = torch.cuda.is_available()
    if section.device is Device.CUDA and not available:
        raise UsageError("no CUDA device", where=f"{place}device", fix='use device = "auto" or "cpu"')
    cuda = available and section.device is not Device.CPU
    if section.precision is Arithmetic.BF16 and not (torch.cuda.is_bf16_supported(False) if cuda else bf16_on_cpu()):
        raise UsageError(
            f"this {'GPU' if cuda else 'CPU'} has no bfloat16 arithmetic", where=f"{place}precision",
            fix='use precision = "fp32": emulated bfloat16 would only be slower',
        )  # fmt: skip
    device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    return Mode(device, section.precision, section.channels_last, section.compile)


def bf16_on_cpu() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware: AMX or AVX512_BF16 on x86-64, BF16 on Arm."""
    if torch.backends.cpu.get_cpu_capability().startswith(("AVX", "DEFAULT")):
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def placed(model: nn.Module, mode: Mode) -> Iterator[nn.Module]:
    """The network on the mode's device while it is needed there; back on the CPU afterwards. May be nested.

    Its parameters stay the same objects. On a GPU weights lie as the activations do; on the CPU oneDNN reorders them
    anyway, and channels-last weights only cost copies.
    """
    first = next(model.parameters(), None)
    if first is None or str(first.device) == mode.device:
        yield model
        return
    model.to(mode.device)
    if mode.channels_last:
        model.to(memory_format=torch.channels_last)
    try:
        yield model
    finally:
        model.to(memory_format=torch.contiguous_format)
        model.to("cpu")
