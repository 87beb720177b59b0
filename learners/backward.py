"""Losses of an ensemble's members and their gradients, written out, and the steps down them."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .adam import Adam
from .member_parts import MemberRooms, NativePart, Part, TorchPart
from .threads import in_threads

if TYPE_CHECKING:
    from .ensemble import Members

_WORTH = 3 * 10**7
"""Multiplications of a forward pass of all members from which on to divide one's rows gains more than it costs."""


class Backward:
    """Computes losses, leaves gradients in the parameters' `grad`, and takes steps down them.

    On a CPU each member is a part of its own, done in threads, all batches of it one after another; where it is worth
    it, the last of an odd number is two, half of its rows each, so that two cores are busy to the end. What is divided
    depends on shapes alone, so that the numbers do not depend on how many cores and threads there are.

    Args:
        members: whose losses.
        bound_weight: of `Members.spread_of_bounds`.
        rows: most rows of a batch.
        adam: takes the steps; without, there are gradients alone.
    """

    def __init__(self, members: "Members", bound_weight: float, rows: int, adam: Adam | None = None) -> None:
        weights = members.network.weights
        count, work = len(weights[0]), rows * sum(weight.numel() for weight in weights)
        self._rows, self._count, self._adam = rows, count, adam
        self._halves: list[NativePart] = []
        self._parts: list[Part]
        if not _native(weights[0]):
            self._parts = [TorchPart(members, bound_weight, rows, adam)]
            return
        rooms, paired = MemberRooms(members, rows), count - count % 2 if work >= _WORTH else count
        self._parts = [NativePart(members, e, None, bound_weight, adam, rooms) for e in range(paired)]
        if paired < count:
            self._halves = [NativePart(members, paired, half, bound_weight, adam, rooms) for half in (0, 1)]

    def __call__(self, x: Tensor, t: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """Each member's loss (E,), the mean over batches of its rows (E, n) of inputs (N, di) and outputs (N, do).

        These are normalised, and C-contiguous. The gradient, left in `grad`, is that of the last batch, of the sum of
        the losses and of the bounds' spread: members share no weights. Steps, if there are any to take, are taken after
        each batch.
        """
        before = 0.0 if self._adam is None else float(self._adam.count)
        found = in_threads(lambda part: part.descend(x, t, batches, before), self._parts)
        if self._halves:
            found.append(torch.zeros(1, dtype=torch.float64))
            for k, batch in enumerate(batches):
                found[-1] += sum(in_threads(functools.partial(_descended, x, t, [batch], before), self._halves))
                in_threads(functools.partial(self._halves[0].join, self._halves[1], before + k + 1.0), [True, False])
            found[-1] /= len(batches)
        if self._adam is not None:
            self._adam.count.fill_(before + len(batches))
        return torch.cat(found)

    def losses(self, x: Tensor, t: Tensor) -> Tensor:
        """Each member's mean loss (E,), in float64, on the same normalised inputs (n, di) and outputs (n, do)."""
        total = torch.zeros(self._count, dtype=torch.float64, device=x.device)
        for rows, wanted in zip(x.split(self._rows), t.split(self._rows)):
            found = in_threads(functools.partial(_losses, rows, wanted), [*self._parts, *self._halves])
            if self._halves:
                found[-2:] = [found[-2] + found[-1]]
            total += len(rows) * torch.cat(found)
        return total / len(x)


def _native(weight: Tensor) -> bool:
    """Whether native code computes with it."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _descended(x: Tensor, t: Tensor, batches: Sequence[Tensor], before: float, part: Part) -> Tensor:
    return part.descend(x, t, batches, before)


def _losses(x: Tensor, t: Tensor, part: Part) -> Tensor:
    return part.losses(x, t)
