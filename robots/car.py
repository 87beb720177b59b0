"""Car: a kinematic bicycle, to be parked between two other cars and a kerb.

Its wheels do not slip: the rear axle moves along the car, and the front wheels' angle says how it turns (the task of
Tassa, Mansard and Todorov, Control-limited differential dynamic programming, 2014, with other cars in the way).
"""

import mujoco
import numpy as np

from .arrays import Array, entry, indicator, namespace, norm, positive, vector
from .layout import Reading, View
from .rewards import tolerance
from .symbolic import SX, Symbolic
from .task import Constraint, Robot, Start, Task, Term, quadratic

LENGTH, WIDTH, WHEELBASE = 4.0, 1.8, 2.6
"""[m]; the axles are as far from the car's ends."""

STEERING, ACCELERATION = 0.6, 2.0
"""Limits of the controls [rad], [m/s^2]."""

PARKED = ((-5.7, 0.0), (5.7, 0.0))
"""Centres of the other cars, which are as large and stand along x [m]."""

KERB = -1.3
"""Where the road ends: y [m]. The car is to stand with its centre at the origin, along x."""

MARGIN = 0.1
"""Clearance that planners keep [m]."""

_CIRCLES = (-LENGTH / 3.0, 0.0, LENGTH / 3.0)  # centres along the car
_RADIUS = float(np.hypot(LENGTH / 6.0, WIDTH / 2.0))  # three circles cover it


def _drawing() -> mujoco.MjSpec:
    """The car as joints x, y and heading of its rear axle, the other cars and the kerb."""
    half, axle = WHEELBASE / 2.0, WIDTH / 2.0 - 0.1
    wheels = "".join(
        f'<geom type="cylinder" size=".32 .1" pos="{x} {y} .32" euler="90 0 0" rgba=".1 .1 .1 1"/>'
        for x in (0.0, WHEELBASE)
        for y in (-axle, axle)
    )
    others = "".join(
        f'<geom name="parked{i}" type="box" size="{LENGTH / 2} {WIDTH / 2} .5" pos="{x} {y} .6" rgba=".5 .5 .55 1"/>'
        for i, (x, y) in enumerate(PARKED)
    )
    return mujoco.MjSpec.from_string(f"""
<mujoco model="car">
  <visual><headlight ambient=".4 .4 .4"/></visual>
  <worldbody>
    <light pos="0 0 12"/>
    <camera name="fixed" pos="0 -13 14" xyaxes="1 0 0 0 .75 .7"/>
    <geom name="road" type="plane" size="14 8 .2" rgba=".25 .26 .28 1"/>
    <geom name="kerb" type="box" size="14 .5 .08" pos="0 {KERB - 0.5} .08" rgba=".6 .6 .55 1"/>
    <geom name="spot" type="box" size="{LENGTH / 2} {WIDTH / 2} .005" pos="0 0 .005" rgba=".2 .8 .3 .5"/>
    {others}
    <body name="car">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="heading" type="hinge" axis="0 0 1"/>
      <geom name="hull" type="box" size="{LENGTH / 2} {WIDTH / 2} .25" pos="{half} 0 .55" rgba=".7 .5 .3 1"/>
      <geom name="cabin" type="box" size="{LENGTH / 4} {0.45 * WIDTH} .2" pos="{0.8 * half} 0 1" rgba=".6 .42 .25 1"/>
      {wheels}
    </body>
  </worldbody>
</mujoco>
""")


def symbolic() -> Symbolic:
    """With x, y of the rear axle: x' = v cos h, y' = v sin h, h' = v tan(steering) / wheelbase, v' = acceleration."""
    import casadi as ca

    def derivative(x: SX, u: SX, h: float) -> SX:
        heading, speed = x[2], x[3]
        return ca.vertcat(speed * ca.cos(heading), speed * ca.sin(heading), speed * ca.tan(u[0]) / WHEELBASE, u[1])

    return Symbolic(
        nq=4, nv=0, nu=2, derivative=derivative, timestep=0.05, integrator="rk4", drawing=_drawing, key="car"
    )


ROBOT = Robot(
    name="car",
    build=None,
    readings=(
        Reading.qpos("axle", 0, 1),  # the rear one's centre: x, y [m]
        Reading.qpos("heading", 2),  # [rad], 0 is along x
        Reading.qpos("speed", 3),  # forward [m/s]
    ),
    dt=0.05,
    limits=np.array([[-STEERING, -ACCELERATION], [STEERING, ACCELERATION]]),
    symbolic=symbolic,
)


