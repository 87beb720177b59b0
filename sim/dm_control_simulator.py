"""The `dm_control` plant: dm_control's own environment moves the robot (Tunyasuvunakool et al., 2020).

It takes our tasks that the suite has under the same name, with our readings, and every task of the suite by the name
`dm_control:domain-task`, with dm_control's own reward as a reading.
"""

import importlib
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from ..robots.plugins import UnknownName
from ..robots.suite import control_suite, load_environment, parameter_value
from ..robots.task import Task
from .compiled import INTEGRATION, Compiled, check_divergence
from .interface import (
    Rollout,
    Scene,
    SimulationError,
    State,
    available_cores,
    check_candidates,
    check_control,
    full_state,
)

PREFIX = "dm_control:"


class DmControlSimulator:
    """A task in dm_control's own environment, which never resets by itself; states are saved and restored exactly.

    Raises:
        UnknownName: the suite has no such task.
        ValueError: the suite's model of this robot has another state or control period than ours.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dt = task.robot.dt
        self._environment = _Environment(task)

    def reset(self, seed: int, state: State | None = None) -> State:
        """Begins an episode drawn by `seed`, or continues exactly from `state`."""
        if state is None:
            return self._environment.begin(seed)
        return self._environment.restore(state)

    def step(self, u: np.ndarray) -> State:
        """Advances by `dt` under `u` (nu,), applied as given: dm_control clips no control.

        Raises:
            SimulationError: the physics diverged, or no episode has begun since it did.
            ValueError: `u` has another shape or is not finite.
        """
        return self._environment.step(check_control(u, self.task.robot.nu))

    def scene(self) -> Scene:
        """The model, and poses from states."""
        environment = _Environment(self.task)
        return Scene(environment.model, environment.data, environment.put)

    def close(self) -> None:
        """Nothing to free."""


class DmControlDynamics:
    """dm_control's own environments as a model: candidates are stepped one by one, on a few threads.

    Slow, and right for every task of the suite, whose reward functions are known as Python code only.

    Args:
        task: as for `DmControlSimulator`.
        threads: that step candidates, each in an environment of its own; by default one a core.
    """

    def __init__(self, task: Task, threads: int | None = None) -> None:
        self.task = task
        self.dt = task.robot.dt
        self.threads = threads or available_cores()
        self._environments = [_Environment(task)]
        self._pool = ThreadPoolExecutor(self.threads)

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator | None = None) -> Rollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, nu).

        Raises:
            ValueError: `state` has no `x`, or `controls` another shape.
        """
        full_state(state)
        controls = check_candidates(controls, self.task.robot.nu)
        n, horizon, _ = controls.shape
        y = np.full((1, n, horizon + 1, self.task.robot.layout.size), np.nan)
        valid = np.ones((1, n), bool)
        y[0, :, 0] = state.y
        workers = min(self.threads, n)
        while len(self._environments) < workers:
            self._environments.append(_Environment(self.task))

        def work(worker: int) -> None:
            environment = self._environments[worker]
            for i in range(worker, n, workers):
                environment.restore(state)
                try:
                    for k in range(horizon):
                        y[0, i, k + 1] = environment.step(controls[i, k]).y
                except SimulationError:
                    valid[0, i] = False

        list(self._pool.map(work, range(workers)))
        return Rollout(y, valid)

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The predicted state after `controls` (k, nu).

        Raises:
            SimulationError: the prediction diverged.
            ValueError: `state` has no `x`.
        """
        environment = self._environments[0]
        after = environment.restore(state)
        for u in controls:
            after = environment.step(check_control(u, self.task.robot.nu))
        return after

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()


class _Environment:
    """One dm_control environment, put at states and stepped.

    `x` is MuJoCo's integration state, followed for our tasks by the values of the robot's parameters, as in
    `Compiled`; for dm_control's tasks by the seed of the episode: whatever a task draws when an episode begins
    (a target's place, a terrain, an attribute of its own) is drawn again from it.
    """

    def __init__(self, task: Task) -> None:
        self.own = not task.name.startswith(PREFIX)
        domain, _, name = task.name.removeprefix(PREFIX).partition("-")
        known = control_suite().ALL_TASKS
        if (domain, name) not in known:
            raise UnknownName("task of dm_control", task.name, [f"{d}-{t}" for d, t in known])
        self.task = task
        self.env: Any = load_environment(domain, name, time_limit=math.inf)
        self.divergence = importlib.import_module("dm_control.rl.control").PhysicsError
        self.model, self.data = self.env.physics.model.ptr, self.env.physics.data.ptr
        self.nintegration = mujoco.mj_stateSize(self.model, INTEGRATION)
        self.episode = -1
        self.fault: str | None = "no episode has begun: reset the simulator first"
        if not math.isclose(self.env.control_timestep(), task.robot.dt):
            raise ValueError(f"{task.name}: dm_control's control period is {self.env.control_timestep():g} s, not ours")
        if self.own:
            self.shadow = Compiled(task.robot)
            self.parameters = [parameter_value(self.model, p) for p in task.robot.parameters]
            if self.nintegration != self.shadow.nintegration:
                raise ValueError(f"{task.name}: dm_control's model has another state than ours")
            self.nx = self.shadow.nx
        else:
            self.nx = self.nintegration + 1

    def begin(self, seed: int) -> State:
        if self.own:
            self.shadow.begin(self.task.start(seed))
            self.put(self.shadow.pack())
            return self._own_state()
        self._draw(seed)
        return self._state(self.env.task.get_reward(self.env.physics), False)

    def _draw(self, episode: int) -> None:
        self.env.task._random = np.random.RandomState(episode)
        self.env.reset()
        self.episode, self.fault = episode, None

    def put(self, x: np.ndarray) -> None:
        """Puts the environment at state `x` (nx,), poses computed."""
        if x.shape != (self.nx,):
            raise ValueError(f"a state of {self.task.name} has {self.nx} numbers, not {x.shape}")
        if self.own:
            if self.episode < 0:
                self._draw(0)
            at = self.nintegration
            for value in self.parameters:
                value[:] = x[at : at + value.size]
                at += value.size
        elif int(x[-1]) != self.episode:
            self._draw(int(x[-1]))
        mujoco.mj_setState(self.model, self.data, x[: self.nintegration], INTEGRATION)
        self.data.warning.number[:] = 0
        mujoco.mj_step1(self.model, self.data)
        check_divergence(self.data)
        self.fault = None

    def restore(self, state: State) -> State:
        x = full_state(state)
        self.put(x)
        return State(state.time, state.y.copy(), x.copy())

    def step(self, u: np.ndarray) -> State:
        if self.fault:
            raise SimulationError(self.fault)
        try:
            after = self.env.step(u)
        except self.divergence as error:
            self.fault = f"the simulation diverged: {error}"
            raise SimulationError(self.fault) from error
        # A terminated environment would reset in its next step; whether to go on is for the loop to say.
        self.env._reset_next_step = False
        return self._own_state() if self.own else self._state(after.reward, after.last())

    def _own_state(self) -> State:
        x = np.empty(self.nx)
        mujoco.mj_getState(self.model, self.data, x[: self.nintegration], INTEGRATION)
        at = self.nintegration
        for value in self.parameters:
            x[at : at + value.size] = value
            at += value.size
        self.shadow.unpack(x)
        return State(float(self.data.time), self.shadow.readings(), x)

    def _state(self, reward: float, terminated: bool) -> State:
        x = np.empty(self.nx)
        mujoco.mj_getState(self.model, self.data, x[:-1], INTEGRATION)
        x[-1] = self.episode
        y = np.concatenate([self.data.qpos, self.data.qvel, self.data.act, [reward, terminated]])
        return State(float(self.data.time), y, x)
