"""Walker: a planar biped with hip, knee and ankle joints, as in dm_control's suite (Tassa et al., 2018)."""

import functools
import math
import operator

import mujoco

from .arrays import Array, entry, namespace
from .layout import Reading, View
from .rewards import tolerance
from .shaping import capped, column, missing
from .suite import suite_spec, suite_start
from .task import Robot, Task, Term

STAND_HEIGHT = 1.2
"""Torso height [m] from which on the walker stands, dm_control's `_STAND_HEIGHT`."""

WALK_SPEED = 1.0
"""Speed [m/s] at which walking earns the full reward, dm_control's `_WALK_SPEED`."""

RUN_SPEED = 8.0
"""Speed [m/s] at which running earns the full reward, dm_control's `_RUN_SPEED`."""

SUCCESS_SHARE = 0.8
"""Share of the full-reward speed at which the walker counts as walking or running."""

ROBOT = Robot(
    name="walker",
    build=functools.partial(suite_spec, "walker"),
    readings=(
        Reading.qpos("root", 0, 1),  # z and x, in this order, from where the torso is at rest [m]
        Reading.qpos("pitch", 2),  # [rad], 0 is upright, positive forward
        Reading.qpos("joints", *range(3, 9)),  # right hip, knee, ankle, left hip, knee, ankle
        Reading.qvel("root_velocity", 0, 1),
        Reading.qvel("pitch_velocity", 2),
        Reading.qvel("joint_velocities", *range(3, 9)),
        Reading.sensed("torso", 3, mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_XBODY, "torso"),
        Reading.sensed(
            "com_velocity", 3, mujoco.mjtSensor.mjSENS_SUBTREELINVEL, mujoco.mjtObj.mjOBJ_BODY, "torso"
        ),  # of the whole body [m/s]
    ),
    dt=0.025,
)


def _standing(y: View) -> Array:
    standing = tolerance(entry(y.torso, 2), (STAND_HEIGHT, math.inf), margin=STAND_HEIGHT / 2.0)
    upright = (1.0 + namespace(y.pitch).cos(y.pitch)) / 2.0
    return (3.0 * standing + upright) / 4.0


def stand_reward(y: View, u: Array) -> Array:
    """dm_control's reward for standing: torso high and upright."""
    return y.once(_standing)


def move_reward(y: View, u: Array, speed: float) -> Array:
    """dm_control's reward for standing while moving forward at `speed` [m/s] or faster."""
    forward = entry(y.com_velocity, 0)
    move = tolerance(forward, (speed, math.inf), margin=speed / 2.0, value_at_margin=0.5, sigmoid="linear")
    return y.once(_standing) * ((5.0 * move + 1.0) / 6.0)


def _low(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - capped(entry(y.torso, 2) / STAND_HEIGHT, -1.0, 1.0))


def _drift(y: View, u: Array, t: Array) -> Array:
    return column(abs(entry(y.com_velocity, 0)))


def _slow(y: View, u: Array, t: Array, speed: float) -> Array:
    """What forward speed lacks to `speed`, as far as the walker stands: speed gained by falling is worth little."""
    return column(1.0 - y.once(_standing) * capped(entry(y.com_velocity, 0) / speed, -1.0, 1.0))


def _stands(y: View) -> Array:
    xp = namespace(y.pitch)
    return xp.logical_and(entry(y.torso, 2) >= STAND_HEIGHT, xp.cos(y.pitch) >= 0.9)


def _moves(y: View, speed: float) -> Array:
    fast = entry(y.com_velocity, 0) >= SUCCESS_SHARE * speed
    return namespace(y.pitch).logical_and(fast, _stands(y))


def _stand() -> Task:
    return Task(
        name="walker-stand",
        robot=ROBOT,
        score=stand_reward,
        terms=(
            Term("reward", missing(stand_reward)),
            Term("height", _low, weight=0.3),
            Term("drift", _drift, weight=0.02),
        ),
        start=suite_start("walker", "stand"),
        duration=25.0,
        trace=operator.attrgetter("torso"),
        goal=_stands,
    )


def _move(name: str, speed: float) -> Task:
    reward = functools.partial(move_reward, speed=speed)
    return Task(
        name=f"walker-{name}",
        robot=ROBOT,
        score=reward,
        terms=(
            Term("reward", missing(reward)),
            Term("speed", functools.partial(_slow, speed=speed), weight=0.1),
        ),
        start=suite_start("walker", name),
        duration=25.0,
        trace=operator.attrgetter("torso"),
        goal=functools.partial(_moves, speed=speed),
    )


TASKS = {
    "stand": _stand,
    "walk": functools.partial(_move, "walk", WALK_SPEED),
    "run": functools.partial(_move, "run", RUN_SPEED),
}
