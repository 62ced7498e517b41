"""How bent networks are along lighting, by variant: breakpoints of the exact line, and CPU time, with intervals.

    python benchmarks/robust_line.py STUDY --set brightness=2 --images 20 --out FILE.jsonl

The paper's verification time (Hu et al., arXiv 2510.00083) is that of a bound on the real-valued network; here the network is
followed exactly (`certificates.line`). Certifying follows an image only while it is answered rightly, so that a network that
is wrong everywhere would look cheap. Here each image is followed with the file's own answer to the untouched image in the
place of its label: to the end of the range, unless the answer changes (of keypoints: one moves by the tolerance). Lines are
appended image by image; those that are there are not made again. One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesafe import data
from edgesafe.certificates import ids
from edgesafe.certificates.line import Segment, least_margin, segment_of
from edgesafe.certificates.operators import Network
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.intervals.bounds import mean_interval
from edgesafe.measure.tasks import Rules, rules_of
from edgesafe.recipe import parsing
from edgesafe.records import ImageSet, Task
from edgesafe.study.study import MODEL, Variant, read


@dataclass(frozen=True)
class Row:
    """One image through one file."""

    variant: str
    set: str
    image: int
    points: int
    cpu_s: float
    steady: bool  #: the answer is the same along the whole range


def own_answers(task: Task, outputs: NDArray[np.float32]) -> NDArray[Any]:
    """What the file says, as labels of the task are written."""
    if task.tolerance_px is None:
        return outputs.argmax(axis=1)
    height, width = task.shape or (0, 0)
    return (outputs.reshape(len(outputs), -1, 2) * np.array([width, height], np.float32)).astype(np.float32)


def followed(
    variant: Variant, segment: Segment, name: str, test: ImageSet, todo: list[int], rules: Rules
) -> Iterator[Row]:
    """The images of one file that are not done yet."""
    content = variant.file_bytes(MODEL)
    file, network = OnnxClassifier(content, threads=1), Network(content)
    for number in todo:
        image = test.images[number]
        label = own_answers(test.task, file.logits(image[None], 1))
        start = time.thread_time()
        found = least_margin(network, segment, image, label, rules)
        yield Row(variant.id, name, number, found.points, time.thread_time() - start, found.margin > 0)


def table(rows: list[Row]) -> str:
    """Means with 95 % intervals over images."""
    lines = [
        "| variant | set | images | breakpoints | CPU s an image | same answer on the whole line |",
        "|---" * 6 + "|",
    ]
    for variant, name in dict.fromkeys((row.variant, row.set) for row in rows):
        mine = [row for row in rows if (row.variant, row.set) == (variant, name)]
        cells = []
        for values, digits in (([row.points for row in mine], 0), ([row.cpu_s for row in mine], 2)):
            found = mean_interval(np.array(values, np.float64))
            cells.append(f"{found.estimate:,.{digits}f} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]")
        steady = sum(row.steady for row in mine)
        lines.append(f"| {variant} | {name} | {len(mine)} | {cells[0]} | {cells[1]} | {steady} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], help="brightness, contrast or exposure")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.images < 2:
        parser.error("--images: at least 2, since intervals are over images")
    study = read(asked.study)
    recipe = parsing.parse(study.record.recipe, where="study.json, recipe")
    test = data.load(recipe.data).test
    rows = [Row(**json.loads(line)) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    for name in asked.set or ["brightness=2"]:
        for variant in study.finished():
            done = {row.image for row in rows if (row.variant, row.set) == (variant.id, name)}
            todo = [number for number in range(asked.images) if number not in done]
            for row in followed(variant, segment_of(ids.parse(name)), name, test, todo, rules_of(test.task)):
                rows.append(row)
                with asked.out.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
