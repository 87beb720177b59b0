"""Quadrotor: a free rigid body with four rotors.

Controls are the rotors' thrusts, as shares of the one that hovers: at -1 a rotor gives none, at 0 the four carry the
weight, at 1 twice the weight. Each rotor also twists the body about its axis, two one way and two the other.
"""

import itertools

import mujoco
import numpy as np

from .arrays import Array, entry, indicator, namespace, norm, vector
from .layout import Reading, View
from .rewards import tolerance
from .symbolic import SX, Symbolic, model_key, motion_of
from .task import Robot, Start, Task, Term, quadratic

MASS, ARM, GRAVITY = 0.8, 0.12, 9.81
"""[kg], [m] along x and y from the centre to a rotor, [m/s^2]."""

TWIST = 0.016
"""Torque about its axis per thrust of a rotor [m]."""

WAYPOINTS = (
    (1.5, 0.0, 1.5),
    (1.5, 1.5, 1.0),
    (0.0, 1.5, 2.0),
    (-1.5, 0.0, 1.0),
    (0.0, -1.5, 1.5),
    (0.0, 0.0, 1.0),
)
"""Places to fly to, one after the other: x, y, z [m]."""

LEG = 1.5
"""Time for each of them [s]; the last holds to the end."""

_ROTORS = {"front_left": (1, 1, 1), "front_right": (1, -1, -1), "rear_right": (-1, -1, 1), "rear_left": (-1, 1, -1)}
"""Signs of x and y, and of the twist."""


def _xml() -> str:
    rotors = "".join(
        f"""
      <geom name="{name}" type="cylinder" size=".07 .004" pos="{ARM * x} {ARM * y} .02" rgba=".8 .8 .8 .6"/>
      <geom type="capsule" size=".01" fromto="0 0 0 {ARM * x} {ARM * y} 0" rgba=".3 .3 .35 1"/>
      <site name="{name}" pos="{ARM * x} {ARM * y} 0" size=".005"/>"""
        for name, (x, y, _) in _ROTORS.items()
    )
    thrusts = "".join(
        f'\n    <general name="{name}" site="{name}" gear="0 0 1 0 0 {TWIST * twist}"/>'
        for name, (_, _, twist) in _ROTORS.items()
    )
    waypoints = "".join(
        f'\n    <site name="waypoint{i}" pos="{x} {y} {z}" size=".06" rgba=".2 .8 .3 .5"/>'
        for i, (x, y, z) in enumerate(WAYPOINTS)
    )
    return f"""
<mujoco model="quadrotor">
  <option timestep="0.01" gravity="0 0 {-GRAVITY}"><flag contact="disable"/></option>
  <visual><headlight ambient=".4 .4 .4"/></visual>
  <asset>
    <texture name="grid" type="2d" builtin="checker" rgb1=".1 .2 .3" rgb2=".2 .3 .4" width="300" height="300"/>
    <material name="grid" texture="grid" texrepeat="4 4" texuniform="true"/>
  </asset>
  <worldbody>
    <light pos="0 0 6"/>
    <camera name="fixed" pos="0 -7 4" xyaxes="1 0 0 0 .4 1"/>
    <geom name="floor" type="plane" size="4 4 .2" material="grid"/>{waypoints}
    <body name="vehicle" pos="0 0 1">
      <freejoint name="vehicle"/>
      <inertial pos="0 0 0" mass="{MASS}" diaginertia=".006 .006 .011"/>
      <geom name="hull" type="ellipsoid" size=".06 .05 .03" rgba=".7 .5 .3 1"/>{rotors}
    </body>
  </worldbody>
  <default>
    <general ctrllimited="true" ctrlrange="-1 1"
      gainprm="{0.25 * MASS * GRAVITY}" biastype="affine" biasprm="{0.25 * MASS * GRAVITY}"/>
  </default>
  <actuator>{thrusts}
  </actuator>
</mujoco>
"""


def symbolic() -> Symbolic:
    """Newton's and Euler's equations, with the numbers of the MuJoCo model.

    With R the attitude, F the thrusts' sum and t their torque in the body's frame,

        m p'' = R (0, 0, F) - (0, 0, m g),  I w' = t - w x I w
    """
    import casadi as ca

    model = ROBOT.model
    mass, inertia = float(model.body("vehicle").mass[0]), ca.DM(model.body("vehicle").inertia)
    gravity = float(-model.opt.gravity[2])
    gains, rest = ca.DM(model.actuator_gainprm[:, 0]), ca.DM(model.actuator_biasprm[:, 0])
    wrench = np.zeros((4, model.nu))  # lift, and torques, per thrust
    for i in range(model.nu):
        place, gear = model.site_pos[model.actuator_trnid[i, 0]], model.actuator_gear[i]
        wrench[0, i] = gear[2]
        wrench[1:, i] = np.cross(place, gear[:3]) + gear[3:]
    wrenches = ca.sparsify(ca.DM(wrench))

    def derivative(x: SX, u: SX, h: float) -> SX:
        a, b, c, d = ca.vertsplit(x[3:7])
        spin = x[10:13]
        along = ca.vertcat(2.0 * (b * d + a * c), 2.0 * (c * d - a * b), a * a - b * b - c * c + d * d)  # the body's z
        push = ca.mtimes(wrenches, rest + gains * u)
        fall = ca.DM([0.0, 0.0, gravity])
        turn = (push[1:] - ca.cross(spin, inertia * spin)) / inertia
        return ca.vertcat(x[7:], push[0] / mass * along - fall, turn)

    return Symbolic(derivative=derivative, key=model_key(model), **motion_of(model))


