"""Model-predictive path integral control: the mean of all candidates, weighted by the exponential of their costs.

With the temperature L relative to the standard deviation of the costs, so that it needs no tuning to their scale:

    E_i ~ normal(0, noise^2),    U_i = clip(m + W E_i)
    w_i = exp(-(c_i - min c) / (L std(c))) / sum_j exp(-(c_j - min c) / (L std(c))),    m <- sum_i w_i U_i

The information-theoretic derivation adds L m^T Sigma^-1 E_i to the cost of a candidate; here, where the task's terms
say what a control costs, it is left out. The plan is the last mean, which one more rollout of a single candidate
evaluates; if it is worse than the plan that the search began with, the best candidate is the plan.

Source: Williams et al., Information Theoretic MPC for Model-Based Reinforcement Learning, ICRA 2017.
"""

from dataclasses import dataclass

import numpy as np

from .sampling import SamplingPlanner, Search, require_at_least, require_positive


@dataclass(frozen=True, kw_only=True)
class MPPI(SamplingPlanner):
    """Model-predictive path integral control.

    Attributes:
        temperature: of the weights, relative to the standard deviation of the costs; towards 0 the best one counts.
        mixture: each candidate's noise is scaled by 10^-m, m uniform in [0, mixture]: fine search beside coarse.
    """

    temperature: float = 0.1
    mixture: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "temperature")
        require_at_least(self, mixture=0)

    def sample(self, search: Search) -> None:
        """Draws around the mean."""
        search.rng.standard_normal(out=search.knots)
        search.knots *= search.std
        if self.mixture:
            search.knots *= 10.0 ** -search.rng.uniform(0.0, self.mixture, (len(search.knots), 1, 1))
        search.spread(search.mean)

    def update(self, search: Search, costs: np.ndarray) -> None:
        """Moves the mean to the weighted mean of the candidates."""
        n, *shape = search.controls.shape
        search.mean = (self.weights(costs) @ search.controls.reshape(n, -1)).reshape(shape)

    def weights(self, costs: np.ndarray) -> np.ndarray:
        """Weights (N,) of candidates with `costs` (N,), infinite ones aside: they get none."""
        scale = self.temperature * costs[np.isfinite(costs)].std()
        weights = np.exp(-(costs - costs.min()) / max(scale, 1e-300))
        weights /= weights.sum()
        return weights

    def executes_mean(self) -> bool:
        """The plan is the weighted mean."""
        return True
