"""Robots in closed form: their motion as CasADi expressions, from which models with derivatives are compiled.

A state is x = (q, v) (nq + nv,), with MuJoCo's conventions: q holds joint positions, with unit quaternions as
(w, x, y, z); v their rates, where a quaternion's is the body's angular velocity [rad/s] in its own frame and a free
body's linear velocity [m/s] is the world's. A robot whose motion is of first order, x' = f(x, u), has q alone.

A small change of x is a tangent vector, three numbers (a rotation vector in the body's frame) for a quaternion's four
and one for any other entry, those of q first: n = nq - (number of quaternions) + nv.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np

from .layout import Reading

SX = Any
"""A `casadi.SX` expression; columns are (k, 1)."""


@dataclass(frozen=True)
class Symbolic:
    """A robot's motion in closed form.

    Attributes:
        nq: numbers in q.
        nv: numbers in v: as many as q's tangent has; 0 for motion of first order.
        nu: controls.
        derivative: (x (nx,), u (nu,), h) -> the rate of x as a tangent vector (n,): (v, v') for motion of second order.
            The step h [s] is not 0 where joint damping D acts implicitly, at the step's end, as in MuJoCo's Euler:
            v' = (M + h D)^-1 (forces - D v), M being the inertia. Only the integrator `euler` asks for it.
        timestep: of the integrator [s]; the control period is a whole number of it.
        integrator: `euler`, semi-implicit (v moves first, and q by the new v; for first order, plain Euler); or `rk4`,
            of Runge and Kutta, as MuJoCo's: stages of a quaternion begin at the step's first one.
        quaternions: where in q the unit quaternions begin.
        sense: (reading, x) -> its numbers (size,), or None where the model does not give it; for readings that are no
            entries of x. None where there are no such.
        slopes: (x, u, h) -> the derivative's own, by x's tangent (n, n) and by u (n, nu), where cheaper ones are known
            than automatic differentiation finds.
        drawing: makes a fresh MuJoCo spec to draw a robot which has no MuJoCo model; its positions are the first of q.
        key: stands for all the numbers in the expressions of a robot that is part of trimtab: with the same code, the
            same key means the same expressions, so that these need not be built where compiled ones are kept on disk.
            None: they are built at each start.

    Raises:
        ValueError: sizes that do not fit each other, a time step that is not positive, or an unknown integrator.
    """

    nq: int
    nv: int
    nu: int
    derivative: Callable[[SX, SX, float], SX]
    timestep: float
    integrator: Literal["euler", "rk4"] = "euler"
    quaternions: tuple[int, ...] = ()
    sense: Callable[[Reading, SX], SX | None] | None = None
    slopes: Callable[[SX, SX, float], tuple[SX, SX]] | None = None
    drawing: Callable[[], mujoco.MjSpec] | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        starts = sorted(self.quaternions)
        overlap = any(b - a < 4 for a, b in zip(starts, [*starts[1:], self.nq]))
        if overlap or any(a < 0 for a in starts):
            raise ValueError(f"quaternions {self.quaternions} do not fit into {self.nq} positions, four numbers each")
        turns = self.nq - len(self.quaternions)
        if self.nv not in (0, turns):
            raise ValueError(f"{self.nq} positions with {len(self.quaternions)} quaternions move by {turns} velocities")
        if not self.timestep > 0.0:
            raise ValueError(f"the time step is {self.timestep:g} s; it must be positive")
        if self.integrator not in ("euler", "rk4"):
            raise ValueError(f"unknown integrator {self.integrator!r}. Known: euler, rk4")

    @property
    def nx(self) -> int:
        """Numbers in x."""
        return self.nq + self.nv

    @property
    def tangent(self) -> int:
        """n, numbers in a tangent vector."""
        return self.nx - len(self.quaternions)


def moment(model: mujoco.MjModel, body: str, axis: int) -> float:
    """The moment of inertia [kg m^2] of `body` about its centre of mass and the body frame's axis 0, 1 or 2."""
    inertia, turn = model.body(body).inertia, np.empty(9)
    mujoco.mju_quat2Mat(turn, model.body(body).iquat)
    along = turn.reshape(3, 3)[axis]  # the axis, as the principal axes see it
    return float(along @ (inertia * along))


def motion_of(model: mujoco.MjModel) -> dict[str, Any]:
    """The fields of `Symbolic` that are numbers of the MuJoCo model: sizes, time step, integrator, quaternions.

    Raises:
        ValueError: an integrator other than Euler and RK4.
    """
    known = {mujoco.mjtIntegrator.mjINT_EULER: "euler", mujoco.mjtIntegrator.mjINT_RK4: "rk4"}
    integrator = mujoco.mjtIntegrator(model.opt.integrator)
    if integrator not in known:
        raise ValueError(f"closed form has the integrators Euler and RK4, not {integrator.name}")
    turning = (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL)
    kinds = [mujoco.mjtJoint(kind) for kind in model.jnt_type]
    starts = [int(at) + 3 * (kind == turning[0]) for kind, at in zip(kinds, model.jnt_qposadr) if kind in turning]
    return {
        "nq": int(model.nq),
        "nv": int(model.nv),
        "nu": int(model.nu),
        "timestep": float(model.opt.timestep),
        "integrator": known[integrator],
        "quaternions": tuple(starts),
    }


def model_key(model: mujoco.MjModel) -> str:
    """A hash of all of the model's numbers: the `key` of a `Symbolic` that depends on nothing else."""
    content = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, content)
    return hashlib.sha256(content.tobytes()).hexdigest()


