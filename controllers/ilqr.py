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
import threading
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..robots import plugins
from ..robots.task import Task
from ..sim.interface import Dynamics
from ..sim.linearization import Differentiable
from . import descent, splines
from .local import Local, Trajectory, local
from .plan import Feedback, Plan
from .problem import Problem
from .sampling import require_at_least, require_positive

PENALTY, PENALTY_GROWTH, MOST_PENALTY = 10.0, 10.0, 1e8
"""Of the augmented Lagrangian: at first, and its growth where the violation fell by less than `PROGRESS`."""

PROGRESS = 0.25
"""Share of the violation before that counts as progress."""

PATIENCE = 20
"""Iterations after which multipliers are updated even if the cost still falls."""


CARRIED = 1e3
"""Most regularisation that a search takes over from the one before."""


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


class _Kept:
    """What a planner keeps from plan to plan: where it computes, which copies of the planner make anew."""

    def __init__(self) -> None:
        self.locals: dict[tuple[int, ...], Local] = {}
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return _Kept()

    def __reduce__(self) -> Any:
        return _Kept, ()


@dataclass(frozen=True, kw_only=True)
class ILQR:
    """Iterative LQR, or DDP with `second_order`.

    Attributes:
        horizon: number of control steps that a plan looks ahead.
        replan: control steps from one plan to the next; in between, gains hold the plan.
        iterations: at most, per plan.
        first_iterations: at most, for the first plan; 0 is ten times `iterations`.
        steps: step sizes of the line search, each half the one before. Native code tries as many at once as the
            processor's vectors hold, and no shorter ones if the best of them will do; the last group is filled up.
        tolerance: a predicted or actual reduction of the cost J by less than this share of 1 + |J| ends the search.
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
    _kept: ClassVar[_Kept]  # set for each planner, and no setting

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
        object.__setattr__(self, "_kept", _Kept())

    def check(self, dynamics: Dynamics, task: Task) -> None:
        """Gets ready for plans of `task` on `dynamics`.

        Raises:
            ValueError: dynamics without derivatives, or a term or constraint whose derivatives can not be had.
        """
        self._local(dynamics, task, self.horizon)

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
        diverges, the plan is the shifted one, at infinite cost. One plan is made at a time.

        Raises:
            ValueError: dynamics without derivatives, a term that does not trace, or a horizon shorter than `knots`.
        """
        with self._kept.lock:
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
        horizon, nu = problem.horizon, problem.task.robot.nu
        if np.shape(u) != (horizon, nu) or np.ndim(x) != 2 or len(x) != horizon + 1:
            raise ValueError(
                f"the guess has states {np.shape(x)} and controls {np.shape(u)}, "
                f"not ({horizon + 1}, nx) and ({horizon}, {nu})"
            )
        if not (np.isfinite(x).all() and np.isfinite(u).all()):
            raise ValueError("the guess has entries that are not finite numbers")
        with self._kept.lock:
            search = _Search(self, problem)
            return search.run(search.guessed(np.asarray(x, float), np.clip(u, *search.limits)), self._most(None))

    def _local(self, dynamics: Dynamics, task: Task, horizon: int) -> Local:
        """Where the searches compute, made once: it is the same for all plans of a run."""
        known, key = self._kept.locals, (id(dynamics), id(task), horizon)
        if key not in known:
            made = local(self._model(dynamics), task, horizon, self.steps)
            known.clear()
            known[key] = made
        return known[key]

    def _most(self, warm: Plan | None) -> int:
        return self.iterations if warm is not None else self.first_iterations or 10 * self.iterations


