"""What `edgesafe bundle` writes: deterministic, readable by others' tools, and running where edgesafe is not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from bundle_fixtures import linear, rehashed
from hypothesis import given
from hypothesis import strategies as st

from edgesafe import cli
from edgesafe.commands import evaluate
from edgesafe.commands.bundle import BundleRequest, bundle
from edgesafe.data import sets
from edgesafe.deploy.bundle import archive, card, clean, layout
from edgesafe.deploy.bundle.examples import cpp_literal
from edgesafe.deploy.ort_format import Platform, to_ort
from edgesafe.errors import (
    DataError,
    ExitCode,
    IntegrityError,
    ParityError,
    RefusedError,
    StoreError,
    UsageError,
)
from edgesafe.measure.intervals.bounds import wilson
from edgesafe.recipe.sections import DataSection
from edgesafe.records import (
    Agreement,
    BundleManifest,
    Conversion,
    Measurement,
    Population,
    PopulationKind,
    Precision,
    Unit,
)
from edgesafe.study.study import read


def test_the_same_study_in_two_directories_gives_the_same_bytes(audited: Path, policy: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(audited, tmp_path / "elsewhere" / "other-name"))
    made = [
        bundle(read(study), BundleRequest("candidate-s0", "host-1t", tmp_path / name, policy))
        for study, name in ((audited, "a"), (copied, "b"), (audited, "a.zip"), (copied, "b.zip"))
    ]
    assert len({one.manifest_sha256 for one in made}) == 1
    assert archive.read(tmp_path / "a") == archive.read(tmp_path / "b") == archive.read(tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_packed_outputs_are_those_of_onnxruntime_on_the_test_images(made: Path) -> None:
    """The oracle: images of the data set, read by onnxruntime itself."""
    samples = BundleManifest.model_validate_json((made / "manifest.json").read_text()).facts.samples
    test = sets.load(DataSection(name="digits", test_images=200)).test
    images = test.images[list(samples.index)]
    assert (made / layout.IMAGES).read_bytes() == images.tobytes()
    assert list(samples.labels) == test.labels[list(samples.index)].tolist()
    session = onnxruntime.InferenceSession(made / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": images})[0]
    assert np.abs(np.frombuffer((made / layout.OUTPUTS).read_bytes(), "<f4").reshape(16, 10) - logits).max() < 1e-5
    assert samples.sha256 == "sha256:" + hashlib.sha256((made / layout.OUTPUTS).read_bytes()).hexdigest()


def test_the_card_has_the_metadata_block_and_the_study_s_numbers(made: Path, audited: Path) -> None:
    text = (made / "README.md").read_text()
    _, block, body = text.split("---\n", 2)
    metadata = yaml.safe_load(block)
    assert metadata["pipeline_tag"] == "image-classification"
    assert metadata["library_name"] == "onnx"
    assert "onnx" in metadata["tags"]
    accuracy = read(audited)["candidate-s0"].metrics["accuracy"].estimate
    (result,) = metadata["model-index"][0]["results"]
    assert {"type": "accuracy", "value": round(accuracy, 6), "name": "Accuracy"} in result["metrics"]
    assert f"| Accuracy | {100 * accuracy:.2f} % |" in body
    sections = [line for line in body.splitlines() if line.startswith("## ")]
    assert sections == [
        "## How it was compressed", "## Evidence", "## Certificates", "## Verdict", "## Limits", "## Running it",
        "## Files",
    ]  # fmt: skip


def test_the_card_has_every_certificate_with_its_interval_and_says_when_there_is_none() -> None:
    people = Population(kind=PopulationKind.IMAGES, description="test images")
    found = {
        metric: Measurement(metric=metric, unit=Unit.FRACTION, population=people, **wilson(hits, 1000).fields())
        for metric, hits in (("certified_accuracy.shift=1", 867), ("falsified.shift=1", 48), ("accuracy", 915))
    }
    certified: Any = SimpleNamespace(measurements=SimpleNamespace(metrics=found))
    assert [line for line in card._certificates(certified) if line.startswith("| ")][1:] == [
        "| Certified accuracy, shift=1 | 86.70 % | 84.45–88.66 | 1,000 |",  # noqa: RUF001
        "| Falsified, shift=1 | 4.80 % | 3.64–6.31 | 1,000 |",  # noqa: RUF001
    ]
    found.clear()
    assert "no finite set" in "\n".join(card._certificates(certified))


def test_the_bill_of_materials_names_the_model_by_its_hash(made: Path) -> None:
    plain = json.loads((made / layout.SBOM).read_text())
    model = plain["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    expected = hashlib.sha256((made / "model.onnx").read_bytes()).hexdigest()
    assert model["hashes"] == [{"alg": "SHA-256", "content": expected}]
    assert {"onnxruntime", "numpy", "digits", "model.onnx"} <= {one["name"] for one in plain["components"]}
    assert "timestamp" not in plain["metadata"]


def test_the_card_says_what_a_file_of_another_precision_was_converted_from(audited: Path) -> None:
    agreement = Agreement.model_construct()
    made_from = Conversion.model_construct(
        sibling="filter-r0.50-s0", onnx_sha256="sha256:abc", ranges=None, images=512, images_sha256=None,
        float_layers=("conv1",), packed_layers=(), agreement=agreement,
    )  # fmt: skip
    record = read(audited)["candidate-s0"].record.model_copy(
        update={"method": "filter", "ratio": 0.5, "precision": Precision.INT8}
    )
    text = card._conversion(record, made_from)
    for words in ("Converted to int8", "`filter-r0.50-s0`", "ratio 0.5", "512 training images", "float32: conv1"):
        assert words in text


def test_nothing_names_the_place_it_was_made_at(made: Path, audited: Path) -> None:
    for path, content in archive.read(made).files.items():
        if path != layout.STUDY:
            assert str(audited.parent).encode() not in content, path


def test_a_file_of_floats_and_planes_is_packed_as_it_takes_them(tmp_path: Path) -> None:
    model = linear(tmp_path / "float.onnx", ridge=1.0, float_input=True)
    request = evaluate.AuditRequest(
        model, None, "digits", overrides=("data.test_images=100", "evaluate.corruptions=none", "evaluate.latency=false")
    )
    study = evaluate.evaluate(request, tmp_path / "study")
    assert cli.run(["bundle", str(study.root), "candidate-s0", "--out", str(tmp_path / "b"), "--samples", "3"]) == 0
    assert cli.run(["verify", str(tmp_path / "b")]) == 0
    facts = BundleManifest.model_validate_json((tmp_path / "b" / "manifest.json").read_text()).facts
    assert (facts.tensors.input, facts.tensors.dtype, facts.tensors.layout) == ("pixels", "float32", "NCHW")
    assert (tmp_path / "b" / layout.IMAGES).stat().st_size == 3 * 3 * 32 * 32 * 4
    assert "in an isolated" in _run_isolated(tmp_path / "b", tmp_path)


def _run_isolated(made: Path, scratch: Path) -> str:
    environment = clean.isolated(scratch / "lib")
    command = [*environment.command, str(made / layout.PYTHON_EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "equal, bit for bit"
    return f"in {environment.text}"


def test_the_isolated_interpreter_sees_nothing_of_edgesafe(tmp_path: Path) -> None:
    environment = clean.isolated(tmp_path / "lib")
    script = tmp_path / "script.py"
    script.write_text("import numpy, onnxruntime\nimport edgesafe\n")
    done = subprocess.run([*environment.command, str(script)], capture_output=True, text=True, check=False)
    assert "No module named 'edgesafe'" in done.stderr
    assert done.returncode == 1


def test_the_example_runs_where_no_environment_can_be_made(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "fresh", lambda *_: None)
    assert "equal, bit for bit; in an isolated interpreter" in clean.run_example(archive.read(made).files)
    other = archive.read(made).files | {layout.OUTPUTS: b"\0" * 640}
    run = other[layout.PYTHON_EXAMPLE].replace(b"sha256:", b"sha256:0", 1)
    with pytest.raises(IntegrityError, match="NOT as expected"):
        clean.run_example(other | {layout.PYTHON_EXAMPLE: run})


def test_the_python_example_is_short(made: Path) -> None:
    assert len((made / layout.PYTHON_EXAMPLE).read_text().splitlines()) <= 41


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_is_one_cpp_literal(text: str) -> None:
    literal = cpp_literal(text)
    inner = literal[1:-1]
    assert literal[0] == literal[-1] == '"'
    assert '"' not in inner
    assert inner.isascii()
    assert inner.isprintable()
    assert inner.encode().decode("unicode_escape").encode("latin-1").decode() == text  # Python reads octal as C++ does


# ------------------------------------------------------------------------------------------------- onnxruntime's format


@pytest.fixture(scope="module")
def in_ort_format(audited: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that holds the model as .ort for ARM, which runs on every machine, too; do not change it."""
    out = tmp_path_factory.mktemp("ort") / "bundle"
    bundle(read(audited), BundleRequest("candidate-s0", "host-1t", out, samples=4, ort=("arm",)))
    return out


