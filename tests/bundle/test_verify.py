"""A bundle that is whole verifies; one that was damaged, in any of these ways, does not, and the check names it."""

from __future__ import annotations

import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_fixtures import edit_json, rehashed, rezipped

from edgesafe import cli
from edgesafe.commands.verify import verify
from edgesafe.deploy.bundle import archive, layout
from edgesafe.errors import ExitCode, StoreError
from edgesafe.files import sha256_file
from edgesafe.records import BundleCheck
from edgesafe.study.index import bound, open_index
from edgesafe.study.signature import sign

VARIANT = "candidate-s0"
CANDIDATE = f"evidence/{VARIANT}"


def findings(bundle: Path, **more: object) -> dict[str, str]:
    """What did not pass: check -> text."""
    result = verify(bundle, **more)  # type: ignore[arg-type]
    wrong = {line.check.value: line.text for line in result.checks if not line.passed}
    assert result.exit_code == (ExitCode.REFUSED if wrong else ExitCode.DONE)
    return wrong


def test_a_whole_bundle_passes_every_check(made: Path) -> None:
    result = verify(made)
    assert findings(made) == {}
    assert [line.check for line in result.checks] == [check for check in BundleCheck if check is not BundleCheck.RUN]
    assert result.variant == VARIANT


def flip(path: str, at: int = -1) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        content = bytearray((bundle / path).read_bytes())
        content[at] ^= 1
        (bundle / path).write_bytes(content)

    return change


