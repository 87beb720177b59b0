"""Acrobot: two hinged links with a motor at the elbow only (Coulom, 2002, after Spong, 1995)."""

import functools
import math

import mujoco
import numpy as np
from scipy.linalg import solve_discrete_are

from .arrays import Array, namespace, norm, vector
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .symbolic import SX, Symbolic, model_key, moment, motion_of
from .task import Robot, Task, Term


def symbolic() -> Symbolic:
    """The links' motion, with the numbers of MuJoCo's model.

    For the angles a_1 and a_2 from upright and their rates w_1 and w_2 it is

        A w_1' + C cos(a_2 - a_1) w_2' = C sin(a_2 - a_1) w_2^2 + G_1 sin a_1 + t_1 - t_2
        C cos(a_2 - a_1) w_1' + B w_2' = -C sin(a_2 - a_1) w_1^2 + G_2 sin a_2 + t_2

    with t_1, t_2 the torques at shoulder and elbow (Spong, The swing up control problem for the acrobot, 1995). It is
    written for the joints' angles, a_1 and a_2 - a_1, to whose inertias armatures and dampings add.
    """
    import casadi as ca

    model = ROBOT.model
    first, second = model.body("upper_arm"), model.body("lower_arm")
    length, gravity = float(second.pos[2]), float(-model.opt.gravity[2])
    m1, m2, c1, c2 = (float(v) for v in (first.mass[0], second.mass[0], first.ipos[2], second.ipos[2]))
    a = moment(model, "upper_arm", 1) + m1 * c1 * c1 + m2 * length * length
    b = moment(model, "lower_arm", 1) + m2 * c2 * c2
    c = m2 * length * c2
    weights = (gravity * (m1 * c1 + m2 * length), gravity * m2 * c2)
    armature = [float(v) for v in model.dof_armature]
    damping = [float(v) for v in model.dof_damping]
    gear = float(model.actuator_gear[0, 0])

    def derivative(x: SX, u: SX, h: float) -> SX:
        w1, w2 = x[2], x[2] + x[3]
        bend = c * ca.sin(x[1])
        mixed = c * ca.cos(x[1])
        shoulder = -damping[0] * x[2]
        elbow = gear * u[0] - damping[1] * x[3]
        alone = -bend * w1 * w1 + weights[1] * ca.sin(x[0] + x[1])  # on the second link's angle
        whole = bend * w2 * w2 + weights[0] * ca.sin(x[0]) + alone
        # Of the joints' inertia, (a + b + 2 mixed, b + mixed; b + mixed, b), armatures and dampings on its diagonal.
        m11 = a + b + 2.0 * mixed + armature[0] + h * damping[0]
        m12 = b + mixed
        m22 = b + armature[1] + h * damping[1]
        f1, f2 = whole + shoulder, alone + elbow
        scale = 1.0 / (m11 * m22 - m12 * m12)
        return ca.vertcat(x[2], x[3], scale * (m22 * f1 - m12 * f2), scale * (m11 * f2 - m12 * f1))

    return Symbolic(derivative=derivative, key=model_key(model), **motion_of(model))


ROBOT = Robot(
    name="acrobot",
    build=functools.partial(suite_spec, "acrobot"),
    readings=(
        Reading.qpos("shoulder", 0),  # [rad], 0 is upright
        Reading.qpos("elbow", 1),  # [rad], 0 is stretched
        Reading.qvel("shoulder_velocity", 0),
        Reading.qvel("elbow_velocity", 1),
    ),
    dt=0.01,
    symbolic=symbolic,
)


CAUGHT = 1000.0
"""Where x'Sx is this many times the most that can be caught, more of it matters no more, see `_Catch.effort`."""


