"""The `finite` plant and dynamics: problems whose transitions are a table (`robots.finite`).

They serve our own (`maze`) and Gymnasium's toy-text environments, whose table is known: as a model for planning, with
Gymnasium's environment as the plant.
"""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from ..robots.finite import Finite
from ..robots.task import Task
from .branching import Branches
from .interface import Rollout, Scene, SimulationError, State, check_candidates, check_control


def table(task: Task) -> Finite:
    """The task's transitions.

    Raises:
        ValueError: they are not known.
    """
    if task.robot.finite is None:
        raise ValueError(f"{task.name} is no finite problem: its transitions are no table")
    return task.robot.finite()


class FiniteDynamics:
    """A finite problem as a model: outcomes are drawn.

    Args:
        task: whose transitions are known.

    Attributes:
        stochastic: whether a control may have more than one outcome.
        choices: all controls (A, 1).

    Raises:
        ValueError: they are not.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.dt = task, task.robot.dt
        self.model = table(task)
        self.stochastic = self.model.stochastic
        self.choices: np.ndarray | None = np.arange(float(self.model.controls))[:, None]
        self._index = {readings.tobytes(): s for s, readings in enumerate(self.model.states + 0.0)}
        self._until = np.cumsum(self.model.probability, axis=-1)

    def _number(self, state: State) -> tuple[int, bool]:
        """Which state it is, and whether the episode is over.

        Raises:
            ValueError: its readings are none of the problem's.
        """
        k = self.model.states.shape[1]
        found = self._index.get((np.asarray(state.y[:k], float) + 0.0).tobytes())
        if found is None:
            raise ValueError(f"readings {state.y[:k]} are those of no state of {self.task.name}")
        return found, bool(state.y[-1] > 0.5)

    def _steps(self, s: np.ndarray, over: np.ndarray, u: np.ndarray, draws: np.ndarray | None) -> tuple[Any, ...]:
        """Readings (N, m, ny), states and ends (N, m) under `u` (N, m, 1), from `s` and `over` (N,)."""
        model, (n, m) = self.model, u.shape[:2]
        k = model.states.shape[1]
        y, states, ends = np.empty((n, m, k + 2)), np.empty((n, m), int), np.empty((n, m), bool)
        choice = np.clip(np.floor(u[..., 0] + 0.5), 0, model.controls - 1).astype(int)
        for j in range(m):
            at = s, choice[:, j]
            if draws is None:
                outcome = model.probability[at].argmax(-1)
            else:
                outcome = np.minimum((draws[:, j, None] >= self._until[at]).sum(-1), self._until.shape[2] - 1)
            reward = np.where(over, 0.0, model.reward[(*at, outcome)])
            after = np.where(over, s, model.next[(*at, outcome)])
            over = over | model.ends[(*at, outcome)]
            s = after
            y[:, j, :k], y[:, j, k], y[:, j, k + 1] = model.states[s], reward, over
            states[:, j], ends[:, j] = s, over
        return y, states, ends

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator) -> Rollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, 1); outcomes are drawn by `rng`.

        Raises:
            ValueError: `controls` have another shape, or the state is none of the problem's.
        """
        controls = check_candidates(controls, 1)
        n, horizon, _ = controls.shape
        s, over = self._number(state)
        draws = rng.random((n, horizon)) if self.stochastic else None
        y = np.empty((1, n, horizon + 1, len(state.y)))
        y[0, :, 0] = state.y
        y[0, :, 1:] = self._steps(np.full(n, s), np.full(n, over), controls, draws)[0]
        return Rollout(y, np.ones((1, n), bool))

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The state after `controls` (k, 1), by each one's most probable outcome.

        Raises:
            ValueError: `controls` have another shape, or the state is none of the problem's.
        """
        controls = check_candidates(np.asarray(controls, float)[None], 1)
        s, over = self._number(state)
        y, states, ends = self._steps(np.array([s]), np.array([over]), controls, None)
        x = np.array([states[0, -1], ends[0, -1], 0.0, 0.0])
        return State(state.time + controls.shape[1] * self.dt, y[0, -1].copy(), x)

    def root(self, state: State) -> np.ndarray:
        """See `branching.Branching.root`: a state's number, and whether the episode is over."""
        return np.array(self._number(state), float)

    def branch(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """See `branching.Branching.branch`."""
        draws = rng.random(controls.shape[:2]) if self.stochastic else None
        y, states, ends = self._steps(rows[:, 0].astype(int), rows[:, 1] > 0.5, controls, draws)
        after = np.stack((states[:, at - 1], ends[:, at - 1]), axis=1).astype(float)
        return Branches(after, y, np.ones(controls.shape[:2], bool))

    def close(self) -> None:
        """Nothing to free."""


class FiniteSimulator:
    """A finite problem as the plant. The k-th outcome since the reset depends on the seed and on k alone.

    A state's `x` holds its number, whether the episode is over, the seed, and k.

    Raises:
        ValueError: the task's transitions are not known.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.dt = task, task.robot.dt
        self._model = table(task)
        self._x: np.ndarray | None = None
        self._time = 0.0

    def reset(self, seed: int, state: State | None = None) -> State:
        """Begins an episode drawn by `seed`, or continues exactly from `state`.

        Raises:
            ValueError: the state has no `x`, or one of another problem.
        """
        if state is None:
            self._x = np.array([float(self.task.start(seed).qpos[0]), 0.0, float(seed), 0.0])
            self._time = 0.0
            return self._state(0.0)
        if state.x is None or state.x.shape != (4,) or not 0 <= state.x[0] < len(self._model.states):
            raise ValueError(f"a state of {self.task.name} to continue from has an x of 4 numbers")
        self._x, self._time = state.x.copy(), state.time
        return State(state.time, state.y.copy(), state.x.copy())

    def step(self, u: np.ndarray) -> State:
        """Advances by `dt` under the choice nearest to `u` (1,).

        Raises:
            SimulationError: no episode has begun.
            ValueError: `u` has another shape or is not finite.
        """
        control = check_control(u, 1)
        if self._x is None:
            raise SimulationError("no episode has begun: reset the simulator first")
        model, (s, over, seed, k) = self._model, (int(v) for v in self._x)
        self._time += self.dt
        if over:
            self._x[3] += 1
            return self._state(0.0)
        a = int(np.clip(np.floor(control[0] + 0.5), 0, model.controls - 1))
        draw = np.random.default_rng([seed, k]).random()
        outcome = min(int((draw >= np.cumsum(model.probability[s, a])).sum()), model.next.shape[2] - 1)
        ends = model.ends[s, a, outcome]
        self._x = np.array([model.next[s, a, outcome], ends, seed, k + 1], float)
        return self._state(float(model.reward[s, a, outcome]))

    def _state(self, reward: float) -> State:
        assert self._x is not None
        y = np.concatenate((self._model.states[int(self._x[0])], (reward, self._x[1])))
        return State(self._time, y, self._x.copy())

    def scene(self) -> Scene | None:
        """The problem's drawing; None where there is none."""
        if self._model.drawing is None:
            return None
        model = self._model.drawing().compile()
        data = mujoco.MjData(model)
        states = self._model.states

        def pose(x: np.ndarray) -> None:
            data.qpos[:] = states[int(x[0]), : model.nq]
            mujoco.mj_kinematics(model, data)

        restore: Callable[[np.ndarray], None] = pose
        return Scene(model, data, restore)

    def close(self) -> None:
        """Nothing to free."""
