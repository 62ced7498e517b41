"""Every file that edgesafe reads, damaged at random from fixed seeds.

Oracle, for each case: the reader gives a value, or one of edgesafe's own errors with an exit code of the list; it never
raises anything else, and never takes longer than some seconds. A study passes only if its bytes are the originals'.
`EDGESAFE_ATTACKS=100000` asks for that many cases in all (`make attacks`); the default takes about a minute.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from mutation import mutate
from PIL import Image
from safetensors.torch import save as save_safetensors
from torch import nn

from edgesafe import cli, files, models
from edgesafe.certificates import archive
from edgesafe.corruptions.frost import FrostBank
from edgesafe.corruptions.source import DirectorySource
from edgesafe.corruptions.tables import Profile
from edgesafe.corruptions.writer import write_directory
from edgesafe.data import folders, pictures
from edgesafe.data import npz as npz_files
from edgesafe.errors import EdgesafeError, ExitCode
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.inference import foreign, weights
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.policy import lock, policy
from edgesafe.recipe import parsing
from edgesafe.study import signature

CASES = int(os.environ.get("EDGESAFE_ATTACKS", "3000"))
PATIENCE = 10.0  # seconds for one case, on a busy machine; without a limit some took minutes
REFUSALS = {ExitCode.REFUSED, ExitCode.USAGE, ExitCode.NOTHING_EVALUATED}
CONFIGS = Path(__file__).parents[2] / "configs"

SETS = (
    "data.train_images=64", "data.test_images=40", "train.epochs=1", "train.milestones=[]", "recover.epochs=0",
    "recover.bn_images=32", "evaluate.corruptions=none", "evaluate.latency=false",
    'compress=[{method="weight", ratios=[0.5]}]', 'certify.sets=["brightness=1"]', "certify.images=12",
)  # fmt: skip
POLICY = """schema = "edgesafe.policy/1"
profile = "attack"
[[gate]]
id = "size"
metric = "size.onnx_bytes"
max_ratio = "2x"
"""
WAIVED = (
    POLICY
    + f"""[[waiver]]
gate = "size"
candidate = "sha256:{"0" * 64}"
until = 2031-01-31
limit = "3x"
reason = "field trial"
approver = "A. Person"
"""
)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished study that passes `POLICY`."""
    root = tmp_path_factory.mktemp("attacked") / "study"
    assert cli.run(["compress", "--out", str(root), *(part for item in SETS for part in ("--set", item))]) == 0
    return root


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def torch_file() -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": net().state_dict()}, out)
    return out.getvalue()


def npz_file(save: Callable[..., None] = np.savez) -> bytes:
    out = io.BytesIO()
    save(out, x_train=np.zeros((4, 8, 8, 3), np.uint8), y_train=np.arange(4), classes=np.array(["a", "b"]))
    return out.getvalue()


def image_file(kind: str, height: int = 9) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, height - 1, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., : 3 if kind == "JPEG" else 4]).save(out, kind)
    return out.getvalue()


def open_onnx(path: Path) -> None:
    content = foreign.read(path)
    OnnxClassifier(content)
    weights.count(foreign.require_whole(content, "model"))


PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNED = PRIVATE.sign(b"index")
CLEAN = (np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3), np.array([0, 1]))


READERS: dict[str, Callable[[Path], object]] = {
    "recipe.toml": parsing.load,
    "policy.toml": policy.load,
    "edgesafe.lock": lock.load,
    "target.toml": lambda path: parsing.load(None, [f"target.name={path}"]),
    "data.npz": lambda path: npz_files.read_npz(path, ("x_train",)),
    "packed.npz": lambda path: npz_files.read_npz(path, ("x_train",)),
    "evidence.npz": lambda path: evidence_files.from_bytes(files.read_bounded(path, 1 << 30, "evidence")),
    "w.safetensors": lambda path: models.load_weights(net(), path),
    "w.pt": lambda path: models.load_weights(net(), path),
    "i.png": lambda path: folders.read_folder(path.parent.parent, pictures.PictureOptions()),
    "i.jpg": lambda path: folders.read_folder(path.parent.parent, pictures.PictureOptions(scale_deep=True)),
    "i.tif": lambda path: folders.read_folder(path.parent.parent, pictures.PictureOptions(scale_deep=True)),
    "model.onnx": open_onnx,
    "certificates.npz": lambda path: archive.from_bytes(files.read_bounded(path, 1 << 30, "certificates")),
    "waived.toml": policy.load,
    "private.pem": lambda path: signature.sign(b"index", signature.read_key(path), where="key"),
    "public.pem": lambda path: signature.verify(b"index", SIGNED, signature.read_key(path), where="key"),
    "frost.png": lambda path: FrostBank.from_directory(path.parent, Profile.CIFAR, 8, 8),
    "manifest.json": lambda path: DirectorySource(path.parent, *CLEAN),
    "fog.npy": lambda path: DirectorySource(path.parent, *CLEAN).cell("fog", 1, np.arange(2)),
    "labels.npy": lambda path: DirectorySource(path.parent, *CLEAN),
}
SHARES = {"model.onnx": 0.3}  # of the cases that it would have: an open session costs milliseconds


