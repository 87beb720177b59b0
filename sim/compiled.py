"""A robot's compiled MuJoCo model: how a state is packed into `x`, and where the readings are."""

import copy

import mujoco
import numpy as np

from ..robots.suite import parameter_value
from ..robots.task import Robot, Start
from .interface import SimulationError, State

INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS

DIVERGED = (
    (mujoco.mjtWarning.mjWARN_BADQPOS, "a position is not finite or too large"),
    (mujoco.mjtWarning.mjWARN_BADQVEL, "a velocity is not finite or too large"),
    (mujoco.mjtWarning.mjWARN_BADQACC, "an acceleration is not finite or too large"),
    (mujoco.mjtWarning.mjWARN_BADCTRL, "a control is not finite or too large"),
)


class Compiled:
    """A model of `robot` with one `MjData`.

    `x` is MuJoCo's integration state followed by the values of the robot's parameters, so that a state restored in
    another copy of the model, in a planner's for one, continues exactly.

    Raises:
        ValueError: the control period is not a whole number of the model's time steps.
    """

    def __init__(self, robot: Robot, model: mujoco.MjModel | None = None, data: mujoco.MjData | None = None) -> None:
        self.robot = robot
        self.model = copy.copy(robot.model) if model is None else model  # many times faster than to compile
        self.data = mujoco.MjData(self.model) if data is None else data
        self.substeps = whole_ratio(robot.dt, self.model.opt.timestep, robot.name)
        self.nintegration = mujoco.mj_stateSize(self.model, INTEGRATION)
        self.parameters = [parameter_value(self.model, p) for p in robot.parameters]
        self.nx = self.nintegration + sum(p.size for p in self.parameters)
        nq, nv = self.model.nq, self.model.nv
        # Readings that are entries of the state need no sensor; in the physics state, time comes first.
        columns, sensed, sensor_at = [], [], 0
        offset = {"qpos": 1, "qvel": 1 + nq, "act": 1 + nq + nv}
        at = 0
        for reading in robot.readings:
            if reading.source == "sensor":
                sensed.append((at, sensor_at, reading.size))
                sensor_at += reading.size
            else:
                base = offset[reading.source]
                columns.append((at, np.array([base + i for i in reading.index])))
            at += reading.size
        self.state_targets = np.concatenate([np.arange(a, a + len(c)) for a, c in columns]) if columns else np.arange(0)
        self.state_columns = np.concatenate([c for _, c in columns]) if columns else np.arange(0)
        self.sensor_targets = np.concatenate([np.arange(a, a + n) for a, _, n in sensed]) if sensed else np.arange(0)
        self.nsensed = sensor_at
        self._physics = np.empty(mujoco.mj_stateSize(self.model, PHYSICS))

    def pack(self) -> np.ndarray:
        """The data's state as a fresh `x` (nx,)."""
        x = np.empty(self.nx)
        mujoco.mj_getState(self.model, self.data, x[: self.nintegration], INTEGRATION)
        at = self.nintegration
        for value in self.parameters:
            x[at : at + value.size] = value
            at += value.size
        return x

    def unpack(self, x: np.ndarray) -> None:
        """Puts the data at state `x` (nx,), poses and readings computed.

        Raises:
            SimulationError: the state is not finite, or too large (MuJoCo would begin anew, silently).
            ValueError: `x` has another size: it belongs to another robot.
        """
        if x.shape != (self.nx,):
            raise ValueError(f"a state of {self.robot.name} has {self.nx} numbers, not {x.shape}")
        self.set_parameters(x)
        mujoco.mj_setState(self.model, self.data, x[: self.nintegration], INTEGRATION)
        self.data.warning.number[:] = 0  # an old fault is none of this state's
        mujoco.mj_step1(self.model, self.data)
        check_divergence(self.data)

    def set_parameters(self, x: np.ndarray) -> None:
        """Writes the parameters' part of `x` (nx,) into the model."""
        at = self.nintegration
        for value in self.parameters:
            value[:] = x[at : at + value.size]
            at += value.size

    def begin(self, start: Start) -> None:
        """Puts the data at an episode's start."""
        mujoco.mj_resetData(self.model, self.data)
        for value, given in zip(self.parameters, start.parameters, strict=True):
            value[:] = given
        self.data.qpos[:] = start.qpos
        self.data.qvel[:] = start.qvel
        mujoco.mj_step1(self.model, self.data)

    def readings(self) -> np.ndarray:
        """The readings at the data's state, a fresh (ny,); poses and velocities must be computed (`mj_step1`)."""
        y = np.empty(self.robot.layout.size)
        mujoco.mj_getState(self.model, self.data, self._physics, PHYSICS)
        y[self.state_targets] = self._physics[self.state_columns]
        y[self.sensor_targets] = self.data.sensordata[: self.nsensed]
        return y

    def state(self) -> State:
        """The data's state, in fresh arrays."""
        return State(float(self.data.time), self.readings(), self.pack())

    def step(self, u: np.ndarray) -> None:
        """Advances by one control period under `u` (nu,), poses and readings computed.

        Raises:
            SimulationError: the physics diverged (MuJoCo by itself would reset and go on, silently).
        """
        self.data.ctrl[:] = u
        mujoco.mj_step(self.model, self.data, self.substeps)
        mujoco.mj_step1(self.model, self.data)
        check_divergence(self.data)


def check_divergence(data: mujoco.MjData) -> None:
    """Raises `SimulationError` if MuJoCo has flagged a bad state since its warnings were last cleared."""
    for warning, meaning in DIVERGED:
        record = data.warning[warning]
        if record.number:
            raise SimulationError(f"the simulation diverged: {meaning} (entry {record.lastinfo}, {warning.name})")


def whole_ratio(period: float, step: float, name: str) -> int:
    """How many `step`s make up `period` [s].

    Raises:
        ValueError: not a whole number.
    """
    ratio = round(period / step)
    if ratio < 1 or abs(ratio * step - period) > 1e-9:
        raise ValueError(f"{name}: a period of {period:g} s is not a whole number of steps of {step:g} s")
    return ratio