def forged(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A change by somebody who also writes the manifest's hashes anew."""

    def forge(bundle: Path) -> None:
        (bundle / path).write_bytes(change((bundle / path).read_bytes()))
        rehashed(bundle)

    return forge


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


def delete(path: str, *, listed: bool = True) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        (bundle / path).unlink()
        if not listed:
            rehashed(bundle, drop=path)

    return change


def link(bundle: Path) -> None:
    target = bundle.with_name("elsewhere.onnx")
    (bundle / "model.onnx").rename(target)
    (bundle / "model.onnx").symlink_to(target)


def another_study(bundle: Path) -> None:
    """study.json rewritten whole, with a valid digest of its own and the manifest's hashes made to fit."""
    path = bundle / layout.STUDY
    record = open_index(path.read_bytes(), path)
    path.write_bytes(bound(record.model_copy(update={"edgesafe": "9.9.9"}))[1])
    rehashed(bundle)


def better_numbers(bundle: Path) -> None:
    edit_json(bundle / CANDIDATE / "measurements.json", lambda plain: plain["metrics"]["accuracy"].update(estimate=1.0))
    rehashed(bundle)


def another_model(bundle: Path) -> None:
    """Another network under the measured one's name, with all hashes of the manifest made to fit."""
    flip("model.onnx", 300)(bundle)
    rehashed(bundle)
    new = sha256_file(bundle / "model.onnx")
    edit_json(bundle / "manifest.json", lambda plain: plain["facts"].update(model_sha256=new))


def other_outputs(bundle: Path) -> None:
    """Expected outputs that are not the model's, with their hashes made to fit everywhere but in the examples."""
    path = bundle / layout.OUTPUTS
    wanted = np.frombuffer(path.read_bytes(), "<f4").copy()
    wanted[0] += 1.0
    path.write_bytes(wanted.tobytes())
    rehashed(bundle)


def facts(**changes: object) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        edit_json(bundle / "manifest.json", lambda plain: plain["facts"].update(changes))

    return change


def listed_twice(bundle: Path) -> None:
    edit_json(bundle / "manifest.json", lambda plain: plain["files"].append(plain["files"][0]))


def leads_out(bundle: Path) -> None:
    edit_json(bundle / "manifest.json", lambda plain: plain["files"][0].update(path="../README.md"))


def other_classes(bundle: Path) -> None:
    def swap(plain: dict) -> None:
        names = plain["facts"]["tensors"]["classes"]
        names[0], names[1] = names[1], names[0]

    edit_json(bundle / "manifest.json", swap)


def noise(bundle: Path) -> None:
    size = (bundle / layout.IMAGES).stat().st_size
    (bundle / layout.IMAGES).write_bytes(np.random.default_rng(0).bytes(size))
    rehashed(bundle)


#: what is done to a bundle -> the check that must name it, and words of what it must say
DAMAGE: dict[str, tuple[Callable[[Path], object], BundleCheck, str]] = {
    "a bit of the model": (flip("model.onnx"), BundleCheck.HASHES, "model.onnx was changed"),
    "a bit of the card": (flip("README.md", 900), BundleCheck.HASHES, "README.md was changed"),
    "a file cut short": (
        lambda bundle: (bundle / "model.onnx").write_bytes(b"ONNX"), BundleCheck.HASHES, "model.onnx has 4 bytes, not",
    ),
    "a file deleted": (delete("examples/run.cpp"), BundleCheck.FILES, "examples/run.cpp is missing"),
    "a file added": (
        lambda bundle: (bundle / "extra.txt").write_text("x"), BundleCheck.FILES, "extra.txt is not listed",
    ),
    "a file turned into a link": (link, BundleCheck.FILES, "model.onnx is a symbolic link"),
    "an empty folder added": (lambda bundle: (bundle / "more").mkdir(), BundleCheck.FILES, "more is an empty folder"),
    "the manifest deleted": (
        lambda bundle: (bundle / "manifest.json").unlink(), BundleCheck.MANIFEST, "manifest.json: is missing",
    ),
    "the manifest cut short": (
        lambda bundle: (bundle / "manifest.json").write_text("{"), BundleCheck.MANIFEST, "not JSON",
    ),
    "a manifest of another schema": (
        lambda bundle: edit_json(bundle / "manifest.json", lambda plain: plain.update(schema="edgesafe.bundle/9")),
        BundleCheck.MANIFEST, "edgesafe.bundle/9",
    ),
    "a manifest with a word too many": (
        lambda bundle: edit_json(bundle / "manifest.json", lambda plain: plain.update(note="x")),
        BundleCheck.MANIFEST, "damaged at 'note'",
    ),
    "a file listed twice": (listed_twice, BundleCheck.MANIFEST, "listed twice"),
    "a path that leads out": (leads_out, BundleCheck.MANIFEST, "files.0.path"),
    "better numbers, all hashes new": (better_numbers, BundleCheck.EVIDENCE, "not the record that study.json names"),
    "another study, all hashes new": (another_study, BundleCheck.EVIDENCE, "not the study that the manifest names"),
    "study.json edited, all hashes new": (
        forged(layout.STUDY, replaced('"edgesafe": "', '"edgesafe": "9')), BundleCheck.EVIDENCE, "not the study",
    ),
    "another model, all hashes new": (another_model, BundleCheck.EVIDENCE, "model.onnx: not a file of candidate-s0"),
    "other class names": (other_classes, BundleCheck.EVIDENCE, "classes or image size are not the study's"),
    "another baseline": (facts(baseline=None), BundleCheck.EVIDENCE, "variant, baseline or name"),
    "a card that praises, all hashes new": (
        forged("README.md", replaced("## Limits", "## No limits")), BundleCheck.CARD, "the model card is not what",
    ),
    "another licence for the model": (facts(licence="MIT"), BundleCheck.LICENCES, "a licence is not what"),
    "another licence text, all hashes new": (
        forged(layout.LICENCE_TEXT, replaced("Apache License", "Apache Licence")), BundleCheck.LICENCES, "a licence is",
    ),
    "a configuration with another input, all hashes new": (
        forged("config.json", replaced('"uint8"', '"float32"')),
        BundleCheck.CONFIG, "the configuration is not what",
    ),
    "an example with other code, all hashes new": (
        forged("examples/run.py", replaced("import json", "import os")), BundleCheck.EXAMPLES, "the example is not",
    ),
    "a bill of materials that is none, all hashes new": (
        forged(layout.SBOM, replaced('"CycloneDX"', '"Cyclone"')), BundleCheck.MATERIALS, "not valid CycloneDX 1.6",
    ),
    "a bill of materials of another model, all hashes new": (
        forged(layout.SBOM, replaced('"version": "', '"version": "9')), BundleCheck.MATERIALS, "not of this bundle",
    ),
    "a verdict that passes, all hashes new": (
        forged(layout.VERDICT, replaced('"message": "', '"message": "better: ')), BundleCheck.VERDICT, "not what the",
    ),
    "a policy that is easier, all hashes new": (
        forged(layout.POLICY, replaced("50%", "10%")), BundleCheck.VERDICT, "not what the policy decides",
    ),
    "a verdict without its policy": (
        delete(layout.POLICY, listed=False), BundleCheck.VERDICT, "no policy that it was decided by",
    ),
    "other expected outputs, all hashes new": (other_outputs, BundleCheck.OUTPUTS, "not the outputs that the manifest"),
    "other images, all hashes new": (noise, BundleCheck.OUTPUTS, "outputs differ from the expected ones"),
    "images cut short, all hashes new": (
        forged(layout.IMAGES, lambda content: content[:-1]), BundleCheck.OUTPUTS, "are not 16 images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, copy: Path) -> None:
    damage, check, words = DAMAGE[name]
    damage(copy)
    found = findings(copy)
    assert check.value in found, found
    assert words in found[check.value]


def test_at_least_twenty_kinds_of_damage_are_tried() -> None:
    assert len(DAMAGE) >= 20
    untried = set(BundleCheck) - {check for _, check, _ in DAMAGE.values()}
    assert untried == {BundleCheck.SIGNATURE, BundleCheck.RUN}  # below


# ------------------------------------------------------------------------------------------------------- signatures


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Public keys: ours, with its private half beside it, and another's."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for name in ("ours", "theirs"):
        path = tmp_path / name
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
        subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", path.with_suffix(".pub")], check=True)
    return tmp_path / "ours.pub", tmp_path / "theirs.pub"


def test_a_signature_is_of_the_manifest_and_so_of_everything(copy: Path, keys: tuple[Path, Path]) -> None:
    ours, theirs = keys
    assert "not signed" in findings(copy, signed_by=ours)["signature"]
    manifest = copy / "manifest.json"
    (copy / "manifest.json.sig").write_bytes(sign(manifest.read_bytes(), ours.with_suffix("").read_bytes(), where="k"))
    assert findings(copy, signed_by=ours) == {}
    assert "is not one of manifest.json" in findings(copy, signed_by=theirs)["signature"]
    facts(licence="MIT")(copy)
    assert "is not one of manifest.json" in findings(copy, signed_by=ours)["signature"]
    check = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", ours, "-in", manifest]
    done = subprocess.run([*check, "-sigfile", copy / "manifest.json.sig"], capture_output=True, check=False)
    assert done.returncode == 1  # openssl says the same


def test_a_key_that_is_none_is_an_error_of_use_not_a_finding(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy.parent / "key").write_text("no key")
    assert cli.run(["verify", str(copy), "--require-signature", str(copy.parent / "key")]) == ExitCode.USAGE
    assert "not a public Ed25519 key" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- archives


@pytest.fixture
def zipped(made: Path, tmp_path: Path) -> Path:
    path = tmp_path / "bundle.zip"
    archive.write(path, archive.read(made).files)
    return path


def test_an_archive_holds_the_same_as_a_folder(made: Path, zipped: Path) -> None:
    assert archive.read(zipped) == archive.read(made)
    assert findings(zipped) == {}


def _add_out(archive: zipfile.ZipFile) -> None:
    archive.writestr("../out.txt", b"x")


def _add_link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    archive.writestr(entry, b"/etc/passwd")


def _add_twice(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of it
        archive.writestr("README.md", b"x")


@pytest.mark.parametrize(
    ("add", "words"),
    [(_add_out, "../out.txt is a path that leads elsewhere"), (_add_link, "link is not a regular file"),
     (_add_twice, "README.md is in the archive twice")],
)  # fmt: skip
def test_archives_that_hold_more_than_files(
    zipped: Path, tmp_path: Path, add: Callable[[zipfile.ZipFile], None], words: str
) -> None:
    assert words in findings(rezipped(zipped, tmp_path / "odd.zip", add))["files"]


@pytest.mark.parametrize("size", [0, 3, 1000, -10])
def test_an_archive_cut_short_is_one_line(zipped: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.zip").write_bytes(zipped.read_bytes()[:size])
    with pytest.raises(StoreError, match="not a ZIP archive"):
        verify(tmp_path / "cut.zip")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no bundle here"):
        verify(tmp_path / "absent")
    assert "manifest.json: is missing" in findings(tmp_path)["manifest"]
