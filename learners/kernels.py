"""Passes over the rows of a layer in native code (numba), for what torch does in several operations.

Between the products of matrices an update has many small steps, each of which reads and writes all rows again and costs
some microseconds to begin. Here they are few. Arrays are C-contiguous float32. With a product p
and a bias, hidden units are h = max(z, 0) (n, width), z = p + bias, or z = x scale + shift where a layer is normalised,
x = (p + bias - mean) / deviation, with mean and deviation of a row (layer normalisation, Ba, Kiros and Hinton, 2016). A
gradient by z is that by h where h is above zero.
"""

import math
from typing import Any

import numpy as np
from numba import types

from ..sim.jit import compiled, inline, inline_relaxed

_ROW, _ROWS = types.float32[::1], types.float32[:, ::1]

EPS = np.float32(1e-5)
"""What is added to the variance of a row that is normalised."""

ADAM_MEANS, ADAM_SQUARES, ADAM_EPS = 0.9, 0.999, 1e-8
"""What is left of Adam's averages after a step, and what keeps it from dividing by zero."""

_FAR = np.float32(80.0)

# Sums over rows are taken in float64: in float32 a long one loses digits.


@inline
def rectify(z: np.ndarray, bias: np.ndarray) -> None:
    """From `z` to max(z + bias, 0), in place; what is no number stays so."""
    zero = np.float32(0.0)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            value = z[i, j] + bias[j]
            z[i, j] = zero if value < zero else value


