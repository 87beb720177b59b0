"""The `mujoco` dynamics: candidates rolled out in parallel by MuJoCo's own thread pool."""

import functools
from dataclasses import dataclass

import mujoco
import mujoco.rollout
import numpy as np

from ..robots.task import Task
from .branching import Branches
from .codegen import rows
from .compiled import PHYSICS, Compiled
from .interface import Rollout, State, available_cores, full_state
from .mujoco_derivatives import MujocoDerivatives

BLOCK = 8
"""Branches are rolled out for a multiple of so many control steps."""


@dataclass
class _Buffers:
    """Arrays for N candidates of H control steps, kept between calls: fresh pages would cost as much as the work.

    `sources` are pairs of a slice of the readings and the view (N, H, k) of them in `state` or `sensors`, after each
    step.
    """

    horizon: int
    models: list[mujoco.MjModel]
    initial: np.ndarray  # (N, nphysics)
    warmstart: np.ndarray  # (N, nv)
    control: np.ndarray  # (N, H * substeps + lag, nu)
    steps: np.ndarray  # (N, H, substeps, nu), or (N, H nu) of a single substep: a view of the control without the lag
    state: np.ndarray  # (N, H * substeps + lag, nphysics)
    sensors: np.ndarray | None  # (N, H * substeps + lag, nsensed)
    sources: list[tuple[slice, np.ndarray]]
    columns: np.ndarray  # (1, ny + nu, 3), see `Rollout.columns`
    begun: np.ndarray  # (ny,), readings that the rollout began from, among them those that no motion changes
    x: bytes  # the state that `initial` and `warmstart` are of
    clock: np.ndarray  # (N,), a view of the state
    duration: float  # half a physics step less than what is rolled out [s]

    @functools.cached_property
    def features(self) -> np.ndarray:
        """For all candidates' readings, (N, ny, H+1).

        NumPy's costs take readings entry by entry: each is contiguous in time. A candidate's are together, so that
        they are copied within the processor's first cache.
        """
        return self.room(len(self.models))

    def room(self, candidates: int) -> np.ndarray:
        """A fresh array for readings of so many candidates, (n, ny, H+1)."""
        return np.empty((candidates, len(self.begun), self.horizon + 1))

    def fill(self, features: np.ndarray, candidates: slice) -> np.ndarray:
        """Copies the readings of `candidates` to `features` (n, ny, H+1); as readings (1, n, H+1, ny), a view."""
        features[:] = self.begun[:, None]
        for target, source in self.sources:
            np.copyto(features[:, target, 1:], source[candidates].transpose(0, 2, 1))
        return features.transpose(0, 2, 1)[None]


class _Rollout(Rollout):
    """Readings where MuJoCo left them, until they are asked for."""

    def __init__(self, buffers: _Buffers, valid: np.ndarray) -> None:
        self._buffers = buffers
        self.valid = valid

    @functools.cached_property
    def y(self) -> np.ndarray:  # type: ignore[override]
        """All readings (1, N, H+1, ny)."""
        return self._buffers.fill(self._buffers.features, slice(None))

    def of(self, candidates: slice) -> np.ndarray:
        """Readings (1, n, H+1, ny) of some of the candidates."""
        count = len(range(len(self._buffers.models))[candidates])
        return self._buffers.fill(self._buffers.room(count), candidates)

    def columns(self, controls: np.ndarray) -> np.ndarray:
        """Where the readings after each step lie in memory, and the controls: always at the same places."""
        return self._buffers.columns


