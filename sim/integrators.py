"""One control step of a robot in closed form as CasADi expressions, and its first- and second-order models.

With f the derivative, a tangent vector, and x + d the state that the tangent vector d leads to from x, a step h is

    euler    x_{k+1} = x_k + h (v_k + h a_k, a_k),  (v_k, a_k) = f(x_k, u_k, h)
    rk4      x_{k+1} = x_k + h/6 (f_1 + 2 f_2 + 2 f_3 + f_4),  f_i = f(x_k + h c_i f_{i-1}, u_k, 0),  c = 0, 1/2, 1/2, 1

as in MuJoCo, quaternions included: q + d is the product q exp(d/2). Its series are polynomials of |d|^2, smooth where
the closed formulas divide by zero, and exact to rounding for turns of up to 2 rad in one step.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..robots.symbolic import SX, Symbolic
from .compiled import whole_ratio

_TERMS = 11
"""Of the series: 2^22 / 23! is the rounding of 1."""


def _ca() -> Any:
    import casadi

    return casadi


def _series(square: SX, start: int) -> SX:
    """sum_k (-square)^k / (2k + start)!, by Horner: cos for 0, sin(a)/a for 1, (1 - cos a)/a^2 for 2, ..."""
    total = 1.0 / math.factorial(2 * (_TERMS - 1) + start)
    for k in reversed(range(_TERMS - 1)):
        total = 1.0 / math.factorial(2 * k + start) - square * total
    return total


def quaternion_product(p: SX, q: SX) -> SX:
    """The quaternion p q."""
    ca = _ca()
    a, b = p[1:], q[1:]
    return ca.vertcat(p[0] * q[0] - ca.dot(a, b), p[0] * b + q[0] * a + ca.cross(a, b))


def _turned(q: SX, d: SX) -> SX:
    """The quaternion q, turned by the rotation vector d [rad] of its own frame: q exp(d/2)."""
    ca = _ca()
    quarter = 0.25 * ca.dot(d, d)
    return quaternion_product(q, ca.vertcat(_series(quarter, 0), 0.5 * _series(quarter, 1) * d))


def _rotation(d: SX) -> tuple[SX, SX]:
    """exp(d)' (3, 3), which takes earlier rotation vectors to the turned frame; and how d's own changes come out there.

    The second is SO(3)'s right Jacobian I - (1 - cos a)/a^2 [d] + (a - sin a)/a^3 [d]^2, a = |d| (Chirikjian, 2011).
    """
    ca = _ca()
    square, cross = ca.dot(d, d), ca.skew(d)
    twice = ca.mtimes(cross, cross)
    one, two, three = (_series(square, k) for k in (1, 2, 3))
    eye = ca.SX.eye(3)
    return eye - one * cross + two * twice, eye - two * cross + three * twice


def _blocks(s: Symbolic) -> list[tuple[int, int, bool]]:
    """Of x's parts: where each is in x, where in the tangent, and whether it is a quaternion (else one number)."""
    parts, at = [], 0
    tangent = 0
    while at < s.nx:
        turning = at in s.quaternions
        parts.append((at, tangent, turning))
        at += 4 if turning else 1
        tangent += 3 if turning else 1
    return parts


def retract(s: Symbolic, x: SX, d: SX) -> SX:
    """The state (nx,) that the tangent vector `d` (n,) leads to from `x` (nx,)."""
    parts = [_turned(x[i : i + 4], d[j : j + 3]) if turning else x[i] + d[j] for i, j, turning in _blocks(s)]
    return _ca().vertcat(*parts)


def _retract_slopes(s: Symbolic, d: SX) -> tuple[SX, SX]:
    """What changes of x and of `d` do to `retract`, in tangent vectors, (n, n) each."""
    ca = _ca()
    before, by = [], []
    for _, j, turning in _blocks(s):
        old, new = _rotation(d[j : j + 3]) if turning else (ca.SX.eye(1), ca.SX.eye(1))
        before.append(old)
        by.append(new)
    return ca.diagcat(*before), ca.diagcat(*by)


def lifted(s: Symbolic, x: SX) -> SX:
    """How `retract` changes with d at d = 0, (nx, n): what takes derivatives by x to those by tangent vectors."""
    ca = _ca()
    parts = []
    for i, _, turning in _blocks(s):
        if turning:
            w, v = x[i], x[i + 1 : i + 4]
            parts.append(0.5 * ca.vertcat(-v.T, w * ca.SX.eye(3) + ca.skew(v)))
        else:
            parts.append(ca.SX.eye(1))
    return ca.diagcat(*parts)


