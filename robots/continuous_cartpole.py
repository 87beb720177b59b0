"""Continuous cart-pole: Gymnasium's CartPole with a force of any size up to 30 N, to be kept from falling.

The constants and the explicit Euler steps are Gymnasium's (`CartPole-v1`, after Barto, Sutton and Anderson, 1983); the
force, 150 steps and a discount of 0.99 are those on which tree searches have been compared (Mao et al., POLY-HOOT,
2020).
"""

import math

import mujoco
import numpy as np

from .arrays import Array, entry, indicator, namespace, vector
from .layout import Reading, View
from .shaping import column
from .symbolic import SX, Symbolic
from .task import Robot, Start, Task, Term

GRAVITY, CART, POLE, HALF, FORCE, DT = 9.8, 1.0, 0.1, 0.5, 30.0, 0.02
"""[m/s^2], masses [kg], half the pole's length [m], largest force [N], control period [s]."""

RAIL, LEAN = 2.4, 12.0 * math.pi / 180.0
"""Beyond which the episode ends: of the cart [m], of the pole [rad]."""

SPREAD = 0.05
"""Every number of the state begins within it."""

STEPS = 150


def _drawing() -> mujoco.MjSpec:
    length = 2.0 * HALF
    return mujoco.MjSpec.from_string(f"""
<mujoco model="continuous_cartpole">
  <visual><headlight ambient=".4 .4 .4"/></visual>
  <worldbody>
    <light pos="0 -2 4"/>
    <camera name="fixed" pos="0 -5 1.2" xyaxes="1 0 0 0 0 1"/>
    <geom name="floor" type="plane" size="4 2 .1" pos="0 0 -.5" rgba=".3 .32 .35 1"/>
    <geom name="rail" type="capsule" size=".02" fromto="-{RAIL} 0 0 {RAIL} 0 0" rgba=".6 .6 .6 1"/>
    <body name="cart">
      <joint name="slider" type="slide" axis="1 0 0"/>
      <geom type="box" size=".2 .15 .1" rgba=".5 .5 .55 1"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0"/>
        <geom type="capsule" size=".045" fromto="0 0 0 0 0 {length}" rgba=".7 .5 .3 1"/>
      </body>
    </body>
  </worldbody>
</mujoco>
""")


def symbolic() -> Symbolic:
    """Of first order in x = (cart, pole, their rates): Euler's step takes the rates before it, as Gymnasium's does."""
    import casadi as ca

    def derivative(x: SX, u: SX, h: float) -> SX:
        sine, cosine = ca.sin(x[1]), ca.cos(x[1])
        whole = CART + POLE
        push = (u[0] + POLE * HALF * x[3] * x[3] * sine) / whole
        turn = (GRAVITY * sine - cosine * push) / (HALF * (4.0 / 3.0 - POLE * cosine * cosine / whole))
        return ca.vertcat(x[2], x[3], push - POLE * HALF * turn * cosine / whole, turn)

    return Symbolic(nq=4, nv=0, nu=1, derivative=derivative, timestep=DT, drawing=_drawing, key="continuous_cartpole")


ROBOT = Robot(
    name="continuous_cartpole",
    build=None,
    readings=(
        Reading.qpos("cart", 0),  # [m]
        Reading.qpos("pole", 1),  # [rad], 0 is upright
        Reading.qpos("cart_velocity", 2),
        Reading.qpos("pole_velocity", 3),
    ),
    dt=DT,
    limits=np.array([[-FORCE], [FORCE]]),
    symbolic=symbolic,
)


def _fallen(y: View) -> Array:
    """1 where the cart or the pole is beyond its limit."""
    off, down = indicator(abs(y.cart) > RAIL, y.cart), indicator(abs(y.pole) > LEAN, y.pole)
    return off + down - off * down


def _reward(y: View, u: Array) -> Array:
    """1 for every step, that in which it falls included."""
    return 1.0 + 0.0 * entry(u, 0)


def _cost(y: View, u: Array, t: Array) -> Array:
    return column(y.once(_fallen))


def _lean(y: View, u: Array, t: Array) -> Array:
    return column((y.pole / LEAN) ** 2 + 0.1 * (y.cart / RAIL) ** 2)


def _over(y: View) -> Array:
    return y.once(_fallen) > 0.5


def _tip(y: View) -> Array:
    """Where the pole ends (..., 3) [m]."""
    xp = namespace(y.pole)
    return vector(y.cart + 2.0 * HALF * xp.sin(y.pole), 0.0, 2.0 * HALF * xp.cos(y.pole))


def _start(seed: int) -> Start:
    x = np.random.default_rng(seed).uniform(-SPREAD, SPREAD, 4)
    return Start(x, np.zeros(0))


def _standing(y: View) -> Array:
    return y.once(_fallen) < 0.5


def balance() -> Task:
    """Keep the pole from falling."""
    return Task(
        name="continuous_cartpole-balance",
        robot=ROBOT,
        score=_reward,
        terms=(Term("fallen", _cost), Term("lean", _lean, weight=0.1)),
        start=_start,
        duration=STEPS * DT,
        trace=_tip,
        goal=_standing,
        end=_over,
    )


TASKS = {"balance": balance}
