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

    Attributes:
        state_runs: pairs of slices, of the readings and of the physics state that they are entries of.
        sensor_runs: the same for the sensors' data, of `nsensed` numbers.
        constants: pairs of an entry of the readings and the model's number (1,) that it is, a view.

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
        moving: list[tuple[int, int]] = []
        sensed: list[tuple[int, int]] = []
        self.constants: list[tuple[int, np.ndarray]] = []
        offset = {"qpos": 1, "qvel": 1 + nq, "act": 1 + nq + nv}
        for reading in robot.readings:
            at = robot.layout[reading.name].start
            if reading.source == "sensor":
                sensed += [(at + i, len(sensed) + i) for i in range(reading.size)]
            elif reading.source == "parameter":
                row = parameter_value(self.model, reading)
                self.constants += [(at + i, row[j : j + 1]) for i, j in enumerate(reading.index)]
            else:
                moving += [(at + i, offset[reading.source] + j) for i, j in enumerate(reading.index)]
        self.state_runs, self.sensor_runs = _runs(moving), _runs(sensed)
        self.nsensed = len(sensed)
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
        for target, source in self.state_runs:
            y[target] = self._physics[source]
        for target, source in self.sensor_runs:
            y[target] = self.data.sensordata[source]
        for entry, value in self.constants:
            y[entry] = value[0]
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


def _runs(pairs: list[tuple[int, int]]) -> list[tuple[slice, slice]]:
    """Pairs (target, source) of entries as pairs of slices, each as long as both run on."""
    runs: list[tuple[slice, slice]] = []
    for target, source in pairs:
        if runs and (runs[-1][0].stop, runs[-1][1].stop) == (target, source):
            runs[-1] = slice(runs[-1][0].start, target + 1), slice(runs[-1][1].start, source + 1)
        else:
            runs.append((slice(target, target + 1), slice(source, source + 1)))
    return runs


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
