"""The readers that are attacked, by the name of the file that each is given, and the whole files to begin with."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from campaign import POLICY
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from PIL import Image
from safetensors.torch import save as save_safetensors
from torch import nn

from edgesafe import files, models
from edgesafe.certificates import archive
from edgesafe.corruptions.frost import FrostBank
from edgesafe.corruptions.source import DirectorySource
from edgesafe.corruptions.tables import Profile
from edgesafe.corruptions.writer import write_directory
from edgesafe.data import cache as caches
from edgesafe.data import folders, imagefolder, keypoints, npy, parquet, pictures, webdataset
from edgesafe.data import npz as npz_files
from edgesafe.deploy.device import measuring, script
from edgesafe.deploy.device.connection import Connection
from edgesafe.errors import DataError
from edgesafe.measure import evidence as evidence_files
from edgesafe.measure.inference import foreign, weights
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.policy import lock, policy
from edgesafe.recipe import parsing
from edgesafe.recipe.sections import DataSection, DeviceAddress, TargetSection
from edgesafe.study import signature
from edgesafe.surgery import rebuild

__all__ = ["READERS", "SHARES", "answer", "np_header", "original", "placed"]

CONFIGS = Path(__file__).parents[2] / "configs"

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
    "labels.csv": lambda path: keypoints.read_part(path.parent, keypoints.options_of({})),
    "split.csv": lambda path: imagefolder.load(
        DataSection(name="folder", root=str(path.parent), args={"split": "split.csv"}), caches.Cache.in_memory()
    ),
    "config.json": lambda path: models.find_weights(str(path.parent), "timm:resnet18"),
    "pruned.safetensors": lambda path: rebuild.load_bytes(
        models.build("smallnet", 10), files.read_bounded(path, 1 << 30, "weights")
    ),
    "variant.json": lambda path: rebuild.load_variant(path.parent),
    "answer.json": lambda path: answered(files.read_bounded(path, 1 << 20, "an answer")),
    "shard.parquet": lambda path: parquet.load(shards("parquet", path), caches.Cache.in_memory()),
    "shard.tar": lambda path: webdataset.load(shards("webdataset", path), caches.Cache.in_memory()),
    "shard.tar.gz": lambda path: webdataset.load(shards("webdataset", path), caches.Cache.in_memory()),
    "x_train.npy": lambda path: npy.read_folder(path.parent, caches.Cache.in_memory()),
    "kept.json": lambda path: caches.text_of(files.read_bounded(path, 1 << 20, "a hash"), path),
    "hashes.npy": lambda path: (
        caches.digests_of(files.read_bounded(path, 1 << 20, "hashes"), 2) is not None or refuse()
    ),
}
SHARES = {"model.onnx": 0.3, "variant.json": 0.3, "pruned.safetensors": 0.5}  # of the cases: these cost milliseconds


class Device(Connection):
    """One that always says the same."""

    def __init__(self, said: bytes) -> None:
        super().__init__(DeviceAddress(host="board"))
        object.__setattr__(self, "said", said)

    def shell(self, *_: object, **__: object) -> bytes:
        return self.said  # type: ignore[attr-defined]


def answered(said: bytes) -> object:
    """What a device is understood to say of one file whose outputs are compared."""
    order = measuring.DeviceOrder(TargetSection(), (b"model",), 4, (CLEAN[0],), (np.zeros((1, 2), np.float32),))
    device = Device(said)
    return measuring._times(measuring._parsed(script.run_script(device, "f", ["w"], "key"), device, order), order)


def refuse() -> None:
    raise DataError("is damaged", where="hashes", fix="they are made anew")


def answer(times: Sequence[Sequence[float]] = ((1.0, 2.0), (1.0, 2.0)), **changes: object) -> bytes:
    floats = np.array([[1.0, 2.0]], "<f4").tobytes()
    result = {
        "file": "a.onnx", "sha256": files.sha256_bytes(b"model"), "p50_ms": 1.0, "p90_ms": 1.5, "min_ms": 0.5,
        "ratio_to_first": 1.0, "open_ms": 2.0, "peak_bytes": 4096, "before_bytes": 2048, "ms": times,
        "outputs": {
            "sha256": files.sha256_bytes(floats), "shape": [1, 2], "float32": base64.b64encode(floats).decode(),
        },
    }  # fmt: skip
    machine = {"cpu": "c", "cores": 1, "machine": "m", "system": "s", "python": "3", "versions": {"onnxruntime": "1"}}
    return json.dumps({"host": machine, "setting": {}, "results": [result | changes]}).encode()


def placed(name: str, study: Path, folder: Path) -> Path:
    """Where the file goes that is damaged, with what its reader needs beside it."""
    if name in CELLS:
        shutil.copytree(study.parent / "cells", folder, dirs_exist_ok=True)
    if name in ("labels.csv", "split.csv"):
        for place in IMAGES:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(image_file("PNG"))
    if name == "config.json":
        (folder / "model.safetensors").write_bytes(b"")
    if name == "variant.json":
        shutil.copy(study / PRUNED / "model.safetensors", folder)
    return folder / name


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
        "labels.csv": lambda: b"file,nose_x,nose_y\na/0.png,1.5,2\na/1.png,3,4\n",
        "split.csv": lambda: "path,part\n{}\n".format(
            "\n".join(f"{place},{part}" for place, part in zip(IMAGES, ("train", "train", "test"), strict=True))
        ).encode(),
        "config.json": lambda: b'{"architecture": "resnet18", "num_classes": 2, "label_names": ["a", "b"]}',
        "pruned.safetensors": (study / PRUNED / "model.safetensors").read_bytes,
        "variant.json": (study / PRUNED / "variant.json").read_bytes,
        "answer.json": answer,
        "shard.parquet": parquet_file,
        "shard.tar": tar_file,
        "shard.tar.gz": lambda: gzip.compress(tar_file()),
        "x_train.npy": lambda: npy_file(CLEAN[0]),
        "kept.json": lambda: b'{"sha256": "sha256:00"}',
        "hashes.npy": lambda: npy_file(np.zeros((2, caches.DIGEST_BYTES), np.uint8)),
        **{name: partial(corrupted_file, study.parent / "cells", name) for name in CELLS},
    }
    return makers[name]()


CELLS = ("manifest.json", "fog.npy", "labels.npy")
IMAGES = ("a/0.png", "a/1.png", "b/2.png")
PRUNED = "weight-r0.50-s0"


def np_header(text: bytes) -> bytes:
    return np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text


def npy_file(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def shards(name: str, path: Path) -> DataSection:
    return DataSection(name=name, root=str(path), args={"split": [0.4, 0.2, 0.4]})


def parquet_file() -> bytes:
    table = pyarrow.table({"image": [image_file("PNG")] * 6, "label": [0, 1, 0, 1, 0, 1]})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, row_group_size=4)
    return out.getvalue()


def tar_file() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for k in range(6):
            for end, content in (("png", image_file("PNG")), ("cls", b"%d" % (k % 2))):
                member = tarfile.TarInfo(f"{k:06}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def corrupted_file(folder: Path, name: str) -> bytes:
    """A file of a small directory of corrupted images, which is made once."""
    if not folder.is_dir():
        write_directory(*CLEAN, folder, corruptions=("fog",), severities=(1,))
    return (folder / name).read_bytes()


def shipped_text(name: str) -> bytes:
    return (CONFIGS / name).read_bytes()
