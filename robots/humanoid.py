"""Humanoid: a torque-driven body with 21 joints (Tassa, Erez and Todorov, 2012), as in dm_control's suite."""

import functools
import math
import operator

import mujoco

from .arrays import Array, entry, namespace, norm
from .layout import Reading, View
from .rewards import tolerance
from .shaping import capped, column, missing
from .suite import suite_spec, suite_start
from .task import Robot, Task, Term

STAND_HEIGHT = 1.4
"""Height of the head [m] from which on the humanoid stands, dm_control's `_STAND_HEIGHT`."""

WALK_SPEED = 1.0
"""Speed [m/s] at which walking earns the full reward, dm_control's `_WALK_SPEED`."""

RUN_SPEED = 10.0
"""Speed [m/s] at which running earns the full reward, dm_control's `_RUN_SPEED`."""

STEP_TIME = 0.2
"""How far ahead [s] the centre of mass should be over the feet while walking."""

LOW_HEAD = 0.9
"""Height of the head [m] below which speed counts for nothing."""

UPRIGHT = 0.9
"""Cosine of the torso's tilt from which on the humanoid is upright."""

SUCCESS_SHARE = 0.8
"""Share of the full-reward speed at which the humanoid counts as walking or running."""

_FRAMEPOS = mujoco.mjtSensor.mjSENS_FRAMEPOS
_BODY, _XBODY = mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_XBODY

ROBOT = Robot(
    name="humanoid",
    build=functools.partial(suite_spec, "humanoid"),
    readings=(
        Reading.qpos("position", 0, 1, 2),  # of the torso [m]
        Reading.qpos("orientation", 3, 4, 5, 6),
        Reading.qpos("joints", *range(7, 28)),
        Reading.qvel("velocity", 0, 1, 2),  # of the torso, in the world's frame [m/s]
        Reading.qvel("angular_velocity", 3, 4, 5),  # of the torso, in its own frame [rad/s]
        Reading.qvel("joint_velocities", *range(6, 27)),
        Reading.sensed("head", 3, _FRAMEPOS, _XBODY, "head"),
        Reading.sensed("torso_up", 3, mujoco.mjtSensor.mjSENS_FRAMEZAXIS, _XBODY, "torso"),
        Reading.sensed("com", 3, mujoco.mjtSensor.mjSENS_SUBTREECOM, _BODY, "torso"),  # of the whole body
        Reading.sensed("com_velocity", 3, mujoco.mjtSensor.mjSENS_SUBTREELINVEL, _BODY, "torso"),
        Reading.sensed("right_foot", 3, _FRAMEPOS, _XBODY, "right_foot"),
        Reading.sensed("left_foot", 3, _FRAMEPOS, _XBODY, "left_foot"),
    ),
    dt=0.025,
)


def _standing(y: View) -> Array:
    standing = tolerance(entry(y.head, 2), (STAND_HEIGHT, math.inf), margin=STAND_HEIGHT / 4.0)
    upright = tolerance(
        entry(y.torso_up, 2), (UPRIGHT, math.inf), margin=1.0 + UPRIGHT, value_at_margin=0.0, sigmoid="linear"
    )
    return standing * upright


def _small_control(u: Array) -> Array:
    return (4.0 + tolerance(u, margin=1.0, value_at_margin=0.0, sigmoid="quadratic").mean(-1)) / 5.0


def _ground_speed(y: View) -> Array:
    return norm(entry(y.com_velocity, 0), entry(y.com_velocity, 1))


def stand_reward(y: View, u: Array) -> Array:
    """dm_control's reward for standing still with small controls."""
    still = tolerance(entry(y.com_velocity, slice(0, 2)), margin=2.0).mean(-1)
    return _small_control(u) * y.once(_standing) * still


