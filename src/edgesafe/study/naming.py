"""How variants are called: baseline-s0, filter-r0.50-s0, filter-r0.50-int8-s0, filter-r0.50-w0.40-s0, and so on.

An id is the name of a group (what was done) and a seed. Ids are made here and nowhere else; nothing reads them, since
what they say stands in the records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from edgesafe.records import Precision
from edgesafe.records.names import MAX_LENGTH

__all__ = ["VariantName", "at_budget", "at_ratio", "baseline", "candidate", "cleaned", "final"]


@dataclass(frozen=True)
class VariantName:
    """What a variant is called.

    Attributes:
        label: of the series that it belongs to, for people: "filter", or the label that the recipe gives.
        group: of the variants that differ from it by seed only: "filter-r0.50".
        seed: of its training.
    """

    label: str
    group: str
    seed: int

    @property
    def id(self) -> str:
        """The variant's id, and the name of its directory."""
        return f"{self.group}-s{self.seed}"

    def at(self, precision: Precision) -> VariantName:
        """The name of the same network's variant in another precision: label "filter int8", "filter-r0.50-int8"."""
        if precision is Precision.FP32:
            return self
        return replace(self, label=f"{self.label} {precision.value}", group=f"{self.group}-{precision.value}")

    def sparse(self, share: float | None) -> VariantName:
        """The name of the same network with a share of its weights set to zero, too: "filter-r0.50-w0.40"."""
        if share is None:
            return self
        return replace(self, label=f"{self.label} w{share:.2f}", group=f"{self.group}-w{share:.2f}")


def baseline(seed: int) -> VariantName:
    """The name of the uncompressed network of a seed."""
    return VariantName("baseline", "baseline", seed)


def candidate() -> VariantName:
    """The name of a file that edgesafe did not make and audits."""
    return VariantName("candidate", "candidate", 0)


def at_ratio(label: str, ratio: float, seed: int) -> VariantName:
    """The name of a variant with a share `ratio` in (0, 1) removed, rounded to two digits."""
    return VariantName(label, f"{label}-r{ratio:.2f}", seed)


def at_budget(label: str, resource: str, value: float, seed: int) -> VariantName:
    """A variant that keeps a share `value` of a resource ("macs", "params", "latency")."""
    return VariantName(label, f"{label}-{resource}{value:g}", seed)


def final(name: VariantName) -> VariantName:
    """The name of a file of a search where it is judged once more, on images that no trial saw."""
    return VariantName("final", f"final-{name.group}", name.seed)


def cleaned(text: str) -> str:
    """A name for a study or its directory from any text, such as a file's stem; what no name may hold becomes "-".

    >>> cleaned("../my model (final)")
    'my-model-final'
    """
    kept = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", text))
    return kept.lstrip("._-")[: MAX_LENGTH - 20].rstrip("._-") or "study"
