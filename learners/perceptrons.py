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
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from . import passes
from .kernels import EPS
from .threads import in_threads

Kept = TypeVar("Kept")

_ALIGNED = 16
"""Numbers between whose multiples arrays begin: what products compute depends on where their operands lie."""

_KEPT = 4
"""Numbers of rows for which arrays are kept on a CPU, the last ones asked for; a GPU's graphs hold theirs."""

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
            drawn.append(np.pad(values.reshape(members, size), ((0, 0), (0, -size % _ALIGNED))))
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
        self.parts: list[Part] = [(_NativePart if native else _TorchPart)(self, share) for share in self._shares()]
        self._outputs: dict[int, Tensor] = {}

    def _shares(self) -> list[int] | list[slice]:
        """Of the members, what is a part each."""
        return [*range(self.members)] if self.flat.device.type == "cpu" else [slice(None)]

    def layers(self) -> list[list[Tensor]]:
        """Views of each layer's weight (E, in, out) and bias (E, 1, out); where normalised, its scale and shift too."""
        return self._layers

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
        outputs = _kept(
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


class _Room:
    """What one pass of a part leaves: arrays for as many rows as `outputs` (..., n, outputs) has, kept."""

    def __init__(self, weights: list[Tensor], outputs: Tensor, settings: NetworkSettings) -> None:
        rows = outputs.shape[-2]

        def new(width: int) -> Tensor:
            return weights[0].new_empty(*weights[0].shape[:-2], rows, width)

        self.outputs = outputs
        hidden = [weight.shape[-1] for weight in weights[:-1]]
        self.h = [new(width) for width in hidden]
        self.g = [new(width) for width in hidden]
        self.masks = [new(width) for width in hidden] if settings.dropout else []
        self.normalised = [new(width) for width in hidden] if settings.layer_norm else []
        self.scales = [new(1) for _ in hidden] if settings.layer_norm else []


class Part(ABC):
    """One member, whose arrays then lack the members' axis, or all as one batch.

    Args:
        whole: of which it is a part.
        share: which member, or all.

    Attributes:
        flat, grad: its part of all weights and of their gradient.
    """

    def __init__(self, whole: Perceptrons, share: int | slice) -> None:
        self.share = share
        self.flat, self.grad = (every.view(whole.members, -1)[share] for every in (whole.flat, whole.grad))

    @abstractmethod
    def begin(self, x: Tensor, outputs: Tensor, generator: torch.Generator | None) -> None:
        """Takes inputs (n, inputs) and draws what is dropped out; results will go to `outputs` of all members."""

    @abstractmethod
    def forward(self) -> None:
        """Computes the outputs."""

    @abstractmethod
    def fit(self, chosen: Tensor, wanted: Tensor) -> None:
        """`forward`, and `back` of half the mean squared error of outputs `chosen` (n,) against those `wanted` (n,)."""

    @abstractmethod
    def back(self, g: Tensor, *, alone: bool = False) -> None:
        """Leaves in `grad` the gradient by weights of what has `g` (..., n, outputs) by the outputs.

        Args:
            g: the gradient by the outputs; may be used up.
            alone: whether no other part is computed at the same time, so that threads are free.
        """

    @abstractmethod
    def by_inputs(self, g: Tensor, rows: Tensor | None, found: Tensor) -> None:
        """Leaves in `found` (..., n, i) the gradient by the last i inputs; with `rows`, of one member in these."""


class _TorchPart(Part):
    """By torch's operations."""

    def __init__(self, whole: Perceptrons, share: int | slice) -> None:
        super().__init__(whole, share)
        self._settings = whole.settings
        self._layers, self._by_layers = (
            [[tensor[share] for tensor in layer] for layer in layers] for layers in (whole._layers, whole._by_layers)
        )
        self._weights = [layer[0] for layer in self._layers]
        single = isinstance(share, int)
        self._product = torch.mm if single else torch.bmm
        self._affine = torch.addmm if single else torch.baddbmm
        # On a CPU a product of matrices takes ten times as long for one column.
        self._narrow = single and self._weights[-1].shape[-1] == 1
        self._rooms: dict[int, _Room] = {}

    def begin(self, x: Tensor, outputs: Tensor, generator: torch.Generator | None) -> None:
        """See `Part.begin`."""
        s = self._settings
        self._dropping = bool(s.dropout) and generator is not None
        self._room = room = _kept(
            self._rooms, self.flat, outputs.shape[1], lambda: _Room(self._weights, outputs[self.share], s)
        )
        if self._dropping:
            for mask in room.masks:
                mask.bernoulli_(1.0 - s.dropout, generator=generator).div_(1.0 - s.dropout)
        self._x = x.expand(*room.outputs.shape[:-1], x.shape[-1])

    def forward(self) -> None:
        """See `Part.forward`."""
        room, h = self._room, self._x
        for k, z in enumerate(room.h):
            weight, bias, *norm = self._layers[k]
            self._affine(bias, h, weight, out=z)
            if self._dropping:
                z.mul_(room.masks[k])
            if norm:
                x, scale = room.normalised[k], room.scales[k]
                torch.sub(z, z.mean(dim=-1, keepdim=True), out=x)
                torch.mean(x.square(), dim=-1, keepdim=True, out=scale)
                x.mul_(scale.add_(float(EPS)).rsqrt_())
                torch.addcmul(norm[1], x, norm[0], out=z)
            h = z.relu_()
        weight, bias = self._layers[-1]
        if self._narrow:
            torch.addmv(bias[0], h, weight[:, 0], out=room.outputs[:, 0])
        else:
            self._affine(bias, h, weight, out=room.outputs)

    def fit(self, chosen: Tensor, wanted: Tensor) -> None:
        """See `Part.fit`."""
        self.forward()
        out, which = self._room.outputs, chosen[:, None].expand(*self._room.outputs.shape[:-1], 1)
        self.back(torch.zeros_like(out).scatter_(-1, which, (out.gather(-1, which) - wanted[:, None]) / len(wanted)))

    def back(self, g: Tensor, *, alone: bool = False) -> None:
        """See `Part.back`."""
        self._through(g, weights=True)

    def by_inputs(self, g: Tensor, rows: Tensor | None, found: Tensor) -> None:
        """See `Part.by_inputs`."""
        last = self._weights[0].mT[..., self._weights[0].shape[-2] - found.shape[-1] :]
        if rows is None:
            self._product(self._through(g, weights=False), last, out=found)
        else:
            found.index_copy_(
                0, rows, self._product(self._through(g.index_select(0, rows), weights=False, rows=rows), last)
            )

    def _through(self, g: Tensor, *, weights: bool, rows: Tensor | None = None) -> Tensor:
        """The gradient with respect to the first layer's z, on the way those with respect to `weights`.

        Args:
            g: gradient with respect to the outputs (..., n, outputs); if there are `rows`, to the outputs of these.
            weights: whether these are asked for.
            rows: of one member's last pass; without, all.
        """
        room, last = self._room, len(self._weights) - 1

        def of(kept: Tensor) -> Tensor:
            return kept if rows is None else kept.index_select(0, rows)

        for k in range(last, -1, -1):
            weight, by = self._weights[k], self._by_layers[k]
            narrow = self._narrow and k == last
            if k < last:
                torch.ops.aten.threshold_backward.grad_input(g, of(room.h[k]), 0, grad_input=g)
                if self._settings.layer_norm:
                    x = of(room.normalised[k])
                    if weights:
                        torch.sum(g, dim=-2, keepdim=True, out=by[3])
                        torch.sum(g * x, dim=-2, keepdim=True, out=by[2])
                    g.mul_(self._layers[k][2])
                    along = (g * x).mean(dim=-1, keepdim=True)
                    g.sub_(g.mean(dim=-1, keepdim=True)).addcmul_(x, along, value=-1.0).mul_(of(room.scales[k]))
                if self._dropping:
                    g.mul_(of(room.masks[k]))
            if weights:
                h = room.h[k - 1] if k else self._x
                if narrow:
                    torch.mv(h.t(), g[:, 0], out=by[0][:, 0])
                else:
                    self._product(h.mT, g, out=by[0])
                torch.sum(g, dim=-2, keepdim=True, out=by[1])
            if k:
                out = room.g[k - 1] if rows is None else room.g[k - 1][: len(rows)]
                g = (torch.mul if narrow else self._product)(g, weight.mT, out=out)
        return g


class _NativePart(Part):
    """One member on a CPU that drops nothing out, in native code."""

    def __init__(self, whole: Perceptrons, share: int | slice) -> None:
        super().__init__(whole, share)
        self._places = whole.places()
        self._passes: dict[int, passes.Pass] = {}
        self._own, self._by = self.flat.numpy(), self.grad.numpy()

    def begin(self, x: Tensor, outputs: Tensor, generator: torch.Generator | None) -> None:
        """See `Part.begin`."""
        rows = len(x)
        self._pass = _kept(self._passes, self.flat, rows, lambda: passes.begin(self._own, self._places, rows))
        self._inputs, self._out = x.contiguous().numpy(), outputs[self.share].numpy()

    def forward(self) -> None:
        """See `Part.forward`."""
        passes.forward(self._pass, self._inputs, self._out)

    def fit(self, chosen: Tensor, wanted: Tensor) -> None:
        """See `Part.fit`."""
        passes.fit(self._pass, self._inputs, self._out, chosen.numpy(), wanted.numpy(), self._by)

    def back(self, g: Tensor, *, alone: bool = False) -> None:
        """See `Part.back`."""
        given = self._pass, self._inputs, g.contiguous().numpy(), self._by
        if alone:
            passes.back(*given, passes.FIRST)
            in_threads(lambda far: passes.back(*given, far), [passes.ALONG, passes.ACROSS])
        else:
            passes.back(*given, passes.ALL)

    def by_inputs(self, g: Tensor, rows: Tensor | None, found: Tensor) -> None:
        """See `Part.by_inputs`."""
        which = np.arange(len(g)) if rows is None else rows.numpy()
        passes.by_inputs(self._pass, g.contiguous().numpy(), which, found.numpy())


def _kept(by_rows: dict[int, Kept], weights: Tensor, rows: int, make: Callable[[], Kept]) -> Kept:
    """What is kept for so many rows, made if there is none; on a CPU for the last numbers of rows alone."""
    found = by_rows.pop(rows, None)
    if found is None:
        found = make()
    by_rows[rows] = found
    if len(by_rows) > _KEPT and weights.device.type == "cpu":
        del by_rows[next(iter(by_rows))]
    return found
