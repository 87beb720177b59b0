"""Copies of a `mujoco` plant, stepped in batch by native code on threads that hold no lock of Python's.

Each copy keeps a `MjData` of its own, poses computed, as `Compiled` does: a control step is then what MuJoCo's
`mj_step2` has yet to do of the first physics step, the others, and `mj_step1`, which computes the readings. That is as
much work as the physics steps alone, where `mj_step` would begin by computing the poses again. `mujoco.rollout` would
not do: it does not give back the solver's warm start, on which the last bit of what follows depends.

Imported when first used, for numba takes a second to load.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import llvmlite.binding
import mujoco
import numpy as np
from numba import types
from numba.core import typing

from ..robots.task import Task
from .compiled import DIVERGED, PHYSICS, Compiled, check_divergence
from .copies import check_controls, check_states, not_begun
from .interface import SimulationError, State, available_cores, full_state
from .jit import compiled
from .mujoco_loops import library_path

_FAULTS = tuple(int(warning) for warning, _ in DIVERGED)
_PHYSICS = int(PHYSICS)

WORTH = 50e-6
"""Work [s] that there must be for waking other threads to be worth a try."""

AGAIN = 100
"""Steps after which one thread, or all, that were slower are tried again: other work on the machine comes and goes."""

# By their names, under which they are looked up when code is loaded: an address would be no good to code kept on disk.
llvmlite.binding.load_library_permanently(str(library_path()))


def _function(name: str, *arguments: types.Type) -> Any:
    return types.ExternalFunction(name, typing.signature(types.void, *arguments))


_STEP = types.int64, types.int64
_step, _step1, _step2 = (_function(name, *_STEP) for name in ("mj_step", "mj_step1", "mj_step2"))
_check_pos, _check_vel = (_function(name, *_STEP) for name in ("mj_checkPos", "mj_checkVel"))
_get_state = _function("mj_getState", types.int64, types.int64, types.int64, types.int32)
_copy = _function("mju_copy", types.int64, types.int64, types.int32)

_ROW, _ROWS, _STACK = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_INTS, _TABLE = types.int64[::1], types.int64[:, ::1]


@compiled(
    types.int64(
        types.int64, _INTS, _TABLE, _INTS, _TABLE, _ROWS, _ROWS, types.boolean[::1], _ROWS, _STACK,
        types.int64, types.int64,
    )
)  # fmt: skip
def advance(  # type: ignore[no-untyped-def]
    model, sizes, places, source, fields, parameters, constants, failed, u, y, begin, end
):  # fmt: skip
    """Advances the copies `begin` to `end` under `u` (n, nu), and fills their `y` (n, repeat, ny) and `failed` (n,).

    Returns how many of them have failed.

    Args:
        model: address of a model that no other thread steps with, if there are `fields`.
        sizes: numbers of physics steps in a control step, of sensors' data, of warnings; whether physics steps can be
            split, and whether readings take sensors or poses.
        places: addresses of each copy's data, its controls, sensors' data and warnings (n, 4).
        source: (ny,) where each reading is among physics state and sensors' data; -1: among the `constants`.
        fields: addresses and sizes of the model's fields that differ between copies (k, 2).
        parameters: their values (n, sum of the sizes).
        constants: (n, ny).
        failed: which have failed before.
        u: controls.
        y: readings.
        begin: the first copy.
        end: the one after the last.
    """
    substeps, nphysics, nsensed, warnings, split, sensing = sizes
    found = np.empty(nphysics + nsensed)
    told = np.empty(warnings)  # pairs of 32-bit integers: what it is about, and how often
    counts = told.view(np.int32)
    total = 0
    for i in range(begin, end):
        data, ctrl, sensordata, warning = places[i, 0], places[i, 1], places[i, 2], places[i, 3]
        at = parameters[i].ctypes.data
        for k in range(len(fields)):
            _copy(fields[k, 0], at, np.int32(fields[k, 1]))
            at += 8 * fields[k, 1]
        _copy(ctrl, u[i].ctypes.data, np.int32(u.shape[1]))
        for k in range(y.shape[1]):
            if failed[i]:
                for j in range(source.size):
                    y[i, k, j] = np.nan
                continue
            if split:
                _step2(model, data)
            else:
                _step(model, data)
            for _ in range(substeps - 1):
                _step(model, data)
            if sensing:
                _step1(model, data)
            else:
                _check_pos(model, data)
                _check_vel(model, data)
            _copy(told.ctypes.data, warning, np.int32(warnings))
            for fault in _FAULTS:
                if counts[2 * fault + 1]:
                    failed[i] = True
            _get_state(model, data, found.ctypes.data, np.int32(_PHYSICS))
            _copy(found.ctypes.data + 8 * nphysics, sensordata, np.int32(nsensed))
            for j in range(source.size):
                y[i, k, j] = np.nan if failed[i] else found[source[j]] if source[j] >= 0 else constants[i, j]
        total += failed[i]
    return total


class MujocoCopies:
    """Copies of `MujocoSimulator`; see `copies.Copies`, and `copies.copies` for the arguments."""

    def __init__(self, task: Task, count: int, threads: int | None = None) -> None:
        self.task, self.count, self.dt = task, count, task.robot.dt
        first = Compiled(task.robot)
        self._model = first.model
        self._copies = [first, *(Compiled(task.robot, self._model) for _ in range(count - 1))]
        self._threads = min(threads or available_cores(), count)
        # Threads write fields that differ between copies into the model that they step with.
        shared = [self._model] * (self._threads - 1)
        others = [Compiled(task.robot) for _ in shared] if first.parameters else []
        self._models = [self._model, *(other.model for other in others)] if others else [self._model, *shared]
        self._fields = [_fields(c) for c in (first, *others)] if others else [_fields(first)] * self._threads
        self._places = np.array([_places(c.data) for c in self._copies], np.int64)
        nphysics = mujoco.mj_stateSize(self._model, PHYSICS)
        split = self._model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4  # of which `mj_step2` knows nothing
        sizes = (first.substeps, nphysics, first.nsensed, len(first.data.warning.number))
        self._sizes = np.array([*sizes, split, split or first.nsensed > 0], np.int64)
        self._source = np.full(task.robot.layout.size, -1, np.int64)
        for offset, runs in ((0, first.state_runs), (nphysics, first.sensor_runs)):
            for target, source in runs:
                self._source[target] = np.arange(offset + source.start, offset + source.stop)
        self._parameters = np.zeros((count, sum(p.size for p in first.parameters)))
        self._constants = np.zeros((count, task.robot.layout.size))
        self._y = np.zeros_like(self._constants)
        self._begun = np.zeros(count, bool)
        self._failed = np.zeros(count, bool)
        self._faults: dict[int, str] = {}
        self._waiting = True  # whether no episode has begun in some copy
        # Time of a control step [s] by one thread and by all, as of late; 0: not known. What is computed does not
        # depend on it.
        self._pace = [0.0, 0.0]
        self._steps = 0
        self._pool: ThreadPoolExecutor | None = None

    def reset(self, index: int, seed: int) -> np.ndarray:
        """See `Copies.reset`."""
        self._copies[index].begin(self.task.start(seed))
        self._y[index] = self._copies[index].readings()
        self._enter(index)
        return self._y[index].copy()

    def step(self, u: np.ndarray, repeat: int = 1) -> tuple[np.ndarray, dict[int, str]]:
        """See `Copies.step`."""
        u = check_controls(u, self.count, self.task.robot.nu, repeat)
        if self._waiting:
            raise ValueError(not_begun(int(self._begun.argmin())))
        y = np.empty((self.count, repeat, self._y.shape[1]))
        shared, begun = self._sharing(repeat), time.perf_counter()
        failed = self._share(u, y) if shared else self._advance(0, u, y, 0, self.count)
        took, before = (time.perf_counter() - begun) / repeat, self._pace[shared]
        self._pace[shared] = before + 0.2 * (took - before) if before else took
        self._y = y[:, -1].copy()
        if failed:
            self._note()
        return y, self._faults.copy()

    def states(self) -> list[State]:
        """See `Copies.states`."""
        for i, begun in enumerate(self._begun):
            if i in self._faults or not begun:
                raise ValueError(f"copy {i} has failed: {self._faults[i]}" if begun else not_begun(i))
        return [self._state(i) for i in range(self.count)]

    def restore(self, states: list[State]) -> None:
        """See `Copies.restore`."""
        check_states(states, self.count)
        for i, (copy, state) in enumerate(zip(self._copies, states, strict=True)):
            x = full_state(state)
            self._begun[i], self._waiting = False, True
            copy.unpack(x)
            self._y[i] = state.y
            self._enter(i)

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _enter(self, index: int) -> None:
        """Takes over where the data of the copy `index` has been put."""
        copy = self._copies[index]
        if copy.parameters:
            self._parameters[index] = np.concatenate(copy.parameters)
        for entry, value in copy.constants:
            self._constants[index, entry] = value[0]
        self._begun[index], self._failed[index] = True, False
        self._waiting = not self._begun.all()
        self._faults.pop(index, None)

    def _state(self, index: int) -> State:
        copy = self._copies[index]
        at = 0
        for value in copy.parameters:
            value[:] = self._parameters[index, at : at + value.size]
            at += value.size
        return State(float(copy.data.time), self._y[index].copy(), copy.pack())

    def _sharing(self, repeat: int) -> bool:
        """Whether all threads are to take part in a step: if that was faster of late."""
        alone, together = self._pace
        if self._threads == 1 or alone * repeat < WORTH:
            return False
        self._steps += 1
        return (together < alone) != (self._steps % AGAIN == 0)

    def _advance(self, worker: int, u: np.ndarray, y: np.ndarray, begin: int, end: int) -> int:
        """Advances some copies; how many of them have failed."""
        return advance(
            self._models[worker]._address, self._sizes, self._places, self._source, self._fields[worker],
            self._parameters, self._constants, self._failed, u, y, begin, end,
        )  # fmt: skip

    def _share(self, u: np.ndarray, y: np.ndarray) -> int:
        """Advances all copies by all threads, this one among them; how many have failed."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1)
        size = max(1, self.count // (4 * self._threads))  # work left over at the end against calls for more
        parts = iter(range(0, self.count, size))
        others = [self._pool.submit(self._take, k, parts, size, u, y) for k in range(1, self._threads)]
        try:
            failed = self._take(0, parts, size, u, y)
        finally:
            wait(others)
        return failed + sum(other.result() for other in others)

    def _take(self, worker: int, parts: Iterator[int], size: int, u: np.ndarray, y: np.ndarray) -> int:
        return sum(self._advance(worker, u, y, begin, min(begin + size, self.count)) for begin in parts)

    def _note(self) -> None:
        """Finds out why copies have failed."""
        for i in np.flatnonzero(self._failed):
            if int(i) not in self._faults:
                try:
                    check_divergence(self._copies[i].data)
                except SimulationError as error:
                    self._faults[int(i)] = str(error)


def _places(data: mujoco.MjData) -> list[int]:
    """Addresses of the data, its controls, its sensors' data and its warnings."""
    arrays: Any = (data.ctrl, data.sensordata, data.warning.lastinfo)  # the last begins where the warnings do
    return [data._address, *(a.__array_interface__["data"][0] for a in arrays)]


def _fields(copy: Compiled) -> np.ndarray:
    """Addresses and sizes of the parameters in the model (k, 2)."""
    fields = [(value.ctypes.data, value.size) for value in copy.parameters]
    return np.array(fields, np.int64).reshape(-1, 2)
