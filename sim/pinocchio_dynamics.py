"""The `pinocchio` dynamics and plant: any robot that touches nothing, as a rigid body in closed form.

The bodies of the robot's MuJoCo model (an MJCF's or a URDF's, it does not matter) become a pinocchio Model, that one
CasADi expressions (`posture.py`), and these compiled code, as every robot in closed form does.

Joints' limits are MuJoCo's soft ones. A limit that pushes with the force (w - a) / R (`robots.symbolic.joint_limit`) is
an inertia 1 / R more that the joint feels, which is drawn along at the acceleration w:

    (M + diag(1 / R)) a = tau - b + diag(1 / R) w

At first all that joints are beyond are taken to push, then those that do by the accelerations found so (Newton's method
on the cost that MuJoCo minimises): exact for one limit at a time. Where damping D acts at the end of a step h (Euler),
limits feel M alone, as in MuJoCo, and what they do acts on M + h D.
"""

from functools import cached_property
from typing import Any

import casadi as ca
import mujoco
import numpy as np

from ..robots.layout import Reading
from ..robots.symbolic import SX, Symbolic, joint_limit, model_key, motion_of
from ..robots.task import Task
from .casadi_dynamics import CasadiDynamics
from .casadi_simulator import CasadiSimulator
from .integrators import lifted, quaternion_product
from .pinocchio_model import FRAMES, fixture, frame_name, left_out, pinocchio_model, pulls
from .posture import Posture
from .rigid_body import RigidBody

Sensor = mujoco.mjtSensor

PASSES = 3
"""In which it is found which limits push. Of a limp Panda's steps with several of them, 1 in 4 needs a second, 1 in 100
a third; none of thousands a fourth."""

NEGLIGIBLE = 0.01
"""Share of a joint's inertia; where h D is less, limits feel M + h D, and derivatives take one way through the bodies,
not two."""


def rigid(task: Task) -> Symbolic:
    """The motion of the task's robot as that of rigid bodies, from its MuJoCo model.

    Raises:
        ValueError: something acts on the robot that rigid bodies by themselves do not do, such as contacts; the message
            lists it.
    """
    model = task.robot.model
    missing = left_out(model)
    drawn = sorted({p.array for p in task.robot.parameters if p.array.split("_")[0] not in ("geom", "site", "light")})
    missing += [f"{array} drawn anew for each episode" for array in drawn]
    if missing:
        raise ValueError(
            f"the pinocchio model of {task.robot.name} would leave out: {'; '.join(missing)}. "
            f"For {task.name}, use the mujoco dynamics and simulator"
        )
    return _Motion(task).symbolic


class PinocchioDynamics(CasadiDynamics):
    """A task's robot as rigid bodies, compiled: `Dynamics` with derivatives (`linearization.Differentiable`).

    Args:
        task: whose robot is modelled.
        threads: that roll out; by default one for each core that this process may use.

    Raises:
        ValueError: as `rigid`; or readings that the model does not give.
    """

    def __init__(self, task: Task, threads: int | None = None) -> None:
        super().__init__(task, rigid(task), threads)


