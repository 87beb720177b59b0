"""Where iLQR computes: the local model about a trajectory, and rollouts of policies about it.

For robots in closed form, all of it is compiled functions bound to arrays that stay where they are, and iterations are
native code; for other dynamics, their derivatives and those of the cost by the readings come together in Python.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..robots.task import Task
from ..sim.casadi_dynamics import Follower
from ..sim.closed_form import ClosedForm
from ..sim.codegen import told
from ..sim.linearization import Differentiable
from ..sim.native import machine
from ..sim.varying import Varying
from . import descent
from .compiled_cost import Bound, compiled_cost
from .expansion import TooLong, composed, objective, penalised
from .problem import Problem
from .riccati import Policy, Recursion


@dataclass(frozen=True, eq=False)
class Tried:
    """Trajectories that policies led to; the arrays are written over by the next rollouts.

    Attributes:
        x: states (N, H+1, nx).
        y: readings (N, H+1, ny).
        u: controls (N, H, nu).
        costs: (N,), infinite where the dynamics diverged.
        violations: the constraints' residuals (N, H, k).
    """

    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    costs: np.ndarray
    violations: np.ndarray


@dataclass(eq=False)
class Trajectory:
    """Where a search is.

    Attributes:
        x: states (H+1, nx).
        y: readings (H+1, ny).
        u: controls (H, nu).
        cost: of them.
        violations: the constraints' residuals (H, k).
        gaps: where the states do not follow from one another (H, n); None where they do.
    """

    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    cost: float
    violations: np.ndarray
    gaps: np.ndarray | None = None

    @property
    def violation(self) -> float:
        """The largest, or 0."""
        return float(np.max(self.violations, initial=0.0))


class Local:
    """Iterations on any dynamics with derivatives.

    Args:
        model: the dynamics.
        task: whose cost is modelled.
        horizon: H.
        count: number of step sizes that a line search has, each half the one before.

    Attributes:
        recursion: the linear-quadratic model, for the backward pass.
        sizes: of steps.
        together: number of step sizes that are tried at once.
        at: the trajectory.
        tried: the last rollouts.
        multipliers: of the constraints (H, k).
        penalty: rho.
        policy: the last.
    """

    def __init__(self, model: Differentiable, task: Task, horizon: int, count: int) -> None:
        self.model, self.task, self.goal = model, task, objective(task)
        form = getattr(model, "model", None)
        euler = form.step.euler if isinstance(form, ClosedForm) else 0.0
        self.recursion = Recursion(horizon, model.tangent, task.robot.nu, euler)
        self.sizes, self.together = 0.5 ** np.arange(count), count
        self.multipliers, self.penalty = np.zeros((horizon, self.goal.constrained)), 1.0
        self.at: Trajectory
        self.tried: Tried | None = None
        self.policy: Policy | None = None
        self._descend = descent.interpreted(type(self))

    def begin(self, problem: Problem, curved: bool) -> None:
        """A search for a plan begins.

        Args:
            problem: to be planned for.
            curved: whether the dynamics' second derivatives are used.
        """
        self._problem, self._curved = problem, curved
        self.tried = self.policy = None

    def merit(self, at: Trajectory) -> float:
        """The cost with what the augmented Lagrangian adds."""
        if not self.goal.constrained:
            return at.cost
        return at.cost + float(penalised(at.violations[None], self.multipliers, self.penalty)[0])

    def descend(self, most: int, tolerance: float, mu: float, growth: float) -> Any:
        """Iterations from `at` on, see `descent`; `at` and `policy` are what they led to."""
        found = self._descend(self, len(self.sizes), self.together, most, tolerance, mu, growth, self.merit(self.at))
        self._problem.evaluations += found[3] * self.together
        return found

    # What iterations are made of, see `descent` ----------------------------------------------------------------------

    def about(self) -> None:
        """Fills the recursion's model, about the trajectory."""
        at = self.at
        n, linear = self.model.tangent, self.model.linearize(at.x, at.u)
        self.recursion.F[:, :, :n], self.recursion.F[:, :, n:] = linear.A, linear.B
        found = self.goal.expansion(at.y, at.u, self._problem.times, linear.C, self.multipliers, self.penalty)
        self.recursion.gradient[:], self.recursion.hessian[:] = found.gradient, found.hessian

    def solve(self, mu: float) -> tuple[int, float, float, float]:
        """The best policy: the step at which there is none or -1, slope, curvature and gradient."""
        at, limits = self.at, self._problem.limits
        curvature = self._curvature(at) if self._curved else None
        policy = self.recursion.solve(limits[0] - at.u, limits[1] - at.u, mu, at.gaps, curvature)
        self.policy = policy
        return policy.failed, policy.slope, policy.curvature, policy.gradient

    def _curvature(self, at: Trajectory) -> np.ndarray:
        """The dynamics' second derivatives along the costates, (H, n + nu, n + nu)."""
        n, r = self.model.tangent, self.recursion
        costates = r.gradient[:, :n].copy()
        for k in range(len(costates) - 1, 0, -1):
            costates[k - 1] += r.F[k, :, :n].T @ costates[k]
        dynamics: Any = self.model
        return dynamics.curvature(at.x[:-1], at.u, costates)

    def follow(self, first: int) -> tuple[float, float, int]:
        """Rolls the policy out for a group of step sizes from `first` on: the best's merit, size, and number."""
        at, policy = self.at, self.policy
        assert policy is not None
        sizes = self.sizes[first : first + self.together]
        best, merit = self.rollout((at.x, at.u), (policy.feedforward, policy.feedback), sizes)
        return merit, float(sizes[best]), best

    def rollout(
        self, reference: tuple[np.ndarray, np.ndarray], policy: tuple[np.ndarray, np.ndarray], sizes: np.ndarray
    ) -> tuple[int, float]:
        """Rolls out policies about a reference, see `Differentiable.policy_rollout`: the best's number, and merit.

        Args:
            reference: states (H+1, nx) and controls (H, nu).
            policy: feedforward (H, nu) and feedback (H, nu, n).
            sizes: of steps along the feedforward (N,).
        """
        problem = self._problem
        found = self.model.policy_rollout(problem.state, *reference, *policy, sizes, problem.limits)
        with np.errstate(all="ignore"):  # diverged ones may overflow; they do not count
            costs = self.goal.costs(found.y, found.u, problem.times)
            violations = self.goal.violations(found.y, found.u, problem.times)
        costs = np.where(found.valid & np.isfinite(costs), costs, np.inf)
        self.tried = Tried(found.x, found.y, found.u, costs, violations)
        return self._best(self.tried)

    def _best(self, tried: Tried) -> tuple[int, float]:
        """The number and the merit of the best."""
        merits = tried.costs
        if self.goal.constrained:
            with np.errstate(all="ignore"):
                merits = merits + penalised(tried.violations, self.multipliers, self.penalty)
            merits = np.where(np.isfinite(tried.violations).all((1, 2)) & np.isfinite(merits), merits, np.inf)
        best = int(np.argmin(merits))
        return best, float(merits[best])

    def taken(self, best: int) -> Trajectory:
        """One of the trajectories of the last rollouts, in arrays of its own."""
        tried = self.tried
        assert tried is not None
        x, y, u, violations = (a[best].copy() for a in (tried.x, tried.y, tried.u, tried.violations))
        return Trajectory(x, y, u, float(tried.costs[best]), violations)

    def keep(self, best: int) -> None:
        """Keeps one of the trajectories of the last rollouts."""
        self._kept = self.taken(best)

    def accept(self) -> None:
        """Goes on from the kept trajectory."""
        self.at = self._kept


