"""Losses of an ensemble's members and their gradients, written out.

What autograd finds of `Members.losses` and `Members.spread_of_bounds`, in buffers that are kept: of a layer
h -> f(z), z = b + h W, with g the gradient with respect to z,

    dW = h' g,    db = 1' g,    dh = g W'

The likelihood's logarithms cancel. With r the network's raw log-variance and s the logistic function, the bounds of
`GaussianHead` give the variance

    v = exp(lower) + exp(upper) s(r - upper)

and -log N(t; m, v) has the derivatives (m - t) / v by m and (1 - (m - t)^2 / v) / 2 v by v.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .threads import in_threads

if TYPE_CHECKING:
    from .ensemble import Members


def _silu(z: Tensor, kept: Tensor) -> None:
    torch.sigmoid(z, out=kept)
    z.mul_(kept)


def _silu_backward(g: Tensor, h: Tensor, kept: Tensor) -> None:
    # With s the logistic function and h = z s(z), h' = s + h (1 - s).
    g.mul_(torch.lerp(h, h.new_ones(()), kept, out=kept))


def _relu_backward(g: Tensor, h: Tensor, kept: Tensor) -> None:
    g.mul_(torch.gt(h, 0.0, out=kept))


def _tanh_backward(g: Tensor, h: Tensor, kept: Tensor) -> None:
    g.mul_(torch.mul(h, h, out=kept).neg_().add_(1.0))


_FORWARD: dict[str, Callable[[Tensor, Tensor], object]] = {
    "silu": _silu,
    "relu": lambda z, kept: z.relu_(),
    "tanh": lambda z, kept: z.tanh_(),
}
"""Activations in place, with room for what the way back needs."""

_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {
    "silu": _silu_backward,
    "relu": _relu_backward,
    "tanh": _tanh_backward,
}
"""Multiplies a gradient by the activation's slope where it has given h."""


_WORTH = 3 * 10**7
"""Multiplications of a forward pass from which on members are divided: with fewer it costs more than it gains."""


