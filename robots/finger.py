"""Finger: two links that spin, or turn to a target, a body on a hinge (after Tassa, Lendl and Todorov, 2016)."""

import functools
import operator

import mujoco

from .arrays import Array, entry, indicator, norm, positive
from .layout import Reading, View
from .shaping import capped, column, missing
from .suite import suite_spec, suite_start
from .task import Parameter, Robot, Task, Term

SPIN_VELOCITY = 15.0
"""Speed of the spinner [rad/s], in the negative direction, at which it counts as spinning; dm_control's."""

SPIN_DAMPING = 0.03
"""Of the spinner's hinge in `spin` [N m s/rad], dm_control's."""

TARGET_RADIUS = {"turn_easy": 0.07, "turn_hard": 0.03}
"""[m], dm_control's `_EASY_TARGET_SIZE` and `_HARD_TARGET_SIZE`."""

STATE = (
    Reading.qpos("joints", 0, 1),  # proximal, distal [rad]
    Reading.qpos("spinner", 2),
    Reading.qvel("joint_velocities", 0, 1),
    Reading.qvel("spinner_velocity", 2),
)

PARAMETERS = (Parameter("site_pos", "target"),)


def _build_spin() -> mujoco.MjSpec:
    spec = suite_spec("finger")
    spec.joint("hinge").damping[0] = SPIN_DAMPING
    for site in ("target", "tip"):
        spec.site(site).rgba[3] = 0.0
    return spec


def _build_turn(radius: float) -> mujoco.MjSpec:
    spec = suite_spec("finger")
    spec.site("target").size[0] = radius
    return spec


FINGERTIP = Reading.sensed("fingertip", 3, mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_GEOM, "fingertip")

SPIN_ROBOT = Robot(name="finger", build=_build_spin, readings=(*STATE, FINGERTIP), dt=0.02)


@functools.cache
def _turn_robot(task: str) -> Robot:
    framepos, site = mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_SITE
    return Robot(
        name="finger",
        build=functools.partial(_build_turn, TARGET_RADIUS[task]),
        readings=(
            *STATE,
            Reading.sensed("tip", 3, framepos, site, "tip"),  # of the spinner [m]
            Reading.sensed("target", 3, framepos, site, "target"),
            FINGERTIP,
        ),
        dt=0.02,
        parameters=PARAMETERS,
    )


def spin_reward(y: View, u: Array) -> Array:
    """dm_control's reward: 1 while the spinner spins fast enough."""
    return indicator(y.spinner_velocity <= -SPIN_VELOCITY, y.spinner_velocity)


def _missing_spin(y: View, u: Array, t: Array) -> Array:
    # A margin over the speed asked for keeps the reward while the finger draws back for the next stroke.
    return column(2.5 - capped(y.spinner_velocity * (-1.0 / SPIN_VELOCITY), -1.0, 2.5))


def _fingertip_to(x: float, z: float, y: View, u: Array, t: Array) -> Array:
    return column(norm(entry(y.fingertip, 0) - x, entry(y.fingertip, 2) - z))


def spin() -> Task:
    """Keep the body spinning."""
    hub = SPIN_ROBOT.model.body("spinner").pos
    reach = functools.partial(_fingertip_to, float(hub[0]), float(hub[2]))
    return Task(
        name="finger-spin",
        robot=SPIN_ROBOT,
        score=spin_reward,
        terms=(
            Term("reward", missing(spin_reward), weight=2.0),
            Term("spin", _missing_spin),
            Term("reach", reach, weight=0.5),  # away from the spinner, the finger finds no way back
        ),
        start=suite_start("finger", "spin"),
        duration=20.0,
    )


class _Turn:
    """What the turning tasks measure, with the places and sizes that the model has."""

    def __init__(self, robot: Robot) -> None:
        model = robot.model
        self.radius = float(model.site("target").size[0])
        hub = model.body("spinner").pos
        self.hub_x, self.hub_z = float(hub[0]), float(hub[2])
        # Where the fingertip touches the spinner's side: nearer it need not get.
        self.reach = float(model.geom("cap1").size.sum() - model.geom("fingertip").size[0])

    def distance(self, y: View) -> Array:
        """From the spinner's tip to the target's surface [m], negative inside."""
        tip, target = y.tip, y.target
        return norm(entry(tip, 0) - entry(target, 0), entry(tip, 2) - entry(target, 2)) - self.radius

    def reward(self, y: View, u: Array) -> Array:
        """dm_control's reward: 1 with the tip within the target."""
        return indicator(y.once(self.distance) <= 0.0, y.tip)

    def off_target(self, y: View, u: Array, t: Array) -> Array:
        """The distance while outside."""
        return column(positive(y.once(self.distance)))

    def out_of_reach(self, y: View, u: Array, t: Array) -> Array:
        """How far the fingertip is from where it can touch the spinner."""
        tip = y.fingertip
        return column(positive(norm(entry(tip, 0) - self.hub_x, entry(tip, 2) - self.hub_z) - self.reach))

    def speed(self, y: View, u: Array, t: Array) -> Array:
        """Of the spinner."""
        return column(abs(y.spinner_velocity))


def _turn(name: str) -> Task:
    robot = _turn_robot(name)
    measure = _Turn(robot)
    return Task(
        name=f"finger-{name}",
        robot=robot,
        score=measure.reward,
        terms=(
            Term("reward", missing(measure.reward)),
            Term("distance", measure.off_target, weight=3.0),
            Term("reach", measure.out_of_reach, weight=0.3),
            Term("spinner_velocity", measure.speed, weight=0.01),
        ),
        start=suite_start("finger", name, PARAMETERS),
        duration=20.0,
        trace=operator.attrgetter("fingertip"),
    )


TASKS = {"spin": spin} | {name: functools.partial(_turn, name) for name in TARGET_RADIUS}
