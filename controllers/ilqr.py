"""iLQR and DDP: Newton-like trajectory optimisation along the dynamics, with limits, constraints and gains.

Each iteration models dynamics and cost about the trajectory, finds the model's best policy by a Riccati recursion
(`riccati.py`), u = u_k + a k + K (x - x_k), and rolls that policy out for several step sizes a at once, longer ones
first; the best rollout is the next trajectory, if it lowers the cost by a share of what the model promised:

    J(a) <= J(0) + c (a slope + a^2 curvature / 2)

Otherwise regularisation grows by factors that grow themselves, and shrinks in the same way after success. Constraints
become multipliers and a penalty that grows while the violation does not fall (augmented Lagrangian).

Sources: Li and Todorov, Iterative Linear Quadratic Regulator Design, 2004; Tassa, Erez and Todorov, Synthesis and
Stabilization of Complex Behaviors through Online Trajectory Optimization, 2012 (regularisation, model-predictive
control); Tassa, Mansard and Todorov, Control-Limited Differential Dynamic Programming, 2014; Giftthaler et al., A
Family of Iterative Gauss-Newton Shooting Methods, 2018, and Mastalli et al., Crocoddyl, 2020 (starts with gaps);
Howell, Jackson and Manchester, ALTRO, 2019 (constraints); Pantoja, Differential Dynamic Programming and Newton's
Method, 1988 (costates in the second-order terms).
"""

import enum
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..robots import plugins
from ..robots.task import Task
from ..sim.interface import Dynamics
from ..sim.linearization import Differentiable
from . import splines
from .expansion import Objective, objective, penalised
from .local import Local, Tried, local
from .plan import Feedback, Plan
from .problem import Problem
from .riccati import Policy, Recursion
from .sampling import require_at_least, require_positive

ARMIJO = 1e-4
"""Share c of the promised reduction that a step must reach."""

SATISFIED = 0.1
"""The same share above which no shorter steps are tried than those that run at once."""

STEP = 0.5
"""Ratio of one step size to the one before."""

GROWTH = 2.0
"""Factor by which the regularisation's factor grows."""

LEAST, MOST = 1e-6, 1e10
"""Regularisation below the one counts as none; above the other the search gives up."""

PENALTY, PENALTY_GROWTH, MOST_PENALTY = 10.0, 10.0, 1e8
"""Of the augmented Lagrangian: at first, and its growth where the violation fell by less than `PROGRESS`."""

PROGRESS = 0.25
"""Share of the violation before that counts as progress."""

PATIENCE = 6
"""Iterations after which multipliers are updated even if the cost still falls."""


class Status(enum.IntEnum):
    """Why a search ended."""

    CONVERGED = 0
    ITERATIONS = 1
    STUCK = 2
    DIVERGED = 3
    VIOLATED = 4


@dataclass(frozen=True, eq=False)
class Memory:
    """What a search leaves to the next, and says about itself.

    Attributes:
        status: why it ended.
        reason: the same in words.
        regularisation: mu.
        multipliers: of the constraints (H, k).
        penalty: of the constraints.
    """

    status: Status
    reason: str
    regularisation: float
    multipliers: np.ndarray
    penalty: float


@dataclass(eq=False)
class _Trajectory:
    """Where the search is: states (H+1, nx), readings (H+1, ny), controls (H, nu), and the constraints' residuals."""

    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    cost: float
    violations: np.ndarray
    gaps: np.ndarray | None = None  # (H, n), where the states do not follow from one another

    @property
    def violation(self) -> float:
        return float(np.max(self.violations, initial=0.0))


def require_differentiable(planner: str, dynamics: Dynamics) -> Differentiable:
    """The dynamics, which have derivatives.

    Raises:
        ValueError: they have none; the message lists those that have.
    """
    if isinstance(dynamics, Differentiable):
        return dynamics
    raise ValueError(
        f"{planner} needs dynamics with derivatives, and {type(dynamics).__name__} has none; "
        f"choose among {', '.join(_differentiable_names()) or 'none installed'}"
    )


