"""MuJoCo with derivatives: finite differences of its steps, and policies rolled out, on all cores.

A state's tangent vector is dx = (dq, dv, da) of n = 2 nv + na numbers, as in `mjd_transitionFD`: dq lives in the
joints' velocity space, in which a quaternion's three numbers are a rotation in the body's own frame. A control period
is several physics steps, whose Jacobians chain:

    A = A_s ... A_2 A_1,    B = B_s + A_s (B_{s-1} + A_{s-1} (...))

Integrators for which `mjd_transitionFD` has no answer (RK4) are differenced over the whole control period by loops of
our own. Both are forward differences: one-sided, so that a control at its limit is moved inwards.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from .compiled import DIVERGED, INTEGRATION, Compiled
from .interface import State, full_state
from .linearization import Linearization, Trajectories

EPSILON = 1e-6
"""Size of the differences. Steps are smooth to about 1e-10, and second derivatives of order one."""

_FAULTS = [int(warning) for warning, _ in DIVERGED]


class MujocoDerivatives:
    """What makes MuJoCo dynamics `Differentiable`; to be inherited by dynamics that have these attributes.

    Attributes:
        threads: that compute.
    """

    threads: int
    _compiled: Compiled
    _datas: list[mujoco.MjData]  # one for each thread

    @property
    def tangent(self) -> int:
        """N = 2 nv + na, dimensions of a small change of state."""
        return 2 * self._compiled.model.nv + self._compiled.model.na

    @functools.cached_property
    def _workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, "derivatives")

    @functools.cached_property
    def _quaternions(self) -> list[tuple[int, int]]:
        """Where the quaternions are: pairs of their first entry in qpos, and in qvel."""
        model, found = self._compiled.model, []
        for kind, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr):
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                found.append((int(q) + 3, int(v) + 3))
            elif kind == mujoco.mjtJoint.mjJNT_BALL:
                found.append((int(q), int(v)))
        return found

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        model = self._compiled.model
        return model.nq, model.nv, model.na, int(INTEGRATION)

    def difference(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The tangent vectors (..., n) that lead from `other` (..., nx) to `x` (..., nx)."""
        model = self._compiled.model
        nq, nv, na, _ = self._sizes
        x, other = np.broadcast_arrays(x, other)
        dx = np.empty((*x.shape[:-1], self.tangent))
        np.subtract(x[..., 1 + nq : 1 + nq + nv + na], other[..., 1 + nq : 1 + nq + nv + na], out=dx[..., nv:])
        if not self._quaternions:
            np.subtract(x[..., 1 : 1 + nq], other[..., 1 : 1 + nq], out=dx[..., :nv])
            return dx
        dq = np.empty(nv)
        for i in np.ndindex(x.shape[:-1]):
            mujoco.mj_differentiatePos(model, dq, 1.0, other[i][1 : 1 + nq], x[i][1 : 1 + nq])
            dx[i][:nv] = dq
        return dx

    def displace(self, x: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """The states (..., nx) to which tangent vectors `dx` (..., n) lead from `x` (..., nx)."""
        nq, nv, na, _ = self._sizes
        shape = np.broadcast_shapes(np.shape(x)[:-1], np.shape(dx)[:-1])
        moved = np.broadcast_to(x, (*shape, np.shape(x)[-1])).copy()
        moves = np.broadcast_to(dx, (*shape, self.tangent))
        moved[..., 1 + nq : 1 + nq + nv + na] += moves[..., nv:]
        if not self._quaternions:
            moved[..., 1 : 1 + nq] += moves[..., :nv]
            return moved
        for i in np.ndindex(shape):
            mujoco.mj_integratePos(self._compiled.model, moved[i][1 : 1 + nq], np.array(moves[i][:nv]), 1.0)
        return moved

    def coordinates(self, state: State) -> np.ndarray:
        """The full state itself, (nx,).

        Raises:
            ValueError: `state` has no `x`.
        """
        return full_state(state)

    def place(self, state: State, x: np.ndarray) -> State:
        """The full state whose `x` (nx,) is this, readings included.

        Raises:
            SimulationError: it is not finite, or too large.
            ValueError: `x` has another size: it belongs to another robot.
        """
        self._compiled.unpack(x)
        return self._compiled.state()

    def linearize(self, x: np.ndarray, u: np.ndarray) -> Linearization:
        """The linear model along states `x` (H+1, nx) and controls `u` (H, nu), by finite differences.

        Where a model reads sensors, their change with the state counts, not that with the control: readings are of
        positions and velocities.
        """
        c, n = self._compiled, self.tangent
        c.set_parameters(x[0])
        # The last state's sensors take a step more.
        knots = len(u) + (c.nsensed > 0)
        x, u = np.require(x, float, ["C", "W"]), np.concatenate((u, u[-1:]))[:knots]
        A, B, sensors = np.empty((knots, n, n)), np.empty((knots, n, c.model.nu)), np.empty((knots, c.nsensed, n))
        rk4 = c.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        bounds = np.linspace(0, knots, self.threads + 1).astype(int)
        blocks = [slice(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]
        work = self._difference_block if rk4 else self._transition_block
        self._on_all(work, [(x[block], u[block], A[block], B[block], sensors[block]) for block in blocks])
        horizon = len(x) - 1
        return Linearization(A[:horizon], B[:horizon], self._readings(x, sensors))

    def _on_all(self, work: Callable[..., Any], items: list[tuple]) -> list[Any]:
        """`work(data, *item)` for each item, every thread with data of its own; what they return, in order."""

        def some(thread: int) -> list[Any]:
            return [work(self._datas[thread], *item) for item in items[thread :: self.threads]]

        busy = [self._workers.submit(some, thread) for thread in range(1, min(self.threads, len(items)))]
        parts = [some(0), *(future.result() for future in busy)]
        return [parts[k % self.threads][k // self.threads] for k in range(len(items))]

    def _transition_block(self, data: mujoco.MjData, *block: np.ndarray) -> None:
        """Of a block of knots x and u, writes A, B and the sensors' Jacobians C."""
        x, u, A, B, C = block
        c = self._compiled
        a, b = np.empty(A.shape[1:]), np.empty(B.shape[1:])
        for k in range(len(u)):
            mujoco.mj_setState(c.model, data, x[k, : c.nintegration], INTEGRATION)
            data.ctrl[:] = u[k]
            mujoco.mjd_transitionFD(c.model, data, EPSILON, False, A[k], B[k], C[k] if c.nsensed else None, None)
            for _ in range(c.substeps - 1):
                mujoco.mj_step(c.model, data)
                mujoco.mjd_transitionFD(c.model, data, EPSILON, False, a, b, None, None)
                A[k] = a @ A[k]
                B[k] = a @ B[k] + b

    def _difference_block(self, data: mujoco.MjData, *block: np.ndarray) -> None:
        """The same where `mjd_transitionFD` has no answer."""
        x, u, A, B, C = block
        model = self._compiled.model
        from . import mujoco_loops as loops

        loops.differences(
            *loops.library(), model._address, data._address, not self._quaternions, self._sizes,
            self._compiled.substeps, EPSILON, data.qpos, data.qvel, data.act, data.ctrl, self._actuated,
            x, u, A, B, C, data.sensordata,
        )  # fmt: skip

    @functools.cached_property
    def _actuated(self) -> np.ndarray:
        """Control limits (2, nu)."""
        return np.array(self._compiled.robot.control_limits, float)

    def _readings(self, x: np.ndarray, sensors: np.ndarray) -> np.ndarray:
        """C (H+1, ny, n) of all readings, those of the sensors' data (H+1, ns, n) given."""
        c = self._compiled
        C = np.zeros((len(x), c.robot.layout.size, self.tangent))
        for target, source in c.sensor_runs:
            C[:, target] = sensors[:, source]
        if not self._quaternions:
            for target, source in c.state_runs:
                C[:, range(target.start, target.stop), range(source.start - 1, source.stop - 1)] = 1.0
            return C
        nq, nv, na, _ = self._sizes
        moves = np.zeros((len(x), nq + nv + na, self.tangent))  # of (qpos, qvel, act)
        moves[:, range(nq, nq + nv + na), range(nv, 2 * nv + na)] = 1.0
        for kind, q, v in zip(c.model.jnt_type, c.model.jnt_qposadr, c.model.jnt_dofadr):
            straight = {mujoco.mjtJoint.mjJNT_FREE: 3, mujoco.mjtJoint.mjJNT_BALL: 0}.get(mujoco.mjtJoint(kind), 1)
            moves[:, range(q, q + straight), range(v, v + straight)] = 1.0
        for q, v in self._quaternions:
            # A small rotation r in the body's frame takes a quaternion p to p (1, r / 2).
            a, b, d, e = x[:, 1 + q : 5 + q].T
            rows = ((-b, -d, -e), (a, -e, d), (e, a, -b), (-d, b, a))
            moves[:, q : q + 4, v : v + 3] = 0.5 * np.moveaxis(np.array(rows), -1, 0)
        for target, source in c.state_runs:
            C[:, target] = moves[:, source.start - 1 : source.stop - 1]
        return C

    def policy_rollout(
        self,
        state: State,
        x: np.ndarray,
        u: np.ndarray,
        feedforward: np.ndarray,
        feedback: np.ndarray,
        steps: np.ndarray,
        limits: np.ndarray,
    ) -> Trajectories:
        """Rolls out N policies about a reference, see `Differentiable.policy_rollout`.

        Raises:
            ValueError: `state` has no `x`.
        """
        from . import mujoco_loops as loops

        c = self._compiled
        begin = np.require(full_state(state), float, ["C", "W"])
        c.set_parameters(begin)
        (horizon, nu), count = u.shape, len(steps)
        states, controls = np.empty((count, horizon + 1, c.nx)), np.empty((count, horizon, nu))
        sensors = np.empty((count, horizon + 1, c.nsensed))
        # Writable, for native code is compiled for that kind of array only.
        given = [np.require(a, float, ["C", "W"]) for a in (x, u, feedforward, feedback)]
        bounds = np.require(limits, float, ["C", "W"])

        def follow(data: mujoco.MjData, k: int) -> bool:
            data.warning.number[:] = 0
            loops.follow(
                *loops.library(), c.model._address, data._address, not self._quaternions, self._sizes, c.substeps,
                data.ctrl, begin, *given, float(steps[k]), bounds, states[k], controls[k], sensors[k], data.sensordata,
            )  # fmt: skip
            return not data.warning.number[_FAULTS].any()  # MuJoCo has reset the simulation by itself then

        valid = np.array(self._on_all(follow, [(k,) for k in range(count)]), bool)
        y = np.empty((count, horizon + 1, c.robot.layout.size))
        for target, source in c.state_runs:
            y[..., target] = states[..., source]
        for target, source in c.sensor_runs:
            y[..., target] = sensors[..., source]
        for entry, value in c.constants:
            y[..., entry] = value[0]
        return Trajectories(states, y, controls, valid)