class MujocoDynamics(MujocoDerivatives):
    """MuJoCo's model of a task's robot, rolled out on all cores by `mujoco.rollout`.

    Results do not depend on the number of threads: every candidate starts from the same full state, solver warm start
    included, as the plant does. It branches, too (`branching.Branching`): a row is the physics state, after which the
    constraint solver begins from the root's warm start.

    Args:
        task: whose robot is modelled.
        threads: that roll out; by default one for each core that this process may use.
    """

    stochastic = False
    choices: np.ndarray | None = None

    def __init__(self, task: Task, threads: int | None = None) -> None:
        self.dt = task.robot.dt
        self.threads = threads or available_cores()
        self._compiled = Compiled(task.robot)
        model = self._compiled.model
        self._datas = [mujoco.MjData(model) for _ in range(self.threads)]
        self._pool = mujoco.rollout.Rollout(nthread=self.threads if self.threads > 1 else 0)
        self._nphysics = mujoco.mj_stateSize(model, PHYSICS)
        self._warm_at = self._warmstart_offset()
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        self._branches: dict[tuple[int, int], _Buffers] = {}
        self._root: State | None = None
        # What comes after the controls (applied forces, equalities, mocap poses, user data) rollouts take as it is at
        # first.
        self._applied_at = self._warm_at + model.nv + model.nu
        self._applied = self._compiled.pack()[self._applied_at : self._compiled.nintegration]

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
            self._buffers[key] = self._allocate(n, horizon)
        return self._buffers[key]

    def _allocate(self, n: int, horizon: int) -> _Buffers:
        c = self._compiled
        last = horizon * c.substeps
        # A sensor is evaluated at the state before its step: the last readings take one physics step more.
        lag = int(c.nsensed > 0)
        control = np.zeros((n, last + lag, c.model.nu))
        shape = (n, horizon, c.substeps, c.model.nu) if c.substeps > 1 else (n, horizon * c.model.nu)
        steps = control[:, :last].reshape(shape)  # the longer its last dimension, the faster it is written to
        state = np.zeros((n, last + lag, self._nphysics))
        sensors = np.zeros((n, last + lag, c.nsensed)) if c.nsensed else None
        sources = [(target, state[:, c.substeps - 1 : last : c.substeps, source]) for target, source in c.state_runs]
        if sensors is not None:
            sources += [(target, sensors[:, c.substeps :: c.substeps, source]) for target, source in c.sensor_runs]
        begun = np.zeros(c.robot.layout.size)
        columns = rows(begun, 0, None, None)  # of what no motion changes, and of the rest:
        for target, source in sources:
            columns[target] = rows(source, 2, 0, 1)
        columns = np.concatenate((columns, rows(control[:, : last : c.substeps], 2, 0, 1)))
        return _Buffers(
            horizon=horizon,
            models=[c.model] * n,
            initial=np.empty((n, self._nphysics)),
            warmstart=np.empty((n, c.model.nv)),
            control=control,
            steps=steps,
            state=state,
            sensors=sensors,
            sources=sources,
            columns=columns[None],
            begun=begun,
            x=b"",
            clock=state[:, -1, 0],
            duration=(last + lag - 0.5) * c.model.opt.timestep,
        )

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator | None = None) -> Rollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, nu).

        Raises:
            ValueError: `state` has no `x`, or one with forces applied from outside; or `controls` have another shape.
        """
        x = full_state(state)
        c = self._compiled
        if controls.ndim != 3 or controls.shape[2] != c.model.nu or not controls.size:
            raise ValueError(f"candidates have shape {controls.shape}, not (N, H, {c.model.nu})")
        n, horizon, _ = controls.shape
        b = self._prepare(n, horizon)
        c.set_parameters(x)
        begin = x.tobytes()
        if b.x != begin:  # it is the same one throughout the iterations of a plan
            self._check_unforced(x)
            b.initial[:] = x[: self._nphysics]
            b.warmstart[:] = x[self._warm_at : self._warm_at + c.model.nv]
            b.x = begin
        return self._roll(b, controls, state.y)

    def _check_unforced(self, x: np.ndarray) -> None:
        if not np.array_equal(x[self._applied_at : self._compiled.nintegration], self._applied):
            raise ValueError("the mujoco dynamics do not predict under applied forces or with mocap bodies moved")

    def _roll(self, b: _Buffers, controls: np.ndarray, y: np.ndarray) -> "_Rollout":
        """The rollout from where `b` begins, readings that no motion changes being those in `y`."""
        c, n = self._compiled, len(controls)
        np.copyto(b.steps, controls[:, :, None] if c.substeps > 1 else controls.reshape(n, -1))
        if b.sensors is not None:
            b.control[:, -1] = controls[:, -1]
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
            chunk_size=max(1, n // (4 * self.threads)),  # work left over at the end against calls for more
        )
        b.begun[:] = y
        for entry, value in c.constants:
            b.begun[entry] = value[0]
        # MuJoCo resets a diverged simulation by itself, and its clock with it.
        valid = b.clock > b.initial[:, 0] + b.duration
        return _Rollout(b, valid[None])

    def root(self, state: State) -> np.ndarray:
        """See `branching.Branching.root`.

        Raises:
            ValueError: as `rollout`.
        """
        x = full_state(state)
        self._check_unforced(x)
        self._compiled.set_parameters(x)
        self._root = state
        return x[: self._nphysics].copy()

    def branch(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """See `branching.Branching.branch`; one call of `mujoco.rollout` for all."""
        if self._root is None:
            raise ValueError("nothing to branch from: `root` tells where a search begins")
        x = full_state(self._root)
        n, steps, _ = controls.shape
        # Walks of all lengths come in numbers of all sizes, and each size has memory of its own: a few sizes serve all.
        key = 1 << (n - 1).bit_length(), -(-steps // BLOCK) * BLOCK
        b = self._branches.get(key)
        if b is None:
            b = self._branches[key] = self._allocate(*key)
        b.initial[:n], b.initial[n:] = rows, rows[0]
        b.warmstart[:] = x[self._warm_at : self._warm_at + self._compiled.model.nv]
        padded = np.pad(controls, ((0, key[0] - n), (0, key[1] - steps), (0, 0)), mode="edge")
        rollout = self._roll(b, padded, self._root.y)
        per = self._compiled.substeps
        clocks = b.state[:n, per - 1 : steps * per : per, 0]
        wanted = rows[:, :1] + self.dt * np.arange(0.5, steps)
        ends = b.state[:n, at * per - 1].copy()
        return Branches(ends, rollout.y[0, :n, 1 : steps + 1], np.logical_and.accumulate(clocks > wanted, axis=1))

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The predicted state after `controls` (k, nu).

        Raises:
            SimulationError: the prediction diverged.
            ValueError: `state` has no `x`.
        """
        self._compiled.unpack(full_state(state))
        for u in controls:
            self._compiled.step(u)
        return self._compiled.state()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()
