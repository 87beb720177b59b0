"""Planar quadrotor: a bar with a rotor at each end, flying in the vertical plane y = 0.

Controls are the rotors' thrusts, as shares of the one that hovers: at -1 a rotor gives none, at 0 the two carry the
weight, at 1 twice the weight.
"""

import mujoco
import numpy as np

from .arrays import Array, entry, namespace, norm, vector
from .layout import Reading, View
from .rewards import tolerance
from .symbolic import SX, Symbolic, model_key, moment, motion_of
from .task import Robot, Start, Task, Term, quadratic

MASS, ARM, GRAVITY = 0.6, 0.25, 9.81
"""[kg], [m] from the centre to a rotor, [m/s^2]."""

TARGET = (0.0, 1.0)
"""Where to hover: x, z [m]."""

_XML = f"""
<mujoco model="planar quadrotor">
  <option timestep="0.01" gravity="0 0 {-GRAVITY}"><flag contact="disable"/></option>
  <visual><headlight ambient=".4 .4 .4"/></visual>
  <asset>
    <texture name="grid" type="2d" builtin="checker" rgb1=".1 .2 .3" rgb2=".2 .3 .4" width="300" height="300"/>
    <material name="grid" texture="grid" texrepeat="4 4" texuniform="true"/>
  </asset>
  <worldbody>
    <light pos="0 -2 6" dir="0 .3 -1"/>
    <camera name="fixed" pos="0 -6 1.2" zaxis="0 -1 0.05"/>
    <geom name="floor" type="plane" size="4 4 .2" pos="0 0 -1.5" material="grid"/>
    <site name="target" pos="{TARGET[0]} 0 {TARGET[1]}" size=".06" rgba=".2 .8 .3 .5"/>
    <body name="vehicle">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="z" type="slide" axis="0 0 1"/>
      <joint name="pitch" type="hinge" axis="0 1 0"/>
      <inertial pos="0 0 0" mass="{MASS}" diaginertia=".004 .012 .013"/>
      <geom name="bar" type="box" size="{ARM} .03 .015" rgba=".7 .5 .3 1"/>
      <geom name="first_rotor" type="cylinder" size=".12 .006" pos="{-ARM} 0 .04" rgba=".8 .8 .8 .6"/>
      <geom name="second_rotor" type="cylinder" size=".12 .006" pos="{ARM} 0 .04" rgba=".8 .8 .8 .6"/>
      <site name="first" pos="{-ARM} 0 0" size=".01"/>
      <site name="second" pos="{ARM} 0 0" size=".01"/>
    </body>
  </worldbody>
  <default>
    <general ctrllimited="true" ctrlrange="-1 1" gear="0 0 1 0 0 0"
      gainprm="{0.5 * MASS * GRAVITY}" biastype="affine" biasprm="{0.5 * MASS * GRAVITY}"/>
  </default>
  <actuator>
    <general name="first" site="first"/>
    <general name="second" site="second"/>
  </actuator>
</mujoco>
"""


def symbolic() -> Symbolic:
    """Newton's and Euler's equations, with the numbers of the MuJoCo model.

    With p the pitch, f_i the thrusts at r_i along the bar and F their sum,

        m (x'', z'') = F (sin p, cos p) - (0, m g),  I p'' = -sum_i r_i f_i
    """
    import casadi as ca

    model = ROBOT.model
    mass, inertia = float(model.body("vehicle").mass[0]), moment(model, "vehicle", 1)
    gravity = float(-model.opt.gravity[2])
    arms = [float(model.site(name).pos[0]) for name in ("first", "second")]
    gains, rest = model.actuator_gainprm[:, 0].tolist(), model.actuator_biasprm[:, 0].tolist()

    def derivative(x: SX, u: SX, h: float) -> SX:
        first, second = (rest[i] + gains[i] * u[i] for i in (0, 1))
        lift = (first + second) / mass
        turn = -(arms[0] * first + arms[1] * second) / inertia
        return ca.vertcat(x[3:], lift * ca.sin(x[2]), lift * ca.cos(x[2]) - gravity, turn)

    return Symbolic(derivative=derivative, key=model_key(model), **motion_of(model))


ROBOT = Robot(
    name="planar_quadrotor",
    build=lambda: mujoco.MjSpec.from_string(_XML),
    readings=(
        Reading.qpos("place", 0, 1),  # x, z [m]
        Reading.qpos("pitch", 2),  # [rad], 0 is level
        Reading.qvel("velocity", 0, 1),
        Reading.qvel("pitch_velocity", 2),
    ),
    dt=0.02,
    symbolic=symbolic,
)


def _distance(y: View) -> Array:
    """To the target [m]."""
    return norm(entry(y.place, 0) - TARGET[0], entry(y.place, 1) - TARGET[1])


def _reward(y: View, u: Array) -> Array:
    """1 within 5 cm of the target, level; falling off over two metres."""
    upright = 0.5 + 0.5 * namespace(y.pitch).cos(y.pitch)
    return upright * tolerance(y.once(_distance), (0.0, 0.05), margin=2.0)


def _off_target(y: View, u: Array, t: Array) -> Array:
    return vector(entry(y.place, 0) - TARGET[0], entry(y.place, 1) - TARGET[1])


def _tilt(y: View, u: Array, t: Array) -> Array:
    """A smooth measure of the pitch that is right for whole turns, too."""
    xp = namespace(y.pitch)
    return vector(xp.sin(y.pitch), 1.0 - xp.cos(y.pitch))


def _motion(y: View, u: Array, t: Array) -> Array:
    return vector(entry(y.velocity, 0), entry(y.velocity, 1), 0.3 * y.pitch_velocity)


def _effort(y: View, u: Array, t: Array) -> Array:
    return u


def _trace(y: View) -> Array:
    """The vehicle's place (..., 3) [m]."""
    return vector(entry(y.place, 0), 0.0, entry(y.place, 1))


def _start(seed: int) -> Start:
    """Anywhere within 1.5 m of the origin, tilted by up to 1.5 rad, moving."""
    rng = np.random.default_rng(seed)
    return Start(rng.uniform([-1.5, -1.0, -1.5], [1.5, 1.5, 1.5]), rng.uniform(-1.0, 1.0, 3))


def hover() -> Task:
    """Fly to the target from any attitude, and stay there."""
    return Task(
        name="planar_quadrotor-hover",
        robot=ROBOT,
        score=_reward,
        terms=(
            Term("place", _off_target, quadratic, weight=4.0, terminal_weight=40.0),
            Term("tilt", _tilt, quadratic, weight=0.2, terminal_weight=4.0),
            Term("motion", _motion, quadratic, weight=0.3, terminal_weight=8.0),
            Term("effort", _effort, quadratic, weight=0.1),
        ),
        start=_start,
        duration=10.0,
        trace=_trace,
    )


TASKS = {"hover": hover}
