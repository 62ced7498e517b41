"""The table of families: prune one network of each family of timm and torchvision, and write docs/families.json.

    python tools/families.py                    what is not in the table yet; each network is saved when it is done
    python tools/families.py --only timm:...    these again

Random weights with random BatchNorm statistics, 10 classes, method filter (L1), ratio 0.5, scope all, removed by edgesafe's
slices, on the smallest input of SIZES that the network takes. Beside it torch-pruning alone: its MagnitudePruner with the
same ratio and the last layer left out; whether the result runs, and its MACs, counted alike. Each network has a process of
its own, and a limit of processor time: OURS_S and THEIRS_S.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgesafe import models
from edgesafe.errors import EdgesafeError
from edgesafe.models.count import macs
from edgesafe.prune import PruneContext, prune
from edgesafe.recipe.sections import CompressSection
from edgesafe.surgery.rebuild import load_bytes, save_bytes

TABLE = Path(__file__).parents[1] / "docs" / "families.json"
SIZES = (64, 96, 128, 160, 192, 224, 256, 299)
RATIO, CLASSES = 0.5, 10
OURS_S, THEIRS_S = 60, 10  #: seconds of processor time, building the network included
NO_AUX = {"aux_logits": False, "init_weights": False}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TIMM = _names("""
gernet_s mobileone_s0 repvgg_a0 regnetz_b16 regnetz_b16_evos resnet33ts eca_resnet33ts gcresnet33ts bat_resnext26ts
resnet51q botnet26t_256 eca_botnext26ts_256 halonet26t lambda_resnet26t coat_lite_tiny convmixer_768_32 convnext_atto
convnext_zepto_rms convnextv2_atto cspdarknet53 cspresnet50 cspresnext50 cs3darknet_s cs3edgenet_x darknet53 sedarknet21
cspnext_tiny csatv2 densenet121 densenetblur121d dla34 dla60_res2net dla60_res2next dpn48b dpn68 edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_b0_gn efficientnet_b0_g16_evos efficientnet_blur_b0
efficientnet_cc_b0_4e efficientnet_es efficientnet_lite0 efficientnetv2_rw_t fbnetc_100 mixnet_s mnasnet_small
mobilenetv1_100 mobilenetv2_050 semnasnet_075 spnasnet_100 tinynet_e efficientvim_m1 efficientvit_b0 efficientvit_m0
fasternet_t0 fastvit_t8 focalnet_tiny_srf ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0
hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v4 lcnetv2_small levit_conv_128s lowformer_b0
cpubone_nano iformer_t mambaout_femto coatnet_pico_rw_224 maxvit_pico_rw_256 convformer_s18 caformer_s18 poolformer_s12
poolformerv2_s12 mobilenetv3_small_050 fbnetv3_b lcnet_050 mobilenetv4_conv_small mobilenetv4_conv_blur_medium
mobilenetv4_hybrid_medium mobilevit_xxs mobilevitv2_050 nfnet_l0 eca_nfnet_l0 nf_regnet_b0 nextvit_small pit_ti_224
rdnet_tiny regnetv_040 regnetx_002 regnety_002 regnety_040_sgn regnetz_005 repghostnet_050 repvit_m0_9 res2net50_14w_8s
res2next50 resnest14d resnet10t resnet50_gn ecaresnet26t resnetaa50 resnetblur18 resnetrs50 seresnet18 resnetv2_18
resnetv2_50d_evos resnetv2_50d_gn resnetv2_50x1_bit rexnet_100 rexnetr_100 selecsls42 legacy_seresnet18 shvit_s1 skresnet18
skresnext50_32x4d starnet_s050 swiftformer_xs tresnet_m vgg11 vgg11_bn visformer_tiny vovnet39a ese_vovnet19b_slim
legacy_xception xception41 xception41p
""")
TORCHVISION = _names("""
alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_b1 efficientnet_v2_s googlenet inception_v3 maxvit_t
mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_x_800mf
regnet_y_400mf regnet_y_800mf resnet18 resnet34 resnet50 resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0
shufflenet_v2_x1_5 squeezenet1_0 squeezenet1_1 vgg11 vgg11_bn vgg13_bn wide_resnet50_2
""")
ARCHITECTURES = (*(f"torchvision:{name}" for name in TORCHVISION), *(f"timm:{name}" for name in TIMM))


def build(arch: str) -> tuple[nn.Module, int]:
    """The network with random BatchNorm statistics, in eval mode, and the input size."""
    torch.manual_seed(0)
    args = NO_AUX if arch in {"torchvision:googlenet", "torchvision:inception_v3"} else {}
    model = models.build(arch, CLASSES, args)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.1)
    model.eval()
    config = getattr(model, "default_cfg", {})
    own = [config["input_size"][-1]] if config.get("fixed_input_size") else []
    for size in (*own, *SIZES):
        try:
            with torch.no_grad():
                model(torch.zeros(2, 3, size, size))
        except Exception:  # noqa: BLE001, S112  a forward of others may raise anything
            continue
        return model, size
    raise SystemExit(f"{arch} takes none of the sizes")


def ours(arch: str) -> dict[str, Any]:
    """What edgesafe does with it."""
    model, size = build(arch)
    row: dict[str, Any] = {"input": size}
    start = time.process_time()
    section = CompressSection(method="filter", ratios=(RATIO,), scope="all")
    try:
        outcome = prune(model, section, RATIO, PruneContext((size, size, 3), engine=False))
    except EdgesafeError as error:
        return {**row, "status": "refused", "reason": str(error), "seconds": _since(start)}
    row["seconds"] = _since(start)
    record = outcome.record
    rebuilt = load_bytes(model, save_bytes(outcome.model, sparse=False)).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        gap = float((rebuilt(images) - outcome.model.eval()(images)).abs().max())
    return {
        **row,
        "status": "pass",
        "macs_ratio": round(record.macs_after / record.macs_before, 4),
        "params_ratio": round(record.params_after / record.params_before, 4),
        "equivalence": record.proof.equivalence,
        "rebuild_difference": gap,
        "left_alone": sum(one.out_after == one.out_before for one in record.layers) - 1,
        "layers": len(record.layers),
    }


def theirs(arch: str) -> dict[str, Any]:
    """What torch-pruning does with it alone."""
    import torch_pruning

    model, size = build(arch)
    image = torch.randn(1, 3, size, size)
    before = macs(model, (size, size, 3))
    last = [module for module in model.modules() if getattr(module, "out_features", None) == CLASSES]
    last += [module for module in model.modules() if getattr(module, "out_channels", None) == CLASSES]
    start = time.process_time()
    try:
        importance = torch_pruning.importance.MagnitudeImportance(p=1)
        pruner = torch_pruning.pruner.MagnitudePruner(
            model, image, importance=importance, pruning_ratio=RATIO, ignored_layers=last
        )
        pruner.step()
        with torch.no_grad():
            scores = model.eval()(torch.randn(2, 3, size, size))
        if tuple(scores.shape) != (2, CLASSES):
            return {"status": "classifier cut", "seconds": _since(start)}
    except Exception as error:  # noqa: BLE001  it may raise anything
        text = (str(error).splitlines() or [""])[0][:100]
        return {"status": "fails", "reason": f"{type(error).__name__}: {text}", "seconds": _since(start)}
    return {"status": "runs", "macs_ratio": round(macs(model, (size, size, 3)) / before, 4), "seconds": _since(start)}


def _since(start: float) -> float:
    return round(time.process_time() - start, 2)


def limited(work: Callable[[str], dict[str, Any]], arch: str, seconds: int) -> dict[str, Any]:
    """The result of work in a process of its own, or what ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # a child begins at 0
        try:
            row = work(arch)
        except BaseException as error:  # noqa: BLE001
            row = {"status": "crash", "reason": f"{type(error).__name__}: {str(error)[:200]}"}
        os.write(writer, json.dumps(row).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    _, status = os.waitpid(pid, 0)
    if data:
        return dict(json.loads(data))
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    late = ended in {signal.SIGXCPU, signal.SIGKILL}
    return {"status": "over time" if late else "crash", "reason": f"ended by signal {ended}"}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--most", type=int, default=None, help="networks of this call")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import timm
    import torch_pruning  # loaded once, before processes fork

    known = {row["arch"]: row for row in json.loads(TABLE.read_text())["rows"]} if TABLE.exists() else {}
    names = arguments.only or [name for name in ARCHITECTURES if name not in known][: arguments.most]
    for arch in names:
        known[arch] = {
            "arch": arch, **limited(ours, arch, OURS_S), "torch_pruning": limited(theirs, arch, THEIRS_S),
        }  # fmt: skip
        print(arch, known[arch], flush=True)
        versions = {
            "torch": torch.__version__.partition("+")[0],
            "timm": timm.__version__,
            "torch-pruning": torch_pruning.__version__,
        }
        rows = [known[name] for name in ARCHITECTURES if name in known]
        TABLE.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