class Backward:
    """Computes losses, and leaves gradients in the parameters' `grad`.

    On a CPU a pass over the data costs about an eighth less than by autograd, and uses two cores where there is enough
    to do: one half of the members runs beside the other, see `in_threads`. Whether they are divided depends on shapes
    alone, so that the numbers do not depend on how many cores and threads there are.

    Args:
        members: whose losses.
        bound_weight: of `Members.spread_of_bounds`.
        rows: most rows of a batch.
    """

    def __init__(self, members: "Members", bound_weight: float, rows: int) -> None:
        weights = members.network.weights
        work = rows * sum(weight.numel() for weight in weights)
        divided = weights[0].device.type == "cpu" and work >= _WORTH
        dealt = np.array_split(np.arange(len(weights[0])), 2 if divided else 1)
        self._shares = [slice(which[0], which[-1] + 1) for which in dealt if len(which)]
        self._parts = [_Part(members, share, bound_weight, rows) for share in self._shares]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Each member's loss (E,) on normalised inputs (E, n, di) and outputs (E, n, do); its gradient is in `grad`.

        The gradient is that of the sum of the losses and of the bounds' spread: members share no weights.
        """
        jobs = [(part, x[share], t[share]) for part, share in zip(self._parts, self._shares)]
        return torch.cat(in_threads(lambda job: job[0](job[1], job[2]), jobs))


class _Part:
    """Some of the members' losses and gradients.

    Args:
        members: all of them.
        share: which of them.
        bound_weight: of `Members.spread_of_bounds`.
        rows: most rows of a batch.
    """

    def __init__(self, members: "Members", share: slice, bound_weight: float, rows: int) -> None:
        network, head = members.network, members.head
        self.activation = network.activation
        self.bound_weight = bound_weight
        parameters = list(zip(network.weights, network.biases))
        self._layers = [(w.detach()[share], b.detach()[share]) for w, b in parameters]
        self._by_layers = [(_kept_grad(w)[share], _kept_grad(b)[share]) for w, b in parameters]
        self._bounds = self._by_bounds = None
        if head is not None:
            self._bounds = head.lower.detach()[share], head.upper.detach()[share]
            self._by_bounds = _kept_grad(head.lower)[share], _kept_grad(head.upper)[share]
        count, sizes = len(self._layers[0][0]), [weight.shape[2] for weight, _ in self._layers]
        new = self._layers[0][0].new_empty
        self._h = [new(count * rows * size) for size in sizes]
        self._kept = [torch.empty_like(h) for h in self._h[:-1]]
        self._g = [new(count * rows * max(sizes)) for _ in range(2)]

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Backward`; of these members alone."""
        shape, layers = x.shape[:2], self._layers
        forward, backward = _FORWARD[self.activation], _BACKWARD[self.activation]
        h, kept = [x], [_view(buffer, shape, layer[0]) for buffer, layer in zip(self._kept, layers)]
        for k, (weight, bias) in enumerate(layers):
            h.append(torch.baddbmm(bias, h[k], weight, out=_view(self._h[k], shape, weight)))
            if k < len(kept):
                forward(h[-1], kept[k])
        g = _view(self._g[0], shape, layers[-1][0])
        loss = self._head(h[-1], t, g)
        for k in reversed(range(len(layers))):
            by_weight, by_bias = self._by_layers[k]
            torch.bmm(h[k].transpose(1, 2), g, out=by_weight)
            torch.sum(g, dim=1, keepdim=True, out=by_bias)
            if k:
                before = _view(self._g[(len(layers) - k) % 2], shape, layers[k - 1][0])
                g = torch.bmm(g, layers[k][0].transpose(1, 2), out=before)
                backward(g, h[k], kept[k - 1])
        return loss

    def _head(self, h: Tensor, t: Tensor, g: Tensor) -> Tensor:
        """Losses (E,) by the networks' outputs `h` (E, n, width), and into `g` their gradient with respect to them."""
        each = 1.0 / (t.shape[1] * t.shape[2])
        if self._bounds is None or self._by_bounds is None:
            torch.sub(h, t, out=g)
            loss = 0.5 * each * (g * g).sum(dim=(1, 2))
            g.mul_(each)
            return loss
        (mean, raw), (by_mean, by_raw) = h.chunk(2, dim=-1), g.chunk(2, dim=-1)
        (least, most), (by_least, by_most) = self._bounds, self._by_bounds
        lower, upper = least.exp(), most.exp()
        share = torch.sigmoid(raw - most)
        above = upper * share
        variance = lower + above
        error = mean - t
        scaled = error / variance
        square = error * scaled
        loss = 0.5 * each * (square + variance.log()).sum(dim=(1, 2)) + 0.5 * math.log(2.0 * math.pi)
        torch.mul(scaled, each, out=by_mean)
        by_variance = (1.0 - square).mul_(0.5 * each).div_(variance)
        by_share = by_variance * above  # by the logarithm of what is above the lower bound
        torch.mul(by_share, 1.0 - share, out=by_raw)
        spread = self.bound_weight / t.shape[2]
        torch.sum(by_share * share, dim=1, keepdim=True, out=by_most).add_(spread)
        torch.sum(by_variance, dim=1, keepdim=True, out=by_least).mul_(lower).sub_(spread)
        return loss


def _kept_grad(p: Tensor) -> Tensor:
    """A parameter's gradient, which it has from now on."""
    if p.grad is None:
        p.grad = torch.empty_like(p)
    return p.grad


def _view(buffer: Tensor, rows: torch.Size, weight: Tensor) -> Tensor:
    """The beginning of a buffer as a layer's outputs (E, n, out)."""
    shape = (*rows, weight.shape[2])
    return buffer[: math.prod(shape)].view(shape)
