"""The Python example of a bundle, run where nothing but Python, numpy and onnxruntime can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path

from edgesafe.deploy.bundle.layout import EXAMPLES, PYTHON_EXAMPLE
from edgesafe.errors import IntegrityError
from edgesafe.files import atomic_write

__all__ = ["Environment", "fresh", "isolated", "run_example"]

_PACKAGES = ("numpy", "onnxruntime")
_RUN_S, _INSTALL_S = 600, 300  # seconds at most
#: Only what is beside it in `lib` can be imported, besides the standard library: -I -S leaves out every other place.
_START = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"


class Environment:
    """A way to run a script: the words that go before the script, and what it is, for people."""

    def __init__(self, command: tuple[str, ...], text: str) -> None:
        self.command, self.text = command, text


def run_example(files: Mapping[str, bytes]) -> str:
    """Write the files of a bundle to a scratch folder and run its Python example there; gives what happened.

    A new virtual environment is tried first; where the wheels that the bundle names cannot be had, an interpreter runs
    it that sees numpy and onnxruntime of this installation and nothing else.

    Raises:
        IntegrityError: the example fails, or says that the outputs are not the expected ones.
    """
    with tempfile.TemporaryDirectory(prefix="edgesafe-verify-") as scratch:
        bundle = Path(scratch) / "bundle"
        for path, content in files.items():
            atomic_write(bundle / path, content)
        place = Path(scratch) / "environment"
        environment = fresh(place, bundle / EXAMPLES[3]) or isolated(place / "lib")
        done = _call([*environment.command, str(bundle / PYTHON_EXAMPLE)], _RUN_S, _bare(scratch))
        if done.returncode:
            last = " ".join(f"{done.stdout}\n{done.stderr}".split())[-300:]
            raise IntegrityError(
                f"ended with {done.returncode} in {environment.text}: {last}", where=PYTHON_EXAMPLE,
                fix="look at what it says; get the bundle again from who made it",
            )  # fmt: skip
        return f"{done.stdout.strip().splitlines()[-1]}; in {environment.text}"


def fresh(place: Path, requirements: Path) -> Environment | None:
    """A new virtual environment with what the bundle asks for; None where that cannot be installed."""
    python = place / "bin" / "python"
    install = ("-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
    network = ("--retries", "0", "--timeout", "20")
    steps = (
        [sys.executable, "-I", "-m", "venv", str(place)],
        [str(python), *install, *network, "-r", str(requirements)],
    )
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if any(_call(step, _INSTALL_S, surroundings).returncode for step in steps):
        return None
    versions = ", ".join(requirements.read_text(encoding="utf-8").split())
    return Environment((str(python), "-I"), f"a new virtual environment with {versions}")


def isolated(lib: Path) -> Environment:
    """This interpreter, seeing the standard library and links to numpy and onnxruntime in `lib`, and nothing else."""
    lib.mkdir(parents=True, exist_ok=True)
    for name in _PACKAGES:
        found = util.find_spec(name)
        if found is None or found.origin is None:
            raise IntegrityError("is not installed here", where=name, fix=f"pip install {name}")
        folder = Path(found.origin).parent
        for path in (folder, folder.with_name(f"{name}.libs")):  # wheels keep shared libraries beside the package
            if path.is_dir():
                (lib / path.name).symlink_to(path)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    return Environment(
        (sys.executable, "-I", "-S", "-c", _START, str(lib)),
        f"an isolated interpreter that sees {versions} of this installation alone (no new environment could be made)",
    )


def _bare(home: str) -> dict[str, str]:
    """Environment variables of the example: none that could lead it to other code."""
    return {"PATH": os.defpath, "HOME": home, "LANG": "C.UTF-8"}


def _call(command: list[str], seconds: int, surroundings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - fixed words and paths of ours, without a shell
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
            stdin=subprocess.DEVNULL, env=surroundings,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, OSError) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
