"""The model card (README.md), the configuration and the licences: functions of a bundle's facts and evidence alone.

The card begins with the metadata block that Hugging Face reads (YAML, every value in JSON's spelling, which is YAML).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgesafe.deploy.bundle.layout import CARD, CONFIG, LICENCE_TEXT, LICENCES, Contents
from edgesafe.display import STATUS, amount, clean, interval, markdown, markdown_code, rule
from edgesafe.metrics import EXTRA_CORRUPTIONS, info, is_of_certificates
from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.recipe.sections.data import PREPROCESSING
from edgesafe.records import Conversion, Measurement, TaskKind, Unit, VariantRecord

__all__ = ["written"]

#: What Hugging Face calls the tasks.
_PIPELINES = {TaskKind.CLASSIFICATION: "image-classification", TaskKind.KEYPOINTS: "keypoint-detection"}
_WHAT = {TaskKind.CLASSIFICATION: "An image classifier", TaskKind.KEYPOINTS: "A network that finds the places"}
_OUTPUTS = {
    "logits": "logits", "probabilities": "probabilities",
    "fractions": "x1, y1, x2, y2, … of the keypoints in order: x as a fraction of the width, y of the height",
}  # fmt: skip
_ALWAYS = {
    TaskKind.CLASSIFICATION: "answers with one of its classes", TaskKind.KEYPOINTS: "gives a place for every keypoint",
}  # fmt: skip
_NOT_SAID = "not stated: ask the owner of the weights before you pass the model on"


def written(contents: Contents) -> dict[str, bytes]:
    """README.md, config.json and LICENCES.md, by path."""
    return {
        CARD: _card(contents).encode(),
        CONFIG: (json.dumps(_config(contents), indent=1, ensure_ascii=False) + "\n").encode(),
        LICENCES: _licences(contents).encode(),
    }


# ----------------------------------------------------------------------------------------- configuration, licences


def _config(contents: Contents) -> dict[str, Any]:
    """What a program needs to feed the model and to read its answer."""
    tensors = contents.facts.tensors
    h, w, c = tensors.image
    return {
        "architecture": contents.record.arch,
        **_names(contents),
        "input": {
            "name": tensors.input,
            "dtype": tensors.dtype,
            "layout": tensors.layout,
            "height": h,
            "width": w,
            "channels": c,
        },
        "output": {"name": tensors.output, "dtype": "float32", "values": tensors.outputs},
        "preprocessing": tensors.pixels,
        **_resizing(contents),
        "normalisation_in_training": {"mean": contents.study.data.mean, "std": contents.study.data.std},
    }


def _resizing(contents: Contents) -> dict[str, Any]:
    """How image files came to the input's size before they were measured; nothing where they had it."""
    args = contents.study.recipe.get("data", {}).get("args", {})
    said = {key: args[key] for key in PREPROCESSING if key in args}
    return {"resizing": said} if said else {}


def _names(contents: Contents) -> dict[str, Any]:
    """The classes, as Hugging Face's programs read them, too; or the keypoints, and how near is right."""
    names, task = contents.facts.tensors.classes, contents.study.data.task
    if task is not None and task.kind is TaskKind.KEYPOINTS:
        return {"keypoints": names, "tolerance_px": task.tolerance_px}
    return {"classes": names, "id2label": {str(number): name for number, name in enumerate(names)}}


def _licences(contents: Contents) -> str:
    facts = contents.facts
    sample = "the data set's" if facts.samples.source == "test" else "none needed: seeded noise"
    rows = (
        ("the model files", facts.licence or _NOT_SAID),
        (f"the data set {contents.study.data.name}", facts.data_licence or "not known to edgesafe: see its source"),
        ("samples/", sample),
        ("examples/", f"Apache-2.0 ({LICENCE_TEXT})"),
        ("onnxruntime, needed to run it, not included", "MIT"),
        ("numpy, needed by examples/run.py, not included", "BSD-3-Clause"),
    )
    lines = ["# Licences", "", "| what | licence |", "|---|---|"]
    return "\n".join([*lines, *(f"| {markdown(what)} | {markdown(licence)} |" for what, licence in rows)]) + "\n"


# --------------------------------------------------------------------------------------------------------- the card


def _card(contents: Contents) -> str:
    sections = (
        _head(contents),
        _how_it_was_compressed(contents),
        _evidence(contents),
        _certificates(contents),
        _verdict(contents),
        _limits(contents),
        _running(contents),
        _provenance(contents),
    )
    return _metadata(contents) + "\n" + "\n\n".join("\n".join(section) for section in sections) + "\n"


