"""Reacher: two links in a plane whose fingertip is to be brought to a target, drawn anew for every episode."""

import functools
import operator

import mujoco

from .arrays import Array, entry, norm
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .task import Parameter, Robot, Task, Term

TARGET_RADIUS = {"easy": 0.05, "hard": 0.015}
"""[m], dm_control's `_BIG_TARGET` and `_SMALL_TARGET`."""

PARAMETERS = (Parameter("geom_pos", "target"),)


def _build(radius: float) -> mujoco.MjSpec:
    spec = suite_spec("reacher")
    spec.geom("target").size[0] = radius
    return spec


@functools.cache
def _robot(task: str) -> Robot:
    framepos, geom = mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_GEOM
    return Robot(
        name="reacher",
        build=functools.partial(_build, TARGET_RADIUS[task]),
        readings=(
            Reading.qpos("joints", 0, 1),  # shoulder, wrist [rad]
            Reading.qvel("joint_velocities", 0, 1),
            Reading.sensed("finger", 3, framepos, geom, "finger"),  # [m]
            Reading.sensed("target", 3, framepos, geom, "target"),
        ),
        dt=0.02,
        parameters=PARAMETERS,
    )


def distance(y: View) -> Array:
    """From the finger to the target, in the plane [m]."""
    finger, target = y.finger, y.target
    return norm(entry(finger, 0) - entry(target, 0), entry(finger, 1) - entry(target, 1))


def _off_target(y: View, u: Array, t: Array) -> Array:
    return column(y.once(distance))


def _squared_speed(y: View, u: Array, t: Array) -> Array:
    first, second = entry(y.joint_velocities, 0), entry(y.joint_velocities, 1)
    return column(first * first + second * second)


def _task(name: str) -> Task:
    robot = _robot(name)
    radii = float(robot.model.geom("target").size[0] + robot.model.geom("finger").size[0])

    def reward(y: View, u: Array) -> Array:
        return tolerance(y.once(distance), (0.0, radii))

    return Task(
        name=f"reacher-{name}",
        robot=robot,
        score=reward,
        terms=(
            Term("reward", missing(reward)),
            Term("distance", _off_target, weight=5.0),
            Term("velocity", _squared_speed, weight=0.01),
        ),
        start=suite_start("reacher", name, PARAMETERS),
        duration=20.0,
        trace=operator.attrgetter("finger"),
    )


TASKS = {name: functools.partial(_task, name) for name in TARGET_RADIUS}
