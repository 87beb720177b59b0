"""Swimmer: a planar chain of six links in a viscous fluid (Coulom, 2002), to bring its nose to a target."""

import functools
import operator

import mujoco

from .arrays import Array, entry, namespace, norm
from .layout import Reading, View
from .rewards import tolerance
from .shaping import capped, column, missing
from .suite import control_suite, spec_from, suite_start
from .task import Parameter, Robot, Task, Term

LINKS = 6

APPROACH = 0.2
"""Distance outside the target [m] below which the heading term fades."""

_FRAMEPOS = mujoco.mjtSensor.mjSENS_FRAMEPOS
_GEOM = mujoco.mjtObj.mjOBJ_GEOM


def _build() -> mujoco.MjSpec:
    return spec_from(*control_suite().swimmer.get_model_and_assets(LINKS))


ROBOT = Robot(
    name="swimmer",
    build=_build,
    readings=(
        Reading.qpos("root", 0, 1),  # x, y of the head from where it is at rest [m]
        Reading.qpos("heading", 2),  # [rad], 0 has the nose along -y
        Reading.qpos("joints", *range(3, 2 + LINKS)),  # from head to tail
        Reading.qvel("root_velocity", 0, 1),
        Reading.qvel("heading_velocity", 2),
        Reading.qvel("joint_velocities", *range(3, 2 + LINKS)),
        Reading.sensed("nose", 3, _FRAMEPOS, _GEOM, "nose"),
        Reading.sensed("target", 3, _FRAMEPOS, _GEOM, "target"),
    ),
    dt=0.03,
    parameters=(Parameter("geom_pos", "target"),),
)


def _to_target(y: View) -> Array:
    return y.target - y.nose


def _distance(y: View) -> Array:
    """Of the nose from the target's centre, in the plane [m]."""
    way = y.once(_to_target)
    return norm(entry(way, 0), entry(way, 1))


def reward(y: View, u: Array, radius: float) -> Array:
    """dm_control's reward for the nose within `radius` [m] of the target's centre."""
    return tolerance(y.once(_distance), (0.0, radius), margin=5.0 * radius, sigmoid="long_tail")


def _far(y: View, u: Array, t: Array) -> Array:
    return column(y.once(_distance))


def _off_course(y: View, u: Array, t: Array, radius: float) -> Array:
    """1 less the cosine of the angle between the head's axis and the way to the target, which fades near the target."""
    xp, way, distance = namespace(y.heading), y.once(_to_target), y.once(_distance)
    ahead = (xp.sin(y.heading) * entry(way, 0) - xp.cos(y.heading) * entry(way, 1)) / (distance + 1e-6)
    return column(1.0 - ahead * capped((distance - radius) / APPROACH, 0.0, 1.0))


def _in_target(y: View, radius: float) -> Array:
    return _distance(y) <= radius


def _swimmer6() -> Task:
    radius = float(ROBOT.model.geom("target").size[0])
    score = functools.partial(reward, radius=radius)
    return Task(
        name="swimmer-swimmer6",
        robot=ROBOT,
        score=score,
        terms=(
            Term("reward", missing(score)),
            Term("distance", _far),
            Term("heading", functools.partial(_off_course, radius=radius), weight=0.1),
        ),
        start=suite_start("swimmer", "swimmer6", ROBOT.parameters),
        duration=30.0,
        trace=operator.attrgetter("nose"),
        goal=functools.partial(_in_target, radius=radius),
    )


TASKS = {"swimmer6": _swimmer6}
