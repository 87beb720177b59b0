"""What the residuals of planners' terms share: a cost made of a reward, and capped measures."""

from collections.abc import Callable

import numpy as np

from .arrays import Array, namespace
from .layout import View


def column(x: Array) -> Array:
    """A number as a residual of one entry, (...) -> (..., 1)."""
    return x.reshape((*x.shape, 1))


def missing(score: Callable[[View, Array], Array]) -> Callable[[View, Array, Array], Array]:
    """The residual (..., 1) of what the reward `score` lacks to 1."""

    def residual(y: View, u: Array, t: Array) -> Array:
        return column(1.0 - score(y, u))

    return residual


def capped(x: Array, lower: float, upper: float) -> Array:
    """`x` within `lower` and `upper`, (...) -> (...): beyond its cap a shaping term competes with nothing."""
    return np.minimum(np.maximum(x, lower), upper) if namespace(x) is np else x.clamp(lower, upper)
