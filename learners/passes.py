"""Passes of one member of `perceptrons.py` through all its layers, in native code (numba).

They are without Python's lock from beginning to end: threads that meet at it between one product and the next lose
more than these take. Products are BLAS's by way of SciPy. Arrays are C-contiguous, of float32, numbers of rows and
places of int64. What is between the products is in `kernels.py`, the gradients are those of `perceptrons.py`.
"""

from typing import NamedTuple

import numpy as np

from ..sim.jit import compiled, inline
from . import kernels

INPUTS, OUTPUTS, WEIGHT, BIAS, SCALE, SHIFT = range(6)
"""What `Pass.places` has of a layer: its width below and above, and where its arrays begin, -1 if there is none."""

ALL, FIRST, ALONG, ACROSS = range(4)
"""How far a way back goes: all of it, or what comes `FIRST` and then, in two threads, `ALONG` layers and `ACROSS`."""


class Pass(NamedTuple):
    """One member, and what a pass of n rows leaves.

    Attributes:
        flat: all weights (P,).
        places: where those of each layer are (L, 6).
        begins: where the rows of each hidden layer begin in the next three, and the last ends (L,).
        h, x, g: hidden units, what is normalised, gradients by z.
        inverse: one by the deviations of rows (L - 1, n); (L - 1, 0) where nothing is normalised.
        rows: their numbers, 0 to n - 1.
    """

    flat: np.ndarray
    places: np.ndarray
    begins: np.ndarray
    h: np.ndarray
    x: np.ndarray
    g: np.ndarray
    inverse: np.ndarray
    rows: np.ndarray


def begin(flat: np.ndarray, places: np.ndarray, rows: int) -> Pass:
    """Room for passes of so many rows."""
    begins = np.append(0, np.cumsum(places[:-1, OUTPUTS] * rows))
    normalised = rows if places[0, SCALE] >= 0 else 0
    h, g = np.empty((2, begins[-1]), np.float32)
    x = np.empty(begins[-1] if normalised else 0, np.float32)
    inverse = np.empty((len(places) - 1, normalised), np.float32)
    return Pass(flat, places, begins, h, x, g, inverse, np.arange(rows))


@compiled()
def forward(own: Pass, inputs: np.ndarray, out: np.ndarray) -> None:
    """From inputs (n, inputs) to outputs (n, outputs)."""
    below, last, count = inputs, len(own.places) - 1, len(inputs)
    for k in range(last):
        z, bias = _rows(own, own.h, k, count), _units(own, own.flat, k, BIAS)
        np.dot(below, _weight(own, own.flat, k), z)
        if own.places[k, SCALE] >= 0:
            scale, shift = _units(own, own.flat, k, SCALE), _units(own, own.flat, k, SHIFT)
            kernels.normalise(z, bias, scale, shift, _rows(own, own.x, k, count), own.inverse[k])
        else:
            kernels.rectify(z, bias)
        below = z
    weight = _weight(own, own.flat, last)
    if out.shape[1] == 1:
        kernels.to_one(below, weight, out)
    else:
        np.dot(below, weight, out)
    out += _units(own, own.flat, last, BIAS)


@compiled()
def back(own: Pass, inputs: np.ndarray, by_out: np.ndarray, grad: np.ndarray, far: int) -> None:
    """Leaves in `grad` (P,) the gradient by weights, where outputs have `by_out` (n, outputs); see `ALL` for `far`."""
    last, count, above = len(own.places) - 1, len(inputs), by_out
    for k in range(last, -1, -1):
        if k < last:
            above = _rows(own, own.g, k, count)
        # The two last layers' own gradients need nothing of what is done along: they are done across.
        if far == ALL or far == (ACROSS if 0 < k >= last - 1 else ALONG):
            below, by = _rows(own, own.h, k - 1, count) if k > 0 else inputs, _weight(own, grad, k)
            if by.shape[1] == 1:
                kernels.by_one(above, below, by)
            else:
                np.dot(below.T, above, by)
            if k == last:
                kernels.summed(above, _units(own, grad, k, BIAS))
        if k > 0 and (far == ALL or far == (FIRST if k == last else ALONG)):
            g = _through(own, k, above, own.rows)
            if own.places[k - 1, SCALE] >= 0:
                kernels.summed(g, _units(own, grad, k - 1, SHIFT))
                kernels.by_scale(g, _rows(own, own.x, k - 1, count), _units(own, grad, k - 1, SCALE))
                _unscale(own, k - 1, g, own.rows)
            kernels.summed(g, _units(own, grad, k - 1, BIAS))


