"""The cross-entropy method, with the improvements of iCEM.

With std s (K, nu) of the knots, z unit noise along the knots with power 1/f^colour, and the n_e best candidates U_e:

    E_i = s z_i,                    U_i = clip(m + W E_i)
    m <- a m + (1 - a) mean(U_e),   s <- max(a s + (1 - a) std(W^+ U_e), floor)

with a the momentum and W^+ the least-squares inverse of the spline basis. The `keep` best candidates are tried again
in the next iteration and, shifted in time, in the next plan.

Sources: Rubinstein and Kroese, The Cross-Entropy Method, 2004; Pinneri et al., Sample-efficient Cross-Entropy Method
for Real-time Planning, CoRL 2020 (coloured noise, kept elites, decaying number of samples, best one executed).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import splines
from .plan import Plan
from .problem import Problem
from .sampling import SamplingPlanner, Search, require_at_least, require_share


@dataclass(frozen=True, kw_only=True)
class CEM(SamplingPlanner):
    """The cross-entropy method.

    Attributes:
        elites: share of the candidates that the next ones are drawn after.
        keep: number of best candidates tried again.
        momentum: share of the old mean and standard deviation that an update keeps.
        noise_floor: least standard deviation, as a fraction of half the control range.
        decades: the noise of each candidate is scaled by 10^-r, r uniform on [0, decades]: bold and careful candidates
            at once, for tasks that swing up and then balance; 0 is one scale for all.
        colour: exponent of the noise's power along the knots, 1/f^colour; 0 is white.
        decay: the number of samples is divided by this from one iteration to the next, down to twice the elites.
        execute: `best`, the best candidate seen, or `mean`, the last mean (unless it is worse than the
            plan that the search began with).
    """

    elites: float = 0.12
    keep: int = 3
    momentum: float = 0.1
    noise_floor: float = 0.05
    colour: float = 0.0
    decades: float = 0.0
    decay: float = 1.0
    execute: Literal["best", "mean"] = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(self, "elites")
        if self.elites == 0.0:
            raise ValueError("elites is 0; it must be above 0")
        require_at_least(self, keep=0, noise_floor=0, colour=0, decades=0, decay=1)
        require_share(self, "momentum", one=False)
        if self.keep > self.samples - 2:
            raise ValueError(
                f"keep is {self.keep}; of {self.samples} samples at most {self.samples - 2} can be kept ones"
            )
        if self.execute not in ("best", "mean"):
            raise ValueError(f"unknown execute {self.execute!r}; known: best, mean")

    @property
    def elite_count(self) -> int:
        """Number of elites of a full iteration."""
        return max(min(2, self.samples), round(self.elites * self.samples))

    def begin(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Search:
        """The search before its first iteration, with the best candidates of the plan before shifted in time."""
        search = Search(self, problem, warm, rng)
        if warm is not None and isinstance(warm.memory, np.ndarray) and warm.memory.shape[1:] == warm.controls.shape:
            search.memory = warm.memory[: self.keep, search.index]
        return search

    def sample(self, search: Search) -> None:
        """Draws around the mean; the last candidates are the kept ones."""
        search.resize(max(int(self.samples / self.decay**search.iteration), min(2 * self.elite_count, self.samples)))
        search.rng.standard_normal(out=search.knots)
        if self.colour:
            search.knots = splines.colouring(self.knots, self.colour) @ search.knots
        search.knots *= search.std
        if self.decades:
            search.knots *= 10.0 ** search.rng.uniform(-self.decades, 0.0, (len(search.knots), 1, 1))
        search.spread(search.mean)
        if isinstance(search.memory, np.ndarray) and len(search.memory):
            count = min(len(search.memory), len(search.controls) - search.given)
            search.controls[len(search.controls) - count :] = search.memory[:count]

    def update(self, search: Search, costs: np.ndarray) -> None:
        """Moves the mean and the standard deviation to those of the elites."""
        count = min(self.elite_count, len(costs))
        best_first = costs.argsort(kind="stable")[:count]
        if costs[best_first[-1]] == np.inf:
            best_first = best_first[costs[best_first] < np.inf]
        elites = search.controls[best_first]
        if self.keep:
            search.memory = elites[: self.keep].copy()
        if search.last and not self.executes_mean():
            return
        # Sums in place, for arrays as small as these are all call overhead.
        kept, new = self.momentum, (1.0 - self.momentum)
        mean = elites.sum(0)
        mean /= len(elites)
        elites -= mean
        knots = splines.projection(len(mean), self.knots, self.spline) @ elites
        knots *= knots
        std = knots.sum(0)  # of squares: the mean is zero already, the projection being linear
        std /= len(elites)
        np.sqrt(std, out=std)
        if kept:
            mean *= new
            mean += kept * search.mean
            std *= new
            std += kept * search.std
        search.mean, search.std = mean, np.maximum(std, self.noise_floor * search.half[: self.knots], out=std)

    def executes_mean(self) -> bool:
        """As set."""
        return self.execute == "mean"
