"""The Python and the C++ example of a bundle: templates with this bundle's names, sizes and expected outputs put in."""

from __future__ import annotations

import re
import string
from importlib import resources

from edgesafe.deploy.bundle.layout import EXAMPLES
from edgesafe.records import BundleFacts, StudyRecord, TaskKind

__all__ = ["cpp_literal", "examples"]

_CLASS = "names[row.argmax()]"
_PLACES = (
    '", ".join(f"{{name}} at ({{x * {w}:.1f}}, {{y * {h}:.1f}}) px" for name, (x, y) in zip(names, row.reshape(-1, 2)))'
)
_CPP_CLASS = """\
    const auto answer = [&](const std::vector<float>& v) { return std::max_element(&v[i], &v[i] + kColumns) - &v[i]; };
    std::printf("image %zu: class %d\\n", i / kColumns, int(answer(outputs)));
    same = same && answer(outputs) == answer(wanted);"""
_CPP_PLACES = """\
    std::printf("image %zu:", i / kColumns);
    for (size_t k = i; k < i + kColumns; k += 2) {
      std::printf(" (%.1f, %.1f)", double(outputs[k]) * WIDTH, double(outputs[k + 1]) * HEIGHT);
    }
    std::puts(" px");"""
_SAFE = set(string.ascii_letters + string.digits + " _-+.,:;/=()[]<>@#")


def examples(facts: BundleFacts, study: StudyRecord) -> dict[str, bytes]:
    """The files of `examples/`, by path.

    Args:
        facts: of the bundle.
        study: whose host names the versions that `requirements.txt` asks for.
    """
    tensors, samples, target = facts.tensors, facts.samples, facts.target
    h, w, c = tensors.image
    one = (h, w, c) if tensors.layout == "NHWC" else (c, h, w)
    shared = {"BATCH": str(samples.batch), "THREADS": str(target.threads), "TOLERANCE": f"{samples.tolerance:.9g}"}
    texts = {"MODEL": facts.model, "INPUT": tensors.input, "OUTPUT": tensors.output, "EXPECTED": samples.sha256}
    points = tensors.task is TaskKind.KEYPOINTS
    python = {
        "NAMES": tensors.noun,
        "ANSWER": _PLACES.format(w=w, h=h) if points else _CLASS,
        "SAME": "" if points else " and (outputs.argmax(axis=1) == wanted.argmax(axis=1)).all()",
        "ALIKE": "as near as can be asked" if points else "the same answers",
        **{name: ascii(text) for name, text in texts.items()},
        "SHAPE": str((len(samples.index), *one)),
        "DTYPE": ascii(tensors.dtype),
        "PROVIDER": ascii(target.provider),
    }
    cpp = {
        **{name: cpp_literal(text) for name, text in texts.items()},
        "SHAPE": ", ".join(str(size) for size in (samples.batch, *one)),
        "PIXEL": "uint8_t" if tensors.dtype == "uint8" else "float",
        "RUNS": str(len(samples.index) // samples.batch),
        "COLUMNS": str(tensors.columns),
        "SHOW": _CPP_PLACES.replace("WIDTH", str(w)).replace("HEIGHT", str(h)) if points else _CPP_CLASS,
        "ALIKE": "as near as can be asked" if points else "the same answers",
    }
    versions = study.host.versions
    needed = [f"{name}=={versions[name]}\n" if name in versions else f"{name}\n" for name in ("numpy", "onnxruntime")]
    made = (
        _filled("run.py.in", shared | python),
        _filled("run.cpp.in", shared | cpp),
        _template("sha256.h"),
        "".join(needed),
    )
    return {path: text.encode() for path, text in zip(EXAMPLES, made, strict=True)}


def cpp_literal(text: str) -> str:
    """A C++ string literal of any text, as UTF-8: whatever could mean something in C++ stands as an octal escape."""
    shown = (chr(byte) if chr(byte) in _SAFE else f"\\{byte:03o}" for byte in text.encode("utf-8", "replace"))
    return f'"{"".join(shown)}"'


def _template(name: str) -> str:
    return resources.files("edgesafe.deploy.bundle").joinpath("templates", name).read_text(encoding="utf-8")


def _filled(name: str, values: dict[str, str]) -> str:
    """A template with every @NAME@ replaced, in one pass: what is put in is never looked at again."""
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], _template(name))
