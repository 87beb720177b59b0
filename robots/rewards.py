"""dm_control's building block for rewards: 1 within bounds, falling off smoothly within a margin."""

import math
from collections.abc import Callable
from types import ModuleType

from .arrays import Array, indicator, namespace, positive
from .plugins import UnknownName


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
        UnknownName: an unknown sigmoid; the known ones are `gaussian`, `linear`, `quadratic`, `long_tail`, `cosine`,
            `hyperbolic`, `reciprocal` and `tanh_squared`.
        ValueError: bounds in the wrong order, a negative margin, or a value at the margin outside (0, 1), or [0, 1)
            for `linear`, `quadratic` and `cosine`.
    """
    lower, upper = bounds
    if lower > upper:
        raise ValueError(f"the lower bound {lower:g} is above the upper bound {upper:g}")
    if margin < 0.0:
        raise ValueError(f"a margin is not negative, as {margin:g} is")
    if margin == 0.0 or (lower == -math.inf and upper == math.inf):
        xp = namespace(x)
        return indicator(xp.logical_and(x >= lower, x <= upper), x)
    if sigmoid not in _SIGMOIDS:
        raise UnknownName("sigmoid", sigmoid, _SIGMOIDS)
    if not (0.0 < value_at_margin < 1.0 or (value_at_margin == 0.0 and sigmoid in _REACHING_ZERO)):
        raise ValueError(
            f"the value at the margin of a {sigmoid} sigmoid is not within 0 and 1, as {value_at_margin:g}"
        )
    return _SIGMOIDS[sigmoid](namespace(x), _distance(x, lower, upper), margin, value_at_margin)


def _distance(x: Array, lower: float, upper: float) -> Array:
    """How far `x` is outside the bounds, at least 0."""
    if lower == upper:
        return abs(x - lower) if lower else abs(x)
    if upper == math.inf:
        return positive(lower - x)
    if lower == -math.inf:
        return positive(x - upper)
    return positive(namespace(x).maximum(lower - x, x - upper))


# Each takes (array module, distance d >= 0, margin m, value v at the margin); the scales are folded into one factor.


def _gaussian(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    return xp.exp((math.log(v) / (m * m)) * (d * d))


def _linear(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    return positive(1.0 - ((1.0 - v) / m) * d)


def _quadratic(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    return positive(1.0 - ((1.0 - v) / (m * m)) * (d * d))


def _cosine(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    s = math.pi - positive(math.pi - (math.acos(2.0 * v - 1.0) / m) * d)  # at most pi, where the cosine is -1
    return 0.5 + 0.5 * xp.cos(s)


def _long_tail(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    return 1.0 / (((1.0 / v - 1.0) / (m * m)) * (d * d) + 1.0)


def _reciprocal(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    return 1.0 / (((1.0 / v - 1.0) / m) * d + 1.0)


def _hyperbolic(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    s = xp.exp((-math.acosh(1.0 / v) / m) * d)  # 1 / cosh of the exponent, without overflow far away
    return 2.0 * s / (1.0 + s * s)


def _tanh_squared(xp: ModuleType, d: Array, m: float, v: float) -> Array:
    s = xp.tanh((math.atanh(math.sqrt(1.0 - v)) / m) * d)
    return 1.0 - s * s


_SIGMOIDS: dict[str, Callable[[ModuleType, Array, float, float], Array]] = {
    "gaussian": _gaussian,
    "linear": _linear,
    "quadratic": _quadratic,
    "cosine": _cosine,
    "long_tail": _long_tail,
    "reciprocal": _reciprocal,
    "hyperbolic": _hyperbolic,
    "tanh_squared": _tanh_squared,
}
_REACHING_ZERO = ("linear", "quadratic", "cosine")