def _metadata(contents: Contents) -> str:
    facts, data = contents.facts, contents.study.data
    tags = ["onnx", "edgesafe", "model-compression", contents.record.method]
    results = {
        "task": {"type": _PIPELINES[facts.tensors.task]},
        "dataset": {"name": data.name, "type": data.name, "split": "test"},
        "metrics": [
            {"type": name, "value": round(measured.estimate, 6), "name": _title(name)}
            for name, measured in _shown(contents)
            if measured.unit is Unit.FRACTION
        ],
    }
    values = {
        "license": "other",
        "license_name": facts.licence or "not stated",
        "license_link": LICENCES,
        "library_name": "onnx",
        "pipeline_tag": _PIPELINES[facts.tensors.task],
        "tags": tags,
        "datasets": [data.name],
        "model-index": [{"name": facts.name, "results": [results]}],
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=True)}\n" for key, value in values.items())
    return f"---\n{''.join(lines)}---\n"


def _head(contents: Contents) -> list[str]:
    facts, record = contents.facts, contents.record
    h, w, c = facts.tensors.image
    names = ", ".join(markdown(clean(name)) for name in facts.tensors.classes[:20])
    more = f" and {len(facts.tensors.classes) - 20:,} more" if len(facts.tensors.classes) > 20 else ""
    return [
        f"# {facts.name}",
        "",
        f"{_WHAT[facts.tensors.task]} ({markdown(record.arch)}) of {len(facts.tensors.classes)} {facts.tensors.noun} "
        f"({names}{more}), "
        f"trained on {markdown(contents.study.data.name)}, as ONNX. It takes one {w}x{h} image of {c} channel(s): "
        f"{markdown(facts.tensors.pixels)}. Input `{markdown_code(facts.tensors.input)}` is {facts.tensors.dtype} "
        f"{facts.tensors.layout}; output `{markdown_code(facts.tensors.output)}` is float32 "
        f"{_OUTPUTS[facts.tensors.outputs]}.",
    ]


def _how_it_was_compressed(contents: Contents) -> list[str]:
    record = contents.record
    lines = ["## How it was compressed", ""]
    surgery = record.surgery
    if record.conversion is not None:
        return [*lines, _conversion(record, record.conversion)]
    if surgery is None:
        return [*lines, "Not at all: it is the network as it was trained or given."]
    what = "weights set to zero" if surgery.method == "weight" else "channels removed"
    lines.append(
        f"Method `{surgery.method}`, ratio {surgery.ratio:g}: {what} by the criterion "
        f"`{markdown_code(surgery.criterion)}` ({markdown(surgery.scope)}). Parameters {surgery.params_before:,} to "
        f"{surgery.params_after:,}, of which "
        f"{surgery.nonzero_params:,} are not zero; MACs {surgery.macs_before:,} to {surgery.macs_after:,}."
    )
    if surgery.zeroed is not None:
        lines += ["", f"Then {surgery.zeroed.ratio:.0%} of the remaining convolution weights were set to zero."]
    proof = surgery.proof
    shown = f", largest relative difference {proof.equivalence:.1e}" if proof.equivalence is not None else ""
    why = f" ({markdown(proof.reason)})" if proof.reason else ""
    lines += ["", f"Proof of the surgery: {markdown(proof.method)}{shown}{why}."]
    if record.recovery is not None:
        after = record.recovery
        tuned = f"{after.fine_tuning.epochs} epoch(s) of fine-tuning" if after.fine_tuning else "no fine-tuning"
        lines += ["", f"Recovery: BatchNorm statistics from {after.bn_images:,} images, {tuned}."]
    return lines


def _conversion(record: VariantRecord, conversion: Conversion) -> str:
    """How a variant of another precision was made from its fp32 sibling."""
    pruned = "not pruned" if record.method == "baseline" else f"method `{record.method}`, ratio {record.ratio:g}"
    text = (
        f"Converted to {record.precision.value} from the fp32 variant `{conversion.sibling}` ({pruned}; its own record "
        f"in the study says what was removed), file `{conversion.onnx_sha256}`."
    )
    if conversion.images:
        text += f" Ranges of activations were read off {conversion.images:,} training images."
    if conversion.float_layers:
        text += f" Left in float32: {markdown(', '.join(conversion.float_layers))}."
    return text


