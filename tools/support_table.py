"""The support table: prune, rebuild, export and compare each architecture, really; write docs/support.json and .md.

    python tools/support_table.py                     all of it (tens of minutes)
    python tools/support_table.py --only vgg16 ...    some rows; the others stay
    python tools/support_table.py --render            only the page, from the JSON
    python tools/support_table.py --check --fast      regenerate a fast subset and compare with the committed table

Weights are random, with random BatchNorm statistics (structure is what is proven, not accuracy). Method filter (L1),
ratio 0.5, scope all, round_to 1; option-A shortcuts are rewritten first. Latency: onnxruntime, 1 thread, batch 1, pruned
and unpruned file interleaved.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgesafe import models
from edgesafe.deploy.export import export_onnx
from edgesafe.deploy.parity import check_torch
from edgesafe.errors import RefusedError
from edgesafe.measure.inference import latency
from edgesafe.models.rewrite import option_a_to_conv
from edgesafe.prune import PruneContext, PruneOutcome, prune
from edgesafe.recipe.sections import CompressSection
from edgesafe.records import Engine
from edgesafe.surgery.rebuild import load_bytes, save_bytes
from edgesafe.surgery.verify import evaluate

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "support.json"
PAGE = ROOT / "docs" / "support.md"
FAMILIES = ROOT / "docs" / "families.json"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATIO = 0.5

CIFAR = ("vgg16", "vgg19", "resnet20", "resnet56", "resnet110", "preresnet110", "preresnet164", "densenet40")
NO_AUX = {"aux_logits": False, "init_weights": False}
TORCHVISION = (
    *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small"),
    *("mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s", "densenet121", "squeezenet1_1", "googlenet"),
    *("inception_v3", "regnet_y_400mf", "mnasnet1_0", "convnext_tiny", "shufflenet_v2_x1_0"),
)
ARCHITECTURES = (*CIFAR, *(f"torchvision:{name}" for name in TORCHVISION))
FAST = ("resnet20", "vgg16", "torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x1_0")
EXACT = ("status", "macs_ratio", "params_ratio", "left_alone", "engine")  #: columns that a check compares


def build(arch: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network with random BatchNorm statistics, in eval mode, and its input shape."""
    torch.manual_seed(0)
    name = arch.removeprefix("torchvision:")
    size = 32 if arch in CIFAR else 299 if name == "inception_v3" else 224
    model = models.build(arch, 10 if arch in CIFAR else 1000, NO_AUX if name in {"googlenet", "inception_v3"} else {})
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
    return model.eval(), (size, size, 3)


def row(arch: str, *, runs: int) -> dict[str, Any]:
    """One architecture, done. A refusal is a row as well."""
    model, shape = build(arch)
    section = CompressSection(method="filter", ratios=(RATIO,), scope="all", rewrite=arch.startswith("resnet"))
    try:
        outcome = prune(model, section, RATIO, PruneContext(shape))
        return {"arch": arch, "input": shape[0], "status": "pass", **_facts(model, outcome, shape, runs)}
    except RefusedError as error:
        return {"arch": arch, "input": shape[0], "status": "refused", "reason": str(error)}


def _facts(model: nn.Module, outcome: PruneOutcome, shape: tuple[int, int, int], runs: int) -> dict[str, Any]:
    record = outcome.record
    skeleton = copy.deepcopy(model)
    if record.rewrites:
        option_a_to_conv(skeleton, shape)
    rebuilt = load_bytes(skeleton, save_bytes(outcome.model, sparse=False))
    x = (torch.randn(2, shape[2], *shape[:2]),)
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    onnx = export_onnx(outcome.model, input_shape=shape, mean=MEAN, std=STD)
    parity = check_torch(outcome.model, onnx, images, MEAN, STD)
    facts = {
        "macs_ratio": round(record.macs_after / record.macs_before, 4),
        "params_ratio": round(record.params_after / record.params_before, 4),
        "left_alone": sum(layer.out_after == layer.out_before for layer in record.layers) - 1,
        "layers": len(record.layers),
        "equivalence": record.proof.equivalence,
        "proof_reason": record.proof.reason,
        "rebuild_difference": float((evaluate(rebuilt, x)[0] - evaluate(outcome.model, x)[0]).abs().max()),
        "onnx_difference": parity.max_abs_logit,
        "onnx_relative": parity.max_abs_logit / float(evaluate(outcome.model, x)[0].abs().max()),
        "argmax_agreement": parity.argmax_agreement,
        "engine": record.engine.value,
        "engine_reason": record.engine_reason.model_dump(mode="json") if record.engine_reason else None,
    }
    if runs:
        facts["latency_ratio"], facts["latency_low"], facts["latency_high"] = _latency(model, onnx, images[0], runs)
    return facts