def test_a_file_in_onnxruntime_s_format_is_made_on_request_and_checked(in_ort_format: Path, made: Path) -> None:
    assert not list(made.glob("*.ort"))  # never by default
    images = np.fromfile(in_ort_format / layout.IMAGES, np.uint8).reshape(4, 32, 32, 3)
    session = onnxruntime.InferenceSession((in_ort_format / "model.arm.ort").read_bytes())
    wanted = np.fromfile(in_ort_format / layout.OUTPUTS, "<f4").reshape(4, 10)
    assert np.abs(session.run(None, {"image": images})[0] - wanted).max() < 1e-4
    operators = (in_ort_format / "model.arm.operators.config").read_text()
    assert "Gemm" in operators
    assert str(Path(tempfile.gettempdir())) not in operators
    assert "model.arm.ort" in (in_ort_format / "README.md").read_text()
    assert cli.run(["verify", str(in_ort_format)]) == 0


def test_another_file_in_onnxruntime_s_format_is_noticed(
    in_ort_format: Path, models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(in_ort_format, tmp_path / "other"))
    (other / "model.arm.ort").write_bytes(to_ort(models[1].read_bytes(), Platform.ARM).content)
    rehashed(other)
    assert cli.run(["verify", str(other)]) == ExitCode.REFUSED
    assert "model.arm.ort: outputs differ from the model's" in capsys.readouterr().out


