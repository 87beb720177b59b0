"""Passes of one member of an ensemble through all its layers and back, and its steps, in native code (numba).

They are without Python's lock from beginning to end: threads that meet at it between one product and the next lose what
they are there for. Products are BLAS's by way of SciPy. Arrays are C-contiguous float32, or int64 where they count;
sums over rows are taken in float64. The derivatives are those of `member_parts.py`.
"""

import math
from typing import NamedTuple

import numpy as np

from ..sim.jit import compiled, inline, inline_relaxed
from .kernels import ADAM_EPS, ADAM_MEANS, ADAM_SQUARES, logistic, summed

SILU, RELU, TANH = range(3)
"""Activations."""

INPUTS, OUTPUTS, WEIGHT, BIAS = range(4)
"""What `Member.places` has of a layer: its width below and above, and where its arrays begin."""

_LOGARITHMS = 8
"""Variances of which one logarithm is taken: of eight normal float32 the product is a normal float64."""


class Member(NamedTuple):
    """One member, and its Adam.

    Attributes:
        flat: all parameters: weights, biases, and the lower and the upper bounds of log-variances, if there are any.
        grad: where their gradient goes (P,).
        means: Adam's averages of gradients (P,).
        squares: and of their squares (P,).
        places: where the layers' arrays are (L, 4).
        decayed: how many of the first numbers decay.
        bounds: where the lower and the upper begin (2,), (0,) without.
        activation: between layers.
        rate: of learning.
        decay: of weights.
    """

    flat: np.ndarray
    grad: np.ndarray
    means: np.ndarray
    squares: np.ndarray
    places: np.ndarray
    decayed: int
    bounds: np.ndarray
    activation: int
    rate: float
    decay: float


class NativeRoom(NamedTuple):
    """What a pass leaves: inputs, what is wanted, of each layer units and slopes, and gradients of two layers.

    Attributes:
        x: inputs (n di,).
        t: outputs that are wanted (n do,).
        begins: where the layers' rows begin in `h`, for one row (L,).
        h: units (n times the sum of widths,).
        slopes: of the activations, likewise.
        g: of two layers that follow each other one is made of the other: these take turns (2, n times the widest).
    """

    x: np.ndarray
    t: np.ndarray
    begins: np.ndarray
    h: np.ndarray
    slopes: np.ndarray
    g: np.ndarray


def room_for(inputs: int, widths: list[int], outputs: int, rows: int) -> NativeRoom:
    """Room for passes of up to so many rows through layers of these widths, by `outputs` that are wanted."""
    x, t, h, slopes = (np.empty(rows * size, np.float32) for size in (inputs, outputs, sum(widths), sum(widths)))
    begins = np.append(0, np.cumsum(widths)[:-1])
    return NativeRoom(x, t, begins, h, slopes, np.empty((2, rows * max(widths)), np.float32))


