"""Quadruped: four legs, each with a yaw, a lift and an extension actuator (Tassa et al., 2018)."""

import functools
import math
import operator

import mujoco

from .arrays import Array, entry, namespace
from .layout import Reading, View
from .rewards import tolerance
from .shaping import capped, column, missing
from .suite import control_suite, spec_from, suite_start
from .task import Robot, Task, Term

WALK_SPEED = 0.5
"""Speed [m/s] at which walking earns the full reward, dm_control's `_WALK_SPEED`."""

RUN_SPEED = 5.0
"""Speed [m/s] at which running earns the full reward, dm_control's `_RUN_SPEED`."""

DURATION = 20.0
"""Of an episode [s], dm_control's `_DEFAULT_TIME_LIMIT`; its floor is as far as the robot gets in this time."""

SUCCESS_SHARE = 0.8
"""Share of the full-reward speed at which the quadruped counts as walking or running."""


def _build(speed: float) -> mujoco.MjSpec:
    suite = control_suite()
    return spec_from(suite.quadruped.make_model(floor_size=DURATION * speed), suite.common.ASSETS)


def _robot(speed: float) -> Robot:
    return Robot(
        name="quadruped",
        build=functools.partial(_build, speed),
        readings=(
            Reading.qpos("position", 0, 1, 2),  # of the torso [m]
            Reading.qpos("orientation", 3, 4, 5, 6),
            Reading.qpos("joints", *range(7, 23)),  # yaw, pitch, knee, ankle of each leg
            Reading.qvel("velocity", 0, 1, 2),  # of the torso, in the world's frame [m/s]
            Reading.qvel("angular_velocity", 3, 4, 5),  # of the torso, in its own frame [rad/s]
            Reading.qvel("joint_velocities", *range(6, 22)),
            Reading.act("activations", *range(12)),  # filtered controls
            Reading.sensed("torso_up", 3, mujoco.mjtSensor.mjSENS_FRAMEZAXIS, mujoco.mjtObj.mjOBJ_XBODY, "torso"),
            Reading.sensed(
                "torso_velocity", 3, mujoco.mjtSensor.mjSENS_VELOCIMETER, mujoco.mjtObj.mjOBJ_SITE, "torso"
            ),  # in the torso's frame [m/s]
        ),
        dt=0.02,
    )


def _upright(y: View) -> Array:
    return tolerance(entry(y.torso_up, 2), (1.0, math.inf), margin=2.0, value_at_margin=0.0, sigmoid="linear")


def move_reward(y: View, u: Array, speed: float) -> Array:
    """dm_control's reward for moving along the torso's x-axis at `speed` [m/s] or faster, upright."""
    forward = entry(y.torso_velocity, 0)
    move = tolerance(forward, (speed, math.inf), margin=speed, value_at_margin=0.5, sigmoid="linear")
    return y.once(_upright) * move


def _lean(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - y.once(_upright))


def _slow(y: View, u: Array, t: Array, speed: float) -> Array:
    return column(1.0 - capped(entry(y.torso_velocity, 0) / speed, -1.0, 1.2))


def _moves(y: View, speed: float) -> Array:
    xp = namespace(y.torso_up)
    return xp.logical_and(entry(y.torso_up, 2) >= 0.9, entry(y.torso_velocity, 0) >= SUCCESS_SHARE * speed)


def _move(name: str, speed: float, upright: float) -> Task:
    reward = functools.partial(move_reward, speed=speed)
    return Task(
        name=f"quadruped-{name}",
        robot=_robot(speed),
        score=reward,
        terms=(
            Term("reward", missing(reward)),
            Term("upright", _lean, weight=upright),
            Term("speed", functools.partial(_slow, speed=speed), weight=0.2),
        ),
        start=suite_start("quadruped", name),
        duration=DURATION,
        trace=operator.attrgetter("position"),
        goal=functools.partial(_moves, speed=speed),
    )


TASKS = {
    "walk": functools.partial(_move, "walk", WALK_SPEED, upright=1.0),
    "run": functools.partial(_move, "run", RUN_SPEED, upright=0.3),
}
