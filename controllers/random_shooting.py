"""Random shooting: try controls drawn uniformly over their whole range, keep the best.

    k_i ~ uniform(low, high),    U_i = clip(W k_i),    m <- argmin cost(U_i)

Nothing but the plan before, which is tried again, carries over from one plan to the next.

Source: Nagabandi et al., Neural Network Dynamics for Model-Based Deep RL with Model-Free Fine-Tuning, ICRA 2018.
"""

from dataclasses import dataclass

import numpy as np

from .sampling import SamplingPlanner, Search


@dataclass(frozen=True, kw_only=True)
class RandomShooting(SamplingPlanner):
    """Random shooting.

    Attributes:
        noise: half the width of the range that knots are drawn from, as a fraction of half the control range.
    """

    noise: float = 1.0

    def sample(self, search: Search) -> None:
        """Draws knots uniformly around mid-range."""
        search.rng.random(out=search.knots)
        search.knots -= 0.5
        search.knots *= 2.0 * search.std
        search.spread(search.low + search.half)

    def update(self, search: Search, costs: np.ndarray) -> None:
        """The best candidate so far is tried again."""
        search.mean = search.best
