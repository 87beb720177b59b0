"""What is controlled and what is wanted of it: robots, tasks, and the terms that planners minimise.

A planner minimises, over a horizon of H control steps from the state with readings y_0,

    J(U) = sum_{k=0}^{H-1} l(y_{k+1}, u_k, t_{k+1}) + phi(y_H, u_{H-1}, t_H)
    l = sum_i weight_i * norm_i(residual_i),    phi = sum_i terminal_weight_i * norm_i(residual_i)

so that a step's cost, like dm_control's reward for it, sees the control together with the state it led to.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import mujoco
import numpy as np

from .arrays import Array, entry, namespace
from .finite import Finite
from .layout import Layout, Reading, View
from .symbolic import Symbolic

Norm = Callable[[Array], Array]


def total(r: Array) -> Array:
    """Sum of the residual's entries, (..., k) -> (...): for residuals that are costs already."""
    return entry(r, 0) if r.shape[-1] == 1 else r.sum(-1)


def quadratic(r: Array) -> Array:
    """Half the squared length, (..., k) -> (...)."""
    return 0.5 * (r * r).sum(-1)


@dataclass(frozen=True)
class Term:
    """One summand of the cost, by name.

    Attributes:
        residual: (readings (..., ny) seen by name, u (..., nu), t [s]) -> (..., k).
        norm: (..., k) -> (...).
        weight: of every step of the horizon.
        terminal_weight: added at the horizon's last step.
    """

    name: str
    residual: Callable[[View, Array, Array], Array]
    norm: Norm = total
    weight: float = 1.0
    terminal_weight: float = 0.0


@dataclass(frozen=True)
class Constraint:
    """What must hold along a plan, by name: every entry of the residual is at most 0.

    Planners that know constraints (`ilqr`, `nmpc`) keep to them; sampling planners see the task's terms only.

    Attributes:
        residual: (readings (..., ny) seen by name, u (..., nu), t [s]) -> (..., k).
    """

    name: str
    residual: Callable[[View, Array, Array], Array]


@dataclass(frozen=True)
class Parameter:
    """A model field that a task draws at its start, such as a target's place: `array[object]` of the MuJoCo model.

    `array` names an array of `mujoco.MjModel` with one row per object (`geom_pos`, `site_pos`, `body_quat`, ...).
    """

    array: str
    object: str


