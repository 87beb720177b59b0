"""Pendulum: a pole with a mass at its tip, hinged at a motor too weak to lift it at once."""

import functools
import math

from .arrays import Array, namespace, vector
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .symbolic import SX, Symbolic, model_key, moment, motion_of
from .task import Robot, Task, Term


def symbolic() -> Symbolic:
    """(I + m l^2) a = m g l sin(q) - d v + k u, with the numbers of MuJoCo's model."""
    import casadi as ca

    model = ROBOT.model
    pole, hinge = model.body("pole"), int(model.jnt_dofadr[0])
    lever = float(pole.ipos[2])
    inertia = moment(model, "pole", 1) + float(pole.mass[0]) * lever * lever + float(model.dof_armature[hinge])
    weight = float(-model.opt.gravity[2]) * float(pole.mass[0]) * lever
    damping, gear = float(model.dof_damping[hinge]), float(model.actuator_gear[0, 0])

    def derivative(x: SX, u: SX, h: float) -> SX:
        torque = weight * ca.sin(x[0]) - damping * x[1] + gear * u[0]
        return ca.vertcat(x[1], torque / (inertia + h * damping))

    return Symbolic(derivative=derivative, key=model_key(model), **motion_of(model))


ROBOT = Robot(
    name="pendulum",
    build=functools.partial(suite_spec, "pendulum"),
    readings=(
        Reading.qpos("pole", 0),  # [rad], 0 is upright
        Reading.qvel("pole_velocity", 0),
    ),
    dt=0.02,
    symbolic=symbolic,
)

UPRIGHT = math.cos(math.radians(8.0))
"""Cosine of the largest angle that counts as upright, dm_control's `_COSINE_BOUND`."""


def height(y: View) -> Array:
    """Cosine of the pole's angle from upright."""
    return namespace(y.pole).cos(y.pole)


def swingup_reward(y: View, u: Array) -> Array:
    """dm_control's reward: 1 within 8 degrees of upright."""
    return tolerance(y.once(height), (UPRIGHT, 1.0))


def _drop(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - y.once(height))


def _speed_on_top(y: View, u: Array, t: Array) -> Array:
    velocity = y.pole_velocity
    return column(velocity * velocity * namespace(velocity).clip(y.once(height), 0.0, 1.0))


class _Tip:
    """Where the mass at the pole's tip is."""

    def __init__(self) -> None:
        model = ROBOT.model
        self.hinge = [float(v) for v in model.body("pole").pos]
        self.length = float(model.geom("mass").pos[2])

    def trace(self, y: View) -> Array:
        """The place (..., 3) [m]."""
        xp, (x, side, z) = namespace(y.pole), self.hinge
        return vector(x + self.length * xp.sin(y.pole), side, z + self.length * xp.cos(y.pole))


class _Energy:
    """Mechanical energy, with the mass and inertia that the model has.

    The motor lifts the pole only by pumping energy into its swing; energy is what every good control has in common
    long before the pole is up (Astrom and Furuta, Swinging up a pendulum by energy control, 2000).
    """

    def __init__(self) -> None:
        model = ROBOT.model
        pole = model.body("pole")
        lever = float(pole.ipos[2])
        mass = float(pole.mass[0])
        inertia = float(pole.inertia[1]) + mass * lever * lever
        self.per_speed = 0.5 * inertia / (mass * lever * float(abs(model.opt.gravity[2])))

    def off_top(self, y: View, u: Array, t: Array) -> Array:
        """Difference to the energy at rest on top, as a height in lengths of the pole."""
        velocity = y.pole_velocity
        return column(abs(self.per_speed * (velocity * velocity) + y.once(height) - 1.0))


def swingup() -> Task:
    """Swing up and balance."""
    return Task(
        name="pendulum-swingup",
        robot=ROBOT,
        score=swingup_reward,
        terms=(
            Term("reward", missing(swingup_reward)),
            Term("energy", _Energy().off_top, weight=0.3),
            Term("height", _drop, weight=0.3),
            Term("velocity", _speed_on_top, weight=0.003),
        ),
        start=suite_start("pendulum", "swingup"),
        duration=20.0,
        trace=_Tip().trace,
    )


TASKS = {"swingup": swingup}
