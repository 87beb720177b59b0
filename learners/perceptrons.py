"""Perceptrons whose weights lie in one flat vector, with their gradients written out.

E members of one shape, as in `networks.py`, but made for many small updates: an optimiser's step, and the average that
target networks keep, are one operation on the flat vector, results go to buffers that are kept, and a gradient is
computed only where somebody asks for it. On a CPU members are computed one by one, large ones by threads of our own,
and what is between the products is native code (`kernels.py`) unless units are dropped out; on a GPU members are one
batch. Of a layer h -> f(z), z = b + h W, with g the gradient with respect to z,

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

from . import kernels
from .threads import in_threads

Kept = TypeVar("Kept")

_ALIGNED = 16
"""Numbers between whose multiples arrays begin: what products compute depends on where their operands lie."""

_EPS = 1e-5

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
        spare: how many numbers there are to be at the end of `flat`.

    Attributes:
        flat: all weights (P,).
        grad: where `backward` leaves the gradient (P,).
        spare: numbers at the end of `flat` that no layer uses, for what else is to be learned with them.
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
        self._shapes: list[tuple[int, int, int]] = []
        self._places: list[slice] = []
        drawn: list[np.ndarray] = []
        end = 0

        def add(shape: tuple[int, int, int], values: np.ndarray) -> None:
            nonlocal end
            size = math.prod(shape)
            self._shapes.append(shape)
            self._places.append(slice(end, end + size))
            drawn.append(np.pad(values.ravel(), (0, -size % _ALIGNED)))
            end += len(drawn[-1])

        for k, (a, b) in enumerate(itertools.pairwise(sizes)):
            for shape in ((members, a, b), (members, 1, b)):
                add(shape, rng.uniform(-1.0, 1.0, shape) / math.sqrt(a))
            if settings.layer_norm and k < self._depth - 1:
                add((members, 1, b), np.ones((members, b)))
                add((members, 1, b), np.zeros((members, b)))
        values = np.concatenate([*drawn, np.zeros(spare)]).astype(np.float32)
        self.flat = torch.as_tensor(values).to(device)
        self.grad = torch.zeros_like(self.flat)
        self.spare = self.flat[end:]
        self._divide()

    def like(self) -> "Perceptrons":
        """Others with the same weights."""
        other = copy.copy(self)
        other.flat, other.grad = self.flat.clone(), torch.zeros_like(self.grad)
        other.spare = other.flat[len(other.flat) - len(self.spare) :]
        other._divide()
        return other

    def beside(self) -> "Perceptrons":
        """The same weights and gradient, with another forward pass that is kept."""
        other = copy.copy(self)
        other._divide()
        return other

    def _divide(self) -> None:
        """Lays out the parts: on a CPU each member is one, elsewhere they are computed as one batch."""
        self._layers, self._by_layers = self._view(self.flat), self._view(self.grad)
        each = self.flat.device.type == "cpu"
        shares = [*range(self.members)] if each else [slice(None)]
        kind = _NativePart if each and not self.settings.dropout else _Part
        self._parts = [kind(self.settings, self._layers, self._by_layers, share) for share in shares]
        self._outputs: dict[int, Tensor] = {}

    def layers(self) -> list[list[Tensor]]:
        """Views of each layer's weight (E, in, out) and bias (E, 1, out); where normalised, its scale and shift too."""
        return self._layers

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Outputs (E, n, outputs) of inputs (n, inputs), the same for all members; kept until the next call.

        Args:
            x: inputs.
            generator: draws what is dropped out; None drops nothing.
        """
        outputs = self._begin(x, generator)
        self._each(lambda part: part.forward(), len(x))
        return outputs

    def fit(self, x: Tensor, slope: Callable[[Tensor], Tensor], generator: torch.Generator | None = None) -> Tensor:
        """`forward` and `backward` in one.

        Args:
            x: inputs (n, inputs).
            slope: from outputs, (E, n, outputs) or one member's (n, outputs), to the gradient with respect to them; it
                may be called in several threads.
            generator: draws what is dropped out; None drops nothing.
        """
        outputs = self._begin(x, generator)

        def work(part: "_Part") -> None:
            part.forward()
            part.back(slope(outputs[part.share]), weights=True)

        self._each(work, len(x))
        return outputs

    def _begin(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Takes inputs and draws what is dropped out; where outputs (E, n, outputs) will be."""
        outputs = _kept(
            self._outputs, self.flat, len(x), lambda: self.flat.new_empty(self.members, len(x), self.outputs)
        )
        for part in self._parts:
            part.begin(x, outputs, generator)
        return outputs

    def backward(self, g: Tensor) -> None:
        """Leaves in `grad` the gradient of what has the gradient `g` (E, n, outputs) with respect to the outputs.

        Those are of the last `forward`. `g` is used up.
        """
        self._each(lambda part: part.back(g[part.share], weights=True), g.shape[1])

    def by_inputs(self, g: Tensor, first: int = 0) -> Tensor:
        """The gradient (E, n, inputs - first) with respect to inputs from number `first` on; see `backward`."""
        found = g.new_empty(self.members, g.shape[1], self.inputs - first)

        def work(part: "_Part") -> None:
            by_z = part.back(g[part.share], weights=False)
            part.product(by_z, part.weights[0].mT[..., first:], out=found[part.share])

        self._each(work, g.shape[1])
        return found

    def by_inputs_of(self, chosen: Tensor, g: Tensor, first: int = 0) -> Tensor:
        """The same (n, inputs - first) for one member in each row, `chosen` (n,), with `g` (n, outputs) of its outputs.

        On a CPU each row costs what one member does, on a GPU what all of them do.
        """
        if self.flat.device.type != "cpu":
            only = torch.zeros(self.members, *g.shape, device=g.device)
            only.scatter_(0, chosen[None, :, None].expand(1, *g.shape), g[None])
            return self.by_inputs(only, first).sum(dim=0)
        found = g.new_empty(len(g), self.inputs - first)

        def work(part: "_Part") -> None:
            rows = torch.eq(chosen, self._parts.index(part)).nonzero()[:, 0]
            by_z = part.back(g.index_select(0, rows), weights=False, rows=rows)
            found.index_copy_(0, rows, part.product(by_z, part.weights[0].mT[:, first:]))

        self._each(work, len(g))
        return found

    def worth_threads(self, rows: int) -> bool:
        """Whether passes of so many rows gain more by going on beside each other than threads cost."""
        return self.flat.device.type == "cpu" and rows * len(self.flat) > _WORTH * self.members

    def _each(self, work: Callable[["_Part"], object], rows: int) -> None:
        """Does the work of each part, in threads if it is worth it; they compute the same."""
        if len(self._parts) > 1 and self.worth_threads(rows):
            in_threads(work, self._parts)
        else:
            for part in self._parts:
                work(part)

    def _view(self, flat: Tensor) -> list[list[Tensor]]:
        """Each layer's part of a flat vector."""
        parts = [flat[place].view(shape) for place, shape in zip(self._places, self._shapes)]
        each = 4 if self.settings.layer_norm else 2
        return [parts[k * each : min((k + 1) * each, len(parts))] for k in range(self._depth)]


