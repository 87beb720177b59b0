"""The backward pass of iLQR in native code (numba): dynamic programming on a linear-quadratic model with box limits.

The model of step k, about a trajectory with gaps d_k between its steps, and cost of the state that the step leads to:

    x_{k+1} = A_k x_k + B_k u_k + d_k
    l_k(z) = g_k . z + z . W_k z / 2,  z = (x_{k+1}, u_k)

With V_{k+1}(x) = v . x + x . P x / 2 and R = P + W_xx, the value of a step as a function of (x_k, u_k) has

    Q_xx = A' R A                           q_x = A' (v + g_x + R d)
    Q_ux = B' R A + W_ux A                  q_u = B' (v + g_x + R d) + g_u + W_ux d
    Q_uu = B' R B + B' W_xu + W_ux B + W_uu

to which second-order methods add the dynamics' own curvature S_k. The policy u = k + K x minimises it, with
mu |u|^2 / 2 added, within the limits: k by projected Newton, K zero in the entries at a limit. With M = Q_ux - mu K the
value before the step is P = Q_xx + M' K, v = q_x + M' k.

Sources: Li and Todorov, Iterative Linear Quadratic Regulator Design for Nonlinear Biological Movement Systems, 2004;
Tassa, Erez and Todorov, Synthesis and Stabilization of Complex Behaviors, 2012; Tassa, Mansard and Todorov,
Control-Limited Differential Dynamic Programming, 2014 (box limits); Mastalli et al., Crocoddyl, 2020 (gaps).
"""

from dataclasses import dataclass

import numpy as np
from numba import types

from ..sim.jit import compiled, inline
from ..sim.products import address, multiply, padded, product, substitute, substitution, vectors_of

LARGE = 12
"""Dimensions of a state below which saving half the products costs more than they do."""

_SWEEPS = 60
"""Iterations after which projected Newton gives up; it takes a handful."""


@dataclass(frozen=True, eq=False)
class Policy:
    """u_k = feedforward_k + feedback_k x_k, both about the trajectory that the model belongs to.

    Attributes:
        feedforward: (H, nu).
        feedback: (H, nu, n).
        slope: sum of q_u . k: the cost's first change with the step size.
        curvature: sum of k . Q_uu k: its second.
        gradient: the largest entry of q_u that no limit holds.
        failed: the step at which Q_uu was not positive definite, or -1; the rest means nothing then.
    """

    feedforward: np.ndarray
    feedback: np.ndarray
    slope: float
    curvature: float
    gradient: float
    failed: int


class Recursion:
    """A linear-quadratic model of H steps in memory laid out for the backward pass.

    Args:
        horizon: H.
        n: dimensions of a small change of state.
        nu: of a control.
        euler: h, if all steps are semi-implicit Euler's: x = (q, v), and q_{k+1} = q_k + h v_{k+1}; else 0.

    Attributes:
        F: [A B] (H, n, n + nu), to be written to, as the others.
        gradient: g (H, n + nu).
        hessian: W (H, n + nu, n + nu), symmetric.
        whole: the arrays whose rows are longer that these three are parts of.
        narrow: how long rows of n numbers are in memory.
        native: addresses of the products and the substitution that `sweep` takes.
    """

    def __init__(self, horizon: int, n: int, nu: int, euler: float = 0.0) -> None:
        size = n + nu
        wide, narrow = padded(size), padded(n)
        F, g, W = np.zeros((horizon, n, wide)), np.zeros((horizon, wide)), np.zeros((horizon, size, wide))
        self.F, self.gradient, self.hessian = F[:, :, :size], g[:, :size], W[:, :, :size]
        self.whole = F, g, W
        whole, states = vectors_of(size), vectors_of(n)
        self.native = product(whole), product(states), product(whole, 1), product(states, 1), substitution(states)
        self._n, self._nu, self.narrow = n, nu, narrow
        self.euler = euler if n >= LARGE else 0.0
        self._low, self._high = np.empty((horizon, nu)), np.empty((horizon, nu))
        self._none = np.zeros((horizon, n)), np.zeros((0, 0, 0))

    def solve(
        self,
        low: np.ndarray,
        high: np.ndarray,
        mu: float = 0.0,
        gaps: np.ndarray | None = None,
        curvature: np.ndarray | None = None,
    ) -> Policy:
        """The best policy on the model.

        Args:
            low: limits of the feedforward (H, nu); may be infinite.
            high: the same.
            mu: regularisation.
            gaps: d (H, n), or none.
            curvature: S (H, n + nu, n + nu) of (x_k, u_k), symmetric, or none.
        """
        horizon, n, nu = len(self.F), self._n, self._nu
        feedforward, feedback = np.empty((horizon, nu)), np.zeros((horizon, nu, self.narrow))
        v, p, numbers = np.zeros(self.narrow), np.zeros((n, self.narrow)), np.zeros(3)
        d, own = (
            none if given is None else np.require(given, float, ["C", "W"])
            for given, none in zip((gaps, curvature), self._none)
        )
        self._low[:], self._high[:] = low, high
        failed = sweep(
            *self.native, self.euler, *self.whole, gaps is not None, d, self._low, self._high, own, float(mu),
            feedforward, feedback, v, p, numbers,
        )  # fmt: skip
        slope, change, steepest = numbers.tolist()
        return Policy(feedforward, feedback[:, :, :n], slope, change, steepest, failed)