def move_reward(y: View, u: Array, speed: float) -> Array:
    """dm_control's reward for standing while moving, in any direction, at `speed` [m/s] or faster."""
    move = tolerance(y.once(_ground_speed), (speed, math.inf), margin=speed, value_at_margin=0.0, sigmoid="linear")
    return _small_control(u) * y.once(_standing) * ((5.0 * move + 1.0) / 6.0)


def _low(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - capped(entry(y.head, 2) / STAND_HEIGHT, 0.0, 1.0))


def _crouch(y: View, u: Array, t: Array) -> Array:
    """What the head's height over the feet lacks; it tells a humanoid on its back to bring the feet under itself."""
    feet = 0.5 * (entry(y.left_foot, 2) + entry(y.right_foot, 2))
    return column(1.0 - capped((entry(y.head, 2) - feet) / STAND_HEIGHT, -1.0, 1.0))


def _lean(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - entry(y.torso_up, 2))


def _off_feet(y: View, u: Array, t: Array) -> Array:
    """Distance over ground of the centre of mass from the middle between the feet [m]."""
    off = [entry(y.com, i) - 0.5 * (entry(y.left_foot, i) + entry(y.right_foot, i)) for i in (0, 1)]
    return column(norm(*off))


def _off_step(y: View, u: Array, t: Array) -> Array:
    """As `_off_feet`, of where the centre of mass will be in `STEP_TIME`: while walking it leads the feet."""
    ahead = [entry(y.com, i) + STEP_TIME * entry(y.com_velocity, i) for i in (0, 1)]
    off = [ahead[i] - 0.5 * (entry(y.left_foot, i) + entry(y.right_foot, i)) for i in (0, 1)]
    return column(norm(*off))


def _slow(y: View, u: Array, t: Array, speed: float) -> Array:
    """What speed along x lacks to `speed`, as far as the head is up; it gives the walk one direction to keep."""
    up = capped((entry(y.head, 2) - LOW_HEAD) / (STAND_HEIGHT - LOW_HEAD), 0.0, 1.0)
    return column(1.0 - up * capped(entry(y.com_velocity, 0) / speed, -1.0, 1.0))


def _drift(y: View, u: Array, t: Array) -> Array:
    return column(entry(y.com_velocity, 0) ** 2 + entry(y.com_velocity, 1) ** 2)


def _stands(y: View) -> Array:
    xp = namespace(y.head)
    return xp.logical_and(entry(y.head, 2) >= STAND_HEIGHT, entry(y.torso_up, 2) >= UPRIGHT)


def _moves(y: View, speed: float) -> Array:
    return namespace(y.head).logical_and(_stands(y), _ground_speed(y) >= SUCCESS_SHARE * speed)


_POSE = (
    Term("height", _low, weight=0.5),
    Term("stretch", _crouch, weight=0.5),
    Term("upright", _lean, weight=0.2),
)


def _stand() -> Task:
    return Task(
        name="humanoid-stand",
        robot=ROBOT,
        score=stand_reward,
        terms=(
            Term("reward", missing(stand_reward)),
            *_POSE,
            Term("balance", _off_feet, weight=0.3),
            Term("drift", _drift, weight=0.02),
        ),
        start=suite_start("humanoid", "stand"),
        duration=25.0,
        trace=operator.attrgetter("position"),
        goal=_stands,
    )


def _move(name: str, speed: float) -> Task:
    reward = functools.partial(move_reward, speed=speed)
    return Task(
        name=f"humanoid-{name}",
        robot=ROBOT,
        score=reward,
        terms=(
            Term("reward", missing(reward)),
            *_POSE,
            Term("balance", _off_step, weight=0.3),
            Term("speed", functools.partial(_slow, speed=speed), weight=0.3),
        ),
        start=suite_start("humanoid", name),
        duration=25.0,
        trace=operator.attrgetter("position"),
        goal=functools.partial(_moves, speed=speed),
    )


TASKS = {
    "stand": _stand,
    "walk": functools.partial(_move, "walk", WALK_SPEED),
    "run": functools.partial(_move, "run", RUN_SPEED),
}
