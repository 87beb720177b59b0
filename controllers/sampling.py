"""What the sampling planners share: candidates on splines, warm start, the best so far.

Each iteration draws N candidates, evaluates them together and updates what it draws from:

    U_i = clip(m + W E_i),  i = 1..N,      c = cost(U),      m, ... <- update(U, c)

with m (H, nu) the mean control sequence, at first the previous plan shifted in time, W (H, K) the spline basis and
E_i (K, nu) a perturbation of the knots. Candidate 0 is m itself. So the shifted previous plan is always among those
tried, and since the plan made is the best known, a new plan is never worse, on the same model, than keeping the old.
Nor is it worse than following a policy, where there is one: what that would do is the first m of all, and later one of
the candidates.

A planner says how it draws (`sample`) and how it learns from the costs (`update`); it keeps no state of its own.
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from . import risk as risks
from . import splines
from .plan import Plan
from .problem import Problem
from .risk import Risk
from .splines import Spline

SHOWN = 16
"""At most so many of the last iteration's candidates are kept for viewers."""


class Search:
    """One search for a plan: what is known so far, and the arrays that its iterations share.

    Attributes:
        rng: draws the candidates.
        low, high: control limits (H, nu), the same in every row.
        rest: the control sequence (H, nu) of an unforced robot: zero, or mid-range where zero is not allowed.
        half: half the control range (H, nu), the same in every row.
        spline: along the horizon.
        index: steps (H,) of the previous plan that the horizon's steps fall on, or None without one.
        iteration: which one runs, from 0.
        last: whether it is the last one.
        mean: the control sequence (H, nu) to search around, within limits.
        std: of the knots (K, nu), in control units.
        knots: perturbations (N, K, nu), to be filled by `sample`.
        controls: candidates (N, H, nu), to be filled by `sample`.
        proposal: what a policy would do (H, nu), to be among the candidates; None without one, or where it is the mean.
        best, best_cost, prediction: the best candidate (H, nu) so far, its cost, its readings (E, H+1, ny).
        memory: what goes into the plan's memory.
    """

    def __init__(self, planner: "SamplingPlanner", problem: Problem, warm: Plan | None, rng: np.random.Generator):
        horizon = problem.horizon
        self.rng = rng
        self.low, self.high, self.half, self.rest = _range(problem.limits.tobytes(), horizon)
        self.spline = planner.spline
        self.proposal = problem.proposed()
        if warm is None:
            self.index, self.mean = None, self.rest
            if self.proposal is not None:
                self.mean, self.proposal = self.proposal, None
        else:
            self.index = warm.steps_from(problem.state.time, horizon)
            self.mean = self.clip(warm.controls[self.index])
        self.iteration = 0
        self.last = False
        self.std = planner.noise * self.half[: planner.knots]
        nu = self.low.shape[1]
        self.knots = np.empty((planner.samples, planner.knots, nu))
        self.controls = np.empty((planner.samples, horizon, nu))
        self.best, self.best_cost = self.mean, np.inf
        self.prediction: np.ndarray | None = None
        self.memory: object = None

    def clip(self, controls: np.ndarray) -> np.ndarray:
        """Puts `controls` (..., H, nu) within limits, in place."""
        np.maximum(controls, self.low, out=controls)  # these two take a third of the time of np.clip
        np.minimum(controls, self.high, out=controls)
        return controls

    def resize(self, count: int) -> None:
        """Goes on with the first `count` candidates only."""
        if count < len(self.controls):
            self.knots, self.controls = self.knots[:count], self.controls[:count]

    @property
    def given(self) -> int:
        """How many candidates of the first iteration are not drawn: the first ones."""
        return min(2 if self.proposal is None else 3, len(self.controls))

    def spread(self, around: np.ndarray) -> None:
        """Fills the candidates with `around` (H, nu) + W `knots`; candidate 0 becomes the mean.

        In the first iteration candidate 1 is rest: it ends a motion that has become useless; and candidate 2, or the
        last if there are only two, is what a policy would do.
        """
        splines.evaluate(len(around), self.knots, self.spline, self.controls)
        self.controls += around
        self.controls[0] = self.mean
        if self.iteration == 0:
            self.controls[1] = self.rest
            if self.proposal is not None:
                self.controls[self.given - 1] = self.proposal

    def keep_if_better(self, problem: Problem, candidate: int, cost: float) -> None:
        """Takes over a candidate of the last rollout if its cost is below the best so far."""
        if cost < self.best_cost:
            self.best, self.best_cost = self.controls[candidate].copy(), cost
            self.prediction = problem.predicted(slice(candidate, candidate + 1))[:, 0]