class _Room:
    """What one pass of a part leaves: arrays for so many rows, kept."""

    def __init__(self, weights: list[Tensor], outputs: Tensor, normalised: bool, dropout: bool) -> None:
        rows = outputs.shape[-2]

        def new(width: int) -> Tensor:
            return weights[0].new_empty(*weights[0].shape[:-2], rows, width)

        self.outputs = outputs
        hidden = [weight.shape[-1] for weight in weights[:-1]]
        self.h = [new(width) for width in hidden]
        self.g: list[Tensor] = []  # made for the first way back: who asks for outputs alone needs none
        self.masks = [new(width) for width in hidden] if dropout else []
        self.normalised = [new(width) for width in hidden] if normalised else []
        self.scales = [new(1) for _ in hidden] if normalised else []

    def back(self) -> None:
        """Makes the arrays that a way back needs."""
        if not self.g:
            self.g = [torch.empty_like(h) for h in self.h]


class _NativeRoom(_Room):
    """The same for native code, which takes them as NumPy's."""

    def __init__(self, weights: list[Tensor], outputs: Tensor, normalised: bool) -> None:
        super().__init__(weights, outputs, normalised, False)
        self.own_outputs = outputs.numpy()
        self.own_h = [h.numpy() for h in self.h]
        self.own_g: list[np.ndarray] = []
        self.own_x = [x.numpy() for x in self.normalised]
        self.inverse = [scale[:, 0].numpy() for scale in self.scales]
        self.all = np.arange(outputs.shape[0])

    def back(self) -> None:
        """Makes the arrays that a way back needs."""
        if not self.g:
            super().back()
            self.own_g = [g.numpy() for g in self.g]