@inline
def _factor(h, free, count, lower):  # type: ignore[no-untyped-def]
    """Cholesky factor of the rows and columns `free[:count]` of `h`; False where that is not positive definite."""
    for j in range(count):
        s = h[free[j], free[j]]
        for l in range(j):  # noqa: E741
            s -= lower[j, l] * lower[j, l]
        if not s > 1e-14 * abs(h[free[j], free[j]]):
            return False
        s = np.sqrt(s)
        lower[j, j] = s
        for i in range(j + 1, count):
            a = h[free[i], free[j]]
            for l in range(j):  # noqa: E741
                a -= lower[i, l] * lower[j, l]
            lower[i, j] = a / s
    return True


@inline
def _solve(lower, count, b):  # type: ignore[no-untyped-def]
    """Solves L L' x = b in place of `b` (count,)."""
    for i in range(count):
        s = b[i]
        for l in range(i):  # noqa: E741
            s -= lower[i, l] * b[l]
        b[i] = s / lower[i, i]
    for i in range(count - 1, -1, -1):
        s = b[i]
        for l in range(i + 1, count):  # noqa: E741
            s -= lower[l, i] * b[l]
        b[i] = s / lower[i, i]


@inline
def _objective(h, q, x):  # type: ignore[no-untyped-def]
    value = 0.0
    for i in range(x.size):
        s = q[i]
        for j in range(x.size):
            s += 0.5 * h[i, j] * x[j]
        value += s * x[i]
    return value


@inline
def _box(h, q, low, high, x, free, lower, move, trial):  # type: ignore[no-untyped-def]
    """Minimises x . h x / 2 + q . x within limits, by projected Newton.

    Writes `x`, the entries that no limit holds to `free`, the factor of their part of `h` to `lower`; returns their
    number, or -1 where `h` is not positive definite.
    """
    size = x.size
    for i in range(size):
        free[i] = i
        x[i] = -q[i]
    if not _factor(h, free, size, lower):
        return -1
    _solve(lower, size, x)
    inside = True
    for i in range(size):
        inside = inside and low[i] <= x[i] <= high[i]
    if inside:
        return size
    for i in range(size):
        x[i] = min(max(x[i], low[i]), high[i])
    count = 0
    for _ in range(_SWEEPS):
        count = 0
        steepest = scale = 0.0
        for i in range(size):
            slope = q[i]
            for j in range(size):
                slope += h[i, j] * x[j]
            held = (x[i] <= low[i] and slope >= 0.0) or (x[i] >= high[i] and slope <= 0.0)
            scale = max(scale, abs(q[i]))
            if not held:
                free[count] = i
                move[count] = -slope
                steepest = max(steepest, abs(slope))
                count += 1
        if count == 0:
            break
        if not _factor(h, free, count, lower):
            return -1
        if steepest <= 1e-12 * scale:
            break
        _solve(lower, count, move)
        before, along = _objective(h, q, x), 1.0
        moved = False
        while along > 1e-10 and not moved:
            for i in range(size):
                trial[i] = x[i]
            for i in range(count):
                j = free[i]
                trial[j] = min(max(x[j] + along * move[i], low[j]), high[j])
            moved = _objective(h, q, trial) < before
            along *= 0.6
        if not moved:
            break
        for i in range(size):
            x[i] = trial[i]
    return count


