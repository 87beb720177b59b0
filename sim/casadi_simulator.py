"""The `casadi` plant: a robot in closed form."""

import mujoco
import numpy as np

from ..robots.symbolic import Symbolic
from ..robots.task import Task
from .closed_form import ClosedForm, diverged
from .compiled import Compiled
from .interface import Scene, SimulationError, State, check_control


class CasadiSimulator:
    """A task's robot in closed form; states are saved and restored exactly, the MuJoCo plant's of the same robot too.

    Args:
        task: whose robot it is.
        symbolic: its motion, by default the robot's own.

    Raises:
        ValueError: as `ClosedForm`.
    """

    def __init__(self, task: Task, symbolic: Symbolic | None = None) -> None:
        self.task = task
        self.dt = task.robot.dt
        self._model = ClosedForm(task, symbolic)
        self._step = self._model.moves
        self._x: np.ndarray | None = None
        self._time = 0.0

    def reset(self, seed: int, state: State | None = None) -> State:
        """Begins an episode drawn by `seed`, or continues exactly from `state`."""
        x = self._model.begin(self.task.start(seed)) if state is None else self._model.packed(state)
        if diverged(x):
            raise SimulationError("the state to begin from is not finite, or too large")
        self._time = 0.0 if state is None else state.time
        self._x = x.copy()
        return self._model.state(self._time, self._x)

    def step(self, u: np.ndarray) -> State:
        """Advances by `dt` under `u` (nu,), clamped by the actuators' limits.

        Raises:
            SimulationError: the motion diverged, or no episode has begun.
            ValueError: `u` has another shape or is not finite.
        """
        control = check_control(u, self.task.robot.nu)
        if self._x is None:
            raise SimulationError("no episode has begun: reset the simulator first")
        nx = self._model.symbolic.nx
        found = self._step(self._x[:nx], control)
        end = found[0] if isinstance(found, tuple) else found
        if diverged(end):
            raise SimulationError("the simulation diverged: a number of its state is not finite or too large")
        self._x[:nx] = end
        self._time += self.dt  # summed up, as MuJoCo does: a restored state's clock goes on to the last bit
        return self._model.state(self._time, self._x)

    def scene(self) -> Scene | None:
        """The robot's MuJoCo model, or the one made for drawing it; None where there is neither."""
        robot, drawing = self.task.robot, self._model.symbolic.drawing
        if robot.build is not None:
            compiled = Compiled(robot)
            return Scene(compiled.model, compiled.data, compiled.unpack)
        if drawing is None:
            return None
        model = drawing().compile()
        data = mujoco.MjData(model)

        def pose(x: np.ndarray) -> None:
            data.qpos[:] = x[: model.nq]
            mujoco.mj_kinematics(model, data)

        return Scene(model, data, pose)

    def close(self) -> None:
        """Nothing to free."""
