"""Control sequences as splines: few knots, one control grid.

A sequence of H controls is `W k`, with k the values (K, nu) at K knots and W the basis (H, K):

    zero     K pieces of constant control, equal in length (within one step where K does not divide H)
    linear   straight lines between knots spread evenly from the first control to the last
    cubic    the natural cubic spline through the same knots

Rows of W sum to one, so equal knots are a constant control, and controls are sampled on the control grid itself.
"""

import functools
import math
from typing import Literal, get_args

import numpy as np
from scipy.interpolate import CubicSpline

Spline = Literal["zero", "linear", "cubic"]
KINDS: tuple[str, ...] = get_args(Spline)


def check(horizon: int, knots: int, kind: str) -> None:
    """Raises `ValueError` for a `kind` that is not known, or knots that do not fit in `horizon` control steps."""
    if kind not in KINDS:
        raise ValueError(f"unknown spline {kind!r}; known: {', '.join(KINDS)}")
    if not 1 <= knots <= horizon:
        raise ValueError(f"knots is {knots}; it must lie between 1 and the horizon of {horizon} steps")


@functools.lru_cache(maxsize=64)
def knot_steps(horizon: int, knots: int, kind: Spline) -> np.ndarray:
    """Where the knots lie, in control steps from the first control, (K,); for `zero`, the middle of each piece.

    Raises:
        ValueError: an unknown kind, or `knots` not between 1 and `horizon`.
    """
    check(horizon, knots, kind)
    if kind == "zero":
        steps = (np.arange(knots) + 0.5) * horizon / knots - 0.5
    else:
        steps = np.linspace(0.0, horizon - 1.0, knots)
    steps.flags.writeable = False
    return steps


@functools.lru_cache(maxsize=64)
def basis(horizon: int, knots: int, kind: Spline) -> np.ndarray:
    """The basis W (H, K), shared and read-only.

    Args:
        horizon: number of controls H.
        knots: their number K, from 1 to H.
        kind: `zero`, `linear` or `cubic`.

    Raises:
        ValueError: an unknown kind, or `knots` not between 1 and `horizon`.
    """
    at = knot_steps(horizon, knots, kind)
    steps = np.arange(horizon)
    if kind == "zero" or knots == 1:
        weights = np.zeros((horizon, knots))
        weights[steps, steps * knots // horizon] = 1.0
    elif kind == "linear":
        weights = np.stack([np.interp(steps, at, unit) for unit in np.eye(knots)], axis=1)
    else:
        weights = CubicSpline(at, np.eye(knots), bc_type="natural")(steps)
    weights = np.ascontiguousarray(weights)
    weights.flags.writeable = False
    return weights


def evaluate(horizon: int, knots: np.ndarray, kind: Spline, out: np.ndarray) -> None:
    """Writes the splines through `knots` (N, K, nu) to `out` (N, horizon, nu); both contiguous.

    Raises:
        ValueError: an unknown kind, or K not between 1 and `horizon`.
    """
    n, k, nu = knots.shape
    if nu <= 4:
        # One product instead of N small ones, whose overhead outweighs the zeros in it while controls are few.
        np.matmul(knots.reshape(n, k * nu), _flat_basis(horizon, k, nu, kind), out=out.reshape(n, horizon * nu))
    else:
        np.matmul(basis(horizon, k, kind), knots, out=out)


@functools.lru_cache(maxsize=64)
def _flat_basis(horizon: int, knots: int, nu: int, kind: Spline) -> np.ndarray:
    """The basis (K nu, H nu) of control sequences and knots laid out flat."""
    return np.ascontiguousarray(np.kron(basis(horizon, knots, kind), np.eye(nu)).T)


@functools.lru_cache(maxsize=64)
def projection(horizon: int, knots: int, kind: Spline) -> np.ndarray:
    """The least-squares inverse (K, H) of the basis: the knots whose spline is nearest to a control sequence."""
    inverse = np.linalg.pinv(basis(horizon, knots, kind))
    inverse.flags.writeable = False
    return inverse


def check_colour(exponent: float) -> None:
    """Raises `ValueError` for an exponent of coloured noise that is below zero or not finite."""
    if not (math.isfinite(exponent) and exponent >= 0.0):
        raise ValueError(f"colour is {exponent}; it must be finite and at least 0 (0 is white)")


def coloured(white: np.ndarray, exponent: float) -> np.ndarray:
    """White noise (K, ...) along K samples as noise with power 1/f^exponent, of the same variance.

    Fourier components are scaled by f^(-exponent/2) (Timmer and Koenig, 1995; the coloured noise of Pinneri et al.,
    2020). The mean counts as the lowest frequency.

    Raises:
        ValueError: the exponent is negative or not finite.
    """
    check_colour(exponent)
    count = len(white)
    frequency = np.abs(np.fft.fftfreq(count))
    frequency[0] = frequency[1] if count > 1 else 1.0
    amplitude = (frequency / frequency.min()) ** (-exponent / 2.0)
    amplitude /= np.sqrt(np.mean(amplitude**2))
    shaped = amplitude.reshape(-1, *(1,) * (white.ndim - 1))
    return np.ascontiguousarray(np.fft.ifft(shaped * np.fft.fft(white, axis=0), axis=0).real)


@functools.lru_cache(maxsize=64)
def colouring(knots: int, exponent: float) -> np.ndarray:
    """The matrix (K, K) that turns white noise along the knots into coloured noise; see `coloured`.

    Raises:
        ValueError: a negative exponent.
    """
    matrix = coloured(np.eye(knots), exponent)
    matrix.flags.writeable = False
    return matrix