class _Swingup:
    """What the acrobot's tasks measure, with the lengths and masses that its model has.

    With a_1, a_2 the links' angles from upright and w_1, w_2 their rates, the mechanical energy is

        1/2 A w_1^2 + 1/2 B w_2^2 + C cos(a_2 - a_1) w_1 w_2 + G_1 cos a_1 + G_2 cos a_2
    """

    def __init__(self, sparse: bool) -> None:
        model = ROBOT.model
        first, second = model.body("upper_arm"), model.body("lower_arm")
        self.shoulder = [float(v) for v in first.pos]
        self.upper = float(second.pos[2])
        self.lower = float(model.site("tip").pos[2])
        self.target = float(model.site("target").pos[2] - first.pos[2])  # above the shoulder
        self.radius = float(model.site("target").size[0])
        self.margin = 0.0 if sparse else 1.0
        m1, m2, c1, c2 = (float(v) for v in (first.mass[0], second.mass[0], first.ipos[2], second.ipos[2]))
        gravity = float(-model.opt.gravity[2])
        self.inertias = (
            float(first.inertia[1]) + m1 * c1 * c1 + m2 * self.upper * self.upper,
            float(second.inertia[1]) + m2 * c2 * c2,
            m2 * self.upper * c2,
        )
        self.weights = (gravity * (m1 * c1 + m2 * self.upper), gravity * m2 * c2)

    def directions(self, y: View) -> tuple[Array, Array, Array, Array]:
        """Sines and cosines of the links' angles from upright."""
        xp = namespace(y.shoulder)
        first = y.shoulder
        second = first + y.elbow
        return xp.sin(first), xp.sin(second), xp.cos(first), xp.cos(second)

    def distance(self, y: View) -> Array:
        """From the tip to the target [m]."""
        sin1, sin2, cos1, cos2 = y.once(self.directions)
        return norm(self.upper * sin1 + self.lower * sin2, self.upper * cos1 + self.lower * cos2 - self.target)

    def trace(self, y: View) -> Array:
        """The tip (..., 3) [m]."""
        sin1, sin2, cos1, cos2 = y.once(self.directions)
        x, side, z = self.shoulder
        return vector(x + self.upper * sin1 + self.lower * sin2, side, z + self.upper * cos1 + self.lower * cos2)

    def energy(self, y: View) -> Array:
        """Mechanical energy [J], 0 with both links level and at rest."""
        sin1, sin2, cos1, cos2 = y.once(self.directions)
        w1 = y.shoulder_velocity
        w2 = w1 + y.elbow_velocity
        a, b, c = self.inertias
        kinetic = (0.5 * a) * (w1 * w1) + (0.5 * b) * (w2 * w2) + c * (cos1 * cos2 + sin1 * sin2) * (w1 * w2)
        return kinetic + self.weights[0] * cos1 + self.weights[1] * cos2

    def off_top(self, y: View, u: Array, t: Array) -> Array:
        """Difference to the energy at rest on top, as a share of that from the bottom to the top.

        The swing has to be pumped up over longer than planners look ahead; energy tells them that they are on the way.
        """
        top = sum(self.weights)
        return column(abs(y.once(self.energy) - top) / (2.0 * top))

    def whirl(self, y: View, u: Array, t: Array) -> Array:
        """Kinetic energy [J] that locking the elbow would take, as a share of the energy from the bottom to the top.

        1/2 (det M / M_11) q_2'^2, with M the mass matrix and q_2' the elbow's rate: what the arm has beside the kinetic
        energy of the locked arm with the same angular momentum about the shoulder. An arm whose elbow whirls has the
        energy for the top, but in the wrong motion.
        """
        sin1, sin2, cos1, cos2 = y.once(self.directions)
        a, b, c = self.inertias
        coupling = c * (cos1 * cos2 + sin1 * sin2)
        locked = a + b + 2.0 * coupling
        inertia = (a * b - coupling * coupling) / locked
        return column((0.25 * inertia / sum(self.weights)) * (y.elbow_velocity * y.elbow_velocity))

    def fold(self, y: View, u: Array, t: Array) -> Array:
        """1 - cos(elbow): with the top's energy, a stretched arm at rest relative to itself swings right up to the top.

        Xin and Kaneda, Analysis of the energy-based swing-up control of the acrobot, 2007, whose Lyapunov function
        weighs the energy's error with the elbow's angle and rate.
        """
        sin1, sin2, cos1, cos2 = y.once(self.directions)
        return column(1.0 - (cos1 * cos2 + sin1 * sin2))

    def reward(self, y: View, u: Array) -> Array:
        """dm_control's reward: 1 with the tip within the target, sparse or falling off over a metre."""
        return tolerance(y.once(self.distance), (0.0, self.radius), margin=self.margin)

    def off_target(self, y: View, u: Array, t: Array) -> Array:
        """The distance."""
        return column(y.once(self.distance))

    def speed_at_target(self, y: View, u: Array, t: Array) -> Array:
        """The links' squared angular velocities, forgiven far from the target: to get there takes speed."""
        first = y.shoulder_velocity
        second = first + y.elbow_velocity
        return column(namespace(first).exp(-y.once(self.distance)) * (first * first + second * second))


