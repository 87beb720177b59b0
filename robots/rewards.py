"""dm_control's building block for rewards: 1 within bounds, falling off smoothly within a margin."""

import math

import numpy as np

from .arrays import Array, namespace


def tolerance(
    x: Array,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Array:
    """1 where `x` lies within `bounds`, else a sigmoid of its distance to them, (...) -> (...).

    The sigmoid has the value `value_at_margin` at the distance `margin`; a margin of 0 gives an indicator. The
    functions are those of `dm_control.utils.rewards.tolerance`, here for every kind of array.

    Raises:
        KeyError: an unknown sigmoid; the known ones are `gaussian`, `linear`, `quadratic`, `long_tail`, `cosine`,
            `hyperbolic`, `reciprocal` and `tanh_squared`.
    """
    xp = namespace(x)
    lower, upper = bounds
    if margin == 0.0:
        return xp.where((x >= lower) & (x <= upper), 1.0, 0.0)
    if lower == upper:
        distance = abs(x - lower) if lower else abs(x)
    elif upper == math.inf:
        distance = xp.clip(lower - x, 0.0, None) if xp is not np else np.maximum(lower - x, 0.0)
    else:
        distance = xp.where(x < lower, lower - x, xp.where(x > upper, x - upper, 0.0 * x))
    return _SIGMOIDS[sigmoid](xp, distance / margin, value_at_margin)


def _gaussian(xp, d, v):
    return xp.exp(math.log(v) * (d * d))


def _linear(xp, d, v):
    return _zero_past_one(xp, (1.0 - v) * d, lambda s: 1.0 - s)


def _quadratic(xp, d, v):
    return _zero_past_one(xp, math.sqrt(1.0 - v) * d, lambda s: 1.0 - s * s)


def _cosine(xp, d, v):
    return _zero_past_one(xp, math.acos(2.0 * v - 1.0) / math.pi * d, lambda s: (1.0 + xp.cos(math.pi * s)) / 2.0)


def _zero_past_one(xp, s, f):
    return xp.where(abs(s) < 1.0, f(s), 0.0 * s)


def _long_tail(xp, d, v):
    return 1.0 / (d * d * (1.0 / v - 1.0) + 1.0)


def _reciprocal(xp, d, v):
    return 1.0 / (d * (1.0 / v - 1.0) + 1.0)


def _hyperbolic(xp, d, v):
    return 1.0 / xp.cosh(math.acosh(1.0 / v) * d)


def _tanh_squared(xp, d, v):
    return 1.0 - xp.tanh(math.atanh(math.sqrt(1.0 - v)) * d) ** 2


_SIGMOIDS = {
    "gaussian": _gaussian,
    "linear": _linear,
    "quadratic": _quadratic,
    "cosine": _cosine,
    "long_tail": _long_tail,
    "reciprocal": _reciprocal,
    "hyperbolic": _hyperbolic,
    "tanh_squared": _tanh_squared,
}
