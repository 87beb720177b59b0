"""Perceptrons whose weights lie in one flat vector, with their gradients written out.

E members of one shape, as in `networks.py`, but made for many small updates: an optimiser's step, and the average that
target networks keep, are one operation on a flat vector, results go to buffers that are kept, and a gradient is
computed only where somebody asks for it. On a CPU each member is a part of its own, large ones go to threads of our
own, and a part's passes are native code (`passes.py`) unless units are dropped out; on a GPU all members are one part,
computed as a batch. Of a layer h -> f(z), z = b + h W, with g the gradient with respect to z,

    dW = h' g,    db = 1' g,    dh = g W'

A hidden layer may drop units out and normalise what is left before its activation (layer normalisation, Ba, Kiros and
Hinton, 2016): with x the normalised, s the scale of a row and w the weights of the normalisation,

    dz = (w g - mean(w g) - x mean(w g x)) / s
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .flat import ALIGNED
from .perceptron_parts import NativePart, Part, TorchPart, kept
from .threads import in_threads

Kept = TypeVar("Kept")

_WORTH = 10**7
"""Multiplications of a member's forward pass from which on threads gain more than they cost."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Shape of a network.

    Attributes:
        hidden: units of the hidden layers, whose activation is the rectifier.
        layer_norm: whether these are normalised before it.
        dropout: share of their units that is dropped out while training.

    Raises:
        ValueError: a setting out of its range, named.
    """

    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden is {list(self.hidden)}; it must be at least one layer of at least 1 unit")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")


class Perceptrons:
    """E perceptrons with linear outputs, in float32.

    Weights and biases begin uniformly within 1 / sqrt(inputs of the layer), those of normalisation as one and zero.

    Args:
        members: E.
        inputs, outputs: numbers of these.
        settings: of the hidden layers.
        rng: draws the weights.
        device: where they are.
        spare: how many numbers each member is to have that no layer uses, for what else is to be learned with it.

    Attributes:
        flat: all weights, one member's after the other's (E P,).
        grad: where `backward` leaves the gradient (E P,).
        spare, by_spare: views of the numbers that no layer uses (E, spare), and of where their gradient belongs.
        parts: what is computed at once: on a CPU one member each, on a GPU all of them.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        settings: NetworkSettings,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
        spare: int = 0,
    ) -> None:
        self.members, self.inputs, self.outputs, self.settings = members, inputs, outputs, settings
        sizes = (inputs, *settings.hidden, outputs)
        self._depth = len(sizes) - 1
        self._shapes: list[tuple[int, ...]] = []
        self._places: list[slice] = []
        drawn: list[np.ndarray] = []
        end = 0

        def add(shape: tuple[int, ...], values: np.ndarray) -> None:
            nonlocal end
            size = math.prod(shape[1:])
            self._shapes.append(shape[1:])
            self._places.append(slice(end, end + size))
            drawn.append(np.pad(values.reshape(members, size), ((0, 0), (0, -size % ALIGNED))))
            end += drawn[-1].shape[1]

        for k, (a, b) in enumerate(itertools.pairwise(sizes)):
            for shape in ((members, a, b), (members, 1, b)):
                add(shape, rng.uniform(-1.0, 1.0, shape) / math.sqrt(a))
            if settings.layer_norm and k < self._depth - 1:
                add((members, 1, b), np.ones((members, b)))
                add((members, 1, b), np.zeros((members, b)))
        add((members, spare), np.zeros((members, spare)))
        self.flat = torch.as_tensor(np.concatenate(drawn, axis=1).ravel(), dtype=torch.float32).to(device)
        self.grad = torch.zeros_like(self.flat)
        self._divide()

    def like(self) -> "Perceptrons":
        """Others with the same weights."""
        other = copy.copy(self)
        other.flat, other.grad = self.flat.clone(), torch.zeros_like(self.grad)
        other._divide()
        return other

    def beside(self) -> "Perceptrons":
        """The same weights and gradient, with another forward pass that is kept."""
        other = copy.copy(self)
        other._divide()
        return other

    def _divide(self) -> None:
        """Lays out the parts."""
        (self._layers, self.spare), (self._by_layers, self.by_spare) = self._view(self.flat), self._view(self.grad)
        native = self.flat.device.type == "cpu" and not self.settings.dropout
        self.parts: list[Part] = [(NativePart if native else TorchPart)(self, share) for share in self._shares()]
        self._outputs: dict[int, Tensor] = {}

    def _shares(self) -> list[int] | list[slice]:
        """Of the members, what is a part each."""
        return [*range(self.members)] if self.flat.device.type == "cpu" else [slice(None)]

    def layers(self) -> list[list[Tensor]]:
        """Views of each layer's weight (E, in, out) and bias (E, 1, out); where normalised, its scale and shift too."""
        return self._layers

    def by_layers(self) -> list[list[Tensor]]:
        """Views of where the gradients by these belong."""
        return self._by_layers

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Outputs (E, n, outputs) of inputs (n, inputs), the same for all members; kept until the next call.

        Args:
            x: inputs.
            generator: draws what is dropped out; None drops nothing.
        """
        outputs = self.begin(x, generator)
        self._each(lambda part: part.forward(), len(x))
        return outputs

    def fit(
        self,
        x: Tensor,
        chosen: Tensor,
        wanted: Tensor,
        generator: torch.Generator | None = None,
        then: Callable[[int], object] = lambda k: None,
    ) -> Tensor:
        """`forward`, and `backward` of half the mean squared error of one output in each row, the sum over members.

        Args:
            x: inputs (n, inputs).
            chosen: the number of that output (n,).
            wanted: what it is to be (n,).
            generator: draws what is dropped out; None drops nothing.
            then: what is done in a part's thread when its gradient is there, told the number of the part.
        """
        outputs = self.begin(x, generator)

        def work(k: int) -> None:
            self.parts[k].fit(chosen, wanted)
            then(k)

        in_threads(work, range(len(self.parts)), self.worth_threads(len(x)))
        return outputs

    def begin(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Takes inputs for `forward` of the parts, one by one; where its outputs (E, n, outputs) will be."""
        outputs = kept(
            self._outputs, self.flat, len(x), lambda: self.flat.new_empty(self.members, len(x), self.outputs)
        )
        for part in self.parts:
            part.begin(x, outputs, generator)
        return outputs

    def backward(self, g: Tensor) -> None:
        """Leaves in `grad` the gradient of what has the gradient `g` (E, n, outputs) with respect to the outputs.

        Those are of the last `forward`. `g` may be used up.
        """
        alone = len(self.parts) == 1 and self.worth_threads(g.shape[1])
        self._each(lambda part: part.back(g[part.share], alone=alone), g.shape[1])

    def by_inputs(self, g: Tensor, first: int = 0) -> Tensor:
        """The gradient (E, n, inputs - first) with respect to inputs from number `first` on; see `backward`."""
        found = g.new_empty(self.members, g.shape[1], self.inputs - first)
        self._each(lambda part: part.by_inputs(g[part.share], None, found[part.share]), g.shape[1])
        return found

    def by_inputs_of(self, chosen: Tensor, g: Tensor, first: int = 0) -> Tensor:
        """The same (n, inputs - first) for one member in each row, `chosen` (n,), with `g` (n, outputs) of its outputs.

        On a CPU each row costs what one member does, on a GPU what all of them do.
        """
        if isinstance(self.parts[0].share, slice):
            only = torch.zeros(self.members, *g.shape, device=g.device)
            only.scatter_(0, chosen[None, :, None].expand(1, *g.shape), g[None])
            return self.by_inputs(only, first).sum(dim=0)
        found = g.new_empty(len(g), self.inputs - first)

        def work(k: int) -> None:
            self.parts[k].by_inputs(g, torch.eq(chosen, k).nonzero()[:, 0], found)

        in_threads(work, range(self.members), self.worth_threads(len(g)))
        return found

    def worth_threads(self, rows: int) -> bool:
        """Whether passes of so many rows gain more by going on beside each other than threads cost."""
        return self.flat.device.type == "cpu" and rows * len(self.flat) > _WORTH * self.members

    def _each(self, work: Callable[["Part"], object], rows: int) -> None:
        """Does the work of each part, in threads if it is worth it, which compute the same."""
        in_threads(work, self.parts, self.worth_threads(rows))

    def _view(self, flat: Tensor) -> tuple[list[list[Tensor]], Tensor]:
        """Each layer's arrays in a flat vector, and the spare numbers."""
        rows = flat.view(self.members, -1)
        *arrays, spare = (rows[:, place].unflatten(1, shape) for place, shape in zip(self._places, self._shapes))
        return self._by_layer(arrays), spare

    def _by_layer(self, arrays: list[Kept]) -> list[list[Kept]]:
        """What there is of each array, by layers."""
        each = 4 if self.settings.layer_norm else 2
        return [arrays[k : k + each] for k in range(0, len(arrays), each)]

    def places(self) -> np.ndarray:
        """Where the layers' arrays are in a member's weights, as `passes.Pass` has it."""
        begins = self._by_layer([place.start for place in self._places[:-1]])
        sizes = [tuple(weight.shape[1:]) for weight, *_ in self._layers]
        return np.array([(*size, *own, *[-1] * (4 - len(own))) for size, own in zip(sizes, begins)])