def joint_limit(model: mujoco.MjModel, joint: str | int) -> Callable[[SX, SX], tuple[SX, SX, SX]]:
    """MuJoCo's soft limits of a hinge or slide `joint`, given by its name or number.

    Past a limit by r < 0, a constraint along the joint wants the acceleration w = -b v + k d |r| back, and yields by R
    ("Computation" in MuJoCo's documentation: `solreflimit` gives b and k, `solimplimit` the impedance d, and R is
    (1 - d) / d times the inverse inertia of the reference pose). Its force is (w - a) / R where that pushes back, a
    being the acceleration; for one limit alone (w - a0) / (A + R), with the acceleration a0 there would be without it
    and the inverse inertia A that it feels.

    Returns:
        (position, velocity) -> (side, w [m/s^2 or rad/s^2], R [1/kg or 1/(kg m^2)]); side is 1 past the lower limit, -1
        past the upper one, and 0 between them, where w and R mean nothing.
    """
    import casadi as ca

    at = model.joint(joint).id
    low, high = (float(v) for v in model.jnt_range[at])
    margin, reference = float(model.jnt_margin[at]), float(model.dof_invweight0[model.jnt_dofadr[at]])
    least, most = np.clip(model.jnt_solimp[at, :2], mujoco.mjMINIMP, mujoco.mjMAXIMP).tolist()
    stiffness, damping = _reference(model, at, most)

    def limit(position: SX, velocity: SX) -> tuple[SX, SX, SX]:
        below, above = position - (low + margin), (high - margin) - position
        past = ca.fmin(ca.fmin(below, above), 0.0)
        side = ca.if_else(past < 0.0, ca.if_else(below < above, 1.0, -1.0), 0.0)
        impedance = least + (most - least) * _rise(model.jnt_solimp[at], -past)
        wanted = -damping * velocity - side * (stiffness * impedance * past)
        return side, wanted, (1.0 - impedance) / impedance * reference

    return limit


def _reference(model: mujoco.MjModel, at: int, most: float) -> tuple[float, float]:
    """Stiffness k [1/s^2] and damping b [1/s] of a joint's limits, the impedance of which is `most` at the most."""
    time, ratio = (float(v) for v in model.jnt_solref[at])
    if time <= 0.0:  # then they are given themselves, as negative numbers
        return -time / most**2, -ratio / most
    if not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_REFSAFE:
        time = max(time, 2.0 * float(model.opt.timestep))
    return 1.0 / (most * time * ratio) ** 2, 2.0 / (most * time)


def _rise(solimp: np.ndarray, depth: SX) -> SX:
    """How far the impedance is from its least to its greatest, 0 to 1, at a `depth` past the limit."""
    import casadi as ca

    least, most, width, middle, power = (float(v) for v in solimp)
    middle = min(max(middle, mujoco.mjMINIMP), mujoco.mjMAXIMP)
    if least == most or width <= mujoco.mjMINVAL:
        return ca.SX(0.5)
    share = ca.fmin(depth / width, 1.0)
    if power <= 1.0:
        return share
    rising = (1.0 / middle ** (power - 1.0)) * share**power
    falling = 1.0 - (1.0 / (1.0 - middle) ** (power - 1.0)) * (1.0 - share) ** power
    return ca.if_else(share <= middle, rising, falling)