class PinocchioSimulator(CasadiSimulator):
    """A task's robot as rigid bodies; states are saved and restored exactly.

    Raises:
        ValueError: as `rigid`; or readings that the model does not give.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task, rigid(task))


class _Motion:
    """Derivative, slopes and sensors of a robot with MuJoCo's states, from a `RigidBody` with pinocchio's."""

    def __init__(self, task: Task) -> None:
        self.model = task.robot.model
        self.drawn = {p.object for p in task.robot.parameters}
        flags, off = self.model.opt.disableflags, mujoco.mjtDisableBit
        self.damping = np.zeros(self.model.nv) if flags & off.mjDSBL_DAMPER else np.array(self.model.dof_damping)
        self.implicit = not flags & off.mjDSBL_EULERDAMP
        self.springs = not flags & off.mjDSBL_SPRING
        self.actuated = not flags & off.mjDSBL_ACTUATION
        unlimited = flags & (off.mjDSBL_LIMIT | off.mjDSBL_CONSTRAINT)
        self.limits = {  # by degree of freedom: where in q its joint is, and what stops that
            int(self.model.jnt_dofadr[j]): (int(self.model.jnt_qposadr[j]), joint_limit(self.model, int(j)))
            for j in ([] if unlimited else np.flatnonzero(self.model.jnt_limited))
        }
        self._known: dict[float, Any] = {}  # accelerations: made once, written down wherever they are needed
        self.symbolic = Symbolic(
            derivative=self.derivative,
            slopes=self.slopes,
            sense=self.sense,
            key=model_key(self.model),
            **motion_of(self.model),
        )

    @cached_property
    def body(self) -> RigidBody:
        """The rigid bodies, made when expressions are: compiled functions that are on disk need none."""
        return RigidBody(pinocchio_model(self.model))

    def _posture(self, x: SX) -> tuple[Posture, SX]:
        """The bodies at the state `x`, and their velocities as pinocchio has them."""
        q = ca.SX(x[: self.body.nq])
        for at in self.symbolic.quaternions:
            q[at : at + 4] = ca.vertcat(x[at + 1 : at + 4], x[at])
        posture = Posture(self.body, q)
        return posture, posture.inward(x[self.body.nq :])

    def _force(self, posture: Posture, x: SX, u: SX) -> SX:
        """What springs, dampers and motors do to each degree of freedom (nv, 1), in MuJoCo's coordinates."""
        model = self.model
        q, v = x[: model.nq], x[model.nq :]
        force = -ca.DM(self.damping) * v
        if self.springs:
            for j in np.flatnonzero(model.jnt_stiffness):
                at, dof = int(model.jnt_qposadr[j]), int(model.jnt_dofadr[j])
                force[dof] -= float(model.jnt_stiffness[j]) * (q[at] - float(model.qpos_spring[at]))
        return force + self._motors(posture, q, v, u) if self.actuated else force

    def _motors(self, posture: Posture, q: SX, v: SX, u: SX) -> SX:
        model = self.model
        total = ca.SX(model.nv, 1)
        most = np.zeros(model.nv)  # that motors on joints can do to each degree of freedom
        for i in range(model.nu):
            pulled = [(int(model.jnt_qposadr[j]), int(model.jnt_dofadr[j]), slope) for j, slope in pulls(model, i)]
            if pulled:
                length = sum(slope * q[at] for at, _, slope in pulled)
                speed = sum(slope * v[dof] for _, dof, slope in pulled)
            else:
                arm = self._arm(posture, i)
                length, speed = 0.0, ca.dot(arm, v)
            # A fixed gain has one parameter, no bias none: what is not used is 0.
            gain, bias = (
                float(p[0]) + (float(p[1]) * length + float(p[2]) * speed if p[1:3].any() else 0.0)
                for p in (model.actuator_gainprm[i], model.actuator_biasprm[i])
            )
            fixed = isinstance(gain, float) and isinstance(bias, float) and model.actuator_ctrllimited[i]
            reach = np.abs(gain * model.actuator_ctrlrange[i] + bias).max() if fixed else np.inf
            force = gain * u[i] + bias
            if model.actuator_forcelimited[i]:
                force, reach = _within(force, model.actuator_forcerange[i], reach)
            for _, dof, slope in pulled:
                total[dof] += slope * force
                most[dof] += abs(slope) * reach
            if not pulled:
                total = total + arm * force
                most[np.array(arm.sparsity().row())] = np.inf
        for j in np.flatnonzero(model.jnt_actfrclimited):
            dof = int(model.jnt_dofadr[j])
            total[dof], _ = _within(total[dof], model.jnt_actfrcrange[j], most[dof])
        return total

    def _arm(self, posture: Posture, i: int) -> SX:
        """What a unit of thruster `i` does to each degree of freedom (nv, 1): its power is the wrench's at its site."""
        v = ca.SX.sym("v", self.body.nv)
        name = frame_name(self.model, mujoco.mjtObj.mjOBJ_SITE, int(self.model.actuator_trnid[i, 0]))
        frame, gear = posture.frame(name, posture.inward(v)), ca.sparsify(ca.DM(self.model.actuator_gear[i]))
        push, twist = (ca.mtimes(frame.rotation, part) for part in (gear[:3], gear[3:]))
        return ca.jacobian(ca.dot(push, frame.velocity) + ca.dot(twist, frame.angular_velocity), v).T

    def _damped(self, h: float) -> np.ndarray:
        """What damping adds to the inertia (nv,) that joints feel, where it acts at the end of a step of `h` [s]."""
        return h * self.damping if self.implicit else 0.0 * self.damping

    def _felt(self, h: float) -> np.ndarray:
        """What of that (nv,) the joints' limits feel: nothing, or all where it is negligible."""
        damped = self._damped(h)
        return damped if (damped * self.model.dof_invweight0 < NEGLIGIBLE).all() else 0.0 * damped

    def _stops(self, x: SX, a: SX | None = None) -> tuple[SX, SX]:
        """1 / R (nv, 1) of the joints' limits that push at the accelerations `a` (nv, 1), 0 for others; and w (nv, 1).

        Without accelerations it is those that the joints are beyond, whether they push or would pull.
        """
        held, wanted = ca.SX(self.model.nv, 1), ca.SX(self.model.nv, 1)
        for dof, (at, limit) in self.limits.items():
            side, wanted[dof], yielding = limit(x[at], x[self.model.nq + dof])
            pushing = side != 0.0 if a is None else side * (wanted[dof] - a[dof]) > 0.0
            held[dof] = ca.if_else(pushing, 1.0 / yielding, 0.0)
        return held, wanted

    def _accelerations(self, x: SX, u: SX, h: float) -> SX:
        """At the state `x` under the control `u`, (nv, 2): those that limits feel, and those of a step of `h` [s]."""
        if h not in self._known:
            at, by = ca.SX.sym("x", self.symbolic.nx), ca.SX.sym("u", self.symbolic.nu)
            posture, v = self._posture(at)
            force = posture.inward(self._force(posture, at, by)) - posture.bias(v, origins=True)
            damped, felt = self._damped(h), self._felt(h)
            if not self.limits:
                a = met = posture.factors(damped).solve(force)
            else:
                held, wanted = self._stops(at)
                for k in range(PASSES):
                    if k:
                        held, _ = self._stops(at, met)
                    a = met = posture.factors(felt + held).solve(force + held * wanted)
                if (felt != damped).any():
                    a = posture.factors(damped).solve(force + held * (wanted - met))
            both = posture.outward(ca.horzcat(met, a))
            self._known[h] = ca.Function("accelerations", [at, by], [both], {"cse": True})
        return self._known[h](x, u)

    def derivative(self, x: SX, u: SX, h: float) -> SX:
        """(v, v') (2 nv, 1), see `Symbolic`."""
        return ca.vertcat(x[self.body.nq :], self._accelerations(x, u, h)[:, 1])

    def slopes(self, x: SX, u: SX, h: float) -> tuple[SX, SX]:
        """The derivative's own by x's tangent (n, n) and by u (n, nu): -M^-1 times those of M a + b - force."""
        nv, nu, s = self.body.nv, self.model.nu, self.symbolic
        at, by, both = ca.SX.sym("x", s.nx), ca.SX.sym("u", nu), ca.SX.sym("a", nv, 2)
        posture, v = self._posture(at)
        force, damped, felt = posture.inward(self._force(posture, at, by)), self._damped(h), self._felt(h)
        met, a = both[:, 0], both[:, 1]
        held, wanted = self._stops(at, met) if self.limits else (ca.SX(nv, 1), ca.SX(nv, 1))

        def change(a: SX, extra: SX) -> SX:
            """How M a + b - force, with inertia that is felt beside M's, and limits, changes with (x, u)."""
            inner = posture.inward(a)
            residual = posture.inverse_dynamics(v, inner, origins=True) - force + extra * inner + held * (met - wanted)
            # Backwards: 4893 instructions for the Panda instead of 5835; as many as forwards for trees.
            slope = ca.jacobian(residual, ca.vertcat(at, by), {"helper_options": {"ad_weight": 1.0}})
            return ca.horzcat(ca.mtimes(slope[:, : s.nx], lifted(s, at)), slope[:, s.nx :])

        if not self.limits or (felt == damped).all():
            found = posture.factors(damped + held).solve(-change(a, damped))
        else:
            meeting = posture.factors(felt + held).solve(-change(met, felt))
            found = posture.factors(damped).solve(-change(a, damped) - ca.diag(held) @ meeting)
        function = ca.Function("slopes", [at, by, both], [posture.outward(found)])
        lower = function(x, u, self._accelerations(x, u, h))
        upper = ca.horzcat(ca.SX(nv, nv), ca.SX.eye(nv))
        return ca.vertcat(upper, lower[:, : s.tangent]), ca.vertcat(ca.SX(nv, nu), lower[:, s.tangent :])

    def sense(self, reading: Reading, x: SX) -> SX | None:
        """The numbers of `reading`: of joints, and of frames' places, axes and velocities; None for others."""
        kind = reading.sensor
        if kind in (Sensor.mjSENS_JOINTPOS, Sensor.mjSENS_JOINTVEL):
            joint = self.model.joint(reading.object)
            place = joint.qposadr[0] if kind == Sensor.mjSENS_JOINTPOS else self.body.nq + joint.dofadr[0]
            return x[int(place)]
        local = {Sensor.mjSENS_VELOCIMETER: "velocity", Sensor.mjSENS_GYRO: "angular_velocity"}
        known = (*_FRAME_SENSORS, *local, Sensor.mjSENS_FRAMEQUAT)
        if reading.objtype not in FRAMES or reading.object in self.drawn or kind not in known:
            return None
        if kind == Sensor.mjSENS_FRAMEQUAT:
            return self._attitude(reading, x)
        posture, v = self._posture(x)
        frame = posture.frame(f"{FRAMES[reading.objtype]} {reading.object}", v)
        if kind in local:
            return ca.mtimes(frame.rotation.T, getattr(frame, local[kind]))
        return _FRAME_SENSORS[kind](frame)

    def _attitude(self, reading: Reading, x: SX) -> SX:
        """The unit quaternion (w, x, y, z) of the reading's object.

        Of the two that mean the same attitude it is MuJoCo's: the product of bodies' and joints' quaternions from the
        world on, a hinge's of half its angle. So it changes steadily with the motion, and its sign with each turn.
        """
        model = self.model
        body, own = fixture(model, reading.objtype, reading.object)
        found = ca.SX(ca.DM(own))
        while body:
            first = int(model.body_jntadr[body])
            turns = [ca.SX(ca.DM(model.body_quat[body]))]
            for j in range(first, first + int(model.body_jntnum[body])):
                kind, at = mujoco.mjtJoint(model.jnt_type[j]), int(model.jnt_qposadr[j])
                if kind == mujoco.mjtJoint.mjJNT_FREE:
                    turns = [x[at + 3 : at + 7]]  # the world's
                elif kind == mujoco.mjtJoint.mjJNT_BALL:
                    turns.append(x[at : at + 4])
                elif kind == mujoco.mjtJoint.mjJNT_HINGE:
                    half = 0.5 * (x[at] - float(model.qpos0[at]))
                    turns.append(ca.vertcat(ca.cos(half), ca.DM(model.jnt_axis[j]) * ca.sin(half)))
            for turn in reversed(turns):
                found = quaternion_product(turn, found)
            body = int(model.body_parentid[body])
        return found


_FRAME_SENSORS: dict[Any, Any] = {
    Sensor.mjSENS_FRAMEPOS: lambda frame: frame.position,
    Sensor.mjSENS_FRAMEXAXIS: lambda frame: frame.rotation[:, 0],
    Sensor.mjSENS_FRAMEYAXIS: lambda frame: frame.rotation[:, 1],
    Sensor.mjSENS_FRAMEZAXIS: lambda frame: frame.rotation[:, 2],
    Sensor.mjSENS_FRAMELINVEL: lambda frame: frame.velocity,
    Sensor.mjSENS_FRAMEANGVEL: lambda frame: frame.angular_velocity,
}


def _within(force: SX, limits: np.ndarray, most: float) -> tuple[SX, float]:
    """`force` within `limits` (2,), unless the most that it can be is; and the most that it can be then."""
    low, high = (float(v) for v in limits)
    if -most >= low and most <= high:
        return force, most
    return ca.fmin(ca.fmax(force, low), high), max(abs(low), abs(high))
