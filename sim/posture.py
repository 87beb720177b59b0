"""Rigid bodies in motion, as CasADi expressions: dynamics, kinematics and derivatives, written for compiling.

The equations of motion of a tree of bodies are M(q) a + b(q, v) = tau. `Posture` gives each part as CasADi SX:

- inverse dynamics, the left side, by the recursive Newton-Euler algorithm (Luh, Walker and Paul, 1980). Where a body
  has the angular velocity w and acceleration dw, and its origin the acceleration al, a point r of it accelerates by
  al + U r with U = [dw]x + [w]x [w]x. So it takes the force F = m al + U h, and about the origin the moment
  N = h x al + axial(U J), with its mass m, first moments h and second moments J;
- M by composite bodies, and a = M^-1 (tau - b) by the factors M = L' D L, in which no zero of M is lost (Featherstone,
  Rigid Body Dynamics Algorithms, 2008, chapter 6): for arms and quadrupeds fewer operations than the articulated-body
  algorithm, for humanoids a fifth more, but derivatives need the factors anyway;
- the derivatives of a from those of the inverse dynamics: da = -M^-1 d(M a + b - tau) (Carpentier and Mansard, 2018).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np

from .rigid_body import TURNING, Link, RigidBody

SX = Any
"""A CasADi SX expression."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame in the world.

    Attributes:
        position: of its origin (3, 1) [m].
        rotation: its axes as columns (3, 3).
        velocity: of its origin (3, 1) [m/s].
        angular_velocity: (3, 1) [rad/s].
    """

    position: SX
    rotation: SX
    velocity: SX
    angular_velocity: SX


class Posture:
    """A rigid body's parts in one configuration, and what follows from where they are.

    Attributes:
        body: what is in the configuration.
        q: the configuration (nq, 1).
    """

    def __init__(self, body: RigidBody, q: SX) -> None:
        self.body, self.q = body, q
        self._turns: list[_Turn] = []
        self._places: list[SX] = []
        for link in body.links:
            turn = _Turn(link.rotation)
            place = _constant(link.translation)
            if link.kind == "revolute":
                turn.about_z(ca.cos(q[link.q]), ca.sin(q[link.q]))
            elif link.kind == "continuous":
                turn.about_z(q[link.q], q[link.q + 1])
            elif link.kind == "prismatic":
                place = place + _constant(link.rotation[:, 2]) * q[link.q]
            elif link.kind == "spherical":
                turn.by(_rotation(q[link.q : link.q + 4]))
            else:
                place = place + _constant(link.rotation) @ q[link.q : link.q + 3]
                turn.by(_rotation(q[link.q + 3 : link.q + 7]))
            self._turns.append(turn)
            self._places.append(place)

    def rates(self, v: SX) -> SX:
        """Time derivative (nq, 1) of the configuration at velocity `v` (nv, 1)."""
        result = ca.SX(self.body.nq, 1)
        for link in self.body.links:
            at = link.q
            if link.kind == "free":
                result[at : at + 3] = _rotation(self.q[at + 3 : at + 7]) @ v[link.v : link.v + 3]
                at += 3
            if link.kind in ("spherical", "free"):
                x, y, z, w = (self.q[at + k] for k in range(4))
                p, r, s = (v[link.v + link.nv - 3 + k] for k in range(3))
                result[at : at + 4] = 0.5 * ca.vertcat(
                    w * p + y * s - z * r, w * r + z * p - x * s, w * s + x * r - y * p, -x * p - y * r - z * s
                )
            elif link.kind == "continuous":
                result[at], result[at + 1] = -self.q[at + 1] * v[link.v], self.q[at] * v[link.v]
            else:
                result[at] = v[link.v]
        return result

    def inverse_dynamics(self, v: SX, a: SX, *, origins: bool = False) -> SX:
        """Generalised forces (nv, 1) [N m, or N] for accelerations `a` (nv, 1) at velocity `v` (nv, 1).

        Args:
            v: velocity.
            a: its rate.
            origins: take what `a` says of a free-flyer's linear velocity to be not its rate, but the acceleration of
                the free-flyer's origin, in its own axes.
        """
        body = self.body
        forces: list[SX] = []
        moments: list[SX] = []
        motions: list[tuple[SX, SX, SX, SX]] = []  # of each link: w, dw, al, U in its own axes
        world = ca.SX(3, 1), ca.SX(3, 1), _constant(-body.gravity), ca.SX(3, 3)
        for link, turn, place in zip(body.links, self._turns, self._places):
            w0, dw0, al0, U0 = motions[link.parent] if link.parent >= 0 else world
            w, dw, al = turn.back(w0), turn.back(dw0), turn.back(al0 + U0 @ place)
            speed, angular_speed = _motion(link, v)
            change, angular_change = _motion(link, a)
            al = al + change + ca.cross(2.0 * w if origins else 2.0 * w + angular_speed, speed)
            dw = dw + ca.cross(w, angular_speed) + angular_change
            w = w + angular_speed
            U = _spin(w, dw)
            motions.append((w, dw, al, U))
            first = _constant(link.first)
            forces.append(link.mass * al + U @ first if link.mass else U @ first)
            moments.append(ca.cross(first, al) + _axial(U, _constant(link.second)))
        result = ca.SX(body.nv, 1)
        for i in reversed(range(len(body.links))):
            link = body.links[i]
            result[link.v : link.v + link.nv] = _felt(link, forces[i], moments[i])
            if link.parent >= 0:
                force, moment = self._carried(i, forces[i], moments[i])
                forces[link.parent] += force
                moments[link.parent] += moment
        return result + _constant(body.armature) * a

    def mass_matrix(self) -> SX:
        """M (nv, nv), with the rotors' inertia."""
        result = ca.SX(self.body.nv, self.body.nv)
        for i, row in enumerate(self._mass_rows):
            for j, value in row.items():
                result[i, j] = result[j, i] = value
        return result + ca.diag(_constant(self.body.armature))

    @cached_property
    def _mass_rows(self) -> list[dict[int, SX]]:
        """Of each degree of freedom, the entries of M for itself and the ones that carry it, without the rotors."""
        body = self.body
        mass: list[float] = [link.mass for link in body.links]
        first = [_constant(link.first) for link in body.links]
        second = [_constant(link.second) for link in body.links]
        rows: list[dict[int, SX]] = [{} for _ in range(body.nv)]
        for i in reversed(range(len(body.links))):
            link = body.links[i]
            for k in range(link.nv):
                force, moment = _momentum(link, k, mass[i], first[i], second[i])
                row, at = rows[link.v + k], i
                felt = _felt(link, force, moment)
                for j in range(k + 1):
                    row[link.v + j] = felt[j]
                while body.links[at].parent >= 0:
                    force, moment = self._carried(at, force, moment)
                    at = body.links[at].parent
                    felt = _felt(body.links[at], force, moment)
                    for j in range(body.links[at].nv):
                        row[body.links[at].v + j] = felt[j]
            if link.parent >= 0:
                place, turned = self._places[i], self._turns[i].forth(first[i])
                across = place @ (turned + 0.5 * mass[i] * place).T
                mass[link.parent] += mass[i]
                first[link.parent] += turned + mass[i] * place
                second[link.parent] += self._turns[i].tensor(second[i]) + across + across.T
        return rows

    def factors(self, extra: SX = 0.0) -> "Factors":
        """M + diag(`extra`) = L' D L, with inertia (nv,) that the joints feel beside the rotors'."""
        rows = [dict(row) for row in self._mass_rows]
        for k, inertia in enumerate(ca.vertsplit(ca.SX(self.body.armature) + extra)):
            rows[k][k] = rows[k][k] + inertia
        return Factors(self.body, rows)

    def forward_dynamics(self, v: SX, force: SX, *, origins: bool = False) -> SX:
        """Accelerations (nv, 1) under generalised forces `force` (nv, 1) at velocity `v` (nv, 1).

        Args:
            v: velocity.
            force: on each degree of freedom.
            origins: give accelerations as `inverse_dynamics` takes them.
        """
        return self.factors().solve(force - self.bias(v, origins=origins))

    def bias(self, v: SX, *, origins: bool = False) -> SX:
        """What is felt at velocity `v` (nv, 1) without accelerations: b (nv, 1), see `inverse_dynamics`."""
        return self.inverse_dynamics(v, ca.SX(self.body.nv, 1), origins=origins)

    def outward(self, x: SX) -> SX:
        """Velocities, or forces, as columns (nv, n), the linear parts of free-flyers taken to the parent's axes."""
        return self._faced(x, _Turn.forth)

    def inward(self, x: SX) -> SX:
        """Velocities, or forces, as columns (nv, n), the linear parts of free-flyers taken to their own axes."""
        return self._faced(x, _Turn.back)

    def _faced(self, x: SX, take: Callable[["_Turn", SX], SX]) -> SX:
        x = ca.SX(x)
        for link, turn in zip(self.body.links, self._turns):
            if link.kind == "free":
                x[link.v : link.v + 3, :] = take(turn, x[link.v : link.v + 3, :])
        return x

    def _carried(self, i: int, force: SX, moment: SX) -> tuple[SX, SX]:
        """A force and a moment about the origin of link `i`, in the axes of its parent and about that one's origin."""
        force = self._turns[i].forth(force)
        return force, self._turns[i].forth(moment) + ca.cross(self._places[i], force)

    def frame(self, name: str, v: SX) -> Frame:
        """The frame `name` at velocity `v` (nv, 1).

        Raises:
            UnknownName: the model has no such frame; the message lists those it has, and the nearest.
        """
        return self._frame(*self.body.frame(name), v)

    def _frame(self, link: int, axes: np.ndarray, place: np.ndarray, v: SX) -> Frame:
        chain = []
        while link >= 0:
            chain.append(link)
            link = self.body.links[link].parent
        position, rotation = ca.SX(3, 1), ca.SX(ca.DM.eye(3))
        w = speed = ca.SX(3, 1)  # in the link's own axes
        for i in reversed(chain):
            joint, turn = self.body.links[i], self._turns[i]
            position = position + rotation @ self._places[i]
            rotation = turn.after(rotation)
            linear, angular = _motion(joint, v)
            speed = turn.back(speed + ca.cross(w, self._places[i])) + linear
            w = turn.back(w) + angular
        offset = _constant(place)
        return Frame(
            position=position + rotation @ offset,
            rotation=rotation @ _constant(axes),
            velocity=rotation @ (speed + ca.cross(w, offset)),
            angular_velocity=rotation @ w,
        )