_ROW, _ROWS, _STACK = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]


@inline
def _crossed(w, n, size):  # type: ignore[no-untyped-def]
    """Whether any step's Hessian `w` has entries of states and controls."""
    for k in range(w.shape[0]):
        for i in range(n, size):
            for j in range(n):
                if w[k, i, j] != 0.0:
                    return True
    return False


@compiled(
    types.int64(
        types.int64, types.int64, types.int64, types.int64, types.int64, types.float64,
        _STACK, _ROWS, _STACK, types.boolean, _ROWS, _ROWS, _ROWS, _STACK,
        types.float64, _ROWS, _STACK, _ROW, _ROWS, _ROW,
    )
)  # fmt: skip
def sweep(  # type: ignore[no-untyped-def]
    wide, narrow, wide_row, narrow_row, solve, h, F, g, W, gapped, d, low, high, S, mu,
    feedforward, feedback, v, P, numbers,
):  # fmt: skip
    """Fills the policy and (slope, curvature, gradient); F (H, n, n + nu) is [A B], v and P hold a value in between.

    Rows of all matrices are as long as the products need; what is in their last entries does not matter. With h above
    0, x = (q, v), and rows of F for q are [I 0 0] plus h times those for v: half the products are saved.
    """
    horizon, n, long = F.shape
    nu, short = low.shape[1], P.shape[1]
    size = n + nu
    R, Y, Q, Qx = np.zeros((n, short)), np.zeros((n, long)), np.zeros((nu, long)), np.zeros((n, short))
    first, second, crossing = np.zeros((n, long)), np.zeros((nu, long)), np.zeros((nu, long))
    r, q, before = np.zeros(n), np.zeros(long), np.zeros(long)
    lower, H, minus, inverse = np.zeros((nu, nu)), np.zeros((nu, nu)), np.zeros((nu, nu)), np.zeros(nu)
    free = np.zeros(nu, np.int64)
    k, move, trial, qu = np.zeros(nu), np.zeros(nu), np.zeros(nu), np.zeros(nu)
    M = np.zeros((nu, short))
    # Addresses of arrays are taken where they are used: an array lives no longer than its name is.
    one, nothing, table = np.ones(1), np.zeros(long), np.zeros(11, np.int64)
    far, near, each = 8 * long, 8 * short, 8 * nu  # bytes from row to row
    # Views of single steps would be counted references, which cost more than a small product.
    every_f, every_k = address(F), address(feedback)
    lo, hi = np.zeros(nu), np.zeros(nu)
    skip = n // 2 if h > 0.0 else 0
    inner = n - skip  # rows of F that say something
    T, V, Z = np.zeros((skip, short)), np.zeros((skip, short)), np.zeros((n, long))
    crossed = _crossed(W, n, size)
    for step in range(horizon - 1, -1, -1):
        dynamics, gain = every_f + step * n * far, every_k + step * nu * near
        for i in range(n):
            r[i] = v[i] + g[step, i]
            for j in range(i + 1):
                R[i, j] = R[j, i] = 0.5 * (P[i, j] + P[j, i]) + W[step, i, j]
        if gapped:
            for i in range(n):
                for j in range(n):
                    r[i] += R[i, j] * d[step, j]
        core, moving, base = address(R), address(r), dynamics
        if skip:
            # The value as a function of (q, v') with q' = q + h v', and v' by the rows of F for velocities.
            for i in range(skip):
                for j in range(skip):
                    T[i, j] = R[i, skip + j] + h * R[i, j]
                r[skip + i] += h * r[i]
                before[i] = r[i]
            for i in range(skip):
                for j in range(skip):
                    V[i, j] = R[skip + i, skip + j] + h * (R[skip + i, j] + T[i, j])
            core, moving, base = address(V), address(r) + 8 * skip, dynamics + skip * far
        for i in range(nu):
            before[n + i] = g[step, n + i]
            for j in range(nu):
                second[i, n + j] = W[step, n + i, n + j]
        if crossed:
            for i in range(inner):
                for j in range(nu):
                    first[i, n + j] = W[step, skip + i, n + j]
            for i in range(skip):
                for j in range(nu):
                    first[i, n + j] += h * W[step, i, n + j]
                    second[j, i] = W[step, i, n + j]
            if gapped:
                for i in range(nu):
                    for j in range(n):
                        before[n + i] += W[step, n + i, j] * d[step, j]
        # Y = R F + [0 W_xu], whose columns are those of Q_xx = A' Y and, by B' Y, of Q_u.
        multiply(
            wide, table, inner, inner, address(Y), far, address(first), far, core, near, 8, base, far, address(one), 0
        )
        if skip:
            multiply(
                wide, table, skip, skip, address(Z), far, address(nothing), 0, address(T), 8, near, base, far,
                address(one), 0,
            )  # fmt: skip
        multiply(
            narrow, table, n, inner, address(Qx), near, address(Z), far, base, far, 8, address(Y), far, address(one), 0
        )
        start = address(second)
        if crossed:
            start = address(crossing)
            multiply(
                wide, table, nu, inner, start, far, address(second), far, address(first) + 8 * n, far, 8,
                base, far, address(one), 0,
            )  # fmt: skip
        multiply(
            wide, table, nu, inner, address(Q), far, start, far, base + 8 * n, far, 8, address(Y), far, address(one), 0
        )
        multiply(
            wide_row, table, 1, inner, address(q), far, address(before), far, moving, 8, 0, base, far, address(one), 0
        )
        for j in range(skip):
            for i in range(n):
                Qx[i, j] += Z[j, i]
            for i in range(skip):
                Qx[i, j] += R[i, j]
            for i in range(nu):
                Q[i, j] += Z[j, n + i]
        if S.size:
            for i in range(n):
                for j in range(n):
                    Qx[i, j] += S[step, i, j]
            for i in range(nu):
                for j in range(size):
                    Q[i, j] += S[step, n + i, j]
        for i in range(nu):
            qu[i], lo[i], hi[i] = q[n + i], low[step, i], high[step, i]
            for j in range(nu):
                H[i, j] = 0.5 * (Q[i, n + j] + Q[j, n + i])
            H[i, i] += mu
        count = _box(H, qu, lo, hi, k, free, lower, move, trial)
        if count < 0:
            return step
        # Gains of the free entries: L L' K = -Q_ux, all columns at once, in the first rows of K.
        for i in range(count):
            inverse[i] = 1.0 / lower[i, i]
            minus[i, i] = 0.0
            for j in range(i):
                minus[i, j] = -lower[i, j]
            for j in range(n):
                feedback[step, i, j] = -Q[free[i], j]
        if count:
            substitute(solve, table, count, gain, near, address(minus), each, address(inverse))
        if count < nu:
            for i in range(nu - 1, -1, -1):  # from the last on, for a row moves down if at all
                held = True
                for l in range(count):  # noqa: E741
                    if free[l] == i:
                        held = False
                        for j in range(n):
                            feedback[step, i, j] = feedback[step, l, j]
                if held:
                    for j in range(n):
                        feedback[step, i, j] = 0.0
        for i in range(nu):
            feedforward[step, i] = k[i]
            numbers[0] += qu[i] * k[i]
            s = 0.0
            for j in range(nu):
                s += H[i, j] * k[j]
            numbers[1] += (s - mu * k[i]) * k[i]
            held = (k[i] <= low[step, i] and qu[i] >= 0.0) or (k[i] >= high[step, i] and qu[i] <= 0.0)
            if not held:
                numbers[2] = max(numbers[2], abs(qu[i]))
        change, row = address(Q), far  # Q_ux - mu K
        if mu > 0.0:
            change, row = address(M), near
            for i in range(nu):
                for j in range(n):
                    M[i, j] = Q[i, j] - mu * feedback[step, i, j]
        multiply(narrow_row, table, 1, nu, address(v), 0, address(q), 0, address(k), 8, 0, change, row, address(one), 0)
        multiply(narrow, table, n, nu, address(P), near, address(Qx), near, change, row, 8, gain, near, address(one), 0)
    return -1
