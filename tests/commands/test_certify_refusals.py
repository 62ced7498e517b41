"""Wrong input to `edgesafe certify`: one line that says what and where, the right exit code, and nothing is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgesafe import cli
from edgesafe.errors import ExitCode

SET = ["--set", "brightness=1"]
ALONE = ["--data", "digits", *SET]


def of_study(*arguments: str) -> Callable[[Path, Path], list[str]]:
    return lambda study, _: [str(study), *arguments]


def of_file(*arguments: str) -> Callable[[Path, Path], list[str]]:
    return lambda study, _: [str(study / "baseline-s0" / "model.onnx"), *arguments]


def of_pixels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], list[str]]:
    """The baseline's file on an npz of noise that was changed."""

    def arguments(study: Path, place: Path) -> list[str]:
        pixels = change(np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), dtype=np.uint8))
        labels = np.arange(500) % 10
        np.savez(place / "d.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
        return of_file("--data", "npz", "--root", str(place / "d.npz"), *SET)(study, place)

    return arguments


def not_onnx(_: Path, place: Path) -> list[str]:
    (place / "m.onnx").write_bytes(b"not a model")
    return [str(place / "m.onnx"), *ALONE]


def bent_otherwise(study: Path, place: Path) -> list[str]:
    """The baseline with a sigmoid behind its logits, followed along the line."""
    model = onnx.load(study / "baseline-s0" / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["bare" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([20.0]), "twenty"))
    model.graph.node.extend(
        [
            helper.make_node("Sigmoid", ["bare"], ["share"], name="gate/7"),
            helper.make_node("Mul", ["share", "twenty"], ["logits"]),
        ]
    )
    onnx.save(model, place / "s.onnx")
    return [str(place / "s.onnx"), *ALONE, "--line"]


def of_another_file(study: Path, place: Path) -> list[str]:
    copy = place / "copy"
    shutil.copytree(study, copy)
    shutil.copy(copy / "weight-r0.80-s0" / "certificates.npz", copy / "weight-r0.50-s0" / "certificates.npz")
    return [str(copy), *SET]


def of_other_data(study: Path, place: Path) -> list[str]:
    return [str(study), *of_pixels(lambda x: x)(study, place)[1:]]


CASES: dict[str, tuple[Callable[[Path, Path], list[str]], ExitCode, str]] = {
    "a set that is unknown": (of_study("--set", "brightnes=2"), ExitCode.USAGE, "did you mean 'brightness=2'"),
    "a range that rounds to a tie": (of_study("--set", "brightness=0.1"), ExitCode.USAGE, "25.5 levels, a tie"),
    "a set that is too large": (of_file("--data", "digits", "--set", "contrast=20%,brightness=25"), ExitCode.USAGE,
                                "123,777 images of each image"),
    "a set that does not fit": (of_study("--set", "shift=32"), ExitCode.USAGE, "leaves nothing"),
    "a set over the limit": (of_study(*SET, "--max-images", "2"), ExitCode.USAGE, "--max-images 3"),
    "a patch that does not fit": (of_study("--set", "occlusion=33"), ExitCode.USAGE, "does not fit"),
    "data that are nowhere": (of_study(*SET, "--data", "cifar10", "--root", "no"), ExitCode.USAGE, "no"),
    "a set twice": (of_file("--data", "digits", *SET, "--set", "brightness=1"), ExitCode.USAGE, "stands twice"),
    "no line of images": (of_study("--set", "jpeg=50..95", "--line"), ExitCode.USAGE, "no straight line"),
    "an operator that the line does not know": (bent_otherwise, ExitCode.REFUSED, "gate/7"),
    "images that are not uint8": (of_pixels(lambda x: x / np.float32(255)), ExitCode.USAGE, "uint8"),
    "a file with another input": (of_pixels(lambda x: x[:, :16, :16]), ExitCode.USAGE, "16"),
    "no ONNX file": (not_onnx, ExitCode.USAGE, "m.onnx"),
    "a file that is not there": (lambda _, place: [str(place / "none.onnx"), *ALONE], ExitCode.USAGE, "none.onnx"),
    "a file without data": (of_file(*SET), ExitCode.USAGE, "name the data set"),
    "certificates of another file": (of_another_file, ExitCode.REFUSED, "certificates.npz"),
    "other data than the study's": (of_other_data, ExitCode.REFUSED, "not the test images of the study"),
    "a variant that is not there": (of_study(*SET, "--variant", "nobody-s0"), ExitCode.USAGE, "nobody-s0"),
    "a baseline of a study": (of_study(*SET, "--baseline", "b.onnx"), ExitCode.USAGE, "this is a study"),
    "another place of a study": (of_study(*SET, "--out", "elsewhere"), ExitCode.USAGE, "this is a study"),
    "a variant of a file": (of_file(*ALONE, "--variant", "baseline-s0"), ExitCode.USAGE, "this is a file"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_line_with_the_right_code(
    name: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, code, says = CASES[name]
    arguments = make(study, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = (study / "study.json").read_bytes()
    target = Path(arguments[0])
    assert cli.run(["certify", *arguments]) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""
    errors = [line for line in said.err.splitlines() if not line.startswith(("  ", "data: ", "candidate-s0:"))]
    assert len(errors) == 1, said.err
    assert (study / "study.json").read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()
    if not target.is_dir():
        finished = tmp_path / "export" / f"{target.stem}-certificates" / "candidate-s0" / "certificates.npz"
        assert not finished.exists()