class Factors:
    """M = L' D L of a rigid body, L with ones on its diagonal and entries only for what carries a degree of freedom.

    Attributes:
        lower: of each degree of freedom, the entries of L for the ones that carry it.
        inverse: 1 / D of each.
    """

    def __init__(self, body: RigidBody, rows: list[dict[int, SX]]) -> None:
        self._ancestors = body.ancestors
        self.inverse: list[SX] = [None] * len(rows)
        for k in reversed(range(len(rows))):
            self.inverse[k] = 1.0 / rows[k][k]
            chain = self._ancestors[k]
            for at, i in enumerate(chain):
                factor = rows[k][i] * self.inverse[k]
                for j in (i, *chain[at + 1 :]):
                    rows[i][j] = rows[i][j] - factor * rows[k][j]
                rows[k][i] = factor
        self.lower = rows

    def solve(self, right: SX) -> SX:
        """M^-1 `right`, (nv, n) -> (nv, n)."""
        rows = [right[k, :] for k in range(right.shape[0])]
        for k in reversed(range(len(rows))):
            for i in self._ancestors[k]:
                rows[i] = rows[i] - self.lower[k][i] * rows[k]
        for k in range(len(rows)):
            rows[k] = rows[k] * self.inverse[k]
            for i in self._ancestors[k]:
                rows[k] = rows[k] - self.lower[k][i] * rows[i]
        return ca.vertcat(*rows)


