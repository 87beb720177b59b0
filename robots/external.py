"""Tasks that another library defines: its simulator moves them and scores them, and reports the score as a reading.

Their names carry the library's, as in `dm_control:dog-run` or `gymnasium:Pendulum-v1`. Such a robot has no model of
ours: only the simulator and the dynamics of that library know it.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import Array
from .finite import Finite
from .layout import Reading, View
from .plugins import UnknownName
from .suite import control_suite, environment, suite_start
from .task import Robot, Start, Task, Term

STEPS = 1000
"""Length of an episode [control steps] where the library sets none; the suite's own default."""


def load(name: str) -> Task:
    """The task `library:name`; the libraries are `dm_control` and `gymnasium`.

    Raises:
        UnknownName: the library has no such task, or there is no such library.
        ValueError: the task's controls or observations are not of a kind that we handle.
    """
    library, _, rest = name.partition(":")
    if library not in LIBRARIES:
        raise UnknownName("task library", library, LIBRARIES)
    return LIBRARIES[library](rest)


@functools.cache
def dm_control_task(name: str) -> Task:
    """Any task `domain-task` of dm_control's suite (Tunyasuvunakool et al., 2020).

    Readings are `qpos`, `qvel`, `act` (where there is one), `reward` (dm_control's own for the step) and `terminated`
    (0 or 1).

    Raises:
        UnknownName: the suite has no such task.
    """
    domain, _, task = name.partition("-")
    known = [f"dm_control:{d}-{t}" for d, t in control_suite().ALL_TASKS]
    if f"dm_control:{name}" not in known:
        raise UnknownName("task", f"dm_control:{name}", known)
    env = environment(domain, task)
    model = env.physics.model.ptr
    readings = [Reading.qpos("qpos", *range(model.nq)), Reading.qvel("qvel", *range(model.nv))]
    if model.na:
        readings.append(Reading.act("act", *range(model.na)))
    spec = env.action_spec()
    dt = float(env.control_timestep())
    loader = importlib.import_module(f"dm_control.suite.{domain}").SUITE[task]
    limit = inspect.signature(loader).parameters["time_limit"].default
    return _task(
        name=f"dm_control:{name}",
        readings=tuple(readings),
        dt=dt,
        limits=np.array([np.broadcast_to(spec.minimum, spec.shape), np.broadcast_to(spec.maximum, spec.shape)]),
        start=suite_start(domain, task),
        duration=float(limit) if math.isfinite(limit) else STEPS * dt,
    )


@functools.cache
def gymnasium_task(name: str) -> Task:
    """Gymnasium's environment of the id `name` (Towers et al., 2024).

    Readings are the flattened observation, `reward` and `terminated` (0 or 1). A control is the flattened action of a
    Box; of a discrete space it is one number per choice, rounded to the nearest one. The control period is what the
    environment says (its `dt` or `tau`, else one over its `render_fps`), or 1 s where it says nothing.

    Raises:
        UnknownName: there is no such environment.
        ValueError: it can not be made, or has actions or observations that are no fixed number of numbers.
    """
    spaces = importlib.import_module("gymnasium.spaces")
    env = make_gymnasium(name)
    try:
        if not env.observation_space.is_np_flattenable:
            raise ValueError(f"gymnasium:{name}: observations {env.observation_space} are no fixed number of numbers")
        dt = _period(env)
        steps = importlib.import_module("gymnasium").spec(env.spec.id).max_episode_steps or STEPS
        return _task(
            name=f"gymnasium:{name}",
            readings=(Reading("observation", spaces.flatdim(env.observation_space)),),
            dt=dt,
            limits=_action_limits(name, env.action_space),
            start=functools.partial(_no_start, name),
            duration=steps * dt,
            goal=_never,
            finite=functools.partial(toy_text, name) if hasattr(env.unwrapped, "P") else None,
            choices=int(env.action_space.n) if isinstance(env.action_space, spaces.Discrete) else 0,
        )
    finally:
        env.close()


