"""The `mujoco` dynamics: candidates rolled out in parallel by MuJoCo's own thread pool."""

import os
from dataclasses import dataclass

import mujoco
import mujoco.rollout
import numpy as np

from ..robots.task import Task
from .compiled import PHYSICS, Compiled
from .interface import Rollout, State


@dataclass
class _Buffers:
    """Arrays for N candidates of H control steps, kept between calls: fresh pages would cost as much as the work."""

    models: list[mujoco.MjModel]
    initial: np.ndarray  # (N, nphysics)
    warmstart: np.ndarray  # (N, nv)
    control: np.ndarray  # (N, H * substeps + lag, nu)
    state: np.ndarray  # (N, H * substeps + lag, nphysics)
    sensors: np.ndarray | None  # (N, H * substeps + lag, nsensed)
    y: np.ndarray  # (1, N, H+1, ny)


class MujocoDynamics:
    """MuJoCo's model of a task's robot, rolled out on all cores by `mujoco.rollout`.

    Results do not depend on the number of threads: every candidate starts from the same full state, solver warm start
    included, as the plant does.

    Args:
        task: whose robot is modelled.
        threads: that roll out; by default one for each core that this process may use.
    """

    def __init__(self, task: Task, threads: int | None = None) -> None:
        self.dt = task.robot.dt
        self.threads = threads or len(os.sched_getaffinity(0))
        self._compiled = Compiled(task.robot)
        model = self._compiled.model
        self._datas = [mujoco.MjData(model) for _ in range(self.threads)]
        self._pool = mujoco.rollout.Rollout(nthread=self.threads if self.threads > 1 else 0)
        self._nphysics = mujoco.mj_stateSize(model, PHYSICS)
        self._warm_at = self._warmstart_offset()
        self._buffers: dict[tuple[int, int], _Buffers] = {}

    def _warmstart_offset(self) -> int:
        model, data = self._compiled.model, mujoco.MjData(self._compiled.model)
        data.qacc_warmstart[:] = np.arange(1, model.nv + 1)
        x = np.empty(self._compiled.nintegration)
        mujoco.mj_getState(model, data, x, mujoco.mjtState.mjSTATE_INTEGRATION)
        before = mujoco.mj_stateSize(model, PHYSICS)
        where = np.flatnonzero(x[before:] == 1.0)
        return before + int(where[0]) if model.nv else before

    def _prepare(self, n: int, horizon: int) -> _Buffers:
        key = (n, horizon)
        if key not in self._buffers:
            if len(self._buffers) >= 8:
                self._buffers.pop(next(iter(self._buffers)))
            c = self._compiled
            # A sensor is evaluated at the state before its step: the last readings take one physics step more.
            steps = horizon * c.substeps + bool(c.nsensed)
            self._buffers[key] = _Buffers(
                models=[c.model] * n,
                initial=np.empty((n, self._nphysics)),
                warmstart=np.empty((n, c.model.nv)),
                control=np.zeros((n, steps, c.model.nu)),
                state=np.empty((n, steps, self._nphysics)),
                sensors=np.empty((n, steps, c.nsensed)) if c.nsensed else None,
                y=np.empty((1, n, horizon + 1, c.robot.layout.size)),
            )
        return self._buffers[key]

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator | None = None) -> Rollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, nu).

        Raises:
            ValueError: `state` has no `x`, or `controls` another shape.
        """
        if state.x is None:
            raise ValueError("the mujoco dynamics need a full state; the plant gave readings only")
        c = self._compiled
        if controls.ndim != 3 or controls.shape[2] != c.model.nu or not controls.size:
            raise ValueError(f"candidates have shape {controls.shape}, not (N, H, {c.model.nu})")
        n, horizon, _ = controls.shape
        b = self._prepare(n, horizon)
        c.set_parameters(state.x)
        b.initial[:] = state.x[: self._nphysics]
        b.warmstart[:] = state.x[self._warm_at : self._warm_at + c.model.nv]
        last = horizon * c.substeps
        if c.substeps == 1:
            b.control[:, :last] = controls
        else:
            b.control[:, :last].reshape(n, horizon, c.substeps, -1)[:] = controls[:, :, None]
        if b.sensors is not None:
            b.control[:, last:] = controls[:, -1:]
        self._pool.rollout(
            b.models,
            self._datas,
            b.initial,
            b.control,
            initial_warmstart=b.warmstart,
            state=b.state,
            sensordata=b.sensors,
            skip_checks=True,
            nstep=b.control.shape[1],
            chunk_size=max(1, n // 16),
        )
        b.y[:, :, 0] = state.y
        if len(c.state_columns):
            _copy_columns(b.state[:, c.substeps - 1 : last : c.substeps], c.state_columns, b.y[0, :, 1:], c.state_targets)
        if b.sensors is not None:
            _copy_columns(b.sensors[:, c.substeps :: c.substeps], np.arange(c.nsensed), b.y[0, :, 1:], c.sensor_targets)
        # MuJoCo resets a diverged simulation by itself, and its clock with it.
        end = state.x[0] + b.control.shape[1] * c.model.opt.timestep
        valid = np.abs(b.state[:, -1, 0] - end) < 0.5 * c.model.opt.timestep
        return Rollout(b.y, valid[None])

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The predicted state after `controls` (k, nu).

        Raises:
            SimulationError: the prediction diverged.
            ValueError: `state` has no `x`.
        """
        if state.x is None:
            raise ValueError("the mujoco dynamics need a full state; the plant gave readings only")
        self._compiled.unpack(state.x)
        for u in controls:
            self._compiled.step(u)
        return self._compiled.state()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()


def _copy_columns(source: np.ndarray, columns: np.ndarray, target: np.ndarray, targets: np.ndarray) -> None:
    """`target[..., targets] = source[..., columns]`, by slices where the columns run on (fancy indexing is slower)."""
    start = 0
    breaks = np.flatnonzero((np.diff(columns) != 1) | (np.diff(targets) != 1)) + 1
    for stop in [*breaks.tolist(), len(columns)]:
        c, t, k = columns[start], targets[start], stop - start
        target[..., t : t + k] = source[..., c : c + k]
        start = stop
