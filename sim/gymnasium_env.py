"""Our tasks as Gymnasium environments, for the learners and tools that speak that interface (Towers et al., 2024).

Importing this module registers each task as `trimtab/TASK-v0`; `gymnasium.make("trimtab.sim.gymnasium_env:trimtab/
cartpole-swingup-v0")` does both at once. (Gymnasium 1 has no entry point for it.)
"""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from ..robots import load, names
from ..robots.task import Task
from . import make
from .interface import Scene, SimulationError, State, full_state


class TaskEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A task, moved by one of our simulators.

    Actions are controls within the actuators' limits (those without limits: -1 to 1), observations are the readings,
    the reward is the task's. An episode is truncated after the task's duration, and where the physics diverges, with
    reward 0 and `info["fault"]`. `info` also holds `time` [s] and `success`.

    Args:
        task: a task, or its name (`cartpole-swingup`, `dm_control:dog-run`, ...).
        simulator: the plugin that moves it.
        render_mode: None or `rgb_array`.
        width, height: of the frames [pixels].
        camera: name or number of the model's camera; by default the free one.

    Raises:
        UnknownName: there is no such task or simulator.
        ValueError: an unknown render mode, or the simulator can not simulate this task.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 - gymnasium's own convention

    def __init__(
        self,
        task: str | Task,
        simulator: str = "mujoco",
        render_mode: str | None = None,
        width: int = 640,
        height: int = 480,
        camera: str | int = -1,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render mode {render_mode!r}; known: None, 'rgb_array'")
        self.task = load(task) if isinstance(task, str) else task
        self.simulator = make(simulator, self.task)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.task.robot.dt)}
        self.duration = self.task.duration
        limits = self.task.robot.bounded_limits.astype(np.float32)
        self.action_space = spaces.Box(limits[0], limits[1], dtype=np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.task.robot.layout.size,), np.float64)
        self._size, self._camera = (height, width), camera
        self._renderer: mujoco.Renderer | None = None
        self._scene: Scene | None = None
        self._state: State | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode drawn by `np_random`."""
        super().reset(seed=seed)
        self._state = self.simulator.reset(int(self.np_random.integers(2**31)))
        return self._state.y, self._info(self._state)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advances by one control period under `action` (nu,), applied as given.

        Raises:
            gymnasium.error.ResetNeeded: no episode has begun.
            ValueError: `action` has another shape or is not finite.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded("reset the environment before its first step")
        u = np.asarray(action, float)
        try:
            self._state = self.simulator.step(u)
        except SimulationError as error:
            last, self._state = self._state, None
            return last.y.copy(), 0.0, False, True, {**self._info(last), "fault": str(error)}
        y = self._state.y
        # Clocks sum up dt in floating point: an episode ends half a period around its duration at the latest.
        truncated = self._state.time > self.duration - 0.5 * self.task.robot.dt
        return y, float(self.task.reward(y, u)), bool(self.task.terminated(y)), truncated, self._info(self._state)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """A frame (height, width, 3), bytes, in the render mode `rgb_array`.

        Raises:
            RuntimeError: MuJoCo finds no OpenGL, or the simulator has nothing to draw.
            gymnasium.error.ResetNeeded: no episode has begun.
        """
        if self.render_mode is None:
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("reset the environment before drawing it")
        if self._renderer is None or self._scene is None:
            self._renderer, self._scene = self._open_renderer()
        self._scene.restore(full_state(self._state))
        self._renderer.update_scene(self._scene.data, self._camera)
        return self._renderer.render()

    def _open_renderer(self) -> tuple[mujoco.Renderer, Scene]:
        scene = self.simulator.scene()
        if scene is None:
            raise RuntimeError(f"the simulator of {self.task.name} has nothing to draw")
        try:
            return mujoco.Renderer(scene.model, *self._size), scene
        except Exception as error:  # each OpenGL backend raises errors of its own
            raise RuntimeError(
                f"no OpenGL to draw with ({type(error).__name__}: {error}); without a display set the environment "
                "variable MUJOCO_GL to egl (libegl1) or osmesa (libosmesa6) before mujoco is imported"
            ) from error

    def close(self) -> None:
        """Frees the simulator and the renderer."""
        self.simulator.close()
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _info(self, state: State) -> dict[str, Any]:
        return {"time": state.time, "success": bool(self.task.success(state.y))}


def register() -> list[str]:
    """Registers every task of every installed robot with Gymnasium; returns the ids.

    A robot whose plugin fails to import is left out, with a warning.
    """
    ids = []
    for task in names():
        name = f"trimtab/{task}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"{__name__}:TaskEnv", kwargs={"task": task})
        ids.append(name)
    return ids


register()
