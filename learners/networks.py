"""Networks of an ensemble as one: every member's layer is a slice of one batched product.

A layer of E members is h_e -> f(b_e + h_e W_e), `baddbmm` on (E, n, in) x (E, in, out): one call on all members, which
costs less than E calls on one each, and on a GPU hardly more than one. (Training on a CPU goes member by member.)
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import scipy.special
import torch
from torch import Tensor, nn

Activation = Literal["silu", "relu", "tanh"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "relu": nn.functional.relu,
    "tanh": torch.tanh,
}
assert set(ACTIVATIONS) == set(get_args(Activation))


class BatchedMLP(nn.Module):
    """E perceptrons of the same shape, in float32, with no activation after the last layer.

    Weights begin as normal numbers of standard deviation 1 / (2 sqrt(inputs of the layer)), none further than two of
    these from 0; biases as 0 (Chua et al., Deep reinforcement learning in a handful of trials, 2018).

    Args:
        members: E.
        sizes: of the input, the hidden layers, and the output.
        activation: between layers.
        rng: draws the weights.
    """

    def __init__(self, members: int, sizes: Sequence[int], activation: Activation, rng: np.random.Generator) -> None:
        super().__init__()
        self.activation = activation
        low, high = scipy.special.ndtr([-2.0, 2.0])
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for a, b in itertools.pairwise(sizes):
            normal = scipy.special.ndtri(rng.uniform(low, high, (members, a, b)))
            self.weights.append(nn.Parameter(torch.as_tensor(0.5 * normal / np.sqrt(a), dtype=torch.float32)))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, b)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (E, n, out) of inputs (E, n, in), each member's its own."""
        f, h = ACTIVATIONS[self.activation], x
        last = len(self.weights) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            h = torch.baddbmm(bias, h, weight)
            if k < last:
                h = f(h)
        return h


class GaussianHead(nn.Module):
    """Reads a network's outputs as means and log-variances, these within bounds that are learned.

    A log-variance l becomes l' = max - softplus(max - l), then min + softplus(l' - min), as in Chua et al. (2018):
    away from the data, a network's variance is otherwise free to collapse or to explode.

    Args:
        members: E.
        outputs: d, half of the network's.

    Attributes:
        lower, upper: the bounds (E, 1, d).
    """

    def __init__(self, members: int, outputs: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.full((members, 1, outputs), -10.0))
        self.upper = nn.Parameter(torch.full((members, 1, outputs), 0.5))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances (E, n, d) from a network's outputs (E, n, 2 d)."""
        mean, raw = h.chunk(2, dim=-1)
        softplus = nn.functional.softplus
        below = self.upper - softplus(self.upper - raw)
        return mean, self.lower + softplus(below - self.lower)


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood (...) of each number of `target` under a normal distribution [nats]."""
    error = target - mean
    return 0.5 * (error * error * torch.exp(-log_variance) + log_variance) + 0.5 * float(np.log(2 * np.pi))
