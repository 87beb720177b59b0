"""Tasks that another library defines: its simulator moves them and scores them, and reports the score as a reading.

Their names carry the library's, as in `dm_control:dog-run` or `gymnasium:Pendulum-v1`. Such a robot has no model of
ours: only the simulator and the dynamics of that library know it.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Callable

import numpy as np

from .arrays import Array
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


def _task(
    name: str,
    readings: tuple[Reading, ...],
    dt: float,
    limits: np.ndarray,
    start: Callable[[np.random.Generator], Start],
    duration: float,
    goal: Callable[[View], Array] | None = None,
) -> Task:
    return Task(
        name=name,
        robot=Robot(
            name=name,
            build=None,
            readings=(*readings, Reading("reward", 1), Reading("terminated", 1)),
            dt=dt,
            limits=np.asarray(limits, float),
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


LIBRARIES: dict[str, Callable[[str], Task]] = {"dm_control": dm_control_task}