class _Turn:
    """The rotation from a link's axes to its parent's: a constant one after the joint's own."""

    def __init__(self, constant: np.ndarray) -> None:
        self._constant = _constant(constant)
        self._joint: SX | None = None
        self._sine_cosine: tuple[SX, SX] | None = None

    def about_z(self, cosine: SX, sine: SX) -> None:
        self._sine_cosine = sine, cosine
        joint = ca.SX(3, 3)
        joint[0, 0] = joint[1, 1] = cosine
        joint[0, 1], joint[1, 0] = -sine, sine
        joint[2, 2] = 1.0
        self._joint = joint

    def by(self, rotation: SX) -> None:
        self._joint = rotation

    def forth(self, x: SX) -> SX:
        """Vectors (3, n) in the link's axes, in those of the parent."""
        return self._constant @ (x if self._joint is None else self._joint @ x)

    def back(self, x: SX) -> SX:
        """Vectors (3, n) in the parent's axes, in those of the link."""
        x = self._constant.T @ x
        return x if self._joint is None else self._joint.T @ x

    def after(self, rotation: SX) -> SX:
        """The rotation (3, 3) from the parent's axes to others, as that from the link's to those."""
        rotation = rotation @ self._constant
        return rotation if self._joint is None else rotation @ self._joint

    def tensor(self, x: SX) -> SX:
        """A symmetric tensor (3, 3) in the link's axes, in those of the parent."""
        if self._sine_cosine is not None:
            # With e = 2 c x_xy - s (x_yy - x_xx): x_xx - s e, x_yy + s e, c e - x_xy; 16 operations instead of 40.
            s, c = self._sine_cosine
            e = 2.0 * (c * x[0, 1]) - s * (x[1, 1] - x[0, 0])
            turned = ca.SX(3, 3)
            turned[0, 0], turned[1, 1], turned[2, 2] = x[0, 0] - s * e, x[1, 1] + s * e, x[2, 2]
            turned[0, 1] = turned[1, 0] = c * e - x[0, 1]
            turned[0, 2] = turned[2, 0] = c * x[0, 2] - s * x[1, 2]
            turned[1, 2] = turned[2, 1] = s * x[0, 2] + c * x[1, 2]
            x = turned
        elif self._joint is not None:
            x = self._joint @ x @ self._joint.T
        return self._constant @ x @ self._constant.T