def toy_text(name: str) -> Finite:
    """The table of transitions of one of Gymnasium's toy-text environments, such as `FrozenLake-v1`.

    Raises:
        ValueError: its observation is not the number of its state, or it lists no transitions.
    """
    spaces = importlib.import_module("gymnasium.spaces")
    env = make_gymnasium(name)
    try:
        transitions, space = getattr(env.unwrapped, "P", None), env.observation_space
        if transitions is None or not isinstance(space, spaces.Discrete) or space.n != len(transitions):
            raise ValueError(f"gymnasium:{name} does not list its transitions by the numbers of its states")
        return Finite.of_table(transitions, np.eye(len(transitions)))
    finally:
        env.close()


def make_gymnasium(name: str) -> Any:
    """A fresh Gymnasium environment that ends by itself only, not by time.

    Raises:
        UnknownName: there is no such environment.
        ValueError: what it needs is not installed, or it fails to be made.
    """
    gymnasium = importlib.import_module("gymnasium")
    try:
        return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True)
    except gymnasium.error.UnregisteredEnv as error:
        raise UnknownName("environment of gymnasium", name, gymnasium.registry) from error
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"gymnasium:{name} can not be made: {type(error).__name__}: {error}") from error


def _period(env: Any) -> float:
    for name in ("dt", "tau"):
        value = getattr(env.unwrapped, name, None)
        if isinstance(value, int | float | np.number) and value > 0:
            return float(value)
    fps = env.metadata.get("render_fps")
    return 1.0 / fps if fps else 1.0


def _action_limits(name: str, space: Any) -> np.ndarray:
    """Limits (2, nu); those of a choice reach half a number beyond the first and the last."""
    spaces = importlib.import_module("gymnasium.spaces")
    if isinstance(space, spaces.Box):
        return np.array([space.low.ravel(), space.high.ravel()], float)
    first, count = choices(name, space)
    return np.array([first - 0.5, first + count - 0.5])


def choices(name: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    """First choice and number of choices, (nu,) each, of a discrete action space.

    Raises:
        ValueError: the space is of another kind.
    """
    spaces = importlib.import_module("gymnasium.spaces")
    if isinstance(space, spaces.Discrete):
        return np.array([float(space.start)]), np.array([float(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.ravel().astype(float), space.nvec.ravel().astype(float)
    if isinstance(space, spaces.MultiBinary):
        count = int(np.prod(space.shape))
        return np.zeros(count), np.full(count, 2.0)
    raise ValueError(f"gymnasium:{name}: actions {space} are neither a Box nor Discrete, MultiDiscrete or MultiBinary")


def _no_start(name: str, seed: int) -> Start:
    raise ValueError(f"gymnasium:{name}: only the gymnasium simulator draws its starts")


def _never(y: View) -> Array:
    return y.reward > np.inf  # no environment says what success is


def _task(
    name: str,
    readings: tuple[Reading, ...],
    dt: float,
    limits: np.ndarray,
    start: Callable[[int], Start],
    duration: float,
    goal: Callable[[View], Array] | None = None,
    finite: Callable[[], Finite] | None = None,
    choices: int = 0,
) -> Task:
    return Task(
        name=name,
        robot=Robot(
            name=name,
            build=None,
            readings=(*readings, Reading("reward", 1), Reading("terminated", 1)),
            dt=dt,
            limits=np.asarray(limits, float),
            finite=finite,
            choices=choices,
        ),
        score=_reported_reward,
        terms=(Term("reward", _missing_reward),),
        start=start,
        duration=duration,
        goal=goal,
        end=_reported_end,
    )


def _reported_reward(y: View, u: Array) -> Array:
    return y.reward


def _missing_reward(y: View, u: Array, t: Array) -> Array:
    return 1.0 - y.reward[..., None]


def _reported_end(y: View) -> Array:
    return y.terminated > 0.5


LIBRARIES: dict[str, Callable[[str], Task]] = {"dm_control": dm_control_task, "gymnasium": gymnasium_task}