ROBOT = Robot(
    name="quadrotor",
    build=lambda: mujoco.MjSpec.from_string(_xml()),
    readings=(
        Reading.qpos("place", 0, 1, 2),  # [m]
        Reading.qpos("attitude", 3, 4, 5, 6),  # unit quaternion w, x, y, z
        Reading.qvel("velocity", 0, 1, 2),  # in the world [m/s]
        Reading.qvel("spin", 3, 4, 5),  # in the body's frame [rad/s]
        Reading.clock("clock"),
    ),
    dt=0.02,
    symbolic=symbolic,
)


def _waypoint(y: View) -> tuple[Array, Array, Array]:
    """Where to be at the readings' time: x, y, z [m]."""
    x, side, z = (0.0 * y.clock + first for first in WAYPOINTS[0])
    for k, (before, after) in enumerate(itertools.pairwise(WAYPOINTS)):
        passed = indicator(y.clock >= (k + 1) * LEG - 1e-6, y.clock)  # clocks sum up rounded steps
        x, side, z = (old + (b - a) * passed for old, a, b in zip((x, side, z), before, after))
    return x, side, z


def _way(y: View) -> tuple[Array, Array, Array]:
    x, side, z = y.once(_waypoint)
    return entry(y.place, 0) - x, entry(y.place, 1) - side, entry(y.place, 2) - z


def _distance(y: View) -> Array:
    """To the waypoint [m]."""
    return norm(*y.once(_way))


def _upright(y: View) -> Array:
    """Cosine of the tilt."""
    b, c = entry(y.attitude, 1), entry(y.attitude, 2)
    return 1.0 - 2.0 * (b * b + c * c)


def _reward(y: View, u: Array) -> Array:
    """1 within 10 cm of the waypoint, level; falling off over two metres."""
    return (0.75 + 0.25 * _upright(y)) * tolerance(y.once(_distance), (0.0, 0.1), margin=2.0)


def _arrived(y: View) -> Array:
    """Within 10 cm of the last waypoint, in its time."""
    xp = namespace(y.clock)
    return xp.logical_and(y.clock >= (len(WAYPOINTS) - 1) * LEG, y.once(_distance) <= 0.1)


def _off_waypoint(y: View, u: Array, t: Array) -> Array:
    return vector(*y.once(_way))


def _tilt(y: View, u: Array, t: Array) -> Array:
    """Twice the quaternion's vector: the rotation vector of a small turn from level and straight ahead."""
    return 2.0 * entry(y.attitude, slice(1, 4))


def _velocity(y: View, u: Array, t: Array) -> Array:
    return y.velocity


def _spin(y: View, u: Array, t: Array) -> Array:
    return y.spin


def _effort(y: View, u: Array, t: Array) -> Array:
    return u


def _trace(y: View) -> Array:
    """The vehicle's place (..., 3) [m]."""
    return y.place


def _start(seed: int) -> Start:
    """About a metre above the origin, tilted by up to half a radian about any axis, moving slowly."""
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal(3)
    half = 0.5 * rng.uniform(0.0, 0.5)
    attitude = np.concatenate(([np.cos(half)], np.sin(half) * axis / np.linalg.norm(axis)))
    place = np.array([0.0, 0.0, 1.0]) + rng.uniform(-0.3, 0.3, 3)
    return Start(np.concatenate((place, attitude)), rng.uniform(-0.3, 0.3, 6))


def waypoints() -> Task:
    """Fly through the waypoints, each in its time."""
    return Task(
        name="quadrotor-waypoints",
        robot=ROBOT,
        score=_reward,
        terms=(
            Term("place", _off_waypoint, quadratic, weight=4.0, terminal_weight=40.0),
            Term("tilt", _tilt, quadratic, weight=0.3, terminal_weight=2.0),
            Term("velocity", _velocity, quadratic, weight=0.3, terminal_weight=4.0),
            Term("spin", _spin, quadratic, weight=0.05, terminal_weight=0.5),
            Term("effort", _effort, quadratic, weight=0.2),
        ),
        start=_start,
        duration=10.0,
        trace=_trace,
        goal=_arrived,
    )


TASKS = {"waypoints": waypoints}
