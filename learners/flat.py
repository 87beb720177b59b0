"""Parameters of E members laid out one member after the other."""

import math

import torch
from torch import Tensor, nn

ALIGNED = 16
"""Numbers between whose multiples arrays begin: what products compute depends on where their operands lie."""


class Flat:
    """One tensor of which the parameters of E members become views, and one for their gradients.

    Whoever has a member's row has all of it: an optimiser's step is one operation, a copy another.

    Args:
        parameters: of all members (E, ...) each.

    Attributes:
        values: all of them (E, P).
        grad: their gradients (E, P), those of the parameters from now on.
        places: where each parameter is in a row.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._shapes = [p.shape for p in parameters]
        sizes = [math.prod(shape[1:]) for shape in self._shapes]
        begins = [0]
        for size in sizes:
            begins.append(begins[-1] - (-size // ALIGNED) * ALIGNED)
        self.places = [slice(begin, begin + size) for begin, size in zip(begins, sizes)]
        self.values = parameters[0].new_zeros(len(parameters[0]), begins[-1])
        self.grad = torch.zeros_like(self.values)
        for p, own, by in zip(parameters, self.views(self.values), self.views(self.grad)):
            own.copy_(p.detach())
            p.data, p.grad = own, by

    def views(self, flat: Tensor) -> list[Tensor]:
        """What belongs to each parameter (E, ...) in a tensor that is laid out like `values`."""
        return [flat[:, place].view(shape) for place, shape in zip(self.places, self._shapes)]
