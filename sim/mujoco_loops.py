"""Loops that call MuJoCo for each physics step, in native code (numba), without Python's lock.

A physics step of a small robot takes less time than a line of Python: loops in Python would not scale beyond one core.
Imported when first used, for numba takes a second to load.
"""

import ctypes
import functools
import pathlib
from typing import Any

import mujoco
import numpy as np
from numba import njit, types

from .jit import compiled

_STEP = types.void(types.int64, types.int64)
_STATE = types.void(
    types.int64, types.int64, types.int64, types.int64
)  # of an int, which is passed in a register of 64 bits
_BETWEEN = types.void(types.int64, types.int64, types.float64, types.int64, types.int64)
_ALONG = types.void(types.int64, types.int64, types.int64, types.float64)


class _Call(types.WrapperAddressProtocol):
    """A function of MuJoCo's library, as numba calls it: of addresses."""

    def __init__(self, library: ctypes.CDLL, name: str, kind: Any) -> None:
        self._address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
        self._kind = kind

    def __wrapper_address__(self) -> int:
        return self._address

    def signature(self) -> Any:
        return self._kind


def library_path() -> pathlib.Path:
    """Of MuJoCo's library, the one that the bindings have loaded: loading it again gives the same."""
    folder = pathlib.Path(mujoco.__file__).parent
    names = (f"libmujoco.so.{mujoco.__version__}", f"libmujoco.{mujoco.__version__}.dylib", "mujoco.dll")
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise RuntimeError(f"no MuJoCo library in {folder}; looked for {', '.join(names)}")
    return found[0]


@functools.cache
def library() -> tuple[_Call, ...]:
    """`mj_step`, `mj_step1`, `mj_setState`, `mj_getState`, `mj_differentiatePos`, `mj_integratePos`."""
    library = ctypes.CDLL(str(library_path()))
    kinds = {
        "mj_step": _STEP,
        "mj_step1": _STEP,
        "mj_setState": _STATE,
        "mj_getState": _STATE,
        "mj_differentiatePos": _BETWEEN,
        "mj_integratePos": _ALONG,
    }
    return tuple(_Call(library, name, kind) for name, kind in kinds.items())


_FUNCTIONS = tuple(types.FunctionType(kind) for kind in (_STEP, _STEP, _STATE, _STATE, _BETWEEN, _ALONG))
_ROW, _ROWS, _STACK = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_INT = types.int64


@njit(inline="always")
def _address(array):  # type: ignore[no-untyped-def]
    """Where a contiguous array's numbers begin, as MuJoCo's functions take it."""
    return np.int64(array.ctypes.data)


@njit(inline="always")
def _copy(target, source):  # type: ignore[no-untyped-def]
    """`target[:] = source` of contiguous rows; numba takes seconds to compile the assignment of arrays."""
    for i in range(source.size):
        target[i] = source[i]


@njit(inline="always")
def _between(differentiate, m, simple, nq, nv, na, x, other, dx):  # type: ignore[no-untyped-def]
    """Writes the tangent vector from `other` to `x` (nx,), both contiguous, to `dx` (n,)."""
    if simple:
        for i in range(nv):
            dx[i] = x[1 + i] - other[1 + i]
    else:
        differentiate(m, _address(dx), 1.0, _address(other) + 8, _address(x) + 8)
    for i in range(nv + na):
        dx[nv + i] = x[1 + nq + i] - other[1 + nq + i]


@compiled(
    types.void(
        *_FUNCTIONS, _INT, _INT, types.boolean, types.UniTuple(_INT, 4), _INT,
        _ROW, _ROW, _ROWS, _ROWS, _ROWS, _STACK, types.float64, _ROWS, _ROWS, _ROWS, _ROWS, _ROW,
    ),
)  # fmt: skip
def follow(  # type: ignore[no-untyped-def]
    step, step1, set_state, get_state, differentiate, integrate, m, d, simple, sizes, substeps,
    ctrl, begin, x, u, feedforward, feedback, size, limits, states, controls, sensors, sensordata,
):  # fmt: skip
    """Rolls out one policy: fills `states` (H+1, nx), `controls` (H, nu), `sensors` (H+1, ns)."""
    nq, nv, na, signature = sizes
    horizon, nu = u.shape
    dx = np.empty(2 * nv + na)
    set_state(m, d, _address(begin), signature)
    for k in range(horizon):
        _copy(states[k], begin)  # for what is no part of MuJoCo's own state
        get_state(m, d, _address(states[k]), signature)
        _between(differentiate, m, simple, nq, nv, na, states[k], x[k], dx)
        for i in range(nu):
            value = u[k, i] + size * feedforward[k, i]
            for j in range(dx.size):
                value += feedback[k, i, j] * dx[j]
            controls[k, i] = min(max(value, limits[0, i]), limits[1, i])
            ctrl[i] = controls[k, i]
        step(m, d)
        _copy(sensors[k], sensordata)  # a sensor is evaluated at the state before its step
        for _ in range(substeps - 1):
            step(m, d)
    _copy(states[horizon], begin)
    get_state(m, d, _address(states[horizon]), signature)
    step1(m, d)
    _copy(sensors[horizon], sensordata)


@compiled(
    types.void(
        *_FUNCTIONS, _INT, _INT, types.boolean, types.UniTuple(_INT, 4), _INT, types.float64,
        _ROW, _ROW, _ROW, _ROW, _ROWS, _ROWS, _ROWS, _STACK, _STACK, _STACK, _ROW,
    ),
)  # fmt: skip
def differences(  # type: ignore[no-untyped-def]
    step, step1, set_state, get_state, differentiate, integrate, m, d, simple, sizes, substeps, epsilon,
    qpos, qvel, act, ctrl, limits, x, u, A, B, C, sensordata,
):  # fmt: skip
    """Fills A (k, n, n), B (k, n, nu) and the sensors' C (k, ns, n) at states `x` (k, nx) and controls `u` (k, nu)."""
    nq, nv, na, signature = sizes
    n, nu = 2 * nv + na, u.shape[1]
    after, moved = np.empty(x.shape[1]), np.empty(x.shape[1])
    dx, unit = np.empty(n), np.zeros(nv)
    sensed = np.empty(sensordata.size)
    for k in range(len(u)):
        for column in range(-1, n + nu):
            set_state(m, d, _address(x[k]), signature)
            _copy(ctrl, u[k])
            size = epsilon
            if 0 <= column < nv:
                unit[column] = 1.0
                integrate(m, _address(qpos), _address(unit), epsilon)
                unit[column] = 0.0
            elif nv <= column < 2 * nv:
                qvel[column - nv] += epsilon
            elif 2 * nv <= column < n:
                act[column - 2 * nv] += epsilon
            elif column >= n:
                i = column - n
                if u[k, i] + epsilon > limits[1, i]:
                    size = -epsilon
                ctrl[i] += size
            step(m, d)
            if column < 0:
                _copy(sensed, sensordata)
            elif column < n:
                for i in range(sensordata.size):
                    C[k, i, column] = (sensordata[i] - sensed[i]) / size
            for _ in range(substeps - 1):
                step(m, d)
            if column < 0:
                get_state(m, d, _address(after), signature)
                continue
            get_state(m, d, _address(moved), signature)
            _between(differentiate, m, simple, nq, nv, na, moved, after, dx)
            if column < n:
                for i in range(n):
                    A[k, i, column] = dx[i] / size
            else:
                for i in range(n):
                    B[k, i, column - n] = dx[i] / size
