"""Hopper: a planar one-legged robot with waist, hip, knee and ankle joints, as in dm_control's suite."""

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

STAND_HEIGHT = (0.6, 2.0)
"""Range of the torso's height above the foot [m] in which the hopper stands, dm_control's `_STAND_HEIGHT` and cap."""

HOP_SPEED = 2.0
"""Speed [m/s] at which hopping earns the full reward, dm_control's `_HOP_SPEED`."""

SUCCESS_SHARE = 0.8
"""Share of the full-reward speed at which the hopper counts as hopping."""

STRETCHED = 0.8
"""Height of the torso above the foot [m] up to which the height term pulls: about that of a stretched leg."""

_FRAMEPOS = mujoco.mjtSensor.mjSENS_FRAMEPOS
_BODY = mujoco.mjtObj.mjOBJ_BODY  # positions of the bodies' centres of mass, as dm_control reads them

ROBOT = Robot(
    name="hopper",
    build=functools.partial(suite_spec, "hopper"),
    readings=(
        Reading.qpos("root", 0, 1),  # x, z from where the torso is at rest [m]
        Reading.qpos("pitch", 2),  # [rad], 0 is upright, positive forward
        Reading.qpos("joints", *range(3, 7)),  # waist, hip, knee, ankle
        Reading.qvel("root_velocity", 0, 1),
        Reading.qvel("pitch_velocity", 2),
        Reading.qvel("joint_velocities", *range(3, 7)),
        Reading.sensed("torso", 3, _FRAMEPOS, _BODY, "torso"),
        Reading.sensed("foot", 3, _FRAMEPOS, _BODY, "foot"),
        Reading.sensed("com", 3, mujoco.mjtSensor.mjSENS_SUBTREECOM, _BODY, "torso"),  # of the whole body
        Reading.sensed("com_velocity", 3, mujoco.mjtSensor.mjSENS_SUBTREELINVEL, _BODY, "torso"),
    ),
    dt=0.02,
)


def height(y: View) -> Array:
    """Height of the torso above the foot [m]."""
    return entry(y.torso, 2) - entry(y.foot, 2)


def stand_reward(y: View, u: Array) -> Array:
    """dm_control's reward for standing with small controls."""
    small_control = tolerance(u, margin=1.0, value_at_margin=0.0, sigmoid="quadratic").mean(-1)
    return tolerance(y.once(height), STAND_HEIGHT) * ((small_control + 4.0) / 5.0)


def hop_reward(y: View, u: Array) -> Array:
    """dm_control's reward for moving forward while standing."""
    forward = entry(y.com_velocity, 0)
    hopping = tolerance(forward, (HOP_SPEED, math.inf), margin=HOP_SPEED / 2.0, value_at_margin=0.5, sigmoid="linear")
    return tolerance(y.once(height), STAND_HEIGHT) * hopping


def _low(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - capped(y.once(height) / STRETCHED, -1.0, 1.0))


def _upright(y: View) -> Array:
    return namespace(y.pitch).cos(y.pitch)


def _lean(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - y.once(_upright))


def _tilted_foot(y: View, u: Array, t: Array) -> Array:
    tilt = y.pitch + y.joints.sum(-1)  # all hinges have the same axis
    return column(1.0 - namespace(tilt).cos(tilt))


def _off_foot(y: View, u: Array, t: Array) -> Array:
    return column(capped(abs(entry(y.com, 0) - entry(y.foot, 0)), 0.0, 1.5))


def _drift(y: View, u: Array, t: Array) -> Array:
    return column(capped(abs(entry(y.com_velocity, 0)), 0.0, 3.0))


def _slow(y: View, u: Array, t: Array) -> Array:
    """What forward speed lacks to half of `HOP_SPEED`, a speed that it can keep, as far as the hopper is up."""
    speed = capped(entry(y.com_velocity, 0) / HOP_SPEED, -1.0, 0.5)
    up = capped(y.once(height) / STRETCHED, 0.0, 1.0) * capped(y.once(_upright), 0.0, 1.0)
    return column(0.5 - speed * up)


def _stands(y: View) -> Array:
    above = height(y)
    return namespace(above).logical_and(above >= STAND_HEIGHT[0], above <= STAND_HEIGHT[1])


def _hops(y: View) -> Array:
    return namespace(y.pitch).logical_and(_stands(y), entry(y.com_velocity, 0) >= SUCCESS_SHARE * HOP_SPEED)


_POSE = (
    Term("height", _low),
    Term("upright", _lean, weight=0.5),
    Term("foot", _tilted_foot, weight=0.3),
)


def _stand() -> Task:
    return Task(
        name="hopper-stand",
        robot=ROBOT,
        score=stand_reward,
        terms=(
            Term("reward", missing(stand_reward)),
            *_POSE,
            Term("balance", _off_foot),
            Term("drift", _drift, weight=0.05),
        ),
        start=suite_start("hopper", "stand"),
        duration=20.0,
        trace=operator.attrgetter("torso"),
        goal=_stands,
    )


def _hop() -> Task:
    return Task(
        name="hopper-hop",
        robot=ROBOT,
        score=hop_reward,
        terms=(
            # The reward counts little: planned for in full, it is worth a dive that ends on the ground, out of sight.
            Term("reward", missing(hop_reward), weight=0.5),
            *_POSE,
            Term("balance", _off_foot),
            Term("speed", _slow),
        ),
        start=suite_start("hopper", "hop"),
        duration=20.0,
        trace=operator.attrgetter("torso"),
        goal=_hops,
    )


TASKS = {"stand": _stand, "hop": _hop}
