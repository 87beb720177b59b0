"""Predictive sampling: perturb the best controls known, keep the best.

    E_i ~ normal(0, noise^2),    U_i = clip(m + W E_i),    m <- argmin cost(U_i)

Source: Howell et al., Predictive Sampling: Real-time Behaviour Synthesis with MuJoCo, 2022.
"""

from dataclasses import dataclass

import numpy as np

from .sampling import SamplingPlanner, Search


@dataclass(frozen=True, kw_only=True)
class PredictiveSampling(SamplingPlanner):
    """Predictive sampling."""

    def sample(self, search: Search) -> None:
        """Draws around the best candidate so far."""
        search.rng.standard_normal(out=search.knots)
        search.knots *= search.std
        search.spread(search.mean)

    def update(self, search: Search, costs: np.ndarray) -> None:
        """Goes on from the best candidate so far."""
        search.mean = search.best