def _centre(y: View) -> tuple[Array, Array]:
    """Of the car: x, y [m]."""
    xp, half = namespace(y.heading), WHEELBASE / 2.0
    return entry(y.axle, 0) + half * xp.cos(y.heading), entry(y.axle, 1) + half * xp.sin(y.heading)


def clearance(y: View) -> Array:
    """How far each of three circles that cover the car is from the other cars and from the kerb (..., 9) [m].

    Negative where they overlap.
    """
    xp = namespace(y.heading)
    x, side = y.once(_centre)
    cos, sin = xp.cos(y.heading), xp.sin(y.heading)
    free = []
    for ahead in _CIRCLES:
        a, b = x + ahead * cos, side + ahead * sin
        for other, row in PARKED:
            # Signed distance to a box: outside to its nearest point, inside to its nearest side.
            out, along = abs(a - other) - LENGTH / 2.0, abs(b - row) - WIDTH / 2.0
            inside = -positive(-xp.maximum(out, along))
            free.append(norm(positive(out), positive(along)) + inside - _RADIUS)
        free.append(b - (KERB + _RADIUS))
    return vector(*free)


def _least_clearance(y: View) -> Array:
    xp, free = namespace(y.heading), y.once(clearance)
    least = entry(free, 0)
    for i in range(1, 3 * len(_CIRCLES)):
        least = xp.minimum(least, entry(free, i))
    return least


def _away(y: View) -> Array:
    """The centre's distance from where it is to stand [m]."""
    return norm(*y.once(_centre))


def _reward(y: View, u: Array) -> Array:
    """1 at rest within 20 cm of the place, along the road, without a touch; 0 while touching."""
    xp = namespace(y.heading)
    near = tolerance(y.once(_away), (0.0, 0.2), margin=6.0)
    straight = tolerance(xp.sin(0.5 * y.heading), (-0.03, 0.03), margin=0.5)
    still = tolerance(y.speed, (-0.1, 0.1), margin=2.0)
    free = indicator(y.once(_least_clearance) >= 0.0, y.speed)
    return free * near * (0.5 + 0.25 * straight + 0.25 * still)


def _parked(y: View) -> Array:
    """At rest on the place, along the road, and free."""
    xp = namespace(y.heading)
    straight = xp.logical_and(xp.cos(y.heading) >= 0.998, abs(y.speed) <= 0.1)
    there = xp.logical_and(y.once(_away) <= 0.2, y.once(_least_clearance) >= 0.0)
    return xp.logical_and(straight, there)


def _touching(y: View, u: Array, t: Array) -> Array:
    """How far the car's circles are within the others (..., 9) [m]; negative where they are free."""
    return -y.once(clearance)


def _off_place(y: View, u: Array, t: Array) -> Array:
    return vector(*y.once(_centre))


def _crooked(y: View, u: Array, t: Array) -> Array:
    return vector(2.0 * namespace(y.heading).sin(0.5 * y.heading))


def _speed(y: View, u: Array, t: Array) -> Array:
    return vector(y.speed)


def _too_close(y: View, u: Array, t: Array) -> Array:
    """How much of the margin is missing (..., 9) [m]."""
    return positive(MARGIN - y.once(clearance))


def _effort(y: View, u: Array, t: Array) -> Array:
    return vector(entry(u, 0) / STEERING, entry(u, 1) / ACCELERATION)


def _trace(y: View) -> Array:
    """The car's centre on the road (..., 3) [m]."""
    return vector(*y.once(_centre), 0.05)


def _start(seed: int) -> Start:
    """Beside the car ahead, at rest and roughly along the road."""
    rng = np.random.default_rng(seed)
    place = rng.uniform([3.5, 2.7, -0.05], [5.5, 3.2, 0.05])
    return Start(np.append(place, 0.0), np.empty(0))


def parking() -> Task:
    """Park backwards between the other cars."""
    return Task(
        name="car-parking",
        robot=ROBOT,
        score=_reward,
        terms=(
            Term("place", _off_place, quadratic, weight=0.1, terminal_weight=20.0),
            Term("heading", _crooked, quadratic, weight=0.1, terminal_weight=40.0),
            Term("speed", _speed, quadratic, weight=0.02, terminal_weight=4.0),
            Term("clearance", _too_close, quadratic, weight=200.0),
            Term("effort", _effort, quadratic, weight=0.02),
        ),
        start=_start,
        duration=15.0,
        trace=_trace,
        goal=_parked,
        constraints=(Constraint("clearance", _touching),),
    )


TASKS = {"parking": parking}
