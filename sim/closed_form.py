"""A task's robot in closed form as compiled code: what the `casadi` dynamics and the `casadi` plant have in common."""

from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from .. import robots
from ..robots import plugins
from ..robots.layout import Reading
from ..robots.suite import parameter_value
from ..robots.symbolic import SX, Symbolic
from ..robots.task import Start, Task
from .codegen import Kernel, compile
from .compiled import Compiled
from .integrators import ControlStep, displacement, lifted
from .interface import State, full_state
from .varying import Varying

LARGEST = 1e10
"""Numbers of a state beyond it mean that it diverged, as in MuJoCo."""


class ClosedForm:
    """The motion and the readings of a task's robot, compiled.

    States hold (q, v) and the values of the robot's parameters; for a robot with a MuJoCo model within what MuJoCo's
    states of it hold, so that each understands those of the other.

    Attributes:
        symbolic: the robot's motion.
        step: its control period as CasADi functions, without limits of the controls.
        homes: the entry of the readings that is entry i of (q, v), or ny + k for the k-th that no reading is.
        slots: ny and the number of entries that no reading is.
        derived: entries of the readings that are computed from (q, v).
        constant: entries of the readings that no motion changes.
        clocks: entries of the readings that are the time.

    Raises:
        ValueError: the robot has no closed form; or one that does not fit its MuJoCo model, its control period, or its
            readings.
    """

    def __init__(self, task: Task, symbolic: Symbolic | None = None) -> None:
        self.task, self.robot = task, task.robot
        self.symbolic = _symbolic(task) if symbolic is None else symbolic
        s, robot = self.symbolic, self.robot
        self._given = robot.build is not None
        if self._given and (robot.model.nq, robot.model.nv, robot.model.nu) != (s.nq, s.nv, s.nu):
            raise ValueError(
                f"{robot.name} in closed form has {s.nq} positions, {s.nv} velocities and {s.nu} controls, but its "
                f"MuJoCo model {robot.model.nq}, {robot.model.nv} and {robot.model.nu}"
            )
        if robot.nu != s.nu:
            raise ValueError(f"{robot.name} in closed form has {s.nu} controls, but {robot.nu} control limits")
        self.step = ControlStep(s, robot.dt)
        self._readings()
        self._parameters = [parameter_value(robot.model, p).copy() for p in robot.parameters] if self._given else []
        self.nx = s.nx + sum(p.size for p in self._parameters)
        # What stands before and after (q, v) in a state.
        self._before = self._after = np.empty(0)
        if self._given:
            rest = Compiled(robot)
            self._before, _, self._after = np.split(rest.pack()[: rest.nintegration], [1, 1 + s.nx])

    def _readings(self) -> None:
        """Sorts the readings' entries by where they come from."""
        import casadi as ca

        s, robot = self.symbolic, self.robot
        x = ca.SX.sym("x", s.nx)
        homes: dict[int, int] = {}
        self.derived: list[int] = []
        self.constant: list[int] = []
        self.clocks: list[int] = []
        expressions, missing = [], []
        for reading in robot.readings:
            at = robot.layout[reading.name].start
            entries = _entries(s, reading)
            if entries is not None:
                for k, i in enumerate(entries):
                    if homes.setdefault(i, at + k) != at + k:
                        self.derived.append(at + k)
                        expressions.append(x[i])
            elif reading.source == "parameter":
                self.constant += range(at, at + reading.size)
            elif reading.sensor == mujoco.mjtSensor.mjSENS_CLOCK:
                self.clocks.append(at)
            else:
                found = s.sense(reading, x) if s.sense is not None else None
                if found is None:
                    missing.append(reading.name)
                else:
                    self.derived += range(at, at + reading.size)
                    expressions.append(found)
        if missing:
            raise ValueError(
                f"{robot.name} in closed form does not give these readings: {', '.join(missing)}; "
                f"use the mujoco dynamics and simulator"
            )
        hidden = [i for i in range(s.nx) if i not in homes]
        self.slots = robot.layout.size + len(hidden)
        homes.update(zip(hidden, range(robot.layout.size, self.slots)))
        self.homes = np.array([homes[i] for i in range(s.nx)])
        # All readings, in order; those that are no function of x as zeros.
        columns = [ca.SX(1, 1)] * robot.layout.size
        for i in range(s.nx):
            if homes[i] < robot.layout.size:
                columns[homes[i]] = x[i]
        derived = ca.vertcat(*expressions) if expressions else ca.SX(0, 1)
        for k, at in enumerate(self.derived):
            columns[at] = derived[k]
        self.readings = ca.Function("readings", [x], [ca.vertcat(*columns)])
        self._derived = ca.Function("derived", [x], [derived])

    # Compiled functions, each when it is first used ------------------------------------------------------------------

    def _limited(self, u: SX) -> SX:
        """Controls within the actuators' limits, as MuJoCo clamps them."""
        import casadi as ca

        low, high = self.robot.control_limits
        entries = []
        for i in range(self.symbolic.nu):
            v = u[i] if low[i] == -np.inf else ca.fmax(u[i], float(low[i]))
            entries.append(v if high[i] == np.inf else ca.fmin(v, float(high[i])))
        return ca.vertcat(*entries)

    def _compiled(self, inputs: list[Any], outputs: list[Any]) -> Kernel:
        import casadi as ca

        outputs = [o for o in outputs if o.numel()]
        return compile(ca.Function("closed_form", inputs, outputs, {"cse": True}), nan="kept")

    @cached_property
    def moves(self) -> Kernel:
        """A control period.

        (x (nx,), u (nu,)) -> the state after it, and the readings computed from that, if there are.
        """
        import casadi as ca

        x, u = ca.SX.sym("x", self.symbolic.nx), ca.SX.sym("u", self.symbolic.nu)
        end = self.step.function(x, self._limited(u))
        return self._compiled([x, u], [end, self._derived(end)])

    @cached_property
    def derives(self) -> Kernel | None:
        """The readings computed from x (nx,); None where there are no such."""
        import casadi as ca

        if not self.derived:
            return None
        x = ca.SX.sym("x", self.symbolic.nx)
        return self._compiled([x], [self._derived(x)])

    @cached_property
    def follows(self) -> Kernel:
        """A control period under a policy.

        (x (nx,), reference (nx,), u (nu,), feedforward (nu,), feedback (nu, n), a (1,), low (nu,), high (nu,)) -> the
        control (nu,), the state after it, and the readings computed from that, if there are.
        """
        import casadi as ca

        s = self.symbolic
        x, reference = ca.SX.sym("x", s.nx), ca.SX.sym("reference", s.nx)
        u, ahead, gain = ca.SX.sym("u", s.nu), ca.SX.sym("ahead", s.nu), ca.SX.sym("gain", s.nu, s.tangent)
        a, low, high = ca.SX.sym("a"), ca.SX.sym("low", s.nu), ca.SX.sym("high", s.nu)
        away = displacement(s, x, reference)
        control = ca.fmin(ca.fmax(u + a * ahead + ca.mtimes(gain, away), low), high)
        end = self.step.function(x, self._limited(control))
        return self._compiled([x, reference, u, ahead, gain, a, low, high], [control, end, self._derived(end)])

    @cached_property
    def linear(self) -> Varying:
        """(x (nx,), u (nu,)) -> A (n, n), B (n, nu)."""
        return Varying(self.step.linear)

    @cached_property
    def curved(self) -> Varying:
        """(x (nx,), u (nu,), p (n,)) -> second derivatives (n + nu, n + nu), see `ControlStep.curved`."""
        return Varying(self.step.curved)

    @cached_property
    def observes(self) -> Varying:
        """C (ny, n), how the readings change with the tangent of x (nx,)."""
        import casadi as ca

        x = ca.SX.sym("x", self.symbolic.nx)
        slope = ca.mtimes(ca.jacobian(self.readings(x), x), lifted(self.symbolic, x))
        return Varying(ca.Function("observes", [x], [slope]))

    # States ----------------------------------------------------------------------------------------------------------

    def begin(self, start: Start) -> np.ndarray:
        """(q, v, parameters) (nx,) of an episode's start."""
        return np.concatenate((start.qpos, start.qvel, *start.parameters)).astype(float)

    def unpack(self, state: State) -> np.ndarray:
        """Its (q, v), a fresh array.

        Raises:
            ValueError: the state has no `x`, or one of another robot.
        """
        return self.packed(state)[: self.symbolic.nx].copy()

    def packed(self, state: State) -> np.ndarray:
        """Its (q, v, parameters) (nx,).

        Raises:
            ValueError: the state has no `x`, or one of another robot.
        """
        x, first, last = full_state(state), len(self._before), len(self._after)
        if x.shape != (first + self.nx + last,):
            size = first + self.nx + last
            raise ValueError(f"a state of {self.robot.name} in closed form has {size} numbers, not {x.shape}")
        moving = first + self.symbolic.nx
        return np.concatenate((x[first:moving], x[moving + last :]))

    def state(self, time: float, packed: np.ndarray) -> State:
        """The state at `time` [s] with (q, v, parameters) `packed` (nx,)."""
        x, nx = np.asarray(packed, float), self.symbolic.nx
        y = np.empty(self.slots)
        y[self.homes] = x[:nx]
        if self.derives is not None:
            y[self.derived] = self.derives(x[:nx])
        y[self.clocks] = time
        if self.constant:
            self._put_constants(x, y)
        whole = np.concatenate((self._before, x[:nx], self._after, x[nx:]))
        if self._given:
            whole[0] = time
        return State(time, y[: self.robot.layout.size].copy(), whole)

    def _put_constants(self, x: np.ndarray, y: np.ndarray) -> None:
        values, at = {}, self.symbolic.nx
        for p, value in zip(self.robot.parameters, self._parameters):
            values[p.array, p.object] = x[at : at + value.size]
            at += value.size
        for reading in self.robot.readings:
            if reading.source == "parameter":
                drawn = values.get((reading.array, reading.object))
                row = parameter_value(self.robot.model, reading) if drawn is None else drawn
                y[self.robot.layout[reading.name]] = row[list(reading.index)]


def diverged(x: np.ndarray) -> np.ndarray:
    """Which of the states `x` (..., nx) diverged."""
    return ~(np.abs(x) < LARGEST).all(-1)


def _entries(s: Symbolic, reading: Reading) -> list[int] | None:
    """The entries of x that `reading` is; None where it is something else."""
    if reading.source == "qpos":
        return [int(i) for i in reading.index]
    if reading.source == "qvel":
        return [s.nq + int(i) for i in reading.index]
    return None


def _symbolic(task: Task) -> Symbolic:
    if task.robot.symbolic is None:
        raise ValueError(
            f"robot {task.robot.name!r} has no closed form; these have one: {', '.join(_with_closed_form())}. "
            f"For {task.name}, use the mujoco dynamics and simulator"
        )
    return task.robot.symbolic()


def _with_closed_form() -> list[str]:
    known = []
    for name in plugins.names("robots"):
        try:
            tasks = plugins.find("robots", name)
            if next(iter(tasks.values()))().robot.symbolic is not None:
                known.append(name)
        except robots.PluginError:  # its own tasks say so
            continue
    return known