class _Part:
    """One member, whose arrays then lack the members' axis, or all as one batch.

    Args:
        settings: of the hidden layers.
        layers, by_layers: of all members, their weights and where gradients go.
        share: which member, or all.

    Attributes:
        weights: of each layer (..., in, out).
        product: of matrices.
    """

    def __init__(
        self, settings: NetworkSettings, layers: list[list[Tensor]], by_layers: list[list[Tensor]], share: int | slice
    ) -> None:
        self.settings, self.share = settings, share
        self._layers = [[tensor[share] for tensor in layer] for layer in layers]
        self._by_layers = [[tensor[share] for tensor in layer] for layer in by_layers]
        self.weights = [layer[0] for layer in self._layers]
        single = isinstance(share, int)
        self.product = torch.mm if single else torch.bmm
        self._affine = torch.addmm if single else torch.baddbmm
        # On a CPU a product of matrices takes ten times as long for one column.
        self._narrow = single and self.weights[-1].shape[-1] == 1
        self._rooms: dict[int, _Room] = {}

    def begin(self, x: Tensor, outputs: Tensor, generator: torch.Generator | None) -> None:
        """Takes inputs (n, inputs) and draws what is dropped out; results will go to `outputs` of all members."""
        s = self.settings
        self._dropping = bool(s.dropout) and generator is not None

        def make() -> _Room:
            return _Room(self.weights, outputs[self.share], s.layer_norm, bool(s.dropout))

        self._room = room = _kept(self._rooms, self.weights[0], outputs.shape[1], make)
        if self._dropping:
            for mask in room.masks:
                mask.bernoulli_(1.0 - s.dropout, generator=generator).div_(1.0 - s.dropout)
        self._x = x.expand(*room.outputs.shape[:-1], x.shape[-1])

    def forward(self) -> None:
        """Computes the outputs."""
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
                x.mul_(scale.add_(_EPS).rsqrt_())
                torch.addcmul(norm[1], x, norm[0], out=z)
            h = z.relu_()
        self._answer(h)

    def _answer(self, h: Tensor) -> None:
        """The outputs, by the last hidden units."""
        weight, bias = self._layers[-1]
        if not h.shape[-2]:
            return
        if self._narrow:
            torch.addmv(bias[0], h, weight[:, 0], out=self._room.outputs[:, 0])
        else:
            self._affine(bias, h, weight, out=self._room.outputs)

    def back(self, g: Tensor, *, weights: bool, rows: Tensor | None = None) -> Tensor:
        """The gradient with respect to the first layer's z, on the way those with respect to `weights`.

        Args:
            g: gradient with respect to the outputs (..., n, outputs); if there are `rows`, to the outputs of these.
            weights: whether these are asked for.
            rows: of one member's last pass; without, all.
        """
        room, last = self._room, len(self.weights) - 1
        room.back()

        def of(kept: Tensor) -> Tensor:
            return kept if rows is None else kept.index_select(0, rows)

        for k in range(last, -1, -1):
            weight, by = self.weights[k], self._by_layers[k]
            narrow = self._narrow and k == last
            if k < last:
                torch.ops.aten.threshold_backward.grad_input(g, of(room.h[k]), 0, grad_input=g)
                if self.settings.layer_norm:
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
                    self.product(h.mT, g, out=by[0])
                torch.sum(g, dim=-2, keepdim=True, out=by[1])
            if k:
                out = room.g[k - 1] if rows is None else room.g[k - 1][: len(rows)]
                g = (torch.mul if narrow else self.product)(g, weight.mT, out=out)
        return g


