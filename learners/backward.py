"""Losses of an ensemble's members and their gradients, written out, and the steps down them."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .adam import Adam
from .member_parts import DividedPart, NativePart, Part, RoomOfEachThread, TorchPart
from .threads import in_threads

if TYPE_CHECKING:
    from .ensemble import Members

_WORTH = 6 * 10**6
"""Multiplications of a member's forward pass from which on to divide its rows gains more than it costs."""


class Backward:
    """Computes losses, leaves gradients in the parameters' `grad`, and takes steps down them.

    On a CPU each member is a part of its own, done in threads, all batches of it one after another; where it is worth
    it, the last of an odd number has two threads, half of its rows each, so that two cores are busy to the end. What is
    divided depends on shapes alone, so that the numbers do not depend on how many cores and threads of ours there are.
    BLAS should have one thread, as the command line sees to.

    Args:
        members: whose losses.
        bound_weight: of `Members.spread_of_bounds`.
        rows: most rows of a batch.
        adam: takes the steps; without, there are gradients alone.

    Raises:
        ValueError: `adam` is of other parameters than the members have now.
    """

    def __init__(self, members: "Members", bound_weight: float, rows: int, adam: Adam | None = None) -> None:
        if adam is not None and adam.flat is not members.flat.values:
            raise ValueError("the members have been moved since their Adam was made: load their state instead")
        weights = members.network.weights
        count, work = len(weights[0]), rows * sum(weight[0].numel() for weight in weights)
        self._rows, self._adam, self._native = rows, adam, _native(weights[0])
        self._parts: list[Part]
        self._last: list[Part] = []
        if not self._native:
            self._parts = [TorchPart(members, bound_weight, rows, adam)]
            return
        rooms, alone = RoomOfEachThread(members, rows), count - count % 2 if work >= _WORTH else count
        self._parts = [NativePart(members, e, bound_weight, adam, rooms) for e in range(alone)]
        self._last = [DividedPart(members, e, bound_weight, adam, rooms) for e in range(alone, count)]

    def __call__(self, x: Tensor, t: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """Each member's loss (E,), the mean over batches of its rows (E, n) of inputs (N, di) and outputs (N, do).

        These are normalised, and C-contiguous. The gradient, left in `grad`, is that of the last batch, of the sum of
        the losses and of the bounds' spread: members share no weights. Steps, if there are any to take, are taken after
        each batch.
        """
        found = in_threads(partial(_descended, x, t, batches), self._parts)
        found += [part.descend(x, t, batches) for part in self._last]
        if self._adam is not None and self._native:
            self._adam.count.add_(len(batches))
        return torch.cat(found)

    def losses(self, x: Tensor, t: Tensor) -> Tensor:
        """Each member's mean loss (E,), in float64, on the same normalised inputs (n, di) and outputs (n, do)."""
        total: Tensor | float = 0.0
        for rows in zip(x.split(self._rows), t.split(self._rows)):
            found = in_threads(partial(_lost, *rows), self._parts) + [part.losses(*rows) for part in self._last]
            total += len(rows[0]) * torch.cat(found).double()
        return torch.as_tensor(total) / len(x)


def _native(weight: Tensor) -> bool:
    """Whether native code computes with it."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _descended(x: Tensor, t: Tensor, batches: Sequence[Tensor], part: Part) -> Tensor:
    return part.descend(x, t, batches)


def _lost(x: Tensor, t: Tensor, part: Part) -> Tensor:
    return part.losses(x, t)
