"""Reacher: two links in a plane whose fingertip is to be brought to a target, drawn anew for every episode."""

import functools

import mujoco

from .arrays import Array, entry, namespace, norm, vector
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
    return Robot(
        name="reacher",
        build=functools.partial(_build, TARGET_RADIUS[task]),
        readings=(
            Reading.qpos("joints", 0, 1),  # shoulder, wrist [rad]
            Reading.qvel("joint_velocities", 0, 1),
            Reading.parameter("target", "geom_pos", "target", 0, 1),  # x, y [m]
        ),
        dt=0.02,
        parameters=PARAMETERS,
    )


class _Reach:
    """What the task measures, with the lengths and sizes that the model has; the shoulder is at the origin."""

    def __init__(self, robot: Robot) -> None:
        model = robot.model
        self.upper, self.lower = float(model.body("hand").pos[0]), float(model.body("finger").pos[0])
        self.plane = float(model.body("arm").pos[2])
        self.near = float(model.geom("target").size[0] + model.geom("finger").size[0])

    def finger(self, y: View) -> tuple[Array, Array]:
        """Where the fingertip is, x and y [m], by forward kinematics."""
        joints = y.joints
        shoulder = entry(joints, 0)
        xp, reach = namespace(shoulder), shoulder + entry(joints, 1)
        return (
            self.upper * xp.cos(shoulder) + self.lower * xp.cos(reach),
            self.upper * xp.sin(shoulder) + self.lower * xp.sin(reach),
        )

    def to_target(self, y: View) -> Array:
        """From the fingertip to the target (..., 2) [m]."""
        along, across = self.finger(y)
        target = y.target
        return namespace(along).stack([entry(target, 0) - along, entry(target, 1) - across], axis=-1)

    def distance(self, y: View) -> Array:
        """From the fingertip to the target, in the plane [m]."""
        along, across = self.finger(y)
        target = y.target
        return norm(along - entry(target, 0), across - entry(target, 1))

    def reward(self, y: View, u: Array) -> Array:
        """dm_control's reward: 1 with the fingertip within the target."""
        return tolerance(y.once(self.distance), (0.0, self.near))

    def off_target(self, y: View, u: Array, t: Array) -> Array:
        """The distance."""
        return column(y.once(self.distance))

    def trace(self, y: View) -> Array:
        """The fingertip (..., 3) [m]."""
        return vector(*self.finger(y), self.plane)


def _squared_speed(y: View, u: Array, t: Array) -> Array:
    velocities = y.joint_velocities
    first, second = entry(velocities, 0), entry(velocities, 1)
    return column(first * first + second * second)


def _task(name: str) -> Task:
    robot = _robot(name)
    measure = _Reach(robot)
    return Task(
        name=f"reacher-{name}",
        robot=robot,
        score=measure.reward,
        terms=(
            Term("reward", missing(measure.reward)),
            Term("distance", measure.off_target, weight=5.0),
            Term("velocity", _squared_speed, weight=0.01),
        ),
        start=suite_start("reacher", name, PARAMETERS),
        duration=20.0,
        trace=measure.trace,
        observation=measure.to_target,
    )


TASKS = {name: functools.partial(_task, name) for name in TARGET_RADIUS}
