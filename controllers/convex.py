"""Hessians made convex: symmetric matrices of a few rows with negative eigenvalues set to zero, in native code (numba).

By Jacobi's rotations, which take as long as a library's eigenvalue routine takes to begin (Golub and Van Loan, Matrix
Computations, 4th ed., chapter 8.5).
"""

import numpy as np
from numba import types

from ..sim.jit import compiled

_SWEEPS = 30
"""At most; convergence is quadratic, and takes five or so."""

_STACK, _STRIDED = types.float64[:, :, ::1], types.float64[:, :, :]


@compiled(types.void(_STACK, _STACK, _STRIDED))
def add_convex(h: np.ndarray, rows: np.ndarray, hessian: np.ndarray) -> None:
    """Adds rows' [h]_+ rows to `hessian` (H, r, r), for symmetric `h` (H, b, b) and `rows` (H, b, r).

    Where `h` is not finite, or its square, the sum is not a number.
    """
    size, width = rows.shape[1], rows.shape[2]
    a, v, w = np.zeros((size, size)), np.zeros((size, size)), np.zeros(width)
    for k in range(h.shape[0]):
        total = 0.0
        for i in range(size):
            for j in range(size):
                a[i, j] = h[k, i, j]
                v[i, j] = 1.0 if i == j else 0.0
                total += a[i, j] * a[i, j]
        if not total < np.inf:
            for i in range(width):
                for j in range(width):
                    hessian[k, i, j] = np.nan
            continue
        for _ in range(_SWEEPS):
            off = 0.0
            for i in range(size):
                for j in range(i):
                    off += a[i, j] * a[i, j]
            if not off > 1e-32 * total:
                break
            for p in range(size - 1):
                for q in range(p + 1, size):
                    if a[p, q] == 0.0:
                        continue
                    # The rotation that makes a_pq zero, by the smaller of its two angles.
                    ratio = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                    t = 1.0 / (abs(ratio) + np.sqrt(1.0 + ratio * ratio))
                    if ratio < 0.0:
                        t = -t
                    c = 1.0 / np.sqrt(1.0 + t * t)
                    s = t * c
                    for i in range(size):
                        x, y = a[i, p], a[i, q]
                        a[i, p], a[i, q] = c * x - s * y, s * x + c * y
                    for i in range(size):
                        x, y = a[p, i], a[q, i]
                        a[p, i], a[q, i] = c * x - s * y, s * x + c * y
                        x, y = v[i, p], v[i, q]
                        v[i, p], v[i, q] = c * x - s * y, s * x + c * y
        for e in range(size):
            value = a[e, e]
            if value <= 0.0:
                continue
            for j in range(width):
                w[j] = 0.0
                for i in range(size):
                    w[j] += v[i, e] * rows[k, i, j]
            for i in range(width):
                x = value * w[i]
                if x != 0.0:
                    for j in range(width):
                        hessian[k, i, j] += x * w[j]