@functools.lru_cache(maxsize=64)
def _range(limits: bytes, horizon: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Low, high, half the range and rest (H, nu) of control limits (2, nu): the same for every plan of a task.

    With as many rows as controls, they meet the candidates' contiguous entries in loops over H nu instead of nu.
    """
    low, high = np.frombuffer(limits).reshape(2, -1)
    half = (high - low) / 2.0
    rest = np.where((low <= 0.0) & (high >= 0.0), 0.0, low + half)
    rows = [np.tile(row, (horizon, 1)) for row in (low, high, half, rest)]
    for row in rows:
        row.flags.writeable = False
    return rows[0], rows[1], rows[2], rows[3]


@dataclass(frozen=True, kw_only=True)
class SamplingPlanner(ABC):
    """Searches by sampling.

    Attributes:
        horizon: number of control steps that a plan looks ahead.
        replan: control steps from one plan to the next.
        samples: candidates per iteration.
        iterations: rounds of sampling per plan.
        first_iterations: rounds for the first plan, which starts from nothing; 0 is the larger of `iterations` and 4.
        knots: of the spline along the horizon.
        spline: its kind: `zero` (steps), `linear` or `cubic`.
        noise: standard deviation of the knots, as a fraction of half the control range.
        risk: across ensemble members: `mean`, `worst`, `cvar` or `exponential`.
        level: share of members for `cvar`, aversion for `exponential`.
        value: folder of a trained run whose value function goes on where plans end; costs are then rewards lost.
        policy: folder of one whose policy's actions are among the candidates; it may be the same.

    Raises:
        ValueError: a setting outside its range; the message names it.
    """

    horizon: int = 50
    replan: int = 1
    samples: int = 64
    iterations: int = 2
    first_iterations: int = 0
    knots: int = 10
    spline: Spline = "linear"
    noise: float = 0.5
    risk: Risk = "mean"
    level: float = 0.5
    value: str = ""
    policy: str = ""

    def __post_init__(self) -> None:
        require_at_least(self, horizon=1, replan=1, samples=2, iterations=1, first_iterations=0)
        splines.check(self.horizon, self.knots, self.spline)
        require_positive(self, "noise")
        risks.check(self.risk, self.level)

    @property
    def guides(self) -> dict[str, str]:
        """Folders of what was learned, by use."""
        return {use: folder for use, folder in (("value", self.value), ("policy", self.policy)) if folder}

    def rounds(self, warm: Plan | None) -> int:
        """Number of iterations of a plan that begins from `warm`."""
        return self.iterations if warm is not None else self.first_iterations or max(self.iterations, 4)

    def begin(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Search:
        """The search before its first iteration."""
        return Search(self, problem, warm, rng)

    @abstractmethod
    def sample(self, search: Search) -> None:
        """Fills `search.controls`, with the mean as candidate 0; they are clipped to the limits afterwards."""

    @abstractmethod
    def update(self, search: Search, costs: np.ndarray) -> None:
        """Learns from the candidates' costs (N,), at least one of them finite."""

    def executes_mean(self) -> bool:
        """Whether the plan is the mean rather than the best candidate."""
        return False

    def plan(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Plan:
        """A plan for `problem`, searched for around `warm` shifted in time, if there is one.

        Where the predictions of all candidates break down, the plan is the shifted one, with an infinite cost.
        Its `stats` are `evaluations` and `iterations`, the `best` and the `mean` cost of the last candidates, and how
        many of all the candidates were `invalid`.
        """
        search = self.begin(problem, warm, rng)
        rounds, invalid, before = self.rounds(warm), 0, problem.evaluations
        begun = np.inf
        for search.iteration in range(rounds):
            search.last = search.iteration == rounds - 1
            self.sample(search)
            costs = problem.cost(search.clip(search.controls))
            total = float(costs.sum())
            finite = len(costs) if math.isfinite(total) else int(np.count_nonzero(np.isfinite(costs)))
            invalid += len(costs) - finite
            if search.iteration == 0:
                begun = costs[0] if search.proposal is None else costs[: search.given].min()
            first = int(costs.argmin())
            search.keep_if_better(problem, first, float(costs[first]))
            if finite:
                self.update(search, costs)
        stride = -(-len(costs) // SHOWN)
        shown, shown_costs = problem.predicted(slice(None, None, stride))[0], costs[::stride].copy()
        if 0 < finite < len(costs):
            total = float(costs[np.isfinite(costs)].sum())
        stats = {
            "iterations": rounds,
            "best": float(costs[first]),
            "mean": total / max(finite, 1),
            "invalid": invalid,
        }
        controls, cost, prediction = search.best, search.best_cost, search.prediction
        if self.executes_mean():
            # The mean after the last update has not been tried yet: one candidate more. It may be worse than what the
            # search began with, between two good ways round an obstacle for one; the best candidate is not.
            mean = search.clip(search.mean.copy())
            tried = float(problem.cost(mean[None])[0])
            if tried <= begun:
                controls, cost, prediction = mean, tried, problem.predicted(slice(1))[:, 0]
        return Plan(
            time=problem.state.time,
            dt=problem.dynamics.dt,
            controls=controls,
            cost=cost,
            prediction=prediction if np.isfinite(cost) else None,
            candidates=shown,
            candidate_costs=shown_costs,
            stats={"evaluations": problem.evaluations - before, **stats},
            memory=search.memory,
        )


def require_at_least(planner: object, **least: float) -> None:
    """Raises `ValueError` for a field of `planner` below the least value given for it."""
    for name, bound in least.items():
        value = getattr(planner, name)
        if not value >= bound:
            raise ValueError(f"{name} is {value}; it must be at least {bound}")


def require_positive(planner: object, *names: str) -> None:
    """Raises `ValueError` for a field of `planner` that is not above 0 and finite."""
    for name in names:
        value = getattr(planner, name)
        if not 0.0 < value < np.inf:
            raise ValueError(f"{name} is {value}; it must be above 0")


def require_share(planner: object, *names: str, one: bool = True) -> None:
    """Raises `ValueError` for a field of `planner` outside [0, 1], or outside [0, 1) where `one` is not allowed."""
    for name in names:
        value = getattr(planner, name)
        if not (0.0 <= value <= 1.0 if one else 0.0 <= value < 1.0):
            raise ValueError(f"{name} is {value}; it must lie in [0, 1{']' if one else ')'}")
