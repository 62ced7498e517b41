"""`edgesafe corrupt`: the corrupted test set of a data set as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgesafe import corruptions, data
from edgesafe.files import atomic_write
from edgesafe.progress import Progress
from edgesafe.recipe.sections import DataSection
from edgesafe.stages import observe

__all__ = ["CorruptRequest", "corrupt"]


@dataclass(frozen=True)
class CorruptRequest:
    """What `edgesafe corrupt` asks for; empty: all."""

    data: str
    root: str
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = ()
    seed: int = 0
    images: int | None = None
    frost_dir: str | None = None


def corrupt(request: CorruptRequest, out: Path, sheet: Path | None, progress: Progress) -> list[Path]:
    """Write the corrupted test set of a data set, and a contact sheet if one is asked for.

    Raises:
        EdgesafeError: the data cannot be used, or the directory not be written.
    """
    test = data.load(DataSection(name=request.data, root=request.root, test_images=request.images)).test
    names = request.corruptions or corruptions.NAMES
    severities = tuple(sorted(set(request.severities))) or (1, 2, 3, 4, 5)
    with progress.stage("corrupting", len(names) * len(severities) * len(test)) as advance:
        done: dict[str, int] = {}

        def told(name: str, count: int, _: int) -> None:
            advance(count - done.get(name, 0))
            done[name] = count

        written = corruptions.write_directory(
            test.images, test.labels, out, corruptions=names, severities=severities, seed=request.seed,
            frost_dir=request.frost_dir, progress=told,
        )  # fmt: skip
    if sheet is None:
        return [written]
    picture = corruptions.contact_sheet(
        test.images[0], seed=request.seed, corruptions=names, severities=severities, frost_dir=request.frost_dir
    )
    atomic_write(sheet, observe.png(picture))
    return [written, sheet]