class _Search:
    """One search for a plan."""

    def __init__(self, planner: ILQR, problem: Problem) -> None:
        self.planner, self.problem = planner, problem
        self.local = planner._local(problem.dynamics, problem.task, problem.horizon)
        self.model = self.local.model
        self.limits = problem.limits
        horizon, nu = problem.horizon, problem.task.robot.nu
        self.local.begin(problem, planner.second_order)
        self.local.multipliers, self.local.penalty = np.zeros((horizon, self.local.goal.constrained)), PENALTY
        self.mu, self.growth = planner.regularisation, 1.0
        self.gains, self.gradient = np.zeros((horizon, nu, self.model.tangent)), np.nan
        self.fallback = np.tile(np.clip(np.zeros(nu), *self.limits), (horizon, 1))

    # Starts ----------------------------------------------------------------------------------------------------------

    def remember(self, warm: Plan | None) -> None:
        """Takes over what the search before has learned."""
        if warm is not None and isinstance(warm.memory, Memory):
            self.mu = min(warm.memory.regularisation, CARRIED)
            if warm.memory.multipliers.shape[1:] == self.local.multipliers.shape[1:]:
                index = warm.steps_from(self.problem.state.time, self.problem.horizon)
                self.local.multipliers, self.local.penalty = warm.memory.multipliers[index], warm.memory.penalty

    def begin(self, warm: Plan | None, rng: np.random.Generator) -> Trajectory | None:
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
        return min(found, key=self.local.merit, default=None)

    def _open(self, u: np.ndarray) -> Trajectory | None:
        """`u` (H, nu) as it is."""
        begin = self._state()
        x = np.broadcast_to(begin, (len(u) + 1, len(begin)))
        return self._rolled(x, u, np.zeros_like(self.gains))

    def _rolled(self, x: np.ndarray, u: np.ndarray, gains: np.ndarray) -> Trajectory | None:
        """Where controls and gains lead to; None where the dynamics diverge."""
        self.problem.evaluations += 1
        best, merit = self.local.rollout((x, u), (np.zeros_like(u), gains), np.zeros(1))
        return self.local.taken(best) if math.isfinite(merit) else None

    def _held(self, warm: Plan, feedback: Feedback) -> Trajectory | None:
        """The plan before, shifted in time, with its gains at work on how the state differs from what it predicted."""
        horizon, first = self.problem.horizon, max(warm.step_at(self.problem.state.time), 0)
        steps = np.arange(first, first + horizon + 1)
        inside = np.minimum(steps[:-1], len(feedback.u) - 1)
        x = feedback.x[np.minimum(steps, len(feedback.x) - 1)]
        gains = np.where((steps[:-1] < len(feedback.u))[:, None, None], feedback.gains[inside], 0.0)
        if gains.shape != self.gains.shape or x.shape[1] != self._state().size:
            return None
        return self._rolled(x, feedback.u[inside], gains)

    def _state(self) -> np.ndarray:
        """The part of the full state that trajectories hold (nx,)."""
        return self.model.coordinates(self.problem.state)

    def guessed(self, x: np.ndarray, u: np.ndarray) -> Trajectory:
        """A trajectory whose steps need not lead to one another."""
        y, reached = [], []
        nothing = np.zeros_like(u[:1]), np.zeros_like(self.gains[:1]), np.zeros(1)
        first = self.problem.state
        for k, state in enumerate(x):
            begin = self.model.place(replace(first, time=first.time + k * self.problem.task.robot.dt), state)
            given = u[min(k, len(u) - 1)][None]
            found = self.model.policy_rollout(begin, np.stack([state] * 2), given, *nothing, self.limits)
            y.append(found.y[0, 0])
            reached.append(found.x[0, 1])
        gaps = self.model.difference(np.array(reached[:-1]), x[1:])
        readings = np.array(y)
        violations = self.local.goal.violations(readings[None], u[None], self.problem.times)[0]
        return Trajectory(x, readings, u, np.inf, violations, gaps)

    # Iterations ------------------------------------------------------------------------------------------------------

    def run(self, at: Trajectory | None, most: int) -> Plan:
        """Improves a trajectory in `most` iterations or fewer, and makes a plan of it."""
        if at is None:
            return self._nothing("every start diverges, or costs no finite number")
        self.local.at, count = at, 0
        while at.gaps is not None:
            reason = "its iterations are spent" if count == most else self._close()
            if reason is not None:
                return self._nothing(f"the guess led to no trajectory: {reason}")
            at, count = self.local.at, count + 1
        status, reason, count = self._descend(count, most)
        return self._plan(self.local.at, count, status, reason)

    def _descend(self, count: int, most: int) -> tuple[Status, str, int]:
        """Iterations until constraints hold and the cost falls no more: how they ended, and their number."""
        local, feasibility = self.local, self.planner.feasibility
        before, since = np.inf, 0
        while True:
            patience = PATIENCE - since if local.at.violation > feasibility else most
            why, failed, done, _, self.mu, self.growth, _, self.gradient = local.descend(
                min(patience, most - count), self.planner.tolerance, self.mu, self.growth
            )
            count, since = count + done, since + done
            if local.policy is not None and local.policy.failed < 0:
                self.gains = local.policy.feedback
            if why in (descent.UNDEFINED, descent.INDEFINITE):
                return Status.STUCK, self._undefined(failed), count
            if why == descent.STUCK:
                return Status.STUCK, "no step lowers the cost, whatever the regularisation", count
            violation = local.at.violation
            if violation <= feasibility:
                if why == descent.SETTLED:
                    return Status.CONVERGED, "the cost falls no more", count
            elif why == descent.SETTLED or since >= PATIENCE:
                if local.penalty >= MOST_PENALTY and violation > PROGRESS * before:
                    return Status.VIOLATED, f"a constraint stays violated by {violation:.3g}", count
                self._press(before)
                before, since = violation, 0
            if count >= most:
                return Status.ITERATIONS, f"{most} iterations are spent", count

    def _undefined(self, failed: int) -> str:
        """Why the model has no policy."""
        r = self.local.recursion
        for k, (f, g, w) in enumerate(zip(r.F, r.gradient, r.hessian)):
            if not np.isfinite(f).all():
                return f"the dynamics' derivatives at step {k} are not finite"
            if not (np.isfinite(g).all() and np.isfinite(w).all()):
                return f"the cost's derivatives at step {k} are not finite"
        return f"the model stays indefinite at step {failed}, whatever the regularisation"

    def _close(self) -> str | None:
        """Goes on from where the policy about a trajectory with gaps leads best; else says why that is nowhere."""
        local = self.local
        local.about()
        while True:
            failed, slope, curvature, self.gradient = local.solve(self.mu)
            if failed < 0 and math.isfinite(slope + curvature):
                assert local.policy is not None
                self.gains = local.policy.feedback
                for first in range(0, len(local.sizes), local.together):
                    merit, _, best = local.follow(first)
                    self.problem.evaluations += local.together
                    if math.isfinite(merit):  # there is no cost to compare with
                        local.keep(best)
                        local.accept()
                        return None
            self.growth = max(descent.GROWTH, self.growth * descent.GROWTH)
            self.mu = max(descent.LEAST, self.mu * self.growth)
            if self.mu > descent.MOST:
                return self._undefined(failed) if failed >= 0 else "every step diverges, whatever the regularisation"

    def _press(self, before: float) -> None:
        """Updates the multipliers, and the penalty where the violation has not fallen enough."""
        local = self.local
        local.multipliers = np.maximum(0.0, local.multipliers + local.penalty * local.at.violations)
        if local.at.violation > PROGRESS * before:
            local.penalty = min(local.penalty * PENALTY_GROWTH, MOST_PENALTY)

    def _plan(self, at: Trajectory, iterations: int, status: Status, reason: str) -> Plan:
        problem = self.problem
        tried = self.local.tried
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
            memory=Memory(status, reason, self.mu, self.local.multipliers, self.local.penalty),
            feedback=Feedback(at.x.copy(), at.u.copy(), self.gains, self.model, self.limits),
        )

    def _nothing(self, reason: str) -> Plan:
        """The controls that the search began with, at infinite cost."""
        nowhere = Trajectory(
            self._state()[None],
            self.problem.state.y[None],
            self.fallback,
            np.inf,
            np.zeros((0, self.local.goal.constrained)),
        )
        return replace(self._plan(nowhere, 0, Status.DIVERGED, reason), prediction=None, feedback=None)
