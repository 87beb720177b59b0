"""CMA-ES: sample from a normal distribution of the knots whose full covariance adapts.

    E_i ~ normal(e, s^2 C),    U_i = clip(m + W E_i),    e, s, C <- CMA-ES update by the ranks of cost(U_i)

in units of half the control range, with m the control sequence that the search begins with, each knot bounded so that
the control there keeps its limits. The covariance starts anew with each plan: the knots move along with the horizon.

Source: Hansen, The CMA Evolution Strategy: A Tutorial, 2016; the separable one, with a diagonal C, Ros and Hansen,
PPSN 2008. Both as in the package `cmaes`.
"""

from dataclasses import dataclass

import numpy as np
from cmaes import CMA, SepCMA

from . import splines
from .plan import Plan
from .problem import Problem
from .sampling import SamplingPlanner, Search, require_at_least


class _Adapted(Search):
    """A search with the strategy's own state, the control sequence it is relative to, and the solutions asked for.

    The first `own` candidates are not among these.
    """

    strategy: CMA | SepCMA
    centre: np.ndarray
    asked: np.ndarray
    own: int


@dataclass(frozen=True, kw_only=True)
class CMAES(SamplingPlanner):
    """CMA-ES.

    Attributes:
        separable_above: with more knot values (knots times controls) than this, only variances adapt: the cost of a
            full covariance grows with the cube of their number.
    """

    separable_above: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, samples=6, separable_above=0)

    def begin(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> _Adapted:
        """The search before its first iteration."""
        search = _Adapted(self, problem, warm, rng)
        search.centre = search.mean
        steps, grid = splines.knot_steps(problem.horizon, self.knots, self.spline), np.arange(problem.horizon)
        at_knots = np.stack([np.interp(steps, grid, column) for column in search.centre.T], axis=1)
        half = search.half[: self.knots]
        scale = np.where(half > 0.0, half, 1.0)
        lower = np.minimum((search.low[: self.knots] - at_knots) / scale, 0.0)
        upper = np.maximum((search.high[: self.knots] - at_knots) / scale, 0.0)
        bounds = np.stack([lower.ravel(), upper.ravel()], axis=1)
        # The first are the mean, and what a policy would do: the strategy did not ask for them.
        search.own = 1 if search.proposal is None else 2
        asked = self.samples - search.own
        kind = CMA if bounds.shape[0] <= self.separable_above else SepCMA
        search.strategy = kind(
            mean=np.zeros(len(bounds)),
            sigma=self.noise,
            bounds=bounds,
            # A control at its limit makes every other draw infeasible: put them on the bound, draw no others.
            n_max_resampling=0,
            seed=int(rng.integers(2**32)),
            population_size=asked,
        )
        search.asked = np.empty((asked, len(bounds)))
        return search

    def sample(self, search: Search) -> None:
        """Asks the strategy."""
        assert isinstance(search, _Adapted)
        for row in search.asked:
            row[:] = search.strategy.ask()
        search.knots[: search.own] = 0.0
        search.knots[search.own :] = search.asked.reshape(-1, *search.knots.shape[1:])
        search.knots *= search.half[: self.knots]
        splines.evaluate(len(search.centre), search.knots, self.spline, search.controls)
        search.controls += search.centre
        search.controls[0] = search.mean
        if search.proposal is not None:
            search.controls[1] = search.proposal

    def update(self, search: Search, costs: np.ndarray) -> None:
        """Tells the strategy."""
        assert isinstance(search, _Adapted)
        search.strategy.tell(list(zip(search.asked, costs[search.own :].tolist())))
        mean = search.strategy.mean.reshape(search.knots.shape[1:]) * search.half[: self.knots]
        search.mean = search.centre + splines.basis(len(search.centre), self.knots, self.spline) @ mean
