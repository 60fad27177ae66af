"""Parameters as one flat vector, with the names and shapes of its tensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor, nn


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters by name, without frozen ones (`requires_grad=False`); tied ones once, by their first name.

    The order is that of `nn.Module.named_parameters`.
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors that follow each other in a flat vector [d].

    The order is that of `nn.Module.named_parameters` (or `named_buffers`), each tensor in
    row-major order. "The lowest index", which decides ties of a top-k, means an index into this vector.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> "Layout":
        named = list(tensors)
        return cls(tuple(name for name, _ in named), tuple(tensor.shape for _, tensor in named))

    @classmethod
    def of_parameters(cls, model: nn.Module) -> "Layout":
        """Of what is trained: see `trained_parameters`."""
        return cls.of(trained_parameters(model).items())

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts in the flat vector."""
        offsets = [0]
        for size in self.sizes:
            offsets.append(offsets[-1] + size)
        return tuple(offsets[:-1])

    @cached_property
    def size(self) -> int:
        """d, the length of the flat vector."""
        return sum(self.sizes)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat tensor [..., d], by name, each shaped [..., *shape]."""
        lead = flat.shape[:-1]
        parts = flat.split(self.sizes, dim=-1)
        return {n: part.view((*lead, *shape)) for n, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def flatten(self, tensors: Iterable[Tensor], out: Tensor) -> None:
        """Write tensors of these shapes one after another into `out` [d]."""
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=out)