def _evidence(contents: Contents) -> list[str]:
    measured, study = contents.measurements, contents.study
    lines = [
        "## Evidence",
        "",
        f"Measured on `{contents.facts.model}` under onnxruntime, with {study.data.test_n:,} test images of "
        f"{markdown(study.data.name)}. Intervals are two-sided at 95 %; differences are paired, to "
        f"`{contents.facts.baseline or 'nothing'}`.",
        "",
        "| metric | value | 95 % interval | n | difference | its interval |",
        "|---|---:|---|---:|---:|---|",
    ]
    for name, one in _shown(contents):
        difference = measured.differences.get(name)
        own, apart = "", ""
        if difference is not None:
            own = amount(difference.estimate, difference.unit, signed=True)
            apart = interval(difference.low, difference.high, difference.unit, signed=True)
        lines.append(
            f"| {markdown(_title(name))} | {amount(one.estimate, one.unit)} | {interval(one.low, one.high, one.unit)} "
            f"| {one.n:,} | {own} | {apart} |"
        )
    target, host = measured.target, measured.timed_on
    lines += [
        "",
        f"Latencies are those of {markdown(host.cpu)} ({target.threads} thread(s), {target.provider}), target "
        f"`{target.name}`: another machine has others. Every other metric, under each corruption too, stands in "
        "`evidence/`.",
    ]
    if target != contents.facts.target:
        lines.append(f"**This bundle is for the target `{contents.facts.target.name}`, which was not measured.**")
    return lines


def _certificates(contents: Contents) -> list[str]:
    found = {name: one for name, one in sorted(contents.measurements.metrics.items()) if is_of_certificates(name)}
    lines = ["## Certificates", ""]
    if not found:
        return [*lines, "None: no finite set of perturbed images was run through the file."]
    lines += [
        "Every image of each set was run through the file that ships: a certified image is answered rightly on all.",
        "",
        "| metric | value | 95 % interval | n |",
        "|---|---:|---|---:|",
    ]
    for name, one in found.items():
        shown = f"{amount(one.estimate, one.unit)} | {interval(one.low, one.high, one.unit)} | {one.n:,}"
        lines.append(f"| {markdown(_title(name))} | {shown} |")
    return lines


def _verdict(contents: Contents) -> list[str]:
    verdict = contents.verdict
    lines = ["## Verdict", ""]
    if verdict is None:
        return [*lines, "Not judged: the bundle was made without a policy."]
    lines += [
        f"{STATUS[verdict.overall]} under `policy.toml`"
        + (f" ({markdown(verdict.profile)})." if verdict.profile else "."),
        "",
        "| gate | rule | status | what |",
        "|---|---|---|---|",
    ]
    for gate in verdict.gates:
        lines.append(
            f"| {markdown(gate.id)} | {markdown(rule(gate.rule))} | {STATUS[gate.status]} | {markdown(gate.message)} |"
        )
    return lines


def _limits(contents: Contents) -> list[str]:
    study, measured = contents.study, contents.measurements
    corrupted = measured.corruptions is not None
    limits = [
        f"The numbers hold for images like the {study.data.test_n:,} test images, and say nothing of others.",
        f"It {_ALWAYS[contents.facts.tensors.task]} whatever the image shows; it cannot say that it does not know.",
        "Corruptions are synthetic stand-ins for bad weather and bad cameras."
        if corrupted
        else "It was not measured under corruptions.",
        "Outputs may differ in their last bits on another processor or with another onnxruntime; `examples/` shows how "
        "far they may.",
        *(markdown(clean(note)) for note in study.data.notes),
    ]
    return ["## Limits", "", *(f"- {limit}" for limit in limits)]


def _running(contents: Contents) -> list[str]:
    samples = contents.facts.samples
    what = "test images" if samples.source == "test" else "images of seeded noise"
    return [
        "## Running it",
        "",
        f"`python3 examples/run.py` runs it on {len(samples.index)} packed {what} and compares the outputs with "
        f"`{samples.sha256}` ({markdown(samples.runtime)}); `examples/run.cpp` does the same in C++.",
        "`edgesafe verify` checks all of this bundle.",
    ]


def _provenance(contents: Contents) -> list[str]:
    facts = contents.facts
    lines = ["## Files", "", "| file | bytes | SHA-256 |", "|---|---:|---|"]
    lines += [f"| {path} | {size:,} | `{sha256[7:]}` |" for path, (sha256, size) in sorted(contents.models.items())]
    lines += [
        f"\n`{one.file}` is the model for onnxruntime on {one.platform} alone, minimal builds included "
        f"(`{one.operators}`); its outputs differ by at most {one.max_abs:.1e}."
        for one in facts.ort
    ]
    return [
        *lines,
        "",
        f"Variant `{facts.variant}` of the study `{facts.study}` ({facts.study_sha256}), by edgesafe {facts.edgesafe}.",
    ]


def _shown(contents: Contents) -> Iterator[tuple[str, Measurement]]:
    """The metrics of the card: all but those of single corruptions and the certificates, which have a table."""
    found: Mapping[str, Measurement] = contents.measurements.metrics
    single = {*CORRUPTIONS, *EXTRA_CORRUPTIONS}
    for name, measured in found.items():
        if not single & set(name.split(".")) and not is_of_certificates(name):
            yield name, measured


def _title(metric: str) -> str:
    known = info(metric)
    return known.title if known is not None else clean(metric)
