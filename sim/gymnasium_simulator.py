"""The `gymnasium` plant: an environment of Gymnasium's moves and scores itself (Towers et al., 2024).

Its tasks are called `gymnasium:ID`, as in `gymnasium:Pendulum-v1`.
"""

import io
import pickle
from typing import Any

import cloudpickle
import gymnasium
import mujoco
import numpy as np
from gymnasium.utils import EzPickle

from ..robots.external import choices, make_gymnasium
from ..robots.task import Task
from .compiled import INTEGRATION, check_divergence
from .interface import Rollout, SimulationError, State, check_candidates, check_control, full_state

PREFIX = "gymnasium:"


class NotCopyable(ValueError):
    """The environment holds something that can not be saved and restored, a handle of a C++ library for one."""


class GymnasiumSimulator:
    """A Gymnasium environment as the plant.

    Controls are given to the environment as they are; those of discrete actions are rounded, and clipped to the
    choices. An environment that has terminated stays where it is, at reward 0. States have an `x`, a snapshot of the
    environment, where it can be copied (see `GymnasiumDynamics`), and none elsewhere. It is a pickle, which can run
    any code when it is restored: continue only from states that you trust.

    Raises:
        ValueError: the task is not Gymnasium's.
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
        """Advances by `dt` under `u` (nu,).

        Raises:
            SimulationError: an observation or the reward is not finite, or the physics diverged.
            ValueError: `u` has another shape or is not finite.
        """
        return self._environment.step(check_control(u, self.task.robot.nu))

    def advance(self, u: np.ndarray) -> np.ndarray:
        """`step`, but the readings (ny,) alone: no snapshot is taken, which costs many times a step."""
        return self._environment.advance(check_control(u, self.task.robot.nu)).copy()

    def state(self) -> State:
        """Where the environment is."""
        return self._environment.state()

    def scene(self) -> None:
        """Nothing to draw: an environment's geometry is its own."""

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()


class GymnasiumDynamics:
    """A copy of a Gymnasium environment as its own model: candidates are stepped one by one from the plant's snapshot.

    Slow, and right for every environment that can be copied: each attribute of it and of its wrappers is picklable, or
    MuJoCo's. The random generator is copied too, so noise that the plant has yet to draw is foreseen. Parts of MuJoCo's
    model that an environment changes by itself are not copied.

    Raises:
        NotCopyable: (a ValueError) the environment can not be copied, or does not go on the same after it.
        ValueError: the task is not Gymnasium's.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dt = task.robot.dt
        self._environment = _Environment(task)
        self._check()

    def _check(self) -> None:
        env = self._environment
        start = env.begin(0)
        if start.x is None:
            raise NotCopyable(f"{self.task.name} can not be copied: {env.why_not}")
        u = self.task.robot.bounded_limits.mean(0)
        first = [env.step(u).y for _ in range(3)]
        env.restore(start)
        if not np.array_equal(first, [env.step(u).y for _ in range(3)]):
            raise NotCopyable(f"{self.task.name} can not be copied: restored, it does not go on the same")

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
        for i in range(n):
            self._environment.restore(state)
            try:
                for k in range(horizon):
                    y[0, i, k + 1] = self._environment.advance(controls[i, k])
            except SimulationError:
                valid[0, i] = False
        return Rollout(y, valid)

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The predicted state after `controls` (k, nu).

        Raises:
            SimulationError: the prediction diverged.
            ValueError: `state` has no `x`.
        """
        self._environment.restore(state)
        for u in controls:
            self._environment.advance(check_control(u, self.task.robot.nu))
        return self._environment.state()

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()


class _Environment:
    """One environment, stepped, saved and restored."""

    def __init__(self, task: Task) -> None:
        if not task.name.startswith(PREFIX):
            raise ValueError(f"{task.name} is not a task of gymnasium; those are called gymnasium:ID")
        self.task = task
        self.env: Any = make_gymnasium(task.name.removeprefix(PREFIX))
        self.snapshots = _Snapshots(self.env)
        self.why_not: str | None = None
        self.y: np.ndarray | None = None
        self.since, self.steps = 0.0, 0
        space = self.env.action_space
        self.box = isinstance(space, gymnasium.spaces.Box)
        if not self.box:
            self.first, self.count = choices(task.name, space)

    def begin(self, seed: int) -> State:
        observation, _ = self.env.reset(seed=seed)
        self._clear_warnings()
        self.since, self.steps = 0.0, 0
        self._observe(observation, 0.0, False)
        return self.state()

    def restore(self, state: State) -> State:
        x = full_state(state)
        self.snapshots.restore(x)
        self._clear_warnings()
        self.since, self.steps = state.time, 0
        self.y = state.y.copy()
        return State(state.time, state.y.copy(), x.copy())

    def step(self, u: np.ndarray) -> State:
        self.advance(u)
        return self.state()

    def advance(self, u: np.ndarray) -> np.ndarray:
        """Steps, no snapshot taken; returns the readings."""
        if self.y is None:
            raise SimulationError("no episode has begun: reset the simulator first")
        if self.y[-1]:
            self.y[-2] = 0.0
        else:
            observation, reward, terminated, _, _ = self.env.step(self._action(u))
            self._observe(observation, reward, terminated)
            if not np.isfinite(self.y).all():
                self.y = None
                raise SimulationError("the simulation diverged: an observation or the reward is not finite")
            for data in self.snapshots.datas:
                check_divergence(data)
        self.steps += 1
        return self.y

    def state(self) -> State:
        assert self.y is not None
        x = None
        if self.why_not is None:
            try:
                x = self.snapshots.take()
            except NotCopyable as error:
                self.why_not = str(error)
        return State(self.since + self.steps * self.task.robot.dt, self.y.copy(), x)

    def close(self) -> None:
        self.env.close()

    def _action(self, u: np.ndarray) -> Any:
        space = self.env.action_space
        if self.box:
            return u.reshape(space.shape).astype(space.dtype)
        choice = np.clip(np.floor(u + 0.5), self.first, self.first + self.count - 1).astype(int)
        return choice[0] if isinstance(space, gymnasium.spaces.Discrete) else choice.reshape(space.shape)

    def _observe(self, observation: Any, reward: float, terminated: bool) -> None:
        flat = gymnasium.spaces.flatten(self.env.observation_space, observation)
        self.y = np.concatenate([np.asarray(flat, float).ravel(), [float(reward), float(terminated)]])

    def _clear_warnings(self) -> None:
        for data in self.snapshots.datas:
            data.warning.number[:] = 0


