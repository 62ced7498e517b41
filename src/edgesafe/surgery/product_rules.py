"""What products of two activations do to channel labels: batched matrices and attention.

A product is described as in Einstein notation: `bnk,bkm->bnm`. What stands in the batch (heads) goes together in both
factors. A summed dimension that only one head has is tied within the head; without heads it is a sum over all channels,
which the proof computes over the kept ones (`WholeCall`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from edgesafe.surgery.labels import Cause, varying_dims
from edgesafe.surgery.propagation import Tracer, fixed

__all__ = ["PRODUCTS"]

Args = Sequence[Any]
Rule = Callable[[Tracer, str, Any, Args, dict[str, Any], Any], None]


@dataclass(frozen=True, eq=False)
class _Factor:
    """One factor: its labels, the letter of each dimension, and which argument of the call it is, if it is one."""

    labels: Tensor
    letters: str
    argument: int | None

    @property
    def varying(self) -> set[str]:
        """Letters of the dimensions along which the labels vary."""
        return {self.letters[dim] for dim in varying_dims(self.labels)}

    def along(self, letter: str) -> Tensor:
        """Labels along a dimension at index 0 of the others, int64 (size,)."""
        return self.labels.movedim(self.letters.index(letter), 0).flatten(1)[:, 0]

    def tied(self, tracer: Tracer, letter: str) -> _Factor:
        """The factor with all that differs in this dimension only tied."""
        dim = self.letters.index(letter)
        return replace(self, labels=tracer.atoms.tie_along(self.labels, [dim], tracer.place, "attention heads"))

    def summed(self) -> _Factor:
        """The factor after its only dimension of channels was summed over."""
        return replace(self, labels=fixed(self.labels))

    def canonical(self, tracer: Tracer) -> _Factor:
        """The factor with one label for each class."""
        return replace(self, labels=tracer.atoms.canonical(self.labels))

    def spread(self, out: str) -> Tensor:
        """Labels with the dimensions of the product: of size 1 where this factor has none."""
        labels, own = self.labels, self.letters
        for letter in self.letters:
            if letter not in out:
                labels = labels.select(own.index(letter), 0)
                own = own.replace(letter, "")
        labels = labels.permute([own.index(letter) for letter in out if letter in own])
        for dim, letter in enumerate(out):
            if letter not in own:
                labels = labels.unsqueeze(dim)
        return labels


def _product(tracer: Tracer, name: str, left: _Factor, right: _Factor, out: str) -> _Factor:
    """Labels of the product of two factors, of the letters `out`."""
    for letter in sorted((set(left.letters) & set(right.letters)) - set(out)):
        left, right = _summed(tracer, name, left, right, letter)
    for letter in (letter for letter in out if letter in left.letters and letter in right.letters):
        left, right = _shared(tracer, left.canonical(tracer), right.canonical(tracer), letter)
    left, right = left.canonical(tracer), right.canonical(tracer)
    own, other = left.varying & set(out), right.varying & set(out)
    if own - set(right.letters) and other - set(left.letters):
        for factor in (left, right):
            tracer.freeze(factor.labels, Cause.REDUCED, "a product of channels with channels")
        own, other = set(), set()
        left = replace(left, labels=fixed(left.labels))
    source = right if other and not own - set(right.letters) else left
    sizes = {
        **dict(zip(right.letters, right.labels.shape, strict=True)),
        **dict(zip(left.letters, left.labels.shape, strict=True)),
    }
    return _Factor(source.spread(out).expand([sizes[letter] for letter in out]), out, None)


def _summed(tracer: Tracer, name: str, left: _Factor, right: _Factor, letter: str) -> tuple[_Factor, _Factor]:
    """A dimension that is summed over."""
    if letter in left.varying and len(left.varying) > 1:
        left = left.tied(tracer, letter)
    if letter in right.varying and len(right.varying) > 1:
        right = right.tied(tracer, letter)
    hits = [factor for factor in (left, right) if letter in factor.varying]
    if len(hits) == 2:
        tracer.atoms.union(left.along(letter), right.along(letter), tracer.place)
        taken = [
            (factor.argument, factor.letters.index(letter), factor.along(letter))
            for factor in hits
            if factor.argument is not None
        ]
        if len(taken) == 2:
            tracer.use_whole(name, taken)
            return left.summed(), right.summed()
    for factor in hits:
        tracer.freeze(factor.labels, Cause.REDUCED, "a product of two activations sums over its channels")
    return (left.summed() if left in hits else left), (right.summed() if right in hits else right)


def _shared(tracer: Tracer, left: _Factor, right: _Factor, letter: str) -> tuple[_Factor, _Factor]:
    """A dimension that both factors and the product have: heads."""
    own, other = letter in left.varying, letter in right.varying
    if own and other:
        for factor in (left, right):
            for inner in sorted(factor.varying - {letter}):
                factor.tied(tracer, inner)
        tracer.atoms.union(left.along(letter), right.along(letter), tracer.place)
    elif own or other:
        factor = left if own else right
        if len(factor.varying) > 1:
            factor = factor.tied(tracer, letter)
        else:
            tracer.freeze(factor.labels, Cause.REDUCED, "a product with heads that stay")
        left, right = (factor, right) if own else (left, factor)
    return left, right


def _bmm(tracer: Tracer, name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    at = 1 if name == "baddbmm" else 0
    left = _Factor(tracer.canonical(args[at]), "bnk", at)
    right = _Factor(tracer.canonical(args[at + 1]), "bkm", at + 1)
    labels = _product(tracer, name, left, right, "bnm").labels
    if at:
        tracer.atoms.union(labels, tracer.labels_of(args[0]).expand(args[0].shape), tracer.place)
    tracer.put(result, labels)


def _attention(tracer: Tracer, name: str, _func: Any, args: Args, _kwargs: dict[str, Any], result: Any) -> None:
    query = _Factor(tracer.canonical(args[0]), "bhne", 0)
    key = _Factor(tracer.canonical(args[1]), "bhme", 1)
    value = _Factor(tracer.canonical(args[2]), "bhmv", 2)
    weights = _product(tracer, name, query, key, "bhnm")
    labels = _product(tracer, name, weights, value, "bhnv").labels
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    tracer.put(outputs[0], labels)


PRODUCTS: Mapping[str, Rule] = {
    "bmm": _bmm,
    "baddbmm": _bmm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_attention_math": _attention,
}
