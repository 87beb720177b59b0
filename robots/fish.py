"""Fish: swims in a dense fluid with tail and fins, to turn upright or to reach a target (Tassa et al., 2018)."""

import functools
import operator

import mujoco

from .arrays import Array, entry, norm
from .layout import Reading, View
from .rewards import tolerance
from .shaping import capped, column, missing
from .suite import suite_spec, suite_start
from .task import Parameter, Robot, Task, Term

UPRIGHT = 0.9
"""Cosine of the torso's tilt from which on the fish counts as upright."""

APPROACH = 0.1
"""Distance outside the target [m] below which the heading term fades."""

_FRAMEPOS = mujoco.mjtSensor.mjSENS_FRAMEPOS
_GEOM, _XBODY = mujoco.mjtObj.mjOBJ_GEOM, mujoco.mjtObj.mjOBJ_XBODY

ROBOT = Robot(
    name="fish",
    build=functools.partial(suite_spec, "fish"),
    readings=(
        Reading.qpos("position", 0, 1, 2),  # of the torso [m]
        Reading.qpos("orientation", 3, 4, 5, 6),
        Reading.qpos("joints", *range(7, 14)),  # tail, its twist, its tip, right fin roll and pitch, left fin
        Reading.qvel("velocity", 0, 1, 2),  # of the torso, in the world's frame [m/s]
        Reading.qvel("angular_velocity", 3, 4, 5),  # of the torso, in its own frame [rad/s]
        Reading.qvel("joint_velocities", *range(6, 13)),
        Reading.sensed("mouth", 3, _FRAMEPOS, _GEOM, "mouth"),
        Reading.sensed("target", 3, _FRAMEPOS, _GEOM, "target"),
        Reading.sensed("torso_up", 3, mujoco.mjtSensor.mjSENS_FRAMEZAXIS, _XBODY, "torso"),
        Reading.sensed("torso_forward", 3, mujoco.mjtSensor.mjSENS_FRAMEYAXIS, _XBODY, "torso"),
    ),
    dt=0.04,
    parameters=(Parameter("geom_pos", "target"),),
)


def upright_reward(y: View, u: Array) -> Array:
    """dm_control's reward for the torso's z-axis pointing up."""
    return tolerance(entry(y.torso_up, 2), (1.0, 1.0), margin=1.0)


def _to_target(y: View) -> Array:
    return y.target - y.mouth


def _distance(y: View) -> Array:
    """Of the mouth from the target's centre [m]."""
    way = y.once(_to_target)
    return norm(entry(way, 0), entry(way, 1), entry(way, 2))


def swim_reward(y: View, u: Array, radius: float) -> Array:
    """dm_control's reward for the mouth within `radius` [m] of the target's centre, and a little for being upright."""
    in_target = tolerance(y.once(_distance), (0.0, radius), margin=2.0 * radius)
    return (7.0 * in_target + 0.5 * (entry(y.torso_up, 2) + 1.0)) / 8.0


def _lean(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - entry(y.torso_up, 2))


def _far(y: View, u: Array, t: Array) -> Array:
    return column(y.once(_distance))


def _off_course(y: View, u: Array, t: Array, radius: float) -> Array:
    """1 less the cosine of the angle between the fish's axis and the way to the target, which fades near the target."""
    distance = y.once(_distance)
    ahead = (y.once(_to_target) * y.torso_forward).sum(-1) / (distance + 1e-6)
    return column(1.0 - ahead * capped((distance - radius) / APPROACH, 0.0, 1.0))


def _is_upright(y: View) -> Array:
    return entry(y.torso_up, 2) >= UPRIGHT


def _in_target(y: View, radius: float) -> Array:
    return _distance(y) <= radius


def _upright() -> Task:
    return Task(
        name="fish-upright",
        robot=ROBOT,
        score=upright_reward,
        terms=(Term("reward", missing(upright_reward)), Term("upright", _lean, weight=0.5)),
        start=suite_start("fish", "upright", ROBOT.parameters),
        duration=40.0,
        trace=operator.attrgetter("mouth"),
        goal=_is_upright,
    )


def _swim() -> Task:
    radius = float(ROBOT.model.geom("mouth").size[0] + ROBOT.model.geom("target").size[0])
    reward = functools.partial(swim_reward, radius=radius)
    return Task(
        name="fish-swim",
        robot=ROBOT,
        score=reward,
        terms=(
            Term("reward", missing(reward)),
            Term("distance", _far, weight=3.0),
            Term("heading", functools.partial(_off_course, radius=radius), weight=0.1),
        ),
        start=suite_start("fish", "swim", ROBOT.parameters),
        duration=40.0,
        trace=operator.attrgetter("mouth"),
        goal=functools.partial(_in_target, radius=radius),
    )


TASKS = {"upright": _upright, "swim": _swim}
