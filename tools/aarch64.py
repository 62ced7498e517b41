"""Run ONNX files under an emulated aarch64 processor (Debian's qemu-user) and compare their outputs with this machine's.

python tools/aarch64.py [FILE.onnx …] [--images 20] [--pixels IMAGES.npy] [--work build/aarch64]

Parity only: an emulator's times say nothing of a board's. Nothing is installed: packages of Debian (qemu-user-static, and
Python 3.11 for arm64, from the sources of a Debian 12) and wheels for aarch64 are unpacked below --work. Needs apt-get, dpkg and
pip, and no root. Files must be edgesafe's own (uint8 NHWC images in, logits out); without any, those of export/quickstart.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[1]
QEMU = "qemu-user-static"
DEBIAN = (
    "libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5", "libssl3", "libcrypt1",
    "libuuid1", "libsqlite3-0", "libreadline8", "libtinfo6", "libncursesw6", "libdb5.3", "libnsl2", "libtirpc3",
    "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal", "python3.11",
)  # fmt: skip
CPU = "cortex-a72"
#: onnxruntime reads it when it is imported, and ends with a segmentation fault on the host's x86 one.
CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""
#: Run under the emulator: outputs of each file on the images, as one .npz.
INSIDE = """
import platform, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, onnxruntime as ort
images = np.load(sys.argv[2])
outputs = {}
for number, path in enumerate(sys.argv[4:]):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs[str(number)] = np.concatenate([session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))])
np.savez(sys.argv[3], **outputs)
print(platform.machine(), ort.__version__)
"""


def call(*command, cwd=None):
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def apt(work, architecture):
    """The words that make apt-get work in a folder of its own, with this machine's sources (Debian 12)."""
    place = work / f"apt-{architecture}"
    for name in ("state/lists/partial", "cache/archives/partial", "debs"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    options = {
        "APT::Architecture": architecture, "APT::Architectures": architecture, "Dir::State": place / "state",
        "Dir::State::status": place / "status", "Dir::Cache": place / "cache",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }  # fmt: skip
    return ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())], place / "debs"


def unpack(work, architecture, packages, into):
    words, debs = apt(work, architecture)
    call(*words, "update")
    call(*words, "download", *packages, cwd=debs)
    into.mkdir(parents=True, exist_ok=True)
    for deb in sorted(debs.glob("*.deb")):
        call("dpkg", "-x", deb, into)


def wheels(into):
    """numpy and onnxruntime for aarch64, of the versions that are installed here."""
    wanted = [f"numpy=={np.__version__}", f"onnxruntime=={ort.__version__}"]
    tags = [word for minor in (17, 27, 28, 34) for word in ("--platform", f"manylinux_2_{minor}_aarch64")]
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    call(*pip, "--only-binary", ":all:", "--python-version", "3.11", *tags, "--target", into, *wanted)


def prepare(work):
    """The emulator and the arm64 Python, made once; gives the words that run it."""
    root = work / "root"
    if not (work / "ready").is_file():
        unpack(work, "amd64", [QEMU], work / "qemu")
        unpack(work, "arm64", DEBIAN, root)
        wheels(work / "lib")
        (root / "proc").mkdir(exist_ok=True)
        (root / "proc" / "cpuinfo").write_text(CPUINFO)
        (work / "ready").touch()
    python = root / "usr" / "bin" / "python3.11"
    return [work / "qemu/usr/bin/qemu-aarch64-static", "-cpu", CPU, "-L", root, python, "-I", "-S", "-c", INSIDE]


def here(path, images):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--images", type=int, default=20, help="how many")
    parser.add_argument("--pixels", type=Path, help="uint8 images, .npy (n, H, W, C); without: seeded noise")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "aarch64")
    args = parser.parse_args()
    files = args.files or sorted((ROOT / "export" / "quickstart").glob("*/model*.onnx"))
    if not files:
        parser.error("no ONNX files: name some, or run `make demo` first")
    work = args.work.resolve()
    emulator = prepare(work)
    shape = ort.InferenceSession(files[0], providers=["CPUExecutionProvider"]).get_inputs()[0].shape[1:]
    noise = np.random.default_rng(0).integers(0, 256, (args.images, *shape), dtype=np.uint8)
    images = noise if args.pixels is None else np.load(args.pixels, allow_pickle=False)[: args.images]
    np.save(work / "images.npy", images)
    said = call(*emulator, work / "lib", work / "images.npy", work / "outputs.npz", *(file.resolve() for file in files))
    results, failed = [], False
    with np.load(work / "outputs.npz", allow_pickle=False) as outputs:
        for number, file in enumerate(files):
            ours, theirs = here(file, images), outputs[str(number)]
            apart = float(np.abs(ours - theirs).max())
            answers = int((ours.argmax(1) == theirs.argmax(1)).sum())
            failed = failed or not apart <= (0.5 if b"QuantizeLinear" in file.read_bytes() else 1e-3)
            results.append({"file": str(file), "max_abs": apart, "answers_equal": answers, "images": len(images)})
            print(
                f"{file}: {'equal' if np.array_equal(ours, theirs) else f'within {apart:.1e}'}, {answers} of {len(images)} answers"
            )
    print(f"emulated: {said.strip()}; parity only, no claim of speed")
    (work / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