@compiled()
def fit(
    own: Pass, inputs: np.ndarray, out: np.ndarray, chosen: np.ndarray, wanted: np.ndarray, grad: np.ndarray
) -> None:
    """`forward` and `back`, for half the mean squared error of outputs `chosen` (n,) against what is `wanted` (n,)."""
    forward(own, inputs, out)
    by_out, each = np.zeros_like(out), np.float32(1.0) / np.float32(len(out))
    for i in range(len(out)):
        by_out[i, chosen[i]] = (out[i, chosen[i]] - wanted[i]) * each
    back(own, inputs, by_out, grad, ALL)


@compiled()
def by_inputs(own: Pass, by_out: np.ndarray, rows: np.ndarray, found: np.ndarray) -> None:
    """Leaves in m `rows` of `found` (n, i) the gradient by the last i inputs, with `by_out` (n, outputs) by outputs."""
    if not len(rows):
        return
    above = np.empty((len(rows), by_out.shape[1]), np.float32)
    for i in range(len(rows)):
        above[i] = by_out[rows[i]]
    for k in range(len(own.places) - 1, 0, -1):
        above = _through(own, k, above, rows)
        if own.places[k - 1, SCALE] >= 0:
            _unscale(own, k - 1, above, rows)
    first = own.places[0, INPUTS] - found.shape[1]
    by_x = np.dot(above, _weight(own, own.flat, 0)[first:].T)
    for i in range(len(rows)):
        found[rows[i]] = by_x[i]


def prepare() -> None:
    """Compiles what there is, unless that was kept from another time."""
    places = np.array([[1, 1, 0, 1, -1, -1], [1, 1, 2, 3, -1, -1]])
    flat, grad, rows = np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros((1, 1), np.float32)
    own = begin(flat, places, 1)
    forward(own, rows, rows)
    fit(own, rows, rows, np.zeros(1, np.int64), flat[:1], grad)
    back(own, rows, rows, grad, ALL)
    by_inputs(own, rows, own.rows, rows)


@inline
def _weight(own: Pass, flat: np.ndarray, k: int) -> np.ndarray:
    """Layer k's (in, out) in weights or gradient."""
    begin, a, b = own.places[k, WEIGHT], own.places[k, INPUTS], own.places[k, OUTPUTS]
    return flat[begin : begin + a * b].reshape(a, b)


@inline
def _units(own: Pass, flat: np.ndarray, k: int, which: int) -> np.ndarray:
    """Layer k's bias, scale or shift (out,) in weights or gradient."""
    begin = own.places[k, which]
    return flat[begin : begin + own.places[k, OUTPUTS]]


@inline
def _rows(own: Pass, room: np.ndarray, k: int, count: int) -> np.ndarray:
    """The first of layer k's rows (count, out) in `h`, `x` or `g`."""
    width, begin = own.places[k, OUTPUTS], own.begins[k]
    return room[begin : begin + count * width].reshape(count, width)


@inline
def _through(own: Pass, k: int, above: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """From the gradient `above` (m, out) by what leaves layer k to that by what its rectifier is told, for m `rows`."""
    below, weight = _rows(own, own.g, k - 1, len(rows)), _weight(own, own.flat, k)
    if weight.shape[1] == 1:
        kernels.from_one(above, weight, below)
    else:
        np.dot(above, weight.T, below)
    kernels.rectified(below, _rows(own, own.h, k - 1, len(own.rows)), rows)
    return below


@inline
def _unscale(own: Pass, k: int, g: np.ndarray, rows: np.ndarray) -> None:
    """The way back through layer k's normalisation, in place."""
    x, scale = _rows(own, own.x, k, len(own.rows)), _units(own, own.flat, k, SCALE)
    kernels.normalised(g, x, own.inverse[k], scale, rows)