@inline
def _gather(data: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Rows `index` (n,) of `data` (N, width) to `out` (n, width)."""
    for i in range(len(index)):
        for j in range(data.shape[1]):
            out[i, j] = data[index[i], j]


@inline
def _add(z: np.ndarray, bias: np.ndarray) -> None:
    """Adds `bias` (width,) to the rows `z` (n, width)."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] += bias[j]


# What takes an exponential is done on all numbers in one loop: of rows' ends, eight are not taken at once.


@inline_relaxed
def _activate(z: np.ndarray, slope: np.ndarray, kind: int) -> None:
    """From `z` (n,) to f(z), in place; leaves f' in `slope` (n,)."""
    one, two, zero = np.float32(1.0), np.float32(2.0), np.float32(0.0)
    if kind == SILU:
        for i in range(z.shape[0]):
            value = z[i]
            share = logistic(value)
            h = value * share
            z[i] = h
            slope[i] = share + h * (one - share)
    elif kind == TANH:
        for i in range(z.shape[0]):  # to float32's digits of 1, not of h: near 0 there is more noise than that in z
            h = two * logistic(two * z[i]) - one
            z[i] = h
            slope[i] = one - h * h
    else:
        for i in range(z.shape[0]):
            value = z[i]
            z[i] = zero if value < zero else value
            slope[i] = one if value > zero else zero


@inline
def _through(g: np.ndarray, slope: np.ndarray, by_bias: np.ndarray) -> None:
    """The gradient `g` (n, width) by f becomes that by z, in place; its sum over rows is that by the bias (width,)."""
    total = np.zeros(by_bias.size)
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            value = g[i, j] * slope[i, j]
            g[i, j] = value
            total[j] += value
    by_bias[:] = total


@inline
def _squared_error(out: np.ndarray, wanted: np.ndarray, each: float, g: np.ndarray) -> float:
    """Half the squared error, times `each`, of outputs (n, d); leaves its gradient in `g`."""
    loss = 0.0
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            error = out[i, j] - wanted[i, j]
            g[i, j] = error * np.float32(each)
            loss += error * error
    return 0.5 * each * loss


@inline_relaxed
def _share(x: np.ndarray) -> None:
    """The logistic function of `x` (n,), in place."""
    for i in range(x.shape[0]):
        x[i] = logistic(x[i])


@inline
def _negative_log_likelihood(
    out: np.ndarray,
    wanted: np.ndarray,
    least: np.ndarray,
    most: np.ndarray,
    each: float,
    g: np.ndarray,
    by_least: np.ndarray,
    by_most: np.ndarray,
) -> float:
    """Of what is `wanted` (n, d), times `each`, by a network's outputs (n, 2 d) and the bounds of its log-variances.

    Args:
        out: means, and raw log-variances.
        wanted: what they are of.
        least: the lower bounds (d,).
        most: the upper bounds (d,).
        each: what a number counts for.
        g: where the gradient by `out` goes.
        by_least: where the gradient by the lower bounds goes (d,).
        by_most: where that by the upper bounds goes (d,).
    """
    one, half, weight, width = np.float32(1.0), np.float32(0.5 * each), np.float32(each), wanted.shape[1]
    lower, upper = np.exp(least), np.exp(most)
    shares = np.empty((out.shape[0], width), np.float32)
    for i in range(out.shape[0]):
        for j in range(width):
            shares[i, j] = out[i, width + j] - most[j]
    _share(shares.reshape(-1))
    variance, square, by_variance, along = np.empty((4, width), np.float32)
    sums, loss = np.zeros((2, width)), 0.0
    for i in range(out.shape[0]):
        for j in range(width):  # without sums, so that eight are taken at once
            share = shares[i, j]
            above = upper[j] * share
            v = lower[j] + above
            error = out[i, j] - wanted[i, j]
            scaled = error / v
            squared = error * scaled
            by_v = (one - squared) * half / v
            by_share = by_v * above  # by the logarithm of what is above the lower bound
            g[i, j] = scaled * weight
            g[i, width + j] = by_share * (one - share)
            variance[j], square[j], by_variance[j], along[j] = v, squared, by_v, by_share * share
        for j in range(width):
            sums[0, j] += by_variance[j]
            sums[1, j] += along[j]
        for begin in range(0, width, _LOGARITHMS):
            product = 1.0
            for j in range(begin, min(begin + _LOGARITHMS, width)):
                product *= variance[j]
                loss += square[j]
            loss += math.log(product)
    by_least[:], by_most[:] = sums[0] * lower, sums[1]
    return 0.5 * each * (loss + out.shape[0] * width * math.log(2.0 * math.pi))


@inline
def _forward(own: Member, room: NativeRoom, x: np.ndarray) -> np.ndarray:
    """Outputs (n, width) of inputs (n, di)."""
    below, last = x, len(own.places) - 1
    for k in range(last + 1):
        z = _units(own, room, room.h, k, len(x))
        np.dot(below, _weight(own, own.flat, k), z)
        _add(z, _bias(own, own.flat, k))
        if k < last:
            slope = _units(own, room, room.slopes, k, len(x))
            _activate(z.reshape(-1), slope.reshape(-1), own.activation)
        below = z
    return below


@inline
def _loss(own: Member, out: np.ndarray, t: np.ndarray, rows: int, g: np.ndarray, grad: np.ndarray) -> float:
    """The loss by outputs; leaves its gradient by them in `g`, by the last bias and the bounds in `grad`."""
    last, width, each = len(own.places) - 1, t.shape[1], 1.0 / (rows * t.shape[1])
    if len(own.bounds) == 0:
        found = _squared_error(out, t, each, g)
    else:
        low, high = own.bounds[0], own.bounds[1]
        least, most = own.flat[low : low + width], own.flat[high : high + width]
        by_least, by_most = grad[low : low + width], grad[high : high + width]
        found = _negative_log_likelihood(out, t, least, most, each, g, by_least, by_most)
    summed(g, _bias(own, grad, last))
    return found


@inline
def _weight(own: Member, flat: np.ndarray, k: int) -> np.ndarray:
    """Layer k's (in, out) in parameters or gradient."""
    begin, a, b = own.places[k, WEIGHT], own.places[k, INPUTS], own.places[k, OUTPUTS]
    return flat[begin : begin + a * b].reshape(a, b)


@inline
def _bias(own: Member, flat: np.ndarray, k: int) -> np.ndarray:
    """Layer k's bias (out,) in parameters or gradient."""
    begin = own.places[k, BIAS]
    return flat[begin : begin + own.places[k, OUTPUTS]]


@inline
def _units(own: Member, room: NativeRoom, kept: np.ndarray, k: int, n: int) -> np.ndarray:
    """Layer k's rows (n, out) in `h` or `slopes`."""
    width, begin = own.places[k, OUTPUTS], room.begins[k] * n
    return kept[begin : begin + n * width].reshape(n, width)


@inline
def _gradient(own: Member, room: NativeRoom, k: int, n: int) -> np.ndarray:
    """Where the gradient by layer k's rows goes (n, out)."""
    width = own.places[k, OUTPUTS]
    return room.g[k % 2][: n * width].reshape(n, width)


@inline
def _adam(own: Member, begin: int, end: int, decay: float, count: float) -> None:
    """Adam's step number `count` for the parameters from number `begin` to `end`; see `adam.py`."""
    first, second = np.float32(1.0 - ADAM_MEANS), np.float32(1.0 - ADAM_SQUARES)
    eps, decays = np.float32(ADAM_EPS), np.float32(decay)
    rate = np.float32(own.rate / (1.0 - ADAM_MEANS**count))
    scale = np.float32(1.0 / math.sqrt(1.0 - ADAM_SQUARES**count))
    flat, grad, means, squares = own.flat[begin:end], own.grad[begin:end], own.means[begin:end], own.squares[begin:end]
    for i in range(flat.size):
        g = grad[i] + decays * flat[i]
        mean = means[i] + first * (g - means[i])
        square = squares[i] + second * (g * g - squares[i])
        means[i] = mean
        squares[i] = square
        flat[i] -= rate * mean / (np.sqrt(square) * scale + eps)


@inline
def _step(own: Member, begin: int, end: int, count: float) -> None:
    """Adam's step for the parameters from number `begin` to `end`, of which the first ones may decay."""
    middle = max(begin, min(end, own.decayed))
    _adam(own, begin, middle, own.decay, count)
    _adam(own, middle, end, 0.0, count)


@compiled()
def descend(
    own: Member,
    room: NativeRoom,
    data: np.ndarray,
    wanted: np.ndarray,
    index: np.ndarray,
    rows: int,
    spread: float,
    count: float,
) -> float:
    """The loss on some rows, whose gradient goes to `grad`; takes Adam's step.

    Args:
        own: the member.
        room: for what is on the way.
        data: inputs (N, di).
        wanted: outputs (N, do).
        index: which of them (n,).
        rows: of how many the loss is the mean.
        spread: what the distance of the bounds counts for, of each output.
        count: the number of Adam's step, 0 if none is to be taken.
    """
    n, last = len(index), len(own.places) - 1
    if n == 0:
        own.grad[:] = 0.0
        return 0.0
    x = room.x[: n * data.shape[1]].reshape(n, data.shape[1])
    t = room.t[: n * wanted.shape[1]].reshape(n, wanted.shape[1])
    _gather(data, index, x)
    _gather(wanted, index, t)
    out = _forward(own, room, x)
    g = _gradient(own, room, last, n)
    loss = _loss(own, out, t, rows, g, own.grad)
    for i in range(len(own.bounds)):
        begin, sign = own.bounds[i], np.float32(-spread if i == 0 else spread)
        own.grad[begin : begin + t.shape[1]] += sign
    for k in range(last, -1, -1):
        below = _units(own, room, room.h, k - 1, n) if k > 0 else x
        np.dot(below.T, g, _weight(own, own.grad, k))
        if k > 0:
            by = _gradient(own, room, k - 1, n)
            np.dot(g, _weight(own, own.flat, k).T, by)
            _through(by, _units(own, room, room.slopes, k - 1, n), _bias(own, own.grad, k - 1))
            g = by
        if count > 0.0:  # while the processor's caches have the gradient
            begin = own.places[k, WEIGHT]
            _step(own, begin, begin + own.places[k, INPUTS] * own.places[k, OUTPUTS], count)
    if count > 0.0:
        _step(own, own.places[0, BIAS], len(own.flat), count)
    return loss


@compiled()
def mean_loss(own: Member, room: NativeRoom, x: np.ndarray, t: np.ndarray, rows: int) -> float:
    """The loss on all rows of inputs (n, di) and outputs (n, do); see `descend`."""
    n = len(x)
    if n == 0:
        return 0.0
    out = _forward(own, room, x)
    unread = np.empty_like(own.flat)
    return _loss(own, out, t, rows, _gradient(own, room, len(own.places) - 1, n), unread)


@compiled()
def join(own: Member, other: np.ndarray, begin: int, end: int, count: float) -> None:
    """Adds `other` (P,), the gradient by other rows, from number `begin` to `end`, and takes the step there."""
    for i in range(begin, end):
        own.grad[i] += other[i]
    if count > 0.0:
        _step(own, begin, end, count)