def _latency(model: nn.Module, pruned: bytes, image: np.ndarray[Any, Any], runs: int) -> tuple[float, float, float]:
    shape = (image.shape[0], image.shape[1], image.shape[2])
    with tempfile.TemporaryDirectory() as folder:
        files = {"pruned": Path(folder) / "pruned.onnx", "dense": Path(folder) / "dense.onnx"}
        files["pruned"].write_bytes(pruned)
        files["dense"].write_bytes(export_onnx(model, input_shape=shape, mean=MEAN, std=STD))
        samples = latency.interleaved(files, image=image, threads=1, runs=runs)
    ratio = latency.summarise(samples["pruned"], samples["dense"])["latency.ratio"]
    return round(ratio.estimate, 3), round(ratio.low or 0.0, 3), round(ratio.high or 0.0, 3)


def _sentence(reason: dict[str, str]) -> str:
    """What torch-pruning does there, or why it was not asked."""
    where = f" at {reason['layer']}" if reason["layer"] else ""
    return f"{reason['cause']}{where}: {reason['detail']}"


def families() -> list[dict[str, Any]]:
    """The rows of docs/families.json (`tools/families.py`)."""
    return list(json.loads(FAMILIES.read_text())["rows"])


def family_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The part of docs/support.md on families, beside torch-pruning alone."""
    passed = [r for r in rows if r["status"] == "pass"]
    small = sum(r["macs_ratio"] <= 0.35 for r in passed)
    seconds = sorted(r["seconds"] for r in rows if "seconds" in r)
    theirs = [r["torch_pruning"] for r in rows]
    lines = [
        "",
        "## Families",
        "",
        "Generated by `python tools/families.py`: one network of a family, 10 classes, random weights, ratio 0.5, scope",
        "all, on the smallest input that it takes; proven and rebuilt from its file, removed by edgesafe's slices.",
        "Processor seconds of one surgery with its proof, on a shared machine. Beside it torch-pruning alone",
        "(MagnitudePruner, same ratio, last layer left out, 10 s of processor time with building the network): whether",
        "its result runs at all, and its MACs.",
        "",
        f"{len(passed)} of {len(rows)} pass; {small} keep at most 0.35 of their MACs; median {_median(seconds):.1f} s, at "
        f"most {seconds[-1]:.1f} s. torch-pruning alone: {sum(t['status'] == 'runs' for t in theirs)} run.",
        "",
        "| network | input | MACs | parameters | layers left alone | equivalence | rebuilt | s | torch-pruning alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        other = r["torch_pruning"]
        said = f"{other['macs_ratio']:.3f}" if other["status"] == "runs" else other["status"]
        if r["status"] != "pass":
            lines.append(f"| {r['arch']} | {r.get('input', '')} | {r['status']}: {r['reason']} | | | | | | {said} |")
            continue
        lines.append(
            f"| {r['arch']} | {r['input']} | {r['macs_ratio']:.3f} | {r['params_ratio']:.3f} | {r['left_alone']} of "
            f"{r['layers'] - 1} | {r['equivalence']:.0e} | {r['rebuild_difference']:.1f} | {r['seconds']:.1f} | {said} |"
        )
    return lines


def _median(values: list[float]) -> float:
    return values[len(values) // 2]


def page(rows: list[dict[str, Any]], of_families: list[dict[str, Any]]) -> str:
    """docs/support.md."""
    passed = [r for r in rows if r["status"] == "pass"]
    lines = [
        "# Supported architectures",
        "",
        "Generated by `python tools/support_table.py`: each architecture was really pruned (method filter, L1, ratio",
        "0.5, scope all; option-A shortcuts rewritten), proven, rebuilt from its file, exported and compared. Random",
        "weights.",
        "",
        f"{len(passed)} of {len(rows)} pass, {len(rows) - len(passed)} are refused.",
        "",
        "| architecture | input | MACs | parameters | layers left alone | equivalence | rebuilt | torch-onnxruntime | "
        "latency (95 %) | removed by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if r["status"] != "pass":
            lines.append(f"| {r['arch']} | {r['input']} | refused: {r['reason']} | | | | | | | |")
            continue
        timed = "-"
        if "latency_ratio" in r:
            timed = f"{r['latency_ratio']:.2f} ({r['latency_low']:.2f}-{r['latency_high']:.2f})"
        star = "*" if r["proof_reason"] else ""
        lines.append(
            f"| {r['arch']} | {r['input']} | {r['macs_ratio']:.3f} | {r['params_ratio']:.3f} | {r['left_alone']} of "
            f"{r['layers'] - 1} | {r['equivalence']:.0e}{star} | {r['rebuild_difference']:.1f} | "
            f"{r['onnx_relative']:.0e} | {timed} | {r['engine']} |"
        )
    lines += [
        "",
        "MACs, parameters, latency: pruned over unpruned (below 1 is smaller or faster); latency on a shared host, 1",
        "thread, batch 1, onnxruntime. Equivalence: largest relative difference (float64) between the pruned network",
        "and the original with the removed channels zeroed. Rebuilt: largest difference of the network rebuilt from",
        "its safetensors file by shapes. torch-onnxruntime: largest difference of a logit, relative to the largest",
        "logit. Layers left alone: besides the classifier.",
        "",
        "\\* LayerNorm over narrowed channels: the reference normalises over the kept channels.",
    ]
    slices = [r for r in passed if r["engine"] == Engine.SLICES]
    if slices:
        lines += ["", "Where torch-pruning's dependency graph does not agree with ours, our own slices are used:", ""]
        lines += [f"- {r['arch']}: torch-pruning {_sentence(r['engine_reason'])}" for r in slices]
    lines += family_lines(of_families)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=None, choices=ARCHITECTURES)
    parser.add_argument("--fast", action="store_true", help="a subset that takes seconds each")
    parser.add_argument("--check", action="store_true", help="compare with the committed table, write nothing")
    parser.add_argument("--render", action="store_true", help="only write docs/support.md from docs/support.json")
    parser.add_argument("--runs", type=int, default=128, help="timed runs; 0: no latency")
    arguments = parser.parse_args()
    names = () if arguments.render else arguments.only or (FAST if arguments.fast else ARCHITECTURES)
    known = {r["arch"]: r for r in json.loads(TABLE.read_text())["rows"]} if TABLE.exists() else {}
    wrong = 0
    for arch in names:
        new = row(arch, runs=0 if arguments.check else arguments.runs)
        sys.stdout.write(f"{arch}: {new['status']} {new.get('macs_ratio', '')} {new.get('reason', '')}\n")
        sys.stdout.flush()
        if arguments.check:
            old = known.get(arch, {})
            differing = [key for key in EXACT if new.get(key) != old.get(key)]
            wrong += bool(differing)
            sys.stdout.write("".join(f"  {key}: {old.get(key)} -> {new.get(key)}\n" for key in differing))
            continue
        known[arch] = new
        rows = [known[name] for name in ARCHITECTURES if name in known]
        versions = {"torch": torch.__version__.partition("+")[0], "python": platform.python_version()}
        TABLE.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1, sort_keys=True) + "\n")
        PAGE.write_text(page(rows, families()))
    if arguments.render:
        PAGE.write_text(page([known[name] for name in ARCHITECTURES if name in known], families()))
    if arguments.check and PAGE.read_text() != page(
        [known[name] for name in ARCHITECTURES if name in known], families()
    ):
        sys.stdout.write("docs/support.md is not what docs/support.json says\n")
        wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
