"""Perceptrons whose weights lie in one flat vector, with their gradients written out.

E members of one shape, as in `networks.py`, but made for many small updates: an optimiser's step, and the average that
target networks keep, are one operation on the flat vector, results go to buffers that are kept, and a gradient is
computed only where somebody asks for it. Of a layer h -> f(z), z = b + h W, with g the gradient with respect to z,

    dW = h' g,    db = 1' g,    dh = g W'

A hidden layer may drop units out and normalise what is left before its activation (layer normalisation, Ba, Kiros and
Hinton, 2016): with x the normalised, s the scale of a row and w the weights of the normalisation,

    dz = (w g - mean(w g) - x mean(w g x)) / s
"""

import copy
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_ALIGNED = 16
"""Numbers between whose multiples arrays begin: what products compute depends on where their operands lie."""

_EPS = 1e-5


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


@dataclass
class _Pass:
    """What a forward pass leaves for the way back: of each layer its input and what became of it."""

    inputs: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    normalised: list[Tensor] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)


class Perceptrons:
    """E perceptrons with linear outputs, in float32.

    Weights and biases begin uniformly within 1 / sqrt(inputs of the layer), those of normalisation as one and zero.

    Args:
        members: E.
        inputs, outputs: numbers of these.
        settings: of the hidden layers.
        rng: draws the weights.
        device: where they are.

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
        self._layers = self._view(self.flat)
        self._by_layers = self._view(self.grad)
        self._buffers: dict[tuple[str, int, int], Tensor] = {}
        self._kept = _Pass()

    def like(self) -> "Perceptrons":
        """Others with the same weights."""
        other = copy.copy(self)
        other.flat, other.grad = self.flat.clone(), torch.zeros_like(self.grad)
        other.spare = other.flat[len(other.flat) - len(self.spare) :]
        other._layers, other._by_layers = other._view(other.flat), other._view(other.grad)
        other._buffers, other._kept = {}, _Pass()
        return other

    def layers(self) -> list[list[Tensor]]:
        """Views of each layer's weight (E, in, out) and bias (E, 1, out); where normalised, its scale and shift too."""
        return self._layers

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Outputs (E, n, outputs) of inputs (n, inputs), the same for all members; kept until the next call.

        Args:
            x: inputs.
            generator: draws what is dropped out; None drops nothing.
        """
        rows, kept, h = len(x), _Pass(), x.expand(self.members, *x.shape)
        for k, (weight, bias, *norm) in enumerate(self._layers):
            kept.inputs.append(h)
            z = self._buffer("z", k, rows, weight.shape[2])
            if weight.shape[2] == 1:  # a product of matrices takes ten times as long for this
                for e in range(self.members):
                    torch.mv(h[e], weight[e, :, 0], out=z[e, :, 0])
                h = z.add_(bias)
                continue
            h = torch.baddbmm(bias, h, weight, out=z)
            if k == self._depth - 1:
                continue
            if self.settings.dropout and generator is not None:
                mask = self._buffer("mask", k, rows, weight.shape[2])
                mask.bernoulli_(1.0 - self.settings.dropout, generator=generator)
                h.mul_(mask.div_(1.0 - self.settings.dropout))
                kept.masks.append(mask)
            if norm:
                torch.mean(h, dim=2, keepdim=True, out=(mean := self._buffer("mean", k, rows, 1)))
                h.sub_(mean)
                scale = h.square().mean(dim=2, keepdim=True).add_(_EPS).rsqrt_()
                kept.scales.append(scale)
                kept.normalised.append(h.mul_(scale))
                h = torch.addcmul(norm[1], h, norm[0], out=self._buffer("norm", k, rows, weight.shape[2]))
            h.relu_()
        self._kept = kept
        return h

    def backward(self, g: Tensor) -> None:
        """Leaves in `grad` the gradient of what has the gradient `g` (E, m, outputs) with respect to the outputs.

        Those are of the first m rows of the last `forward`; the others do not count. `g` is used up.
        """
        self._back(g, weights=True)

    def by_inputs(self, g: Tensor, first: int = 0) -> Tensor:
        """The gradient (E, m, inputs - first) with respect to inputs from number `first` on; see `backward`."""
        return torch.bmm(self._back(g, weights=False), self._layers[0][0][:, first:].transpose(1, 2))

    def _back(self, g: Tensor, *, weights: bool) -> Tensor:
        """The gradient with respect to the first layer's z, on the way those with respect to `weights`."""
        kept, rows = self._kept, g.shape[1]
        for k in reversed(range(self._depth)):
            weight, by = self._layers[k][0], self._by_layers[k]
            h = kept.inputs[k][:, :rows]
            narrow = weight.shape[2] == 1
            if k < self._depth - 1:
                g = self._through_hidden(g, k, rows, weights)
            if weights:
                if narrow:
                    for e in range(self.members):
                        torch.mv(h[e].t(), g[e, :, 0], out=by[0][e, :, 0])
                else:
                    torch.bmm(h.transpose(1, 2), g, out=by[0])
                torch.sum(g, dim=1, keepdim=True, out=by[1])
            if k:
                out = self._buffer("g", k, rows, weight.shape[1])
                g = (torch.mul if narrow else torch.bmm)(g, weight.transpose(1, 2), out=out)
        return g

    def _through_hidden(self, g: Tensor, k: int, rows: int, weights: bool) -> Tensor:
        """From the gradient with respect to a hidden layer's output to that with respect to z, in its place."""
        kept = self._kept
        after = kept.inputs[k + 1][:, :rows]
        torch.ops.aten.threshold_backward.grad_input(g, after, 0, grad_input=g)
        if self.settings.layer_norm:
            x, scale = kept.normalised[k][:, :rows], kept.scales[k][:, :rows]
            if weights:
                torch.sum(g, dim=1, keepdim=True, out=self._by_layers[k][3])
                torch.sum(g * x, dim=1, keepdim=True, out=self._by_layers[k][2])
            g.mul_(self._layers[k][2])
            along = (g * x).mean(dim=2, keepdim=True)
            g.sub_(g.mean(dim=2, keepdim=True)).addcmul_(x, along, value=-1.0).mul_(scale)
        if kept.masks:
            g.mul_(kept.masks[k][:, :rows])
        return g

    def _view(self, flat: Tensor) -> list[list[Tensor]]:
        """Each layer's part of a flat vector."""
        parts = [flat[place].view(shape) for place, shape in zip(self._places, self._shapes)]
        each = 4 if self.settings.layer_norm else 2
        return [parts[k * each : min((k + 1) * each, len(parts))] for k in range(self._depth)]

    def _buffer(self, name: str, k: int, rows: int, width: int) -> Tensor:
        """Room (E, rows, width) that is kept for this purpose."""
        size = self.members * rows * width
        kept = self._buffers.get((name, k, rows))
        if kept is None:
            kept = self._buffers[name, k, rows] = self.flat.new_empty(size)
        return kept.view(self.members, rows, width)