def original(name: str, study: Path) -> bytes:
    sha = "sha256:" + "0" * 64
    pins = f'[baseline."baseline-s0"]\nonnx_sha256 = "{sha}"\ntest_sha256 = "{sha}"\ncorruption_sha256 = "{sha}"\n'
    makers: dict[str, Callable[[], bytes]] = {
        "recipe.toml": lambda: shipped_text("quickstart.toml"),
        "policy.toml": lambda: shipped_text("policies/quickstart.toml"),
        "edgesafe.lock": f'schema = "edgesafe.lock/1"\n{pins}'.encode,
        "target.toml": lambda: shipped_text("targets/host-1t.toml"),
        "data.npz": npz_file,
        "packed.npz": lambda: npz_file(np.savez_compressed),
        "evidence.npz": (study / "baseline-s0" / "evidence.npz").read_bytes,
        "w.safetensors": lambda: save_safetensors(net().state_dict()),
        "w.pt": torch_file,
        "i.png": lambda: image_file("PNG"),
        "i.jpg": lambda: image_file("JPEG"),
        "i.tif": lambda: image_file("TIFF"),
        "model.onnx": (study / "baseline-s0" / "model.onnx").read_bytes,
        "certificates.npz": (study / "baseline-s0" / "certificates.npz").read_bytes,
        "waived.toml": WAIVED.encode,
        "private.pem": lambda: PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "public.pem": lambda: PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "frost.png": lambda: image_file("PNG", 200),
        **{name: partial(corrupted_file, study.parent / "cells", name) for name in CELLS},
    }
    return makers[name]()


CELLS = ("manifest.json", "fog.npy", "labels.npy")


def corrupted_file(folder: Path, name: str) -> bytes:
    """A file of a small directory of corrupted images, which is made once."""
    if not folder.is_dir():
        write_directory(*CLEAN, folder, corruptions=("fog",), severities=(1,))
    return (folder / name).read_bytes()


def shipped_text(name: str) -> bytes:
    return (CONFIGS / name).read_bytes()


def attempt(read: Callable[[], object], what: str) -> ExitCode:
    """The exit code that a command would end with; fails for anything that is not edgesafe's own."""
    begin = time.monotonic()
    code = ExitCode.DONE
    try:
        read()
    except EdgesafeError as error:
        code = error.exit_code
        str(error).encode()  # can be printed
        assert "\n" not in str(error), what
        assert code in REFUSALS, f"{what}: exit {code}"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        pytest.fail(f"{what}: {type(error).__name__}: {error}"[:2000])
    assert time.monotonic() - begin < PATIENCE, f"{what}: over {PATIENCE} s"
    return code


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name: str, study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "class" if name.startswith("i.") else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    path, whole, refused = folder / name, original(name, study), 0
    if name in CELLS:
        shutil.copytree(study.parent / "cells", folder, dirs_exist_ok=True)
    path.write_bytes(whole)
    assert attempt(lambda: READERS[name](path), name) is ExitCode.DONE
    cases = int(CASES / len(READERS) * SHARES.get(name, 1.0))
    for case in range(cases):
        seed = zlib.crc32(name.encode()) * 1_000_003 + case
        content = mutate(whole, random.Random(seed))
        path.write_bytes(content)
        refused += attempt(lambda: READERS[name](path), f"{name}, seed {seed}") is not ExitCode.DONE
    assert refused > cases / 20  # the damage is real


@pytest.fixture
def judged(study: Path, tmp_path: Path) -> Callable[[], int]:
    """Copies the study and judges the copy."""
    (tmp_path / "p.toml").write_text(POLICY, encoding="utf-8")
    shutil.copytree(study, tmp_path / "s")
    return lambda: cli.run(["gate", str(tmp_path / "s"), "--policy", str(tmp_path / "p.toml")])


BOUND = (
    "study.json", "baseline-s0/variant.json", "baseline-s0/measurements.json", "baseline-s0/evidence.npz",
    "baseline-s0/model.onnx", "weight-r0.50-s0/variant.json", "weight-r0.50-s0/measurements.json",
    "weight-r0.50-s0/evidence.npz", "weight-r0.50-s0/model.onnx", "weight-r0.50-s0/model.safetensors",
    "baseline-s0/certificates.npz", "weight-r0.50-s0/certificates.npz",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOUND)
def test_a_study_passes_only_with_the_original_bytes(
    name: str, judged: Callable[[], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    assert judged() == ExitCode.DONE
    for case in range(max(10, CASES // 10 // len(BOUND))):
        seed = zlib.crc32(name.encode()) * 1_000_003 + case
        content = mutate(whole, random.Random(seed))
        path.write_bytes(content)
        code = judged()
        assert code in (REFUSALS if content != whole else {ExitCode.DONE}), f"{name}, seed {seed}: exit {code}"
        assert "Traceback" not in capsys.readouterr().err
    path.unlink()
    assert judged() in REFUSALS
    os.mkfifo(path)
    assert judged() in REFUSALS


def test_no_output_replaces_what_was_read(study: Path, judged: Callable[[], int], tmp_path: Path) -> None:
    copy, rules = tmp_path / "s", tmp_path / "p.toml"
    before = {path: path.read_bytes() for path in (*copy.rglob("*.json"), rules)}
    outputs = (copy / "study.json", copy / "baseline-s0" / "variant.json", copy / "new.json", rules)
    for option in ("--json", "--junit", "--markdown", "--openmetrics"):
        for output in outputs:
            arguments = ["gate", str(copy), "--policy", str(rules), option, str(output)]
            assert cli.run(arguments) == ExitCode.USAGE, (option, output)
    model = copy / "baseline-s0" / "model.onnx"
    content = model.read_bytes()
    assert cli.run(["bench", str(model), "--runs", "64", "--json", str(model)]) == ExitCode.USAGE
    page = ["report", str(copy), "--out", str(tmp_path / "r"), "--json"]
    assert cli.run([*page, str(copy / "study.json")]) == ExitCode.USAGE
    assert cli.run(["gate", str(copy), "--policy", str(rules), "--json", "/dev/null"]) == ExitCode.DONE
    assert Path("/dev/null").is_char_device()
    assert model.read_bytes() == content
    assert {path: path.read_bytes() for path in before} == before
    assert judged() == ExitCode.DONE
