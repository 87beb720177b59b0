"""Reward for going where the model is unsure: what a learner adds to a task's reward while it gathers data.

A bonus sees what the model predicts for the candidates of a plan, and says what each is worth beside the task.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Bonus(Protocol):
    """Reward added to a task's, candidate by candidate.

    Attributes:
        gains: whether it needs the information gain, which costs predictions of its own.
    """

    gains: bool

    def __call__(self, costs: Tensor, gains: Tensor | None) -> Tensor:
        """Reward (E, N), to be added to each particle's or broadcast, (N,).

        Args:
            costs: the task's, summed over the horizon (E, N).
            gains: information gain, summed over the horizon (N,) [nats], if it is needed.
        """
        ...


@dataclass(frozen=True)
class Optimism:
    """Hopes for the best: `weight` standard deviations of what particles cost (upper confidence bound; Auer, 2002).

    Plans are then made for a cost that lies below the mean by that much, for members that all may be right.
    """

    weight: float
    gains = False

    def __call__(self, costs: Tensor, gains: Tensor | None) -> Tensor:
        """See `Bonus`."""
        return self.weight * costs.std(dim=0, correction=0)


@dataclass(frozen=True)
class InformationGain:
    """Rewards what there is to be learned: `weight` for each nat.

    With the variance s^2 between the means that members predict, and v the variance of noise that they predict, what a
    transition tells of the model is bounded by

        1/2 sum_i log(1 + s_i^2 / v_i)

    over outputs i (Sukhija et al., Optimistic active exploration of dynamical systems, 2023; for members without
    variance, their disagreement: Pathak et al., Self-supervised exploration via disagreement, 2019).
    """

    weight: float
    gains = True

    def __call__(self, costs: Tensor, gains: Tensor | None) -> Tensor:
        """See `Bonus`."""
        assert gains is not None
        return self.weight * gains


def information_gain(means: Tensor, variances: Tensor, floor: Tensor) -> Tensor:
    """Information gain (n,) [nats] of transitions of which E members predict means and variances (E, n, do).

    Args:
        means: of the outputs.
        variances: of the noise.
        floor: least variance of noise (do,): of members that predict none, what can not be told apart.
    """
    between = means.var(dim=0, correction=0)
    return 0.5 * (between / variances.mean(dim=0).clamp(min=floor)).log1p().sum(dim=-1)