@inline_relaxed
def normalise(
    z: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray, x: np.ndarray, inverse: np.ndarray
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
        by = one / np.sqrt(total / width + EPS)
        inverse[i] = by
        for j in range(z.shape[1]):
            value = x[i, j] * by
            x[i, j] = value
            value = value * scale[j] + shift[j]
            z[i, j] = zero if value < zero else value


@inline_relaxed
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


@inline
def by_scale(g: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """The gradient (width,) by the scale, with `g` (n, width) by z."""
    total = np.zeros(out.size)
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            total[j] += g[i, j] * x[i, j]
    out[:] = total


@inline
def summed(g: np.ndarray, out: np.ndarray) -> None:
    """What the rows of `g` (n, width) add up to (width,)."""
    total = np.zeros(out.size)
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            total[j] += g[i, j]
    out[:] = total


@inline
def rectified(g: np.ndarray, h: np.ndarray, rows: np.ndarray) -> None:
    """The gradient `g` (m, width) by m `rows` of h becomes that by z, in place."""
    zero = np.float32(0.0)
    for i in range(g.shape[0]):
        r = rows[i]
        for j in range(g.shape[1]):
            g[i, j] = g[i, j] if h[r, j] > zero else zero


# Products with a single column, for which BLAS takes far longer as ones of matrices.


@inline_relaxed
def to_one(h: np.ndarray, w: np.ndarray, out: np.ndarray) -> None:
    """Of `h` (n, width) and `w` (width, 1), what goes to `out` (n, 1)."""
    for i in range(h.shape[0]):
        total = np.float32(0.0)
        for j in range(h.shape[1]):
            total += h[i, j] * w[j, 0]
        out[i, 0] = total


@inline
def from_one(by_out: np.ndarray, w: np.ndarray, g: np.ndarray) -> None:
    """The gradient `g` (n, width) by h, where that output has the gradient `by_out` (n, 1)."""
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            g[i, j] = by_out[i, 0] * w[j, 0]


@inline
def by_one(by_out: np.ndarray, h: np.ndarray, out: np.ndarray) -> None:
    """The gradient (width, 1) by w there."""
    total = np.zeros(h.shape[1])
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            total[j] += by_out[i, 0] * h[i, j]
    out[:, 0] = total


@inline
def exp(x: Any) -> Any:
    """Exponential of x from -87 to 88, to float32's last digits, without branches, so that eight are taken at once."""
    n = np.floor(x * np.float32(1.0 / math.log(2.0)) + np.float32(0.5))
    r = x - n * np.float32(0.693359375)  # log 2 in two parts, the first of which has few digits
    r = r - n * np.float32(math.log(2.0) - 0.693359375)
    value = np.float32(1.0 / 5040.0)
    value = value * r + np.float32(1.0 / 720.0)
    value = value * r + np.float32(1.0 / 120.0)
    value = value * r + np.float32(1.0 / 24.0)
    value = value * r + np.float32(1.0 / 6.0)
    value = value * r + np.float32(0.5)
    value = value * r + np.float32(1.0)
    value = value * r + np.float32(1.0)
    return value * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@inline_relaxed
def logistic(x: Any) -> Any:
    """1 / (1 + exp(-x)); what is no number stays so."""
    near = _FAR if x > _FAR else x
    return np.float32(1.0) / (np.float32(1.0) + exp(-(-_FAR if near < -_FAR else near)))


@compiled(types.void(_ROW))
def silu(z: np.ndarray) -> None:
    """From `z` (n,) to z / (1 + exp(-z)), in place."""
    for i in range(z.shape[0]):
        z[i] = z[i] * logistic(z[i])


@inline
def _log1p(x: Any) -> Any:
    """log(1 + x) for x from 0 to 1, as 2 artanh(x / (2 + x)): see `exp`."""
    u = x / (x + np.float32(2.0))
    q = u * u
    value = np.float32(1.0 / 15.0)
    value = value * q + np.float32(1.0 / 13.0)
    value = value * q + np.float32(1.0 / 11.0)
    value = value * q + np.float32(1.0 / 9.0)
    value = value * q + np.float32(1.0 / 7.0)
    value = value * q + np.float32(1.0 / 5.0)
    value = value * q + np.float32(1.0 / 3.0)
    value = value * q + np.float32(1.0)
    return np.float32(2.0) * u * value


@compiled(types.void(_ROWS, _ROW, types.float32, types.float32, _ROW, _ROW, _ROW, _ROW))
def squash(
    outputs: np.ndarray,
    noise: np.ndarray,
    low: float,
    half: float,
    action: np.ndarray,
    moved: np.ndarray,
    slope: np.ndarray,
    log_probability: np.ndarray,
) -> None:
    """Actions tanh(m + s e) (n na,) and their log-probabilities (n,); see `actor_critic.SquashedGaussian`.

    Args:
        outputs: m and raw (n, 2 na), of which log s = low + half (tanh(raw) + 1).
        noise: e (n na,).
        low: least log s.
        half: of the span of log s.
        action: where actions go.
        moved: where s e goes (n na,).
        slope: where the derivative of log s by raw goes (n na,).
        log_probability: where these go.
    """
    one, two = np.float32(1.0), np.float32(2.0)
    far = np.float32(40.0)
    constant = np.float32(2.0 * math.log(2.0) + 0.5 * math.log(2.0 * math.pi))
    count = outputs.shape[0]
    width = outputs.shape[1] // 2
    own = np.empty(noise.shape[0], np.float32)
    for i in range(count):
        for j in range(width):
            action[i * width + j] = outputs[i, j]
            slope[i * width + j] = outputs[i, width + j]
    for k in range(noise.shape[0]):
        e, raw = noise[k], slope[k]
        # tanh(x) = (1 - t) / (1 + t) of t = exp(-2 x), and 1 - tanh(x)^2 = 4 t / (1 + t)^2
        size = abs(raw)
        t = exp(-two * (far if size > far else size))  # what is no number stays so
        tanh = (one - t) / (one + t)
        log_std = low + half * (one + (tanh if raw > np.float32(0.0) else -tanh))
        slope[k] = half * np.float32(4.0) * t / ((one + t) * (one + t))
        moved[k] = exp(log_std) * e
        z = action[k] + moved[k]
        size = abs(z)
        t = exp(-two * (far if size > far else size))
        tanh = (one - t) / (one + t)
        action[k] = tanh if z > np.float32(0.0) else -tanh
        # log(1 - tanh(z)^2) = 2 (log 2 - |z| - log(1 + exp(-2 |z|))), without cancellation
        own[k] = two * (size + _log1p(t)) - log_std - np.float32(0.5) * e * e - constant
    for i in range(count):
        total = np.float32(0.0)
        for j in range(width):
            total += own[i * width + j]
        log_probability[i] = total


@compiled(types.void(_ROWS, _ROWS, _ROWS, _ROWS, types.float32, _ROWS))
def squash_back(
    by_action: np.ndarray, action: np.ndarray, moved: np.ndarray, slope: np.ndarray, each: float, out: np.ndarray
) -> None:
    """The gradient (n, 2 na) by a policy's outputs, where actions have `by_action` and log-probabilities `each`."""
    one, two = np.float32(1.0), np.float32(2.0)
    width = action.shape[1]
    for i in range(action.shape[0]):
        for j in range(width):
            a = action[i, j]
            by_z = by_action[i, j] * (one - a * a) + two * each * a
            out[i, j] = by_z
            out[i, width + j] = (by_z * moved[i, j] - each) * slope[i, j]
