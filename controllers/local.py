"""The local model about a trajectory and rollouts of policies about it: what each iteration of iLQR asks for.

For robots in closed form, all of it is compiled functions bound to arrays that stay where they are; for other dynamics,
their derivatives and those of the cost by the readings come together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..robots.task import Task
from ..sim.closed_form import ClosedForm
from ..sim.interface import State
from ..sim.linearization import Differentiable
from ..sim.native import machine
from ..sim.varying import Varying
from .compiled_cost import compiled_cost
from .convex import add_convex
from .expansion import Composed, TooLong, objective
from .riccati import Recursion


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


class Local:
    """The local model of any dynamics with derivatives.

    Args:
        model: the dynamics.
        task: whose cost is modelled.
        horizon: H.
        count: number of step sizes that a line search has.

    Attributes:
        recursion: the linear-quadratic model, for the backward pass.
        together: number of step sizes that are tried at once.
    """

    def __init__(self, model: Differentiable, task: Task, horizon: int, count: int) -> None:
        self.model, self.task, self.goal = model, task, objective(task)
        self.recursion = Recursion(horizon, model.tangent, task.robot.nu)
        self.together = count

    def about(
        self, x: np.ndarray, y: np.ndarray, u: np.ndarray, times: np.ndarray, multipliers: np.ndarray, penalty: float
    ) -> None:
        """Fills the recursion's model, about states (H+1, nx), readings (H+1, ny) and controls (H, nu).

        Args:
            x: states; gaps are allowed between them.
            y: readings.
            u: controls.
            times: when steps end (H,) [s].
            multipliers: of the constraints (H, k).
            penalty: rho.
        """
        n, linear = self.model.tangent, self.model.linearize(x, u)
        self.recursion.F[:, :, :n], self.recursion.F[:, :, n:] = linear.A, linear.B
        found = self.goal.expansion(y, u, times, linear.C, multipliers, penalty)
        self.recursion.gradient[:], self.recursion.hessian[:] = found.gradient, found.hessian

    def follow(
        self,
        state: State,
        times: np.ndarray,
        reference: tuple[np.ndarray, np.ndarray],
        policy: tuple[np.ndarray, np.ndarray],
        sizes: np.ndarray,
        limits: np.ndarray,
    ) -> Tried:
        """Rolls out policies about a reference, see `Differentiable.policy_rollout`.

        Args:
            state: where they begin.
            times: when steps end (H,) [s].
            reference: states (H+1, nx) and controls (H, nu).
            policy: feedforward (H, nu) and feedback (H, nu, n).
            sizes: of steps along the feedforward (N,).
            limits: of controls (2, nu).
        """
        found = self.model.policy_rollout(state, *reference, *policy, sizes, limits)
        with np.errstate(all="ignore"):  # diverged ones may overflow; they do not count
            costs = self.goal.costs(found.y, found.u, times)
        return self._tried(found, costs, times)

    def _tried(self, found: Any, costs: np.ndarray, times: np.ndarray) -> Tried:
        costs = np.where(found.valid & np.isfinite(costs), costs, np.inf)
        return Tried(found.x, found.y, found.u, costs, self.goal.violations(found.y, found.u, times))


class _Compiled(Local):
    """The same for robots in closed form, from compiled functions.

    Raises:
        TooLong: the cost's model is better computed otherwise.
    """

    def __init__(self, model: Any, task: Task, horizon: int, count: int, composed: Composed) -> None:
        super().__init__(model, task, horizon, count)
        here = machine()
        self.together = min(count, 1 if here is None else here.width)
        form: ClosedForm = model.model
        s, ny = form.symbolic, task.robot.layout.size
        self._x, self._y, self._u = (
            np.zeros((horizon + 1, s.nx)),
            np.zeros((horizon + 1, ny)),
            np.zeros((horizon, s.nu)),
        )
        self._times, self._penalty = np.zeros((horizon, 1)), np.zeros(1)
        self._multipliers = np.zeros((horizon, self.goal.constrained))
        n, r = model.tangent, self.recursion
        self._runs = [form.linear.bind([self._x[:-1], self._u], [r.F[:, :, :n], r.F[:, :, n:]])]
        whole = slice(0, horizon) if composed.last is None else slice(0, horizon - 1)
        for function, steps in ((composed.steps, whole), (composed.last, slice(horizon - 1, horizon))):
            if function is not None and steps.stop > steps.start:
                self._runs.append(self._bound(function, steps))
        feedforward, feedback = np.zeros((horizon, s.nu)), np.zeros((horizon, s.nu, n))
        self._policy, self._limits = (feedforward, feedback), np.zeros((2, s.nu))
        policy = (self._x, self._u, feedforward, feedback, self._limits)
        self._followers = {
            size: model.follower(*policy, size) for size in {1, self.together, count % self.together} - {0}
        }
        self._cost = compiled_cost(task)

    def _bound(self, function: Varying, steps: slice) -> Callable[[], None]:
        """What writes the cost's model of some steps."""
        count = steps.stop - steps.start
        inputs = [self._x[1:][steps], self._y[1:][steps], self._u[steps], self._times[steps], self._multipliers[steps]]
        inputs.append(np.broadcast_to(self._penalty, (count, 1)))
        g, w = self.recursion.gradient[steps], self.recursion.hessian[steps]
        left = [np.empty((count, *constant.shape)) for constant in function.constant[2:]]
        if not left:
            return function.bind(inputs, [g[:, :, None], w])
        smooth = np.zeros(w.shape)
        compute = function.bind(inputs, [g[:, :, None], smooth, *left])

        def write() -> None:
            compute()
            w[...] = smooth
            for h, rows in zip(left[::2], left[1::2]):
                add_convex(h, rows, w)

        return write

    def about(
        self, x: np.ndarray, y: np.ndarray, u: np.ndarray, times: np.ndarray, multipliers: np.ndarray, penalty: float
    ) -> None:
        """See `Local.about`."""
        self._x[:], self._y[:], self._u[:], self._times[:, 0] = x, y, u, times
        self._multipliers[:], self._penalty[:] = multipliers, penalty
        for run in self._runs:
            run()

    def follow(
        self,
        state: State,
        times: np.ndarray,
        reference: tuple[np.ndarray, np.ndarray],
        policy: tuple[np.ndarray, np.ndarray],
        sizes: np.ndarray,
        limits: np.ndarray,
    ) -> Tried:
        """See `Local.follow`."""
        self._x[:], self._u[:] = reference
        for own, given in zip(self._policy, policy):
            own[:] = given
        self._limits[:] = limits
        follower = self._followers[len(sizes)]
        found = follower.run(state, sizes)
        if self._cost is None:
            costs = self.goal.costs(found.y, found.u, times)
        else:
            costs = self._cost(follower.rollout, found.u, times)[0]
        return self._tried(found, costs, times)


def local(model: Any, task: Task, horizon: int, count: int) -> Local:
    """The local model of `task` on dynamics with derivatives, compiled if that can be; see `Local`."""
    form = getattr(model, "model", None)
    if not isinstance(form, ClosedForm) or not hasattr(model, "follower"):
        return Local(model, task, horizon, count)
    try:
        return _Compiled(model, task, horizon, count, Composed(task, form))
    except TooLong:
        return Local(model, task, horizon, count)
