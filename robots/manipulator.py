"""Manipulator: a planar arm with a hand, to bring a ball to a target."""

import operator

import mujoco

from .arrays import Array, entry, norm
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import spec_from, suite_module, suite_start
from .task import Parameter, Robot, Task, Term

CLOSE = 0.01
"""Distance [m] below which the ball counts as brought, dm_control's."""

PARAMETERS = (Parameter("body_pos", "target_ball"), Parameter("body_quat", "target_ball"))


def _build() -> mujoco.MjSpec:
    return spec_from(*suite_module("manipulator").make_model(use_peg=False, insert=False))


def _site(name: str, site: str) -> Reading:
    return Reading.sensed(name, 3, mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_SITE, site)


ROBOT = Robot(
    name="manipulator",
    build=_build,
    readings=(
        Reading.qpos("joints", *range(8)),  # root, shoulder, elbow, wrist, thumb, thumb's tip, finger, its tip [rad]
        Reading.qpos("ball", 8, 9),  # x, z [m]
        Reading.qpos("ball_angle", 10),
        Reading.qvel("joint_velocities", *range(8)),
        Reading.qvel("ball_velocity", 8, 9),
        Reading.qvel("ball_spin", 10),
        _site("target", "target_ball"),  # [m]
        _site("grasp", "grasp"),  # between the hand's fingers
    ),
    dt=0.01,
    parameters=PARAMETERS,
)
THUMB, FINGER = 4, 6  # of `joints`


class _BringBall:
    """What the task measures, with the sizes and limits that the model has."""

    def __init__(self) -> None:
        model = ROBOT.model
        self.depth = float(model.body("ball").pos[1])  # of the plane that the ball moves in
        self.ball_radius = float(model.geom("ball").size[0])
        self.open, self.shut = (float(angle) for angle in model.joint("thumb").range)

    def _from_ball(self, y: View, place: Array) -> Array:
        return norm(
            entry(y.ball, 0) - entry(place, 0), entry(y.ball, 1) - entry(place, 2), self.depth - entry(place, 1)
        )

    def distance(self, y: View) -> Array:
        """From the ball to the target [m]."""
        return self._from_ball(y, y.target)

    def reach(self, y: View) -> Array:
        """From the hand to the ball [m]."""
        return self._from_ball(y, y.grasp)

    def reward(self, y: View, u: Array) -> Array:
        """dm_control's reward: 1 with the ball within a centimetre of the target, falling off over two more."""
        return tolerance(y.once(self.distance), (0.0, CLOSE), margin=2.0 * CLOSE)

    def off_target(self, y: View, u: Array, t: Array) -> Array:
        """The ball's distance."""
        return column(y.once(self.distance))

    def out_of_hand(self, y: View, u: Array, t: Array) -> Array:
        """The hand's distance."""
        return column(y.once(self.reach))

    def grip(self, y: View, u: Array, t: Array) -> Array:
        """Least with an open hand away from the ball, and with a shut one at it; at the ball never more than away."""
        shut = ((0.5 * (entry(y.joints, THUMB) + entry(y.joints, FINGER))) - self.open) / (self.shut - self.open)
        held = tolerance(y.once(self.reach), (0.0, 0.5 * self.ball_radius), margin=2.0 * self.ball_radius)
        return column(1.0 + shut * (1.0 - 2.0 * held))


def bring_ball() -> Task:
    """Grasp the ball and bring it to the target."""
    measure = _BringBall()
    return Task(
        name="manipulator-bring_ball",
        robot=ROBOT,
        score=measure.reward,
        terms=(
            Term("reward", missing(measure.reward), weight=2.0),
            Term("distance", measure.off_target),
            Term("reach", measure.out_of_hand),
            Term("grip", measure.grip, weight=0.1),
        ),
        start=suite_start("manipulator", "bring_ball", PARAMETERS),
        duration=10.0,
        trace=operator.attrgetter("grasp"),
    )


TASKS = {"bring_ball": bring_ball}
