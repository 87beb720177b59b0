"""The `mujoco` plant: a task's robot in MuJoCo."""

import numpy as np

from ..robots.task import Task
from .compiled import Compiled
from .copies import Copies
from .interface import Scene, State, check_control, full_state


class MujocoSimulator:
    """A task's robot in MuJoCo; states are saved and restored exactly."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dt = task.robot.dt
        self._compiled = Compiled(task.robot)

    @staticmethod
    def copies(task: Task, count: int, threads: int | None = None) -> Copies:
        """Plants stepped in batch, see `sim.copies`."""
        from .mujoco_copies import MujocoCopies

        return MujocoCopies(task, count, threads)

    def reset(self, seed: int, state: State | None = None) -> State:
        """Begins an episode drawn by `seed`, or continues exactly from `state`."""
        if state is None:
            self._compiled.begin(self.task.start(seed))
        else:
            self._compiled.unpack(full_state(state))
        return self._compiled.state()

    def step(self, u: np.ndarray) -> State:
        """Advances by `dt` under `u` (nu,), which is applied as given: limits are the controller's business.

        Raises:
            SimulationError: the physics diverged.
            ValueError: `u` has another shape or is not finite.
        """
        self._compiled.step(check_control(u, self.task.robot.nu))
        return self._compiled.state()

    def scene(self) -> Scene:
        """The model, and poses from states."""
        compiled = Compiled(self.task.robot)
        return Scene(compiled.model, compiled.data, compiled.unpack)

    def close(self) -> None:
        """Nothing to free."""