class _Catch:
    """What it takes to balance from a state: the cost-to-go x'Sx, x = (angles from upright, rates).

    x'Sx belongs to the linear-quadratic regulator about upright, scaled so that the regulator needs no more than the
    full control just where it is 1. Only the states with a small one can be caught at all, and planners that see a
    second ahead find them no other way (Spong, The swing up control problem for the acrobot, 1995, switches to that
    regulator there).
    """

    def __init__(self) -> None:
        self.matrix = _balance_cost(ROBOT.model)

    def effort(self, y: View, u: Array, t: Array) -> Array:
        """log(1 + v) with v = x'Sx capped smoothly, 1/v = 1/x'Sx + 1/CAUGHT.

        Where the linear model means nothing, from 0.1 rad off upright on, the cap takes the slope from it. A logarithm
        alone leaves folded arms a local minimum there (the elbow's angle wraps), and lets a long plan prefer to fall
        soon and swing through the top again over to balance for as long as it can.
        """
        xp = namespace(y.shoulder)
        x = (_wrapped(y.shoulder), _wrapped(y.elbow), y.shoulder_velocity, y.elbow_velocity)
        value = 0.0
        for i, row in enumerate(self.matrix):
            # x'Sx = sum_i x_i (S_ii x_i + 2 sum_{j>i} S_ij x_j)
            inner = float(row[i]) * x[i]
            for j in range(i + 1, len(x)):
                inner = inner + (2.0 * float(row[j])) * x[j]
            value = value + x[i] * inner
        return column(xp.log1p(CAUGHT * value / (CAUGHT + value)))


def _wrapped(angle: Array) -> Array:
    """`angle` [rad] within -pi and pi."""
    turn = 2.0 * math.pi
    return angle - turn * namespace(angle).floor(angle / turn + 0.5)


def _balance_cost(model: mujoco.MjModel) -> np.ndarray:
    """S (4, 4) of the regulator about upright, from central differences of MuJoCo's step (its own refuse Runge-Kutta).

    Of the costs, Q = diag(1, 1, 0.1, 0.1) and R = 1 a second.
    """
    data, eps = mujoco.MjData(model), 1e-6

    def step(z: np.ndarray) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = z[:2], z[2:4], z[4:]
        mujoco.mj_step(model, data)
        return np.concatenate([data.qpos, data.qvel])

    jacobian = np.stack([(step(eps * e) - step(-eps * e)) / (2.0 * eps) for e in np.eye(5)], axis=1)
    a, b = jacobian[:, :4], jacobian[:, 4:]
    dt = model.opt.timestep
    q, r = dt * np.diag([1.0, 1.0, 0.1, 0.1]), dt * np.eye(1)
    s = solve_discrete_are(a, b, q, r)
    gain = np.linalg.solve(r + b.T @ s @ b, b.T @ s @ a)
    # max |Kx| over x'Sx <= 1 is sqrt(K S^-1 K'): scaled, it is the control limit, 1.
    return s * float((gain @ np.linalg.solve(s, gain.T))[0, 0])


def _task(name: str, sparse: bool) -> Task:
    measure, smooth = _Swingup(sparse), _Swingup(sparse=False)
    return Task(
        name=f"acrobot-{name}",
        robot=ROBOT,
        score=measure.reward,
        terms=(
            Term("reward", missing(smooth.reward)),  # a sparse reward plans badly: both plan on the smooth one
            Term("energy", smooth.off_top, weight=2.0),
            Term("distance", smooth.off_target, weight=0.025),
            Term("link_velocity", smooth.speed_at_target, weight=0.002),
            Term("whirl", smooth.whirl, weight=0.3, terminal_weight=50.0),
            Term("fold", smooth.fold, weight=0.1),
            Term("catch", _Catch().effort, weight=0.1),
        ),
        start=suite_start("acrobot", name),
        duration=10.0,
        trace=measure.trace,
    )


TASKS = {
    "swingup": functools.partial(_task, "swingup", sparse=False),
    "swingup_sparse": functools.partial(_task, "swingup_sparse", sparse=True),
}
