"""A task's robot in closed form as compiled code: what the `casadi` dynamics and the `casadi` plant have in common."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from .. import robots
from ..robots import plugins
from ..robots.layout import Reading
from ..robots.suite import parameter_value
from ..robots.symbolic import SX, Symbolic
from ..robots.task import Start, Task
from .codegen import Kernel, compile, remembered, remembered_note
from .compiled import Compiled
from .integrators import ControlStep, displacement, lifted
from .interface import State, full_state
from .native import read, write
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
        self._key = None if s.key is None else self._identity(s.key)
        self._sort_readings()
        self._parameters = [parameter_value(robot.model, p).copy() for p in robot.parameters] if self._given else []
        self.nx = s.nx + sum(p.size for p in self._parameters)
        # What stands before and after (q, v) in a state.
        self._before = self._after = np.empty(0)
        if self._given:
            rest = Compiled(robot)
            self._before, _, self._after = np.split(rest.pack()[: rest.nintegration], [1, 1 + s.nx])

    def _identity(self, key: str) -> str:
        """What all compiled functions depend on."""
        robot, s = self.robot, self.symbolic
        sizes = (s.nq, s.nv, s.nu, s.timestep, s.integrator, s.quaternions, robot.dt, robot.control_limits.tolist())
        form = f"{s.derivative.__module__} {s.derivative.__qualname__}"
        told = f"{_our_code()} {form} {key} {sizes} {robot.readings} {robot.parameters}"
        return hashlib.sha256(told.encode()).hexdigest()

    def _sort_readings(self) -> None:
        """Sorts the readings' entries by where they come from."""
        s, robot = self.symbolic, self.robot
        homes: dict[int, int] = {}
        self.derived: list[int] = []
        self.constant: list[int] = []
        self.clocks: list[int] = []
        self._again: list[int] = []  # entries of x that are derived: they have a home already
        self._sensed: list[Reading] = []
        copies = []
        for reading in robot.readings:
            at = robot.layout[reading.name].start
            entries = _entries(s, reading)
            if entries is not None:
                for k, i in enumerate(entries):
                    if homes.setdefault(i, at + k) != at + k:
                        copies.append(at + k)
                        self._again.append(i)
            elif reading.source == "parameter":
                self.constant += range(at, at + reading.size)
            elif reading.sensor == mujoco.mjtSensor.mjSENS_CLOCK:
                self.clocks.append(at)
            else:
                self._sensed.append(reading)
        self.derived = copies + [
            i for r in self._sensed for i in range(robot.layout[r.name].start, robot.layout[r.name].stop)
        ]
        note = None if self._key is None else remembered_note(f"{self._key} readings")
        if note is None or read(note) is None:  # else they have been found to be given
            self._readings  # noqa: B018 - raises what is wrong
            if note is not None:
                write(note, b"given")
        hidden = [i for i in range(s.nx) if i not in homes]
        self.slots = robot.layout.size + len(hidden)
        homes.update(zip(hidden, range(robot.layout.size, self.slots)))
        self.homes = np.array([homes[i] for i in range(s.nx)])

    @cached_property
    def _readings(self) -> tuple[SX, SX]:
        """The state x (nx,), and the readings derived from it."""
        import casadi as ca

        s, robot = self.symbolic, self.robot
        x = ca.SX.sym("x", s.nx)
        found = [(r, None if s.sense is None else s.sense(r, x)) for r in self._sensed]
        missing = [r.name for r, expression in found if expression is None]
        if missing:
            raise ValueError(
                f"{robot.name} in closed form does not give these readings: {', '.join(missing)}; "
                f"use the mujoco dynamics and simulator"
            )
        parts: list[Any] = [ca.SX(0, 1), *(x[i] for i in self._again), *(expression for _, expression in found)]
        return x, ca.vertcat(*parts)

    @cached_property
    def _derived(self) -> Any:
        """The `casadi.Function` x (nx,) -> the readings that are computed from it."""
        import casadi as ca

        x, derived = self._readings
        return ca.Function("derived", [x], [derived])

    @cached_property
    def readings(self) -> Any:
        """The `casadi.Function` x (nx,) -> all readings (ny,); those that are no function of x are zeros."""
        import casadi as ca

        x, derived = self._readings
        columns = [ca.SX(1, 1)] * self.robot.layout.size
        for i, home in enumerate(self.homes):
            if home < len(columns):
                columns[home] = x[i]
        for k, at in enumerate(self.derived):
            columns[at] = derived[k]
        return ca.Function("readings", [x], [ca.vertcat(*columns)])

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

    def _named(self, name: str) -> str | None:
        """The key of the function `name`."""
        return None if self._key is None else f"{self._key} {name}"

    def _compiled(
        self, name: str, build: Callable[[], tuple[list[SX], list[SX]]], uniform: Sequence[int] = ()
    ) -> Kernel:
        """The kernel of the inputs and outputs that `build` gives; outputs without entries are left out."""

        def function() -> Any:
            import casadi as ca

            inputs, outputs = build()
            return ca.Function(name, inputs, [o for o in outputs if o.numel()], {"cse": True})

        key = self._named(name)
        if key is None:
            return compile(function(), nan="kept", uniform=uniform)
        return remembered(key, function, nan="kept", uniform=uniform)

    @cached_property
    def moves(self) -> Kernel:
        """A control period.

        (x (nx,), u (nu,)) -> the state after it, and the readings computed from that, if there are.
        """

        def build() -> tuple[list[SX], list[SX]]:
            import casadi as ca

            x, u = ca.SX.sym("x", self.symbolic.nx), ca.SX.sym("u", self.symbolic.nu)
            end = self.step.function(x, self._limited(u))
            return [x, u], [end, self._derived(end)]

        return self._compiled("moves", build)

    @cached_property
    def derives(self) -> Kernel | None:
        """The readings computed from x (nx,); None where there are no such."""
        if not self.derived:
            return None

        def build() -> tuple[list[SX], list[SX]]:
            x, derived = self._readings
            return [x], [derived]

        return self._compiled("derives", build)

    @cached_property
    def follows(self) -> Kernel:
        """A control period under a policy.

        (x (nx,), reference (nx,), u (nu,), feedforward (nu,), feedback (nu, n), a (1,), low (nu,), high (nu,)) -> the
        control (nu,), the state after it, and the readings computed from that, if there are. What runs in lanes differs
        in x and a alone.
        """

        def build() -> tuple[list[SX], list[SX]]:
            import casadi as ca

            s = self.symbolic
            x, reference = ca.SX.sym("x", s.nx), ca.SX.sym("reference", s.nx)
            u, ahead, gain = ca.SX.sym("u", s.nu), ca.SX.sym("ahead", s.nu), ca.SX.sym("gain", s.nu, s.tangent)
            a, low, high = ca.SX.sym("a"), ca.SX.sym("low", s.nu), ca.SX.sym("high", s.nu)
            away = displacement(s, x, reference)
            control = ca.fmin(ca.fmax(u + a * ahead + ca.mtimes(gain, away), low), high)
            end = self.step.function(x, self._limited(control))
            return [x, reference, u, ahead, gain, a, low, high], [control, end, self._derived(end)]

        return self._compiled("follows", build, uniform=(1, 2, 3, 4, 6, 7))

    @cached_property
    def linear(self) -> Varying:
        """(x (nx,), u (nu,)) -> A (n, n), B (n, nu)."""
        return Varying(lambda: self.step.linear, self._named("linear"))

    @cached_property
    def curved(self) -> Varying:
        """(x (nx,), u (nu,), p (n,)) -> second derivatives (n + nu, n + nu), see `ControlStep.curved`."""
        return Varying(lambda: self.step.curved, self._named("curved"))

    @cached_property
    def observes(self) -> Varying:
        """C (ny, n), how the readings change with the tangent of x (nx,)."""

        def build() -> Any:
            import casadi as ca

            x = ca.SX.sym("x", self.symbolic.nx)
            slope = ca.mtimes(ca.jacobian(self.readings(x), x), lifted(self.symbolic, x))
            return ca.Function("observes", [x], [slope])

        return Varying(build, self._named("observes"))

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


@functools.cache
def _our_code() -> str:
    """A hash of all code that expressions come from, and of what writes them down."""
    import casadi as ca

    files = sorted(file for room in ("robots", "sim") for file in (Path(__file__).parents[1] / room).glob("*.py"))
    told = hashlib.sha256(ca.CasadiMeta.version().encode())
    for file in files:
        told.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return told.hexdigest()


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
