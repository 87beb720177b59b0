"""What computes losses and gradients of an ensemble's members: all of them by torch, or one by native code.

What autograd finds of `Members.losses` and `Members.spread_of_bounds`, in memory that is kept: of a layer
h -> f(z), z = b + h W, with g the gradient with respect to z,

    dW = h' g,    db = 1' g,    dh = g W'

The likelihood's logarithms cancel. With r the network's raw log-variance and s the logistic function, the bounds of
`GaussianHead` give the variance

    v = exp(lower) + exp(upper) s(r - upper)

and -log N(t; m, v) has the derivatives (m - t) / v by m and (1 - (m - t)^2 / v) / 2 v by v.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import member_pass
from .adam import Adam
from .threads import in_threads

if TYPE_CHECKING:
    from .ensemble import Members


def _silu(z: Tensor, slope: Tensor) -> None:
    # With s the logistic function and h = z s(z), h' = s + h (1 - s).
    torch.sigmoid(z, out=slope)
    z.mul_(slope)
    torch.lerp(z, z.new_ones(()), slope, out=slope)


def _relu(z: Tensor, slope: Tensor) -> None:
    torch.gt(z.relu_(), 0.0, out=slope)


def _tanh(z: Tensor, slope: Tensor) -> None:
    torch.mul(z.tanh_(), z, out=slope).neg_().add_(1.0)


_ACTIVATE: dict[str, Callable[[Tensor, Tensor], None]] = {"silu": _silu, "relu": _relu, "tanh": _tanh}
"""Activations in place, and where to leave their slope."""

_NATIVE = {"silu": member_pass.SILU, "relu": member_pass.RELU, "tanh": member_pass.TANH}


class Part(ABC):
    """Losses and gradients of E' of the members."""

    @abstractmethod
    def descend(self, x: Tensor, t: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """Members' losses (E',), mean over batches; takes a step after each.

        Args:
            x: inputs (N, di).
            t: outputs that are wanted (N, do).
            batches: which rows of them, for all members (E, n).
        """

    @abstractmethod
    def losses(self, x: Tensor, t: Tensor) -> Tensor:
        """Members' losses (E',) on rows (n, ...) that are the same for all."""


class TorchPart(Part):
    """All members together, by torch's operations; it counts the steps.

    Args:
        members: all of them.
        bound_weight: of `Members.spread_of_bounds`.
        rows: most rows of a batch.
        adam: takes their steps; without, there are gradients alone.
    """

    def __init__(self, members: "Members", bound_weight: float, rows: int, adam: Adam | None) -> None:
        self._activation, self._depth = members.network.activation, len(members.network.weights)
        self._probabilistic = members.head is not None
        self._parameters, self._gradients = (
            members.flat.views(every) for every in (members.flat.values, members.flat.grad)
        )
        self._layers, self._by_layers = (
            list(zip(some[: self._depth], some[self._depth :])) for some in (self._parameters, self._gradients)
        )
        self._spread = bound_weight / len(members.output_mean)
        self._adam, self._step = adam, None if adam is None else adam.step_of(slice(None))
        self._rooms = _TorchRooms(self._parameters[: self._depth], len(members.output_mean), rows)

    @torch.no_grad()
    def descend(self, x: Tensor, t: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """See `Part.descend`."""
        losses = []
        for index in batches:
            losses.append(self._by_rows(x, t, index))
            if self._adam is not None and self._step is not None:
                self._adam.begin()
                self._step()
        return torch.stack(losses).mean(dim=0)

    def _by_rows(self, x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        """Losses (E,) on rows `index` (E, n), and their gradient."""
        room = self._rooms(index.shape[1])
        for data, place in ((x, room.x), (t, room.t)):
            torch.index_select(data, 0, index.reshape(-1), out=place.flatten(0, 1))
        self._forward(room)
        g = room.g[-1]
        loss = self._head(room, g)
        for k in reversed(range(self._depth)):
            by_weight, by_bias = self._by_layers[k]
            torch.bmm((room.h[k - 1] if k else room.x).mT, g, out=by_weight)
            torch.sum(g, dim=1, keepdim=True, out=by_bias)
            if k:
                g = torch.bmm(g, self._layers[k][0].mT, out=room.g[k - 1]).mul_(room.slopes[k - 1])
        return loss

    @torch.no_grad()
    def losses(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Part.losses`."""
        room = self._rooms(len(x))
        room.x.copy_(x)
        room.t.copy_(t)
        self._forward(room)
        return self._head(room)

    def _forward(self, room: "_TorchRoom") -> None:
        h = room.x
        for k, (weight, bias) in enumerate(self._layers):
            h = torch.baddbmm(bias, h, weight, out=room.h[k])
            if k < len(room.slopes):
                _ACTIVATE[self._activation](h, room.slopes[k])

    def _head(self, room: "_TorchRoom", g: Tensor | None = None) -> Tensor:
        """Losses (E,) by the networks' outputs.

        With `g`, their gradient with respect to these goes there, and that with respect to the bounds where it belongs.
        """
        h, t = room.h[-1], room.t
        each = 1.0 / (t.shape[1] * t.shape[2])
        if not self._probabilistic:
            error = h - t
            if g is not None:
                torch.mul(error, each, out=g)
            return 0.5 * each * (error * error).sum(dim=(1, 2))
        least, most = self._parameters[-2:]
        mean, raw = h.chunk(2, dim=-1)
        lower, upper = least.exp(), most.exp()
        share = torch.sigmoid(raw - most)
        above = upper * share
        variance = lower + above
        error = mean - t
        scaled = error / variance
        square = error * scaled
        loss = 0.5 * each * (square + variance.log()).sum(dim=(1, 2)) + 0.5 * math.log(2.0 * math.pi)
        if g is None:
            return loss
        by_mean, by_raw = g.chunk(2, dim=-1)
        by_least, by_most = self._gradients[-2:]
        torch.mul(scaled, each, out=by_mean)
        by_variance = (1.0 - square).mul_(0.5 * each).div_(variance)
        by_share = by_variance * above  # by the logarithm of what is above the lower bound
        torch.mul(by_share, 1.0 - share, out=by_raw)
        torch.sum(by_share * share, dim=1, keepdim=True, out=by_most).add_(self._spread)
        torch.sum(by_variance, dim=1, keepdim=True, out=by_least).mul_(lower).sub_(self._spread)
        return loss


class NativePart(Part):
    """One member on a CPU in native code; steps are counted when all members have taken theirs.

    Args:
        members: all of them.
        number: which of them.
        bound_weight: of `Members.spread_of_bounds`.
        adam: takes the member's steps; without, there are gradients alone.
        rooms: for what a pass leaves; others may use them too.
    """

    def __init__(
        self, members: "Members", number: int, bound_weight: float, adam: Adam | None, rooms: "RoomOfEachThread"
    ) -> None:
        self._number, self._adam, self._rooms = number, adam, rooms
        self._spread = bound_weight / len(members.output_mean)
        flat, depth = members.flat, len(members.network.weights)
        begins = [place.start for place in flat.places]
        places = [(*w.shape[1:], *at) for w, at in zip(members.network.weights, zip(begins, begins[depth:]))]
        none = np.empty(0, np.float32)
        self._member = member_pass.Member(
            flat=flat.values[number].numpy(),
            grad=flat.grad[number].numpy(),
            means=none if adam is None else adam.means[number].numpy(),
            squares=none if adam is None else adam.squares[number].numpy(),
            places=np.array(places),
            decayed=0 if adam is None else adam.decayed,
            bounds=np.array(begins[2 * depth :], dtype=np.int64),
            activation=_NATIVE[members.network.activation],
            rate=0.0 if adam is None else adam.rate,
            decay=0.0 if adam is None else adam.decay,
        )

    def descend(self, x: Tensor, t: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """See `Part.descend`."""
        given, total = (self._member, self._rooms.room, x.numpy(), t.numpy()), 0.0
        for k, index in enumerate(batches):
            mine = index[self._number].numpy()
            total += member_pass.descend(*given, mine, len(mine), self._spread, self._count(k))
        return torch.tensor([total / len(batches)], dtype=torch.float64)

    def losses(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Part.losses`."""
        found = member_pass.mean_loss(self._member, self._rooms.room, x.numpy(), t.numpy(), len(x))
        return torch.tensor([found], dtype=torch.float64)

    def _count(self, k: int) -> float:
        """The number of the step after batch number k, 0 if there is none to take."""
        return 0.0 if self._adam is None else float(self._adam.count) + k + 1.0


class DividedPart(NativePart):
    """The same by the two halves of a batch's rows, in two threads."""

    def __init__(
        self, members: "Members", number: int, bound_weight: float, adam: Adam | None, rooms: "RoomOfEachThread"
    ) -> None:
        super().__init__(members, number, bound_weight, adam, rooms)
        other = self._member._replace(grad=np.zeros_like(self._member.grad))
        self._halves = (0, self._member, self._spread), (1, other, 0.0)  # the bounds count once

    def descend(self, x: Tensor, t: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """See `Part.descend`."""
        total, size, other = 0.0, len(self._member.flat), self._halves[1][1].grad
        for k, index in enumerate(batches):
            mine, count = index[self._number].numpy(), self._count(k)
            total += sum(in_threads(partial(self._descended, x.numpy(), t.numpy(), mine), self._halves))
            in_threads(partial(self._joined, other, count), [(0, size // 2), (size // 2, size)])
        return torch.tensor([total / len(batches)], dtype=torch.float64)

    def losses(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Part.losses`."""
        found = in_threads(partial(self._lost, x.numpy(), t.numpy()), self._halves)
        return torch.tensor([sum(found)], dtype=torch.float64)

    def _descended(
        self, x: np.ndarray, t: np.ndarray, index: np.ndarray, half: tuple[int, member_pass.Member, float]
    ) -> float:
        which, member, spread = half
        mine = np.array_split(index, 2)[which]
        return member_pass.descend(member, self._rooms.room, x, t, mine, len(index), spread, 0.0)

    def _joined(self, other: np.ndarray, count: float, which: tuple[int, int]) -> None:
        member_pass.join(self._member, other, *which, count)

    def _lost(self, x: np.ndarray, t: np.ndarray, half: tuple[int, member_pass.Member, float]) -> float:
        which, member, _ = half
        mine, wanted = (np.array_split(rows, 2)[which] for rows in (x, t))
        return member_pass.mean_loss(member, self._rooms.room, mine, wanted, len(x))


class RoomOfEachThread(threading.local):
    """Room for one member's pass, of each thread its own: what it leaves is used up before the next one's.

    Args:
        members: of which one.
        rows: most rows.
    """

    def __init__(self, members: "Members", rows: int) -> None:
        widths = [w.shape[1:] for w in members.network.weights]
        self.room = member_pass.room_for(widths[0][0], [out for _, out in widths], len(members.output_mean), rows)


class _TorchRoom(NamedTuple):
    """What a pass of n rows leaves: inputs and wanted outputs, and of each layer units, slopes and gradients."""

    x: Tensor
    t: Tensor
    h: list[Tensor]
    slopes: list[Tensor]
    g: list[Tensor]


class _TorchRooms:
    """Rooms for any number of rows, all in the same memory.

    Args:
        weights: of each layer.
        outputs: how many outputs are told.
        rows: most rows.
    """

    def __init__(self, weights: list[Tensor], outputs: int, rows: int) -> None:
        self._shape = len(weights[0]), rows
        inner = [weight.shape[2] for weight in weights]
        self._widths = [[weights[0].shape[1], outputs], inner, inner[:-1], inner]
        new = weights[0].new_empty
        size = math.prod(self._shape)
        self._memory = [[new(size * width) for width in some] for some in self._widths[:-1]]
        # Of two layers' gradients one is made of the other: theirs take turns, and stay in the processor's caches.
        turns = [new(size * max(inner)) for _ in range(2)]
        self._memory.append([turns[k % 2] for k in range(len(inner))])
        self._made: dict[int, _TorchRoom] = {}

    def __call__(self, rows: int) -> _TorchRoom:
        """The room for so many."""
        if rows not in self._made:
            shape = self._shape[0], rows
            (x, t), *others = (
                [memory[: math.prod(shape) * width].view(*shape, width) for memory, width in zip(parts, widths)]
                for parts, widths in zip(self._memory, self._widths)
            )
            self._made[rows] = _TorchRoom(x, t, *others)
        return self._made[rows]