def test_platforms_that_are_none(audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bundle", str(audited), "candidate-s0", "--out", str(tmp_path / "b"), "--ort", "riscv"]
    assert cli.run(command) == ExitCode.USAGE
    assert "unknown platform 'riscv'" in capsys.readouterr().err
    with pytest.raises(RefusedError, match="cannot convert"):
        to_ort(b"no model", Platform.ARM)


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(audited: Path, tmp_path: Path, **changes: object) -> Path:
    out = tmp_path / "out"
    bundle(read(audited), BundleRequest(**{"variant": "candidate-s0", "target": "host-1t", "out": out} | changes))  # type: ignore[arg-type]
    return out


def test_a_variant_that_fails_its_policy_is_not_bundled(
    audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hard = tmp_path / "hard.toml"
    hard.write_text('schema = "edgesafe.policy/1"\n[[gate]]\nid = "a"\nmetric = "accuracy"\nmin = "99.9%"\n')
    hard.write_text(hard.read_text() + "[data]\nmin_samples = 10\n")
    command = ["bundle", str(audited), "candidate-s0", "--out", str(tmp_path / "out"), "--policy", str(hard)]
    assert cli.run(command) == ExitCode.GATE_FAILED
    assert "no bundle is written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_bundled_says_why(audited: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no variant 'none-s0'"):
        refused(audited, tmp_path, variant="none-s0")
    with pytest.raises(UsageError, match="unknown target"):
        refused(audited, tmp_path, target="moon")
    with pytest.raises(UsageError, match="at most 200"):
        refused(audited, tmp_path, samples=201)
    with pytest.raises(UsageError, match="is an input"):
        refused(audited, tmp_path, out=audited / "bundle")
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="is there already"):
        refused(audited, tmp_path, out=tmp_path / "there")
    copied = Path(shutil.copytree(audited, tmp_path / "copied"))
    (copied / "candidate-s0" / "model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="changed"):
        refused(copied, tmp_path)


def test_without_the_test_images_one_asks_for_noise(
    audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: object) -> None:
        raise DataError("is not there", where="data", fix="fetch it")

    monkeypatch.setattr(sets, "load", absent)
    with pytest.raises(DataError, match=r"no test images to pack: is not there.*--generated"):
        refused(audited, tmp_path)
    out = refused(audited, tmp_path, generated=True)
    facts = BundleManifest.model_validate_json((out / "manifest.json").read_text()).facts
    assert (facts.samples.source, facts.samples.labels) == ("generated", ())
    assert cli.run(["verify", str(out)]) == 0


def test_a_host_that_answers_otherwise_is_refused(
    audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesafe.deploy.bundle import outputs

    real = outputs.outputs_of
    monkeypatch.setattr(outputs, "outputs_of", lambda *given: -real(*given))
    with pytest.raises(ParityError, match="when it was measured"):
        refused(audited, tmp_path)


# ------------------------------------------------------------------------------------------------------- real tools


def _headers() -> Path:
    """onnxruntime's C++ headers, or a skip: a wheel has none. Debian's libonnxruntime-dev does."""
    places = (os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
    for place in filter(None, places):
        if (Path(place) / "onnxruntime_cxx_api.h").is_file():
            return Path(place)
    pytest.skip("no onnxruntime_cxx_api.h (apt install libonnxruntime-dev, or set ONNXRUNTIME_INCLUDE)")


@pytest.mark.slow
def test_the_cpp_example_compiles_runs_and_says_the_same(made: Path, tmp_path: Path) -> None:
    headers, compiler = _headers(), shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)  # its SONAME
    sources = [str(made / "examples" / "run.cpp"), str(tmp_path / "libonnxruntime.so.1"), f"-Wl,-rpath,{tmp_path}"]
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", str(headers), *sources]
    subprocess.run([*command, "-o", str(tmp_path / "run")], check=True)
    done = subprocess.run([tmp_path / "run", made], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "equal, bit for bit"
    other = Path(shutil.copytree(made, tmp_path / "other"))
    (other / layout.OUTPUTS).write_bytes(b"\0" * 640)
    damaged = (other / "examples" / "run.cpp").read_text().replace('"sha256:', '"sha256:0', 1)
    (other / "examples" / "run.cpp").write_text(damaged)
    command[command.index(sources[0])] = str(other / "examples" / "run.cpp")
    subprocess.run([*command, "-o", str(tmp_path / "run")], check=True)
    assert subprocess.run([tmp_path / "run", other], capture_output=True, check=False).returncode == 1


@pytest.mark.slow
def test_verify_runs_the_example_in_a_new_environment_or_says_that_it_cannot(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["verify", str(made), "--run"]) == 0
    said = capsys.readouterr().out
    assert "in a new virtual environment with numpy" in said or "no new environment could be made" in said