def _motion(link: Link, v: SX) -> tuple[SX, SX]:
    """The joint's linear and angular velocity (3, 1) each, in the link's axes."""
    along, about = ca.SX(3, 1), ca.SX(3, 1)
    if link.kind in TURNING:
        about[2] = v[link.v]
    elif link.kind == "prismatic":
        along[2] = v[link.v]
    elif link.kind == "spherical":
        about = v[link.v : link.v + 3]
    else:
        along, about = v[link.v : link.v + 3], v[link.v + 3 : link.v + 6]
    return along, about


def _felt(link: Link, force: SX, moment: SX) -> SX:
    """What the joint's degrees of freedom (nv, 1) feel of a force and of a moment about the link's origin."""
    if link.kind in TURNING:
        return moment[2]
    if link.kind == "prismatic":
        return force[2]
    return moment if link.kind == "spherical" else ca.vertcat(force, moment)


def _momentum(link: Link, k: int, mass: float, first: SX, second: SX) -> tuple[SX, SX]:
    """Momentum and that about the origin, (3, 1) each, at unit velocity of the joint's k-th degree of freedom."""
    turning = link.kind in (*TURNING, "spherical") or (link.kind == "free" and k >= 3)
    axis = np.zeros(3)
    axis[2 if link.nv == 1 else k % 3] = 1.0
    e = _constant(axis)
    if turning:
        return ca.cross(e, first), ca.trace(second) * e - second @ e
    return mass * e, ca.cross(first, e)


def _spin(w: SX, dw: SX) -> SX:
    """U = [dw]x + [w]x [w]x."""
    x, y, z = w[0], w[1], w[2]
    xx, yy, zz, xy, xz, yz = x * x, y * y, z * z, x * y, x * z, y * z
    return ca.blockcat(
        [
            [-(yy + zz), xy - dw[2], xz + dw[1]],
            [xy + dw[2], -(xx + zz), yz - dw[0]],
            [xz - dw[1], yz + dw[0], -(xx + yy)],
        ]
    )


def _axial(U: SX, J: SX) -> SX:
    """sum(m r x (U r)) (3, 1) of masses with second moments `J`."""

    def entry(i: int, j: int) -> SX:
        return U[i, :] @ J[:, j]

    return ca.vertcat(entry(2, 1) - entry(1, 2), entry(0, 2) - entry(2, 0), entry(1, 0) - entry(0, 1))


def _rotation(quaternion: SX) -> SX:
    """The rotation (3, 3) of the unit quaternion (x, y, z, w)."""
    x, y, z, w = (quaternion[k] for k in range(4))
    x2, y2, z2 = 2.0 * x, 2.0 * y, 2.0 * z
    return ca.blockcat(
        [
            [1.0 - (y2 * y + z2 * z), x2 * y - z2 * w, x2 * z + y2 * w],
            [x2 * y + z2 * w, 1.0 - (x2 * x + z2 * z), y2 * z - x2 * w],
            [x2 * z - y2 * w, y2 * z + x2 * w, 1.0 - (x2 * x + y2 * y)],
        ]
    )


def _constant(array: np.ndarray) -> SX:
    """A constant whose zeros are structural."""
    return ca.SX(ca.sparsify(ca.DM(array)))
