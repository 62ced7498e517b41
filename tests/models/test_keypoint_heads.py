"""CNN7 and ResNet-18: sizes that others publish, a head for places, and surgery that is proven."""

import pytest
import torch

from edgesafe import models, prune
from edgesafe.errors import UsageError
from edgesafe.models import count
from edgesafe.prune import PruneContext
from edgesafe.recipe.sections import CompressSection, Method, Scope


def test_parameters_are_those_that_are_known() -> None:
    assert count.params(models.build("resnet18", 10)) == 11_173_962  # as widespread CIFAR code has it
    assert count.params(models.build("cnn7", 10, {"width": 16})) == 40_442


@pytest.mark.parametrize(("arch", "head"), [("cnn7", "grid"), ("cnn7", "pool"), ("resnet18", "grid")])
def test_a_pruned_network_equals_the_masked_one(arch: str, head: str) -> None:
    model = models.build(arch, 12, {"width": 8, "size": 16, "head": head}).eval()
    section = CompressSection(method=Method.FILTER, ratios=(0.5,), round_to=1, scope=Scope.ALL)
    outcome = prune.prune(model, section, 0.5, PruneContext(input_shape=(16, 16, 3)))
    assert outcome.record.proof is not None  # equal to the network with these channels at zero, see surgery.verify
    assert count.params(outcome.model) < 0.5 * count.params(model)
    assert outcome.model(torch.zeros(2, 3, 16, 16)).shape == (2, 12)


@pytest.mark.parametrize(
    ("args", "told"), [({"size": 30}, "no multiple of 8"), ({"head": "flat"}, "unknown head"), ({"width": 0}, "0 chan")]
)
def test_what_cannot_be_built_is_one_line(args: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        models.build("cnn7", 12, args)