class _Snapshots:
    """Saves and restores an environment, attribute by attribute, wrappers included.

    `copy.deepcopy` and `pickle` of the whole would not do: an environment that is an `EzPickle`, as all of Gymnasium's
    own of MuJoCo are, comes back from them freshly made. A snapshot is a pickle, padded with zeros (which
    `pickle` passes over) so that the snapshots of one episode have one length.
    """

    _KEPT = frozenset({"env", "spec", "_cached_spec", "metadata", "mujoco_renderer"})

    def __init__(self, env: Any) -> None:
        self.layers = [env]
        while isinstance(self.layers[-1], gymnasium.Wrapper):
            self.layers.append(self.layers[-1].env)
        self.size = 0

    @property
    def datas(self) -> list[mujoco.MjData]:
        """MuJoCo's data that the environment holds."""
        return [v for layer in self.layers for v in vars(layer).values() if isinstance(v, mujoco.MjData)]

    def take(self) -> np.ndarray:
        """A snapshot, bytes (nx,).

        Raises:
            NotCopyable: an attribute can not be pickled.
        """
        attributes = [{k: v for k, v in vars(layer).items() if not self._keeps(k, v)} for layer in self.layers]
        physics = [_save_physics(data) for data in self.datas]
        raw = self._dump((attributes, physics))
        if len(raw) > self.size:
            self.size = -(-len(raw) * 5 // 4 // 1024) * 1024
        x = np.zeros(self.size, np.uint8)
        x[: len(raw)] = np.frombuffer(raw, np.uint8)
        return x

    def _dump(self, value: Any) -> bytes:
        for kind in (_Pickler, _CodePickler):
            buffer = io.BytesIO()
            try:
                kind(buffer, self.layers).dump(value)
                return buffer.getvalue()
            except NotCopyable:
                raise
            except Exception as error:  # pickle and what it calls raise errors of many kinds
                reason = error
        raise NotCopyable(f"{type(reason).__name__}: {reason}") from reason

    def restore(self, x: np.ndarray) -> None:
        """Puts the environment where it was when `x` (nx,) was taken.

        Raises:
            ValueError: `x` is no snapshot of this environment.
        """
        if x.dtype != np.uint8 or x.ndim != 1:
            raise ValueError(f"a snapshot of a gymnasium environment is bytes (nx,), not {x.dtype} {x.shape}")
        try:
            attributes, physics = _Unpickler(io.BytesIO(x.tobytes()), self.layers).load()
            for layer, saved in zip(self.layers, attributes, strict=True):
                now = vars(layer)
                for key in [k for k, v in now.items() if k not in saved and not self._keeps(k, v)]:
                    del now[key]
                now.update(saved)
        except (pickle.UnpicklingError, EOFError, ValueError, IndexError, TypeError) as error:
            raise ValueError(f"this is no snapshot of this gymnasium environment: {error}") from error
        for data, saved in zip(self.datas, physics, strict=True):
            _restore_physics(data, saved)

    def _keeps(self, name: str, value: Any) -> bool:
        return name in self._KEPT or isinstance(value, mujoco.MjModel | mujoco.MjData)


class _References:
    """Keeps the environment's own layers references in what is pickled."""

    def __init__(self, file: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(file)  # type: ignore[call-arg]
        self.layers = {id(layer): i for i, layer in enumerate(layers)}

    def persistent_id(self, obj: Any) -> int | None:
        if isinstance(obj, gymnasium.Env | EzPickle):
            if id(obj) not in self.layers:
                raise NotCopyable(f"it holds a {type(obj).__name__}, which would come back freshly made")
            return self.layers[id(obj)]
        return None


class _Pickler(_References, pickle.Pickler):
    """For most environments, and many times faster than the next one."""


class _CodePickler(_References, cloudpickle.Pickler):
    """For environments that hold lambdas."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(file)
        self.layers = layers

    def persistent_load(self, pid: int) -> Any:
        return self.layers[pid]


def _save_physics(data: mujoco.MjData) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """MuJoCo's state and the poses and forces derived from it: environments read them one step late."""
    state = np.empty(mujoco.mj_stateSize(data.model, INTEGRATION))
    mujoco.mj_getState(data.model, data, state, INTEGRATION)
    return state, {name: getattr(data, name).copy() for name in _derived(data)}


def _restore_physics(data: mujoco.MjData, saved: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    state, derived = saved
    for name, value in derived.items():
        target = getattr(data, name)
        if target.shape == value.shape:  # those in MuJoCo's arena have the size that contacts gave them
            target[:] = value
    mujoco.mj_setState(data.model, data, state, INTEGRATION)


def _derived(data: mujoco.MjData) -> list[str]:
    """Names of the data's arrays of floats, constraints and contacts aside."""
    return [
        name
        for name in dir(data)
        if not name.startswith(("_", "efc_", "iefc_", "contact"))
        and isinstance(value := getattr(data, name), np.ndarray)
        and value.dtype == np.float64
        and value.size
    ]