def displacement(s: Symbolic, x: SX, other: SX) -> SX:
    """The tangent vector (n,) that leads from `other` (nx,) to `x` (nx,): the inverse of `retract`."""
    ca = _ca()
    parts = []
    for i, _, turning in _blocks(s):
        if not turning:
            parts.append(x[i] - other[i])
            continue
        turn = quaternion_product(ca.vertcat(other[i], -other[i + 1 : i + 4]), x[i : i + 4])
        length = ca.sqrt(ca.dot(turn[1:], turn[1:]) + 1e-60)  # not 0, and of no account otherwise
        side = ca.if_else(turn[0] < 0.0, -1.0, 1.0)  # q and -q are one attitude: the shorter way
        parts.append(2.0 * side * ca.atan2(length, side * turn[0]) / length * turn[1:])
    return ca.vertcat(*parts)


def difference(s: Symbolic, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The tangent vectors (..., n) that lead from `other` (..., nx) to `x` (..., nx)."""
    x, other = np.broadcast_arrays(np.asarray(x, float), np.asarray(other, float))
    if not s.quaternions:
        return x - other
    found = np.empty((*x.shape[:-1], s.tangent))
    for i, j, turning in _blocks(s):
        if not turning:
            found[..., j] = x[..., i] - other[..., i]
            continue
        w, v = other[..., i], other[..., i + 1 : i + 4]
        cosine = (other[..., i : i + 4] * x[..., i : i + 4]).sum(-1)
        b = x[..., i + 1 : i + 4]
        axis = w[..., None] * b - x[..., i, None] * v - np.cross(v, b)
        length = np.linalg.norm(axis, axis=-1)
        side = np.where(cosine < 0.0, -1.0, 1.0)
        per_length = np.divide(np.arctan2(length, side * cosine), length, out=np.ones_like(length), where=length > 0.0)
        found[..., j : j + 3] = (2.0 * side * per_length)[..., None] * axis
    return found


def displaced(s: Symbolic, x: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The states (..., nx) to which tangent vectors `d` (..., n) lead from `x` (..., nx): numbers of `retract`."""
    shape = np.broadcast_shapes(np.shape(x)[:-1], np.shape(d)[:-1])
    found = np.broadcast_to(x, (*shape, np.shape(x)[-1])).astype(float)
    moves = np.broadcast_to(d, (*shape, np.shape(d)[-1]))
    for i, j, turning in _blocks(s):
        if not turning:
            found[..., i] += moves[..., j]
            continue
        half = 0.5 * moves[..., j : j + 3]
        length = np.linalg.norm(half, axis=-1, keepdims=True)
        b, w = np.sinc(length / np.pi) * half, np.cos(length)
        a, v = found[..., i : i + 1].copy(), found[..., i + 1 : i + 4].copy()
        found[..., i : i + 1] = a * w - (v * b).sum(-1, keepdims=True)
        found[..., i + 1 : i + 4] = a * b + w * v + np.cross(v, b)
    return found


@dataclass(frozen=True)
class ControlStep:
    """A control period of `robot` in closed form, as CasADi functions; controls are taken as they are given.

    Attributes:
        symbolic: the robot's motion.
        dt: the control period [s].

    Raises:
        ValueError: `dt` is not a whole number of the robot's time steps.
    """

    symbolic: Symbolic
    dt: float

    def __post_init__(self) -> None:
        self.substeps  # noqa: B018 - raises what is wrong

    @cached_property
    def substeps(self) -> int:
        """The integrator's steps in a period."""
        return whole_ratio(self.dt, self.symbolic.timestep, "the robot in closed form")

    @property
    def _h(self) -> float:
        return self.dt / self.substeps

    @property
    def euler(self) -> float:
        """h, if a period is one step of semi-implicit Euler with q_{k+1} = q_k + h v_{k+1}; else 0."""
        s = self.symbolic
        plain = s.integrator == "euler" and self.substeps == 1 and s.nv > 0 and not s.quaternions
        return self._h if plain else 0.0

    @cached_property
    def _symbols(self) -> tuple[SX, SX]:
        ca, s = _ca(), self.symbolic
        return ca.SX.sym("x", s.nx), ca.SX.sym("u", s.nu)

    def _rate(self, h: float) -> Any:
        """The function (x, u) -> f (n,)."""
        ca, s, (x, u) = _ca(), self.symbolic, self._symbols
        return ca.Function("rate", [x, u], [ca.vertcat(s.derivative(x, u, h))])

    def _slopes(self, h: float) -> Any:
        """The function (x, u) -> (f by x's tangent (n, n), f by u (n, nu))."""
        ca, s, (x, u) = _ca(), self.symbolic, self._symbols
        if s.slopes is not None:
            return ca.Function("slopes", [x, u], list(s.slopes(x, u, h)))
        rate = ca.vertcat(s.derivative(x, u, h))
        by_x = ca.jacobian(rate, x)
        return ca.Function(
            "slopes", [x, u], [ca.mtimes(by_x, lifted(s, x)) if s.quaternions else by_x, ca.jacobian(rate, u)]
        )

    @cached_property
    def function(self) -> Any:
        """The `casadi.Function` (x (nx,), u (nu,)) -> the state (nx,) a control period later."""
        ca, s, (x, u) = _ca(), self.symbolic, self._symbols
        h, end = self._h, x
        rate = self._rate(h if s.integrator == "euler" else 0.0)
        for _ in range(self.substeps):
            if s.integrator == "euler":
                end = retract(s, end, self._euler(rate(end, u)))
            else:
                f = rate(end, u)
                total = f
                for node, weight in ((0.5, 2.0), (0.5, 2.0), (1.0, 1.0)):
                    f = rate(retract(s, end, (h * node) * f), u)
                    total = total + weight * f
                end = retract(s, end, (h / 6.0) * total)
        return ca.Function("step", [x, u], [end], {"cse": True})

    def _euler(self, f: SX) -> SX:
        """The tangent vector of a step along the rate `f` (n,)."""
        h, m = self._h, self.symbolic.nv
        if not m:
            return h * f
        return _ca().vertcat(h * f[:m] + (h * h) * f[m:], h * f[m:])

    @cached_property
    def linear(self) -> Any:
        """The `casadi.Function` (x, u) -> (A (n, n), B (n, nu)) of the step, by tangent vectors of x."""
        ca, s, (x, u) = _ca(), self.symbolic, self._symbols
        h, n = self._h, s.tangent
        euler = s.integrator == "euler"
        rate, slopes = self._rate(h if euler else 0.0), self._slopes(h if euler else 0.0)

        def along(state: SX, change: SX) -> SX:
            """How the rate at `state`, which itself changes by `change`, does."""
            by_x, by_u = slopes(state, u)
            return ca.mtimes(by_x, change) + ca.horzcat(ca.SX(n, n), by_u)

        def moved(change: SX, d: SX, by: SX) -> SX:
            """The change of a state that changes by `change`, retracted by `d` which changes by `by`."""
            if not s.quaternions:
                return change + by
            old, new = _retract_slopes(s, d)
            return ca.mtimes(old, change) + ca.mtimes(new, by)

        end, total = x, ca.horzcat(ca.SX.eye(n), ca.SX(n, s.nu))
        for _ in range(self.substeps):
            f, slope = rate(end, u), along(end, total)
            if euler:
                d, by = self._euler(f), self._euler_slope(slope)
            else:
                sum_f, sum_slope = f, slope
                for node, weight in ((0.5, 2.0), (0.5, 2.0), (1.0, 1.0)):
                    d, by = (h * node) * f, (h * node) * slope
                    state, change = retract(s, end, d), moved(total, d, by)
                    f, slope = rate(state, u), along(state, change)
                    sum_f, sum_slope = sum_f + weight * f, sum_slope + weight * slope
                d, by = (h / 6.0) * sum_f, (h / 6.0) * sum_slope
            end, total = retract(s, end, d), moved(total, d, by)
        return ca.Function("linear", [x, u], [total[:, :n], total[:, n:]], {"cse": True})

    def _euler_slope(self, slope: SX) -> SX:
        h, m = self._h, self.symbolic.nv
        if not m:
            return h * slope
        return _ca().vertcat(h * slope[:m, :] + (h * h) * slope[m:, :], h * slope[m:, :])

    @cached_property
    def curved(self) -> Any:
        """The `casadi.Function` (x, u, p (n,)) -> H (n + nu, n + nu), what DDP adds to Gauss and Newton's model.

        H is the second derivative, by tangent vectors of x and by u, of p' (the tangent vector from the step's end to
        that of its neighbours).
        """
        ca, s, (x, u) = _ca(), self.symbolic, self._symbols
        d, p = ca.SX.sym("d", s.tangent), ca.SX.sym("p", s.tangent)
        end = self.function(retract(s, x, d), u)
        centre = ca.SX.sym("centre", s.nx)  # the step's end, held fixed
        # Of second order in what is small, twice a quaternion's vector is its rotation vector.
        parts = [
            2.0 * quaternion_product(ca.vertcat(centre[i], -centre[i + 1 : i + 4]), end[i : i + 4])[1:]
            if turning
            else end[i]
            for i, _, turning in _blocks(s)
        ]
        hessian, _ = ca.hessian(ca.dot(p, ca.vertcat(*parts)), ca.vertcat(d, u))
        at = ca.Function("hessian", [x, u, p, d, centre], [hessian])
        return ca.Function("curved", [x, u, p], [at(x, u, p, ca.SX(s.tangent, 1), self.function(x, u))], {"cse": True})
