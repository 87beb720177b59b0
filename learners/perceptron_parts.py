"""What computes one of the perceptrons of `perceptrons.py`, or all as one batch: torch's operations, or native code."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from . import passes
from .kernels import EPS
from .threads import in_threads

if TYPE_CHECKING:
    from .perceptrons import NetworkSettings, Perceptrons

Kept = TypeVar("Kept")

_KEPT = 4
"""Numbers of rows for which arrays are kept on a CPU, the last ones asked for; a GPU's graphs hold theirs."""


class _Room:
    """What one pass of a part leaves: arrays for as many rows as `outputs` (..., n, outputs) has, kept."""

    def __init__(self, weights: list[Tensor], outputs: Tensor, settings: "NetworkSettings") -> None:
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

    def __init__(self, whole: "Perceptrons", share: int | slice) -> None:
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


class TorchPart(Part):
    """By torch's operations."""

    def __init__(self, whole: "Perceptrons", share: int | slice) -> None:
        super().__init__(whole, share)
        self._settings = whole.settings
        self._layers, self._by_layers = (
            [[tensor[share] for tensor in layer] for layer in layers] for layers in (whole.layers(), whole.by_layers())
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
        self._room = room = kept(
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


class NativePart(Part):
    """One member on a CPU that drops nothing out, in native code."""

    def __init__(self, whole: "Perceptrons", share: int | slice) -> None:
        super().__init__(whole, share)
        self._places = whole.places()
        self._passes: dict[int, passes.Pass] = {}
        self._own, self._by = self.flat.numpy(), self.grad.numpy()

    def begin(self, x: Tensor, outputs: Tensor, generator: torch.Generator | None) -> None:
        """See `Part.begin`."""
        rows = len(x)
        self._pass = kept(self._passes, self.flat, rows, lambda: passes.begin(self._own, self._places, rows))
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


def kept(by_rows: dict[int, Kept], weights: Tensor, rows: int, make: Callable[[], Kept]) -> Kept:
    """What is kept for so many rows, made if there is none; on a CPU for the last numbers of rows alone."""
    found = by_rows.pop(rows, None)
    if found is None:
        found = make()
    by_rows[rows] = found
    if len(by_rows) > _KEPT and weights.device.type == "cpu":
        del by_rows[next(iter(by_rows))]
    return found
