"""Adam, taken by each of several members in whatever thread has its gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from .kernels import ADAM_EPS, ADAM_MEANS, ADAM_SQUARES


class Adam:
    """Adam (Kingma and Ba, Adam: a method for stochastic optimization, 2015), with L2 decay of the first parameters.

    The operation is that of `torch.optim.Adam(..., fused=True)`, which spends longer on looking whether it applies than
    on few weights, and takes a step for all members at once.

    Args:
        flat: what is to descend, a row for each member (E, P).
        grad: where its gradient will be (E, P).
        rate: of learning.
        decay: L2, of the first `decayed` numbers of each row.
        decayed: how many; without, none.

    Attributes:
        flat, rate, decay, decayed: as given.
        means, squares: running averages of gradients and of their squares (E, P).
        count: steps so far, a tensor ().
    """

    def __init__(self, flat: Tensor, grad: Tensor, rate: float, decay: float = 0.0, decayed: int = 0) -> None:
        self.rate, self.decay, self.decayed = rate, decay, decayed
        self.flat, self._grad = flat, grad
        self.means, self.squares = torch.zeros_like(flat), torch.zeros_like(flat)
        self.count = torch.zeros((), device=flat.device)

    def begin(self) -> None:
        """Counts the step that all members will take."""
        self.count.add_(1.0)

    def step_of(self, share: int | slice) -> Callable[[], None]:
        """What takes the step of one member, or of all; those of different members may be taken at the same time."""
        every = self.flat, self._grad, self.means, self.squares
        calls = [(0.0, [[tensor[share]] for tensor in every])]
        if self.decayed:
            rows = [[*tensor[share].view(-1, tensor.shape[1])] for tensor in every]
            calls = [
                (self.decay, [[row[: self.decayed] for row in own] for own in rows]),
                (0.0, [[row[self.decayed :] for row in own] for own in rows]),
            ]

        def step() -> None:
            for decay, (flat, grad, means, squares) in calls:
                torch._fused_adam_(
                    flat,
                    grad,
                    means,
                    squares,
                    [],
                    [self.count] * len(flat),
                    lr=self.rate,
                    beta1=ADAM_MEANS,
                    beta2=ADAM_SQUARES,
                    weight_decay=decay,
                    eps=ADAM_EPS,
                    amsgrad=False,
                    maximize=False,
                )

        return step

    def forget(self) -> None:
        """Begins anew."""
        for tensor in (self.means, self.squares, self.count):
            tensor.zero_()
