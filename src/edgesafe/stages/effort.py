"""What a certificate costs: CPU time of one image under a set, image by image, in this thread.

Certifying itself runs images of many sets in common batches, on several threads, and finds finished chunks again; none
of that tells what an image costs. So some images are certified once more, one at a time, until each is decided, for the
baseline as for the others; nothing of it is kept but the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from edgesafe.certificates.enumeration import Images, SetPlan, enumerate_chunk
from edgesafe.certificates.line import PREFIX, certify_line
from edgesafe.certificates.operators import Network
from edgesafe.certificates.sets import FiniteSet
from edgesafe.measure.inference.session import OnnxClassifier
from edgesafe.measure.intervals.bounds import mean_interval
from edgesafe.measure.intervals.stated import measurement
from edgesafe.measure.tasks import rules_of
from edgesafe.progress import Progress
from edgesafe.recipe.sections import CertifySection
from edgesafe.records import Measurement, Population, PopulationKind

__all__ = ["cpu_times"]


def cpu_times(
    file: OnnxClassifier,
    network: Callable[[], Network],
    images: Images,
    sets: Sequence[FiniteSet],
    section: CertifySection,
    progress: Progress,
) -> dict[str, Measurement]:
    """`certify.cpu_ms.<set>` of the first `section.timed` images: mean CPU time of an image, ms.

    Args:
        file: the file, on one thread.
        network: its graph; called for the engine "line" alone.
        images: what is certified.
        sets: under which sets.
        section: engine, order, batch size, and how many images are timed; fewer than 2: none.
        progress: told of each set.
    """
    n = min(section.timed, len(images))
    if n < 2:
        return {}
    line, found = section.engine == "line", {}
    population = Population(
        kind=PopulationKind.HOST, description=f"one thread, {file.providers[0]}, batches of {section.batch_size}"
    )
    for finite in sets:
        metric = f"certify.cpu_ms.{PREFIX if line else ''}{finite.id}"
        with progress.stage(f"timing {finite.id}", n) as advance:
            decide = _following(network(), file, finite) if line else _running(file, finite, section, images)
            times = []
            for row in range(n):
                one = images.part(slice(row, row + 1))
                start = time.thread_time()
                decide(one)
                times.append(1000 * (time.thread_time() - start))
                advance(1)
        found[metric] = measurement(metric, mean_interval(np.array(times)), population)
    return found


def _running(
    file: OnnxClassifier, finite: FiniteSet, section: CertifySection, images: Images
) -> Callable[[Images], object]:
    """Runs the images of a set, up to the first that is answered wrongly, or all where certificates need all."""
    plan = SetPlan(finite, section.outwards, rules_of(images.task).every_answer, None, section.batch_size)
    return lambda one: enumerate_chunk(file, one, plan)


def _following(network: Network, file: OnnxClassifier, finite: FiniteSet) -> Callable[[Images], object]:
    """Follows the real-valued function."""
    return lambda one: certify_line(network, file, one, finite, lambda _: None)