class _NativePart(_Part):
    """One member on a CPU that drops nothing out: what is between its products is native code."""

    def __init__(
        self, settings: NetworkSettings, layers: list[list[Tensor]], by_layers: list[list[Tensor]], share: int | slice
    ) -> None:
        super().__init__(settings, layers, by_layers, share)
        self._own, self._by = (
            [[part[0].numpy() for part in layer[1:]] for layer in of] for of in (self._layers, self._by_layers)
        )
        self._own_rooms: dict[int, _NativeRoom] = {}
        self._one, self._by_one = self.weights[-1][:, 0].numpy(), self._by_layers[-1][0][:, 0].numpy()

    def begin(self, x: Tensor, outputs: Tensor, generator: torch.Generator | None) -> None:
        """See `_Part.begin`."""

        def make() -> _NativeRoom:
            return _NativeRoom(self.weights, outputs[self.share], self.settings.layer_norm)

        self._own_room, self._x = _kept(self._own_rooms, self.weights[0], outputs.shape[1], make), x
        self._room = self._own_room

    def forward(self) -> None:
        """Computes the outputs."""
        room, h, last = self._own_room, self._x, len(self.weights) - 1
        for k, z in enumerate(room.h):
            bias, *norm = self._own[k]
            torch.mm(h, self.weights[k], out=z)
            if norm:
                kernels.normalise(room.own_h[k], bias, *norm, _EPS, room.own_x[k], room.inverse[k])
            elif self._narrow and k == last - 1:
                kernels.rectify_to_one(room.own_h[k], bias, self._one, self._own[last][0], room.own_outputs[:, 0])
                return
            else:
                kernels.rectify(room.own_h[k], bias)
            h = z
        self._answer(h)

    def back(self, g: Tensor, *, weights: bool, rows: Tensor | None = None) -> Tensor:
        """See `_Part.back`."""
        room, last = self._own_room, len(self.weights) - 1
        room.back()
        which, count = (room.all, len(room.all)) if rows is None else (rows.numpy(), len(rows))
        for k in range(last, 0, -1):
            h, below = room.own_h[k - 1], room.own_g[k - 1][:count]
            out = room.g[k - 1] if rows is None else room.g[k - 1][:count]
            sums = self._by[k - 1][-1]
            if self._narrow and k == last:
                given = g.numpy()[:, 0], self._one, h, below
                if weights:
                    kernels.back_from_one(*given, self._by_one, self._by[last][0], sums)
                else:
                    kernels.back_from_one_of(*given, which)
            else:
                if weights:
                    torch.mm(room.h[k - 1].t(), g, out=self._by_layers[k][0])
                    if k == last:
                        torch.sum(g, dim=-2, keepdim=True, out=self._by_layers[k][1])
                torch.mm(g, self.weights[k].t(), out=out)
                if weights:
                    kernels.rectified(below, h, sums)
                else:
                    kernels.rectified_of(below, h, which)
            if self.settings.layer_norm:
                x = room.own_x[k - 1]
                if weights:
                    kernels.by_scale(below, x, self._by[k - 1][1])
                kernels.normalised(below, x, room.inverse[k - 1], self._own[k - 1][1], which)
                if weights:
                    kernels.summed(below, self._by[k - 1][0])
            g = out
        if weights:
            torch.mm(self._x.t(), g, out=self._by_layers[0][0])
        return g


def _kept(by_rows: dict[int, Kept], weights: Tensor, rows: int, make: Callable[[], Kept]) -> Kept:
    """What is kept for so many rows, made if there is none; on a CPU for the last numbers of rows alone."""
    found = by_rows.pop(rows, None)
    if found is None:
        found = make()
    by_rows[rows] = found
    if len(by_rows) > _KEPT and weights.device.type == "cpu":
        del by_rows[next(iter(by_rows))]
    return found