def _differentiable_names() -> list[str]:
    found = []
    for name in plugins.names("dynamics"):
        try:
            if hasattr(plugins.find("dynamics", name), "linearize"):
                found.append(name)
        except plugins.PluginError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class ILQR:
    """Iterative LQR, or DDP with `second_order`.

    Attributes:
        horizon: number of control steps that a plan looks ahead.
        replan: control steps from one plan to the next; in between, gains hold the plan.
        iterations: at most, per plan.
        first_iterations: at most, for the first plan; 0 is ten times `iterations`.
        steps: step sizes tried at once, each half the one before.
        tolerance: a predicted or actual reduction of the cost by less than this share of it ends the search.
        feasibility: constraint violation that counts as none.
        regularisation: at the beginning of the first search.
        second_order: whether the dynamics' second derivatives are used, where the dynamics have them.
        samples: random candidates that a plan may begin from if one is better than the plan before.
        first_samples: the same for the first plan, which begins from nothing.
        noise: standard deviation of those candidates' knots, as a fraction of half the control range.
        knots: of the linear spline that each of those candidates is.

    Raises:
        ValueError: a setting outside its range; the message names it.
    """

    horizon: int = 50
    replan: int = 1
    iterations: int = 5
    first_iterations: int = 0
    steps: int = 8
    tolerance: float = 1e-6
    feasibility: float = 1e-4
    regularisation: float = 0.0
    second_order: bool = False
    samples: int = 0
    first_samples: int = 64
    noise: float = 0.5
    knots: int = 10
    _locals: dict[tuple[int, ...], Local] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_at_least(
            self,
            horizon=1,
            replan=1,
            iterations=1,
            first_iterations=0,
            steps=1,
            tolerance=0,
            regularisation=0,
            samples=0,
            first_samples=0,
        )
        require_positive(self, "feasibility", "noise")
        splines.check(self.horizon, self.knots, "linear")

    def check(self, dynamics: Dynamics, task: Task) -> None:
        """Gets ready for plans of `task` on `dynamics`.

        Raises:
            ValueError: dynamics without derivatives, or a term or constraint whose derivatives can not be had.
        """
        self._model(dynamics)
        objective(task)

    def _model(self, dynamics: Dynamics) -> Differentiable:
        model = require_differentiable("ilqr", dynamics)
        if self.second_order and not hasattr(model, "curvature"):
            raise ValueError(
                f"second_order needs the dynamics' second derivatives, which {type(dynamics).__name__} does not give; "
                "choose casadi or pinocchio, or second_order = false"
            )
        return model

    def plan(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Plan:
        """A plan for `problem`, searched for from the plan `warm` shifted in time and held by its gains.

        Its `memory` is a `Memory`; its `stats` are `evaluations`, `iterations`, the `status` as a number, the
        `regularisation`, the largest constraint `violation`, and the `gradient` that was left. Where every start
        diverges, the plan is the shifted one, at infinite cost.
        """
        search = _Search(self, problem)
        search.remember(warm)
        begun = search.begin(warm, rng)
        return search.run(begun, self._most(warm))

    def solve(self, problem: Problem, x: np.ndarray, u: np.ndarray) -> Plan:
        """A plan for `problem` from a guess of states `x` (H+1, nx) and controls `u` (H, nu) that need not fit.

        The states may be anything, a straight line to a goal for one: the first iteration's policy holds the dynamics
        to them as far as it can, which closes the gaps between steps.

        Raises:
            ValueError: arrays of other shapes, or numbers that are not finite.
        """
        search = _Search(self, problem)
        horizon, nu = problem.horizon, problem.task.robot.nu
        if np.shape(u) != (horizon, nu) or np.ndim(x) != 2 or len(x) != horizon + 1:
            raise ValueError(
                f"the guess has states {np.shape(x)} and controls {np.shape(u)}, "
                f"not ({horizon + 1}, nx) and ({horizon}, {nu})"
            )
        if not (np.isfinite(x).all() and np.isfinite(u).all()):
            raise ValueError("the guess has entries that are not finite numbers")
        return search.run(search.guessed(np.asarray(x, float), np.clip(u, *search.limits)), self._most(None))

    def _local(self, problem: Problem) -> Local:
        """Where the searches compute, made for the first: it is the same for all plans of a run."""
        key = (id(problem.dynamics), id(problem.task), problem.horizon)
        if key not in self._locals:
            made = local(self._model(problem.dynamics), problem.task, problem.horizon, self.steps)
            self._locals.clear()
            self._locals[key] = made
        return self._locals[key]

    def _most(self, warm: Plan | None) -> int:
        return self.iterations if warm is not None else self.first_iterations or 10 * self.iterations


class _Search:
    """One search for a plan."""

    def __init__(self, planner: ILQR, problem: Problem) -> None:
        self.planner, self.problem = planner, problem
        self.local = planner._local(problem)
        self.model = model = self.local.model
        self.goal: Objective = self.local.goal
        self.limits = problem.limits
        self.sizes = STEP ** np.arange(planner.steps)
        self.multipliers = np.zeros((problem.horizon, self.goal.constrained))
        self.penalty = PENALTY
        self.mu, self.growth = planner.regularisation, 1.0
        self.tried: Tried | None = None
        self.gains = np.zeros((problem.horizon, problem.task.robot.nu, model.tangent))
        self.gradient = np.nan
        self.size = 1.0
        self.fallback = np.tile(np.clip(np.zeros(problem.task.robot.nu), *self.limits), (problem.horizon, 1))

    # Starts ----------------------------------------------------------------------------------------------------------

    def remember(self, warm: Plan | None) -> None:
        """Takes over what the search before has learned."""
        if warm is not None and isinstance(warm.memory, Memory):
            self.mu = warm.memory.regularisation
            if warm.memory.multipliers.shape[1:] == self.multipliers.shape[1:]:
                index = warm.steps_from(self.problem.state.time, self.problem.horizon)
                self.multipliers, self.penalty = warm.memory.multipliers[index], warm.memory.penalty

    def begin(self, warm: Plan | None, rng: np.random.Generator) -> _Trajectory | None:
        """The best of the starts: the plan before, held by its gains or not, rest, and random candidates."""
        problem, nu = self.problem, self.problem.task.robot.nu
        horizon = problem.horizon
        starts = []
        if warm is not None:
            self.fallback = np.clip(warm.shifted(problem.state.time, horizon), *self.limits)
            if warm.feedback is not None:
                starts.append(self._held(warm, warm.feedback))
        u = self.fallback
        starts.append(self._open(u))
        count = self.planner.samples if warm is not None else self.planner.first_samples
        if count:
            half = (self.limits[1] - self.limits[0]) / 2.0
            knots = self.planner.noise * half * rng.standard_normal((count, self.planner.knots, nu))
            candidates = np.empty((count, horizon, nu))
            splines.evaluate(horizon, knots, "linear", candidates)
            candidates = np.clip(candidates + u, *self.limits)
            best = candidates[int(np.argmin(problem.cost(candidates)))]
            starts.append(self._open(best))
        found = [start for start in starts if start is not None]
        return min(found, key=self.merit, default=None)

    def _open(self, u: np.ndarray) -> _Trajectory | None:
        """`u` (H, nu) as it is."""
        x = np.tile(self._state(), (len(u) + 1, 1))
        return self._best(x, u, np.zeros_like(u), np.zeros_like(self.gains), np.zeros(1))

    def _held(self, warm: Plan, feedback: Feedback) -> _Trajectory | None:
        """The plan before, shifted in time, with its gains at work on how the state differs from what it predicted."""
        horizon, first = self.problem.horizon, max(warm.step_at(self.problem.state.time), 0)
        steps = np.arange(first, first + horizon + 1)
        inside = np.minimum(steps[:-1], len(feedback.u) - 1)
        x = feedback.x[np.minimum(steps, len(feedback.x) - 1)]
        gains = np.where((steps[:-1] < len(feedback.u))[:, None, None], feedback.gains[inside], 0.0)
        if gains.shape != self.gains.shape or x.shape[1] != self._state().size:
            return None
        return self._best(x, feedback.u[inside], np.zeros_like(feedback.u[inside]), gains, np.zeros(1))

    def _state(self) -> np.ndarray:
        """The part of the full state that trajectories hold (nx,)."""
        return self.model.coordinates(self.problem.state)

    def guessed(self, x: np.ndarray, u: np.ndarray) -> _Trajectory:
        """A trajectory whose steps need not lead to one another."""
        y, reached = [], []
        nothing = np.zeros_like(u[:1]), np.zeros_like(self.gains[:1]), np.zeros(1)
        for k, state in enumerate(x):
            begin = self.model.place(self.problem.state, state)
            given = u[min(k, len(u) - 1)][None]
            found = self.model.policy_rollout(begin, np.stack([state] * 2), given, *nothing, self.limits)
            y.append(found.y[0, 0])
            reached.append(found.x[0, 1])
        gaps = self.model.difference(np.array(reached[:-1]), x[1:])
        readings = np.array(y)
        return _Trajectory(
            x, readings, u, np.inf, self.goal.violations(readings[None], u[None], self.problem.times)[0], gaps
        )

    # Iterations ------------------------------------------------------------------------------------------------------

    def merit(self, trajectory: _Trajectory) -> float:
        """The cost with what the augmented Lagrangian adds."""
        if not self.goal.constrained:
            return trajectory.cost
        return trajectory.cost + float(penalised(trajectory.violations[None], self.multipliers, self.penalty)[0])

    def _best(
        self, x: np.ndarray, u: np.ndarray, feedforward: np.ndarray, feedback: np.ndarray, sizes: np.ndarray
    ) -> _Trajectory | None:
        """The best rollout of a policy over step sizes; None where all diverge."""
        problem = self.problem
        found = self.local.follow(problem.state, problem.times, (x, u), (feedforward, feedback), sizes, self.limits)
        problem.evaluations += len(sizes)
        merits = found.costs
        if self.goal.constrained:
            merits = merits + penalised(found.violations, self.multipliers, self.penalty)
        best = int(merits.argmin())
        self.tried = found
        if not math.isfinite(merits[best]):
            return None
        self.size = float(sizes[best])
        x, y, u, violations = (a[best].copy() for a in (found.x, found.y, found.u, found.violations))
        return _Trajectory(x, y, u, float(found.costs[best]), violations)

    def _grow(self) -> bool:
        """More regularisation; False where that is too much."""
        self.growth = max(GROWTH, self.growth * GROWTH)
        self.mu = max(LEAST, self.mu * self.growth)
        return self.mu <= MOST

    def _shrink(self) -> None:
        self.growth = min(1.0 / GROWTH, self.growth / GROWTH)
        self.mu = self.mu * self.growth if self.mu * self.growth > LEAST else 0.0

    def _policy(self, at: _Trajectory) -> Policy | str:
        """The best policy on the model about a trajectory, or why there is none."""
        recursion = self.local.recursion
        low, high = self.limits[0] - at.u, self.limits[1] - at.u
        curvature = self._curvature(at, recursion) if self.planner.second_order else None
        while True:
            policy = recursion.solve(low, high, self.mu, at.gaps, curvature)
            if policy.failed < 0 and math.isfinite(policy.slope + policy.curvature):
                return policy
            if (reason := self._undefined(recursion)) is not None:
                return reason
            if not self._grow():
                return f"the model stays indefinite at step {policy.failed}, whatever the regularisation"

    def _undefined(self, recursion: Recursion) -> str | None:
        """What of the model is not finite."""
        for k, (f, g, w) in enumerate(zip(recursion.F, recursion.gradient, recursion.hessian)):
            if not np.isfinite(f).all():
                return f"the dynamics' derivatives at step {k} are not finite"
            if not (np.isfinite(g).all() and np.isfinite(w).all()):
                return f"the cost's derivatives at step {k} are not finite"
        return None

    def _curvature(self, at: _Trajectory, recursion: Recursion) -> np.ndarray:
        """The dynamics' second derivatives along the costates, (H, n + nu, n + nu)."""
        n = self.model.tangent
        costates = recursion.gradient[:, :n].copy()
        for k in range(len(costates) - 1, 0, -1):
            costates[k - 1] += recursion.F[k, :, :n].T @ costates[k]
        dynamics: Any = self.model
        return dynamics.curvature(at.x[:-1], at.u, costates)

    def _step(self, at: _Trajectory, policy: Policy) -> _Trajectory | None:
        """The trajectory that the policy leads to; None where it does not keep enough of its promise."""
        before, together = self.merit(at), self.local.together
        best, best_merit, kept = None, math.inf, 0.0
        for first in range(0, len(self.sizes), together):
            trial = self._best(at.x, at.u, policy.feedforward, policy.feedback, self.sizes[first : first + together])
            if trial is None or not (merit := self.merit(trial)) < best_merit:
                continue
            promise = max(policy.promise(self.size), 0.0)
            best, best_merit, kept = trial, merit, before - merit - ARMIJO * promise
            if at.gaps is not None or before - merit > SATISFIED * promise:
                break
        # A trajectory with gaps has no cost to compare with.
        return best if at.gaps is not None or kept > 0.0 else None

    def run(self, at: _Trajectory | None, most: int) -> Plan:
        """Improves a trajectory in `most` iterations or fewer, and makes a plan of it."""
        if at is None:
            return self._nothing("every start diverges, or costs no finite number")
        status, reason = Status.ITERATIONS, f"{most} iterations are spent"
        known = False  # whether the local model is that about the trajectory
        before, since, count = np.inf, 0, 0
        while count < most:
            count += 1
            since += 1
            if not known:
                self.local.about(at.x, at.y, at.u, self.problem.times, self.multipliers, self.penalty)
                known = True
            policy = self._policy(at)
            if isinstance(policy, str):
                status, reason = Status.STUCK, policy
                break
            self.gains, self.gradient = policy.feedback, policy.gradient
            merit = self.merit(at)
            small = self.planner.tolerance * (1.0 + abs(merit))
            settled = at.gaps is None and policy.promise(1.0) <= small
            if not settled:
                better = self._step(at, policy)
                if better is None:
                    if self._grow():
                        continue
                    status, reason = Status.STUCK, "no step lowers the cost, whatever the regularisation"
                    break
                self._shrink()
                settled = at.gaps is None and merit - self.merit(better) <= small
                at, known = better, False
            if at.violation <= self.planner.feasibility:
                if settled:
                    status, reason = Status.CONVERGED, "the cost falls no more"
                    break
            elif settled or since >= PATIENCE:
                if self.penalty >= MOST_PENALTY and at.violation > PROGRESS * before:
                    status, reason = Status.VIOLATED, f"a constraint stays violated by {at.violation:.3g}"
                    break
                self._press(at, before)
                known = False
                before, since = at.violation, 0
        if at.gaps is not None:
            return self._nothing(f"the guess led to no trajectory: {reason}")
        return self._plan(at, count, status, reason)

    def _press(self, at: _Trajectory, before: float) -> None:
        """Updates the multipliers, and the penalty where the violation has not fallen enough."""
        self.multipliers = np.maximum(0.0, self.multipliers + self.penalty * at.violations)
        if at.violation > PROGRESS * before:
            self.penalty = min(self.penalty * PENALTY_GROWTH, MOST_PENALTY)

    def _plan(self, at: _Trajectory, iterations: int, status: Status, reason: str) -> Plan:
        problem = self.problem
        tried = self.tried
        return Plan(
            time=problem.state.time,
            dt=problem.task.robot.dt,
            controls=at.u.copy(),
            cost=at.cost,
            prediction=at.y[None].copy(),
            candidates=None if tried is None else tried.y.copy(),
            candidate_costs=None if tried is None else tried.costs,
            stats={
                "evaluations": problem.evaluations,
                "iterations": iterations,
                "status": float(status),
                "regularisation": self.mu,
                "violation": at.violation,
                "gradient": self.gradient,
            },
            memory=Memory(status, reason, self.mu, self.multipliers, self.penalty),
            feedback=Feedback(at.x.copy(), at.u.copy(), self.gains, self.model, self.limits),
        )

    def _nothing(self, reason: str) -> Plan:
        """The controls that the search began with, at infinite cost."""
        nowhere = _Trajectory(
            self._state()[None], self.problem.state.y[None], self.fallback, np.inf, np.zeros((0, self.goal.constrained))
        )
        return replace(self._plan(nowhere, 0, Status.DIVERGED, reason), prediction=None, feedback=None)
