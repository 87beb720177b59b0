"""Cart-pole: a pole hinged on a cart that a motor drives along a rail (Barto, Sutton and Anderson, 1983)."""

import functools
from collections.abc import Callable

from .arrays import Array, entry, namespace, vector
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .symbolic import SX, Symbolic, joint_limit, model_key, moment, motion_of
from .task import Robot, Task, Term


def symbolic() -> Symbolic:
    """The cart's and the pole's motion, with the numbers of MuJoCo's model and its soft ends of the rail.

    With M, m the masses of cart and pole, l from the hinge to the pole's centre of mass, I its moment of inertia there,

        (M + m) x'' + m l cos(q) q'' = k u - d_x x' + m l sin(q) q'^2 + (force of the rail's ends)
        m l cos(q) x'' + (I + m l^2) q'' = m g l sin(q) - d_q q'
    """
    import casadi as ca

    model = ROBOT.model
    pole = model.body("pole_1")
    mass, lever = float(pole.mass[0]), float(pole.ipos[2])
    both = float(model.body("cart").mass[0]) + mass + float(model.dof_armature[0])
    turning = moment(model, "pole_1", 1) + mass * lever * lever + float(model.dof_armature[1])
    gravity, gear = float(-model.opt.gravity[2]), float(model.actuator_gear[0, 0])
    friction = [float(d) for d in model.dof_damping]
    rail = joint_limit(model, "slider")

    def derivative(x: SX, u: SX, h: float) -> SX:
        sine, cosine = ca.sin(x[1]), ca.cos(x[1])
        coupling = mass * lever * cosine
        push = gear * u[0] - friction[0] * x[2] + mass * lever * sine * x[3] * x[3]
        twist = mass * gravity * lever * sine - friction[1] * x[3]
        cart, pole = both + h * friction[0], turning + h * friction[1]
        scale = 1.0 / (cart * pole - coupling * coupling)
        free = scale * (pole * push - coupling * twist)
        side, wanted, yielding = rail(x[0], x[2])
        push = push + side * ca.fmax(side * (wanted - free), 0.0) / (scale * pole + yielding)
        return ca.vertcat(
            x[2], x[3], scale * (pole * push - coupling * twist), scale * (cart * twist - coupling * push)
        )

    return Symbolic(derivative=derivative, key=model_key(model), **motion_of(model))


ROBOT = Robot(
    name="cartpole",
    build=functools.partial(suite_spec, "cartpole"),
    readings=(
        Reading.qpos("cart", 0),  # [m]
        Reading.qpos("pole", 1),  # [rad], 0 is upright
        Reading.qvel("cart_velocity", 0),
        Reading.qvel("pole_velocity", 1),
    ),
    dt=0.01,
    symbolic=symbolic,
)


def height(y: View) -> Array:
    """Cosine of the pole's angle from upright."""
    return namespace(y.pole).cos(y.pole)


def smooth_reward(y: View, u: Array) -> Array:
    """dm_control's dense reward: upright, centred, with a small control and a slow pole."""
    upright = 0.5 + 0.5 * y.once(height)
    centred = 0.5 + 0.5 * tolerance(y.cart, margin=2.0)
    small_control = 0.8 + 0.2 * tolerance(entry(u, 0), margin=1.0, value_at_margin=0.0, sigmoid="quadratic")
    small_velocity = 0.5 + 0.5 * tolerance(y.pole_velocity, margin=5.0)
    return upright * small_velocity * small_control * centred


def sparse_reward(y: View, u: Array) -> Array:
    """dm_control's sparse reward: 1 within 0.25 m of the centre and 0.1 rad of upright."""
    return tolerance(y.cart, (-0.25, 0.25)) * tolerance(y.once(height), (0.995, 1.0))


def _tip(y: View) -> Array:
    """Where the pole ends (..., 3) [m]."""
    model = ROBOT.model
    hinge = float(model.body("cart").pos[2] + model.body("pole_1").pos[2])
    length = float(2.0 * model.geom("pole_1").pos[2])
    xp = namespace(y.pole)
    return vector(y.cart + length * xp.sin(y.pole), 0.0, hinge + length * xp.cos(y.pole))


def _upright(y: View) -> Array:
    return y.once(height) > 0.95


def _off_centre(y: View, u: Array, t: Array) -> Array:
    """The cart's distance from the centre [m], as far as the pole is up."""
    return column(abs(y.cart) * (0.5 + 0.5 * namespace(y.pole).cos(y.pole)))


_SHARPER = (Term("sparse_reward", missing(sparse_reward), weight=0.5), Term("centre", _off_centre, weight=0.1))


def _task(name: str, score: Callable[[View, Array], Array]) -> Task:
    return Task(
        name=f"cartpole-{name}",
        robot=ROBOT,
        score=score,
        # A sparse reward plans badly: all plan on the dense one, which the sparse one only sharpens.
        terms=(Term("reward", missing(smooth_reward)), *(_SHARPER if name.endswith("_sparse") else ())),
        start=suite_start("cartpole", name),
        duration=10.0,
        trace=_tip,
        goal=_upright,
    )


TASKS = {
    "balance": functools.partial(_task, "balance", smooth_reward),
    "balance_sparse": functools.partial(_task, "balance_sparse", sparse_reward),
    "swingup": functools.partial(_task, "swingup", smooth_reward),
    "swingup_sparse": functools.partial(_task, "swingup_sparse", sparse_reward),
}
