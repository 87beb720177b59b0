"""Passes over the rows of a small network in native code (numba), for what torch does in several operations.

Between the products of matrices an update has many small steps, each of which reads and writes all rows again and costs
some microseconds to begin. Here what follows one product is one pass. Arrays are C-contiguous float32. With a product p
and a bias, hidden units are h = max(z, 0) (n, width), z = p + bias, or z = x scale + shift where a layer is normalised,
x = (p + bias - mean) / deviation, with mean and deviation of a row (layer normalisation, Ba, Kiros and Hinton, 2016). A
gradient by z is that by h where h is above zero.
"""

import numpy as np
from numba import types

from ..sim.jit import compiled

_ROW, _ROWS, _INDICES = types.float32[::1], types.float32[:, ::1], types.int64[::1]
_ANY = types.float32[:]


@compiled(types.void(_ROWS, _ROW))
def rectify(z: np.ndarray, bias: np.ndarray) -> None:
    """Z = max(z + bias, 0), in place; what is no number stays so."""
    zero = np.float32(0.0)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            value = z[i, j] + bias[j]
            z[i, j] = zero if value < zero else value


@compiled(types.void(_ROWS, _ROW, _ROW, _ROW, types.float32, _ROWS, _ROW), sums_in_any_order=True)
def normalise(
    z: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    eps: float,
    x: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """From p to h in place of `z` (n, width) where the layer is normalised; leaves x, and `inverse` deviations (n,)."""
    zero, one, width = np.float32(0.0), np.float32(1.0), np.float32(z.shape[1])
    for i in range(z.shape[0]):
        total = zero
        for j in range(z.shape[1]):
            value = z[i, j] + bias[j]
            x[i, j] = value
            total += value
        mean, total = total / width, zero
        for j in range(z.shape[1]):
            value = x[i, j] - mean
            x[i, j] = value
            total += value * value
        by = one / np.sqrt(total / width + eps)
        inverse[i] = by
        for j in range(z.shape[1]):
            value = x[i, j] * by
            x[i, j] = value
            value = value * scale[j] + shift[j]
            z[i, j] = zero if value < zero else value


@compiled(types.void(_ROWS, _ROWS, _ROW, _ROW, _INDICES), sums_in_any_order=True)
def normalised(g: np.ndarray, x: np.ndarray, inverse: np.ndarray, scale: np.ndarray, rows: np.ndarray) -> None:
    """The gradient `g` (m, width) by z of m `rows` becomes that by p, in place."""
    zero, width = np.float32(0.0), np.float32(g.shape[1])
    for i in range(g.shape[0]):
        r = rows[i]
        total, along = zero, zero
        for j in range(g.shape[1]):
            value = g[i, j] * scale[j]
            g[i, j] = value
            total += value
            along += value * x[r, j]
        mean, along, by = total / width, along / width, inverse[r]
        for j in range(g.shape[1]):
            g[i, j] = (g[i, j] - mean - x[r, j] * along) * by


@compiled(types.void(_ROWS, _ROWS, _ROW))
def by_scale(g: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """The gradient (width,) by the scale, with `g` (n, width) by z."""
    out[:] = np.float32(0.0)
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            out[j] += g[i, j] * x[i, j]


@compiled(types.void(_ROWS, _ROW))
def summed(g: np.ndarray, out: np.ndarray) -> None:
    """What the rows of `g` (n, width) add up to (width,)."""
    out[:] = np.float32(0.0)
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            out[j] += g[i, j]


@compiled(types.void(_ROWS, _ROW, _ROW, _ROW, _ANY), sums_in_any_order=True)
def rectify_to_one(z: np.ndarray, bias: np.ndarray, w: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """`rectify`, and the single output (n,) that follows, z w + shift, for `shift` (1,)."""
    zero = np.float32(0.0)
    for i in range(z.shape[0]):
        total = zero
        for j in range(z.shape[1]):
            value = z[i, j] + bias[j]
            value = zero if value < zero else value
            z[i, j] = value
            total += value * w[j]
        out[i] = total + shift[0]


@compiled(types.void(_ROWS, _ROWS, _ROW))
def rectified(g: np.ndarray, h: np.ndarray, sums: np.ndarray) -> None:
    """The gradient `g` by h becomes that by z, in place, and `sums` (width,) what its rows add up to."""
    zero = np.float32(0.0)
    sums[:] = zero
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            value = g[i, j] if h[i, j] > zero else zero
            g[i, j] = value
            sums[j] += value


@compiled(types.void(_ROWS, _ROWS, _INDICES))
def rectified_of(g: np.ndarray, h: np.ndarray, rows: np.ndarray) -> None:
    """The gradient `g` (m, width) by m `rows` of h becomes that by z, in place."""
    zero = np.float32(0.0)
    for i in range(g.shape[0]):
        r = rows[i]
        for j in range(g.shape[1]):
            g[i, j] = g[i, j] if h[r, j] > zero else zero


@compiled(types.void(_ANY, _ROW, _ROWS, _ROWS, _ROW, _ROW, _ROW))
def back_from_one(
    by_out: np.ndarray,
    w: np.ndarray,
    h: np.ndarray,
    g: np.ndarray,
    by_w: np.ndarray,
    by_shift: np.ndarray,
    sums: np.ndarray,
) -> None:
    """The way back through a single output h w + shift (n,), where it has the gradient `by_out` (n,).

    Leaves in `g` (n, width) the gradient by z, in `by_w` (width,) and `by_shift` (1,) those of the output, and in
    `sums` (width,) what the rows of `g` add up to.
    """
    zero = np.float32(0.0)
    by_w[:] = zero
    by_shift[0] = zero
    sums[:] = zero
    for i in range(h.shape[0]):
        own = by_out[i]
        by_shift[0] += own
        for j in range(h.shape[1]):
            by_w[j] += own * h[i, j]
        for j in range(h.shape[1]):
            value = own * w[j] if h[i, j] > zero else zero
            g[i, j] = value
            sums[j] += value


@compiled(types.void(_ANY, _ROW, _ROWS, _ROWS, _INDICES))
def back_from_one_of(by_out: np.ndarray, w: np.ndarray, h: np.ndarray, g: np.ndarray, rows: np.ndarray) -> None:
    """The gradient `g` (m, width) by z of m `rows`, where a single output has `by_out` (m,) in them."""
    zero = np.float32(0.0)
    for i in range(g.shape[0]):
        own, r = by_out[i], rows[i]
        for j in range(g.shape[1]):
            g[i, j] = own * w[j] if h[r, j] > zero else zero