@dataclass(frozen=True)
class Start:
    """Where an episode begins: qpos (nq,), qvel (nv,), and the values of the robot's parameters, in their order."""

    qpos: np.ndarray
    qvel: np.ndarray
    parameters: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Robot:
    """What is controlled: a model, its readings, its control period.

    Attributes:
        build: makes a fresh MuJoCo spec, without sensors; None for a robot that only its simulator knows.
        readings: what the sensors report.
        dt: control period [s]; a whole number of the model's time steps.
        parameters: model fields that tasks draw at the start of an episode; they are part of the state.
        limits: control limits (2, nu), read from the model's actuators unless given.
        symbolic: makes the robot's motion in closed form; None where there is none.
        finite: makes its table of transitions; None where there is none.
        choices: of how many its one control is the number, rounded; the limits reach half a number beyond the first and
            the last. 0: controls are no choices.
    """

    name: str
    build: Callable[[], mujoco.MjSpec] | None
    readings: tuple[Reading, ...]
    dt: float
    parameters: tuple[Parameter, ...] = ()
    limits: np.ndarray | None = None
    symbolic: Callable[[], Symbolic] | None = None
    finite: Callable[[], Finite] | None = None
    choices: int = 0

    @cached_property
    def layout(self) -> Layout:
        """Where each reading lies in `y`."""
        return Layout(self.readings)

    def spec(self) -> mujoco.MjSpec:
        """A fresh spec with one sensor per sensed reading, in the readings' order, and no other.

        Raises:
            ValueError: the robot has no MuJoCo model, or one that does not load.
        """
        if self.build is None:
            knows = "only its own simulator knows it" if self.symbolic is None else "it is in closed form: use casadi"
            raise ValueError(f"robot {self.name!r} has no MuJoCo model; {knows}")
        try:
            spec = self.build()
        except ValueError as error:
            raise ValueError(f"the model of robot {self.name!r} does not load: {error}") from error
        for sensor in list(spec.sensors):
            spec.delete(sensor)
        for reading in self.readings:
            if reading.source == "sensor":
                spec.add_sensor(name=reading.name, type=reading.sensor, objtype=reading.objtype, objname=reading.object)
        return spec

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The compiled model; shared, so treat it as read-only and compile `spec()` for one of your own."""
        spec = self.spec()
        try:
            return spec.compile()
        except ValueError as error:
            raise ValueError(f"the model of robot {self.name!r} does not compile: {error}") from error

    @cached_property
    def control_limits(self) -> np.ndarray:
        """Lower and upper limit of each control, (2, nu); infinite where the actuator has none."""
        if self.limits is not None:
            return self.limits
        model = self.model
        limited = model.actuator_ctrllimited.astype(bool)[:, None]
        return np.where(limited, model.actuator_ctrlrange, [-np.inf, np.inf]).T.copy()

    @cached_property
    def bounded_limits(self) -> np.ndarray:
        """The limits to try controls within (2, nu), finite, read-only: those of `control_limits` where there are any.

        A control without limits is tried between -1 and 1, and one with a single limit up to 1, or -1, and at least 1
        away from it.
        """
        low, high = self.control_limits
        bounded = np.stack(
            [
                np.where(np.isfinite(low), low, np.fmin(-1.0, high - 1.0)),
                np.where(np.isfinite(high), high, np.fmax(1.0, low + 1.0)),
            ]
        )
        bounded.flags.writeable = False
        return bounded

    @cached_property
    def actuators(self) -> tuple[str, ...]:
        """Name of each control."""
        if self.build is None:
            return tuple(f"u{i}" for i in range(self.control_limits.shape[1]))
        return tuple(self.model.actuator(i).name or f"u{i}" for i in range(self.model.nu))

    @property
    def nu(self) -> int:
        """Number of controls."""
        return self.control_limits.shape[1]


@dataclass(frozen=True)
class Task:
    """A robot, what is wanted of it, and where an episode starts.

    Attributes:
        name: `robot-task`, as in dm_control.
        score: (readings (..., ny) seen by name, u (..., nu)) -> reward (...): what evaluation and learners see.
        terms: what planners minimise.
        start: the beginning of the episode that a seed (0 to 2^32 - 1) stands for.
        duration: of an episode [s].
        trace: (readings seen by name) -> place (..., 3) [m] that viewers draw as trail and candidate lines, or None.
        goal: (readings seen by name) -> (...) bool, True where the task is achieved; by default reward at least 0.9
            under zero control.
        end: (readings seen by name) -> (...) bool, True where the episode terminates; by default never.
        constraints: what plans must hold to.
        observation: (readings seen by name) -> (..., k), what policies are told besides the readings: where a target is
            from the hand, for one, which is much to learn from joints; by default nothing.
    """

    name: str
    robot: Robot
    score: Callable[[View, Array], Array]
    terms: tuple[Term, ...]
    start: Callable[[int], Start]
    duration: float
    trace: Callable[[View], Array] | None = None
    goal: Callable[[View], Array] | None = None
    end: Callable[[View], Array] | None = None
    constraints: tuple[Constraint, ...] = ()
    observation: Callable[[View], Array] | None = None

    def with_period(self, period: float) -> "Task":
        """The same task, controlled every `period` [s]: what planners see that decide less often than the loop steps.

        Raises:
            ValueError: it is no whole number of the robot's control steps.
        """
        dt = self.robot.dt
        repeat = round(period / dt) if np.isfinite(period) else 0
        if repeat < 1 or abs(repeat * dt - period) > 1e-6 * dt:
            raise ValueError(f"a period of {period:g} s is no whole number of {self.name}'s control steps of {dt:g} s")
        return self if repeat == 1 else replace(self, robot=replace(self.robot, dt=repeat * dt))

    def reward(self, y: Array, u: Array) -> Array:
        """Reward (...) of reaching readings `y` (..., ny) by control `u` (..., nu)."""
        return self.score(self.robot.layout(y), u)

    def success(self, y: Array) -> Array:
        """True (...) where readings `y` (..., ny) meet the task's goal."""
        view = self.robot.layout(y)
        if self.goal is not None:
            return self.goal(view)
        none = namespace(y).broadcast_to(0.0 * y[..., :1], (*y.shape[:-1], self.robot.nu))
        return self.score(view, none) >= 0.9

    def terminated(self, y: Array) -> Array:
        """True (...) where readings `y` (..., ny) end the episode (not by time)."""
        if self.end is not None:
            return self.end(self.robot.layout(y))
        return np.zeros(y.shape[:-1], bool)

    def cost(self, y: Array, u: Array, t: Array) -> Array:
        """Cost per step (...), terminal terms aside, of readings `y` (..., ny) reached at `t` [s] by `u` (..., nu)."""
        return self._sum([(term, term.weight) for term in self.terms if term.weight], y, u, t)

    def terminal_cost(self, y: Array, u: Array, t: Array) -> Array:
        """The terminal terms' cost (...) at the horizon's last readings `y` (..., ny)."""
        return self._sum([(term, term.terminal_weight) for term in self.terms if term.terminal_weight], y, u, t)

    def violations(self, y: Array, u: Array, t: Array) -> Array:
        """All constraints' residuals (..., k), kept where at most 0, of readings `y` reached at `t` [s] by `u`."""
        view = self.robot.layout(y)
        residuals = [constraint.residual(view, u, t) for constraint in self.constraints]
        return namespace(y).concatenate(residuals, axis=-1)

    def _sum(self, weighted: list[tuple[Term, float]], y: Array, u: Array, t: Array) -> Array:
        if not weighted:
            return 0.0 * entry(y, 0)
        view, cost = self.robot.layout(y), None
        for term, weight in weighted:
            value = term.norm(term.residual(view, u, t))
            if weight != 1.0:  # passes over all candidates and steps are what a cost takes its time for
                value = weight * value
            cost = value if cost is None else cost + value
        return cost
