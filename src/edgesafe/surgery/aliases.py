"""Views and writes into them: what is written into a part of a tensor is in the tensor, and in its other views.

`y[:, :16] = left(x)` writes into a view of `y`; circular padding copies edges into views of its result. The trace
keeps, for each view, the tensor that it is a view of and how to take it again. After a write, the labels of the whole
are built anew and every view's labels are taken from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgesafe.surgery.labels import Cause, varying_dims
from edgesafe.surgery.propagation import Tracer, fixed

__all__ = ["Views"]

_ALONG_ONE_DIM = {"slice", "narrow", "alias", "detach"}  #: views whose dimensions are those of what they are taken from


@dataclass(frozen=True)
class _View:
    """A tensor that shares memory with another one."""

    tensor: Tensor
    base: Tensor
    take: Callable[[Tensor], Any]  #: the same view of a tensor of the base's shape
    same_dims: bool


class Views:
    """The views that a trace has seen; `tensor`s are kept alive, so that no id is used twice."""

    def __init__(self) -> None:
        self._views: dict[int, _View] = {}

    def follow(self, tracer: Tracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """After an operation and its rule: remember views, spread what was written.

        Args:
            tracer: labels of the written part are in it already; changed in place.
            func: the aten overload.
            args: its positional arguments.
            kwargs: its keyword arguments.
            result: what it returned.
        """
        schema = func._schema
        if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
            self._remember(func, args, kwargs, result)
        for argument, value in zip(schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                self._written(tracer, value)

    def _remember(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        base = args[0] if args and isinstance(args[0], Tensor) else None
        if base is None:
            return
        rest, same = tuple(args[1:]), func.overloadpacket.__name__ in _ALONG_ONE_DIM
        parts = list(result) if isinstance(result, (tuple, list)) else [result]
        for index, part in enumerate(parts):
            single = not isinstance(result, (tuple, list))

            def take(tensor: Tensor, index: int = index, single: bool = single) -> Any:
                taken = func(tensor, *rest, **kwargs)
                return taken if single else taken[index]

            if isinstance(part, Tensor) and part is not base:
                self._views[id(part)] = _View(part, base, take, same)

    def _chain(self, tensor: Tensor) -> tuple[Tensor, list[_View]]:
        """The tensor that owns the memory, and the views that lead from it to `tensor`."""
        chain: list[_View] = []
        while id(tensor) in self._views:
            view = self._views[id(tensor)]
            chain.insert(0, view)
            tensor = view.base
        return tensor, chain

    def _written(self, tracer: Tracer, target: Tensor) -> None:
        labels = tracer.get(target)
        whole, chain = self._chain(target)
        related = [view for view in self._views.values() if self._chain(view.tensor)[0] is whole]
        if labels is None or not related:
            return
        spans = not chain or _spans(labels, whole, chain)
        if spans and chain and tracer.get(whole) is None:
            full = _channels_of(labels, whole)  # memory that was just made: its edges belong to the channel they are in
        else:
            full = tracer.labels_of(whole).expand(whole.shape).contiguous().clone()
        try:
            part = full
            for view in chain:
                part = view.take(part)
            if not spans:
                tracer.freeze(labels, Cause.INDEX, "it is written into another tensor by position")
            part.copy_(labels.expand(part.shape))
            tracer.put(whole, full)
            for view in related:
                taken = full
                for step in self._chain(view.tensor)[1]:
                    taken = step.take(taken)
                tracer.put(view.tensor, taken)
        except RuntimeError:  # a view that labels in plain order cannot take (other strides): nothing of it may go
            tracer.freeze(labels, Cause.UNKNOWN, "it is written into a view of another tensor")
            for tensor in (whole, *(view.tensor for view in related)):
                tracer.freeze(tracer.labels_of(tensor), Cause.UNKNOWN, "it is written into a view of another tensor")
                tracer.put(tensor, fixed(tensor))


def _spans(labels: Tensor, whole: Tensor, chain: Sequence[_View]) -> bool:
    """Whether the written part spans the whole of each dimension along which its labels vary."""
    if not all(view.same_dims for view in chain):
        return False
    return all(labels.shape[dim] == whole.shape[dim] for dim in varying_dims(labels))


def _channels_of(labels: Tensor, whole: Tensor) -> Tensor:
    """Labels of the whole: those of the part, which vary along dimensions that it spans, and are the same elsewhere."""
    varying = varying_dims(labels)
    for dim in range(labels.dim()):
        if dim not in varying:
            labels = labels.narrow(dim, 0, 1)
    return labels.expand(whole.shape).contiguous().clone()