class _Compiled(Local):
    """The same for robots in closed form, from compiled functions.

    Raises:
        TooLong: the cost's model is better computed otherwise.
    """

    def __init__(self, model: Any, task: Task, horizon: int, count: int) -> None:
        super().__init__(model, task, horizon, count)
        here, cost = machine(), compiled_cost(task)
        form: ClosedForm = model.model
        if here is None or cost is None or not self.goal.native:
            raise TooLong("without native code")
        terms = composed(task, form)
        if terms is None:
            raise TooLong("too many instructions")
        self.together = min(count, here.width)
        groups = -(-count // self.together)
        self.sizes = 0.5 ** np.arange(groups * self.together)
        s, ny, k = form.symbolic, task.robot.layout.size, self.goal.constrained
        self._times, r = np.zeros((horizon, 1)), self.recursion
        w = {
            "x": np.zeros((horizon + 1, s.nx)),
            "y": np.zeros((horizon + 1, ny)),
            "u": np.zeros((horizon, s.nu)),
            "multipliers": self.multipliers,
            "penalty": np.zeros(1),
            "feedforward": np.zeros((horizon, s.nu)),
            "feedback": np.zeros((horizon, s.nu, r.narrow)),
            "limits": np.zeros((2, s.nu)),
        }
        n = model.tangent
        self._models: list[Callable[[], None]] = []
        self._bind(form.linear, [w["x"][:-1], w["u"]], [r.F[:, :, :n], r.F[:, :, n:]])
        own = int(terms.last is not None)
        curved = len(terms.steps.constant) > 2 or (terms.last is not None and len(terms.last.constant) > 2)
        size = n + s.nu
        w["smooth"] = np.zeros((horizon, size, size) if curved else (0, 0, 0))
        w["blocks"], w["rows"] = self._bound(terms.steps, slice(0, horizon - own), w)
        w["last_blocks"], w["last_rows"] = np.zeros((0, own, 0, 0)), np.zeros((0, own, 0, size))
        if terms.last is not None:
            w["last_blocks"], w["last_rows"] = self._bound(terms.last, slice(horizon - 1, horizon), w)
        self._one = Follower(model, w["x"], w["u"], w["feedforward"], w["feedback"][:, :, :n], w["limits"], 1)
        self._all = Follower(
            model, w["x"], w["u"], w["feedforward"], w["feedback"][:, :, :n], w["limits"], self.together
        )
        self._cost, self._cost_of_one = (
            cost.bind(f.rollout.columns(f.controls), len(f.sizes), horizon) for f in (self._all, self._one)
        )
        found = np.zeros((self.together, horizon, k))
        self._residuals = [] if not k else [self.goal.bind(self._all.y, self._all.controls, self._times, found)]
        self._work = descent.Work(
            models=_calls(self._models),
            rollouts=_calls([self._all.call]),
            costs=_calls(self._cost.runs),
            residuals=_calls(self._residuals),
            violations=np.zeros((horizon, k)),
            F=r.whole[0],
            g=r.whole[1],
            W=r.whole[2],
            products=np.array(r.native),
            euler=r.euler,
            low=np.zeros((horizon, s.nu)),
            high=np.zeros((horizon, s.nu)),
            v=np.zeros(r.narrow),
            P=np.zeros((n, r.narrow)),
            numbers=np.zeros(3),
            sizes=self.sizes,
            tried=self._all.sizes,
            memory=self._all.memory,
            homes=form.homes.astype(np.int64),
            controls=self._all.controls,
            total=self._cost.costs[0],
            terminal=self._cost.terminal[0],
            found=found,
            kept_x=np.zeros((horizon + 1, s.nx)),
            kept_y=np.zeros((horizon + 1, ny)),
            kept_u=np.zeros((horizon, s.nu)),
            kept_violations=np.zeros((horizon, k)),
            outcome=np.zeros(3),
            **w,
        )

        self._iterate(0, 0.0, 0.0, 1.0, 0.0)  # so that it is compiled before it is needed

    def _iterate(self, most: int, tolerance: float, mu: float, growth: float, merit: float) -> Any:
        return descent.native(self._work, len(self.sizes), self.together, most, tolerance, mu, growth, merit)

    def _bound(self, function: Varying, steps: slice, w: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Binds the cost's model of some steps; where its blocks and their rows come to lie."""
        count = max(steps.stop - steps.start, 0)
        size = self.recursion.hessian.shape[-1]
        blocks = function.constant[2::2]
        widest = max((len(block) for block in blocks), default=0)
        h, through = np.zeros((len(blocks), count, widest, widest)), np.zeros((len(blocks), count, widest, size))
        if count:
            inputs = [w["x"][1:][steps], w["y"][1:][steps], w["u"][steps], self._times[steps], w["multipliers"][steps]]
            inputs.append(np.broadcast_to(w["penalty"], (count, 1)))
            whole = w["smooth"] if w["smooth"].size else self.recursion.hessian
            outputs = [self.recursion.gradient[steps][:, :, None], whole[steps]]
            for i, block in enumerate(blocks):
                outputs += [h[i, :, : len(block), : len(block)], through[i, :, : len(block)]]
            self._bind(function, inputs, outputs)
        return h, through

    def _bind(self, function: Varying, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> None:
        compute = function.bind(inputs, outputs)
        if function.kernel is not None:
            self._models.append(compute)

    def begin(self, problem: Problem, curved: bool) -> None:
        """See `Local.begin`."""
        super().begin(problem, curved)
        self._work.limits[:] = problem.limits
        for times in (self._times[:, 0], self._cost.times, self._cost_of_one.times):
            times[:] = problem.times
        for follower in (self._one, self._all):
            follower.begin(problem.state)

    def descend(self, most: int, tolerance: float, mu: float, growth: float) -> Any:
        """See `Local.descend`."""
        if self._curved:  # second derivatives come from Python
            return super().descend(most, tolerance, mu, growth)
        w, at = self._work, self.at
        self._put(at)
        w.violations[:], w.outcome[2] = at.violations, at.cost
        found = self._iterate(most, tolerance, mu, growth, self.merit(at))
        self._problem.evaluations += found[3] * self.together
        self.at = Trajectory(w.x.copy(), w.y.copy(), w.u.copy(), float(w.outcome[2]), w.violations.copy())
        n = self.model.tangent
        slope, curvature, gradient = w.numbers.tolist()
        feedback = w.feedback[:, :, :n].copy()
        self.policy = Policy(w.feedforward.copy(), feedback, slope, curvature, gradient, found[1])
        if found[3]:
            self.tried = self._told(self._all, self._cost)
        return found

    def _told(self, follower: Follower, cost: Bound) -> Tried:
        """What the last rollouts led to, their costs computed."""
        found, costs = follower.led(), cost.costs[0] + cost.terminal[0]
        if not (found.valid.all() and np.isfinite(costs).all()):
            costs = np.where(found.valid & np.isfinite(costs), costs, np.inf)
        return Tried(found.x, found.y, found.u, costs, self.goal.violations(found.y, found.u, self._problem.times))

    def _put(self, at: Trajectory) -> None:
        """Writes what compiled functions read."""
        w = self._work
        w.x[:], w.y[:], w.u[:] = at.x, at.y, at.u
        w.multipliers[:], w.penalty[:] = self.multipliers, self.penalty

    def about(self) -> None:
        """See `Local.about`."""
        self._put(self.at)
        descent.modelled(self._work)

    def rollout(
        self, reference: tuple[np.ndarray, np.ndarray], policy: tuple[np.ndarray, np.ndarray], sizes: np.ndarray
    ) -> tuple[int, float]:
        """See `Local.rollout`."""
        if len(sizes) not in (1, self.together):
            return super().rollout(reference, policy, sizes)
        w, problem = self._work, self._problem
        w.x[:], w.u[:] = reference
        w.feedforward[:], w.feedback[:, :, : self.model.tangent] = policy
        follower, cost = (self._one, self._cost_of_one) if len(sizes) == 1 else (self._all, self._cost)
        follower.run(problem.state, sizes)
        for run in cost.runs:
            run()
        self.tried = self._told(follower, cost)
        return self._best(self.tried)


def _calls(bound: list[Callable[[], None]]) -> np.ndarray:
    """What native code calls, (calls, 4)."""
    found = []
    for one in bound:
        entry = told(one)
        if entry is None:
            raise TooLong("a function has instructions that are not compiled")
        found.append(entry)
    return np.array(found, np.int64).reshape(-1, 4)


def local(model: Any, task: Task, horizon: int, count: int) -> Local:
    """Where the searches for plans of `task` on dynamics with derivatives compute: compiled if that can be."""
    form = getattr(model, "model", None)
    if not isinstance(form, ClosedForm):
        return Local(model, task, horizon, count)
    try:
        return _Compiled(model, task, horizon, count)
    except TooLong:
        return Local(model, task, horizon, count)
