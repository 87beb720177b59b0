"""The `casadi` dynamics: a robot in closed form as native code, candidates in SIMD lanes on all cores; and derivatives.

Of a rollout, each thread makes one call, which loops over steps: a candidate's state goes from step to step within the
processor's first cache.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..robots.symbolic import Symbolic
from ..robots.task import Task
from .closed_form import ClosedForm, diverged
from .codegen import Kernel, rows
from .integrators import ControlStep, difference, displaced
from .interface import Rollout, SimulationError, State, available_cores, check_candidates
from .linearization import Linearization, Trajectories

LANES = 8
"""Most lanes that there are: threads share out whole groups of them. As many numbers fill a line of a cache."""

ALONE = 4000
"""Steps of candidates below which more threads would cost more than they bring."""


class _Buffers:
    """Memory for N candidates of H steps: readings and state (N, H+1, slots).

    It is kept between rollouts: fresh pages would cost as much as the work. Each lane writes its candidate's numbers
    one after the other; with candidates contiguous, every step would go to as many pages of memory as there are slots.
    """

    def __init__(self, model: ClosedForm, kernel: Kernel, threads: int, candidates: int, horizon: int) -> None:
        self.kernel, self.candidates, self.horizon = kernel, candidates, horizon
        share = -(-candidates // (LANES * threads)) * LANES
        alone = candidates * horizon < ALONE
        self.parts = [slice(0, candidates)] if alone else [slice(i, i + share) for i in range(0, candidates, share)]
        self.memory = _memory(candidates, horizon + 1, model.slots)
        self.y = self.memory[None, :, :, : model.robot.layout.size]
        before, after = rows(self.memory[:, :-1], 2, 0, 1), rows(self.memory[:, 1:], 2, 0, 1)
        self.before, self.after = before[model.homes], after[[*model.homes, *model.derived]]
        self.readings = after[: model.robot.layout.size]
        self.filled = b""  # what `CasadiDynamics._fill` has written
        self.calls: list[Callable[[], None]] = []
        self.columns = np.empty((0, 0, 3), np.int64)
        self.controls: np.ndarray | None = None

    def bind(self, controls: np.ndarray) -> None:
        """Takes the candidates from `controls` (N, H, nu), wherever they lie."""
        known = self.controls
        if known is not None and known.ctypes.data == controls.ctypes.data and known.strides == controls.strides:
            return
        u = rows(controls, 2, 0, 1)
        if self.kernel.native:
            table = np.concatenate((self.before, u, self.after))
            self.calls = [self._call(table, part) for part in self.parts]
        self.columns = np.concatenate((self.readings, u))[None]
        self.controls = controls  # kept, for the tables point to it

    def _call(self, table: np.ndarray, part: slice) -> Callable[[], None]:
        """The rollout of the candidates `part`."""
        table = table.copy()
        table[:, 0] += part.start * table[:, 1]
        return self.kernel.bind(min(part.stop, self.candidates) - part.start, self.horizon, table)


class _Rollout(Rollout):
    """Readings that lie at the same places for as long as the candidates do."""

    def __init__(self, buffers: _Buffers, valid: np.ndarray) -> None:
        super().__init__(buffers.y, valid)
        self._buffers = buffers

    def columns(self, controls: np.ndarray) -> np.ndarray:
        """See `Rollout.columns`."""
        self._buffers.bind(np.require(controls, float, "A"))
        return self._buffers.columns


class Follower:
    """Rollouts of N policies about a reference, which differ in their step sizes; all memory is told once.

    Args:
        dynamics: predict.
        x: the reference (H+1, nx), of float64, as the others read anew at each run.
        u: its controls (H, nu).
        feedforward: (H, nu).
        feedback: (H, nu, n).
        limits: of controls (2, nu).
        count: N.

    Attributes:
        rollout: the readings that the last run has led to, as of candidates, all of them counted as valid.
        y: those readings (N, H+1, ny).
        controls: that have led there (N, H, nu).
        memory: readings and states (N, H+1, slots).
        sizes: of steps (N,).
        call: does the rollouts from where `begin` put them, with those sizes.
    """

    def __init__(
        self,
        dynamics: "CasadiDynamics",
        x: np.ndarray,
        u: np.ndarray,
        feedforward: np.ndarray,
        feedback: np.ndarray,
        limits: np.ndarray,
        count: int,
    ) -> None:
        self._dynamics, self._model = dynamics, dynamics.model
        model, horizon = self._model, len(u)
        self._policy = (x, u, feedforward, feedback, limits)  # kept, for tables point to them
        self.memory, self.controls = _memory(count, horizon + 1, model.slots), np.empty((count, horizon, u.shape[1]))
        self.sizes = np.empty(count)
        self.y, ny = self.memory[..., : model.robot.layout.size], model.robot.layout.size
        after = rows(self.memory[:, 1:], 2, 0, 1)
        self.rollout = _Followed(self.y, np.concatenate((after[:ny], rows(self.controls, 2, 0, 1)))[None])
        first, n = int(model.homes[0]), len(model.homes)
        together = (model.homes == np.arange(first, first + n)).all()
        self._states: Any = slice(first, first + n) if together else model.homes  # a slice is a view
        self._begun: State | None = None
        self.call: Callable[[], None] = self._interpret
        if model.follows.native:
            table = [rows(self.memory[:, :-1], 2, 0, 1)[model.homes]]
            table += [rows(a, 1, None, 0) for a in (x, u, feedforward, feedback)]
            table += [rows(self.sizes[:, None], 1, 0, None), rows(limits, 0, None, None)]  # low, high
            table += [rows(self.controls, 2, 0, 1), after[[*model.homes, *model.derived]]]
            self.call = model.follows.bind(count, horizon, np.concatenate(table))

    def run(self, state: State, steps: np.ndarray) -> Trajectories:
        """The rollouts from `state` with the step sizes `steps` (N,); arrays are written over by the next run.

        Raises:
            ValueError: `state` has no `x`.
        """
        if state is not self._begun:  # it is the same throughout a search
            self.begin(state)
        self.sizes[:] = steps
        self.call()
        return self.led()

    def led(self) -> Trajectories:
        """The trajectories that the last rollouts led to."""
        x = self.memory[..., self._states]
        return Trajectories(x, self.y, self.controls, ~diverged(x[:, -1]))

    def begin(self, state: State) -> None:
        """Puts all rollouts at `state`.

        Raises:
            ValueError: it has no `x`.
        """
        self.memory[:, 0, : len(state.y)] = state.y
        self.memory[:, 0, self._model.homes] = self._model.unpack(state)
        self._dynamics._fill(self.memory, state)
        self._begun = state

    def _interpret(self) -> None:
        model, kernel, memory = self._model, self._model.follows, self.memory
        x, u, feedforward, feedback, limits = self._policy
        now = memory[:, 0, model.homes]
        for k in range(len(u)):
            gain = np.reshape(feedback[k], kernel.inputs[4])
            found = kernel(now, x[k], u[k], feedforward[k], gain, self.sizes[:, None], *limits)
            self.controls[:, k], now = found[:2]
            memory[:, k + 1, model.homes] = now
            if model.derived:
                memory[:, k + 1, model.derived] = found[2]


class _Followed(Rollout):
    """Readings of policies' rollouts, which lie at the same places for as long as their `Follower` does."""

    def __init__(self, y: np.ndarray, columns: np.ndarray) -> None:
        super().__init__(y[None], np.ones((1, len(y)), bool))
        self._columns = columns

    def columns(self, controls: np.ndarray) -> np.ndarray:
        """See `Rollout.columns`; `controls` are those of the follower."""
        return self._columns


class CasadiDynamics:
    """A task's robot in closed form, compiled: `Dynamics` with derivatives (`linearization.Differentiable`).

    Controls are clamped by the actuators' limits in rollouts, as in MuJoCo; derivatives are those of the motion without
    limits, which planners keep to by themselves.

    Args:
        task: whose robot is modelled.
        symbolic: its motion, by default the robot's own.
        threads: that roll out; by default one for each core that this process may use.

    Attributes:
        tangent: n, dimensions of a small change of state.
        step: a control period as CasADi functions, for what plans on expressions.

    Raises:
        ValueError: as `ClosedForm`.
    """

    def __init__(self, task: Task, symbolic: Symbolic | None = None, threads: int | None = None) -> None:
        self.dt = task.robot.dt
        self.model = ClosedForm(task, symbolic)
        self.tangent = self.model.symbolic.tangent
        self.threads = threads or available_cores()
        self._kernel = self.model.moves
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        self._pool = ThreadPoolExecutor(max(self.threads - 1, 1))  # its threads begin when they are first needed

    @property
    def step(self) -> ControlStep:
        """See the class."""
        return self.model.step

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator | None = None) -> Rollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, nu).

        Raises:
            ValueError: `state` has no `x`, or `controls` another shape.
        """
        begin = self.model.unpack(state)
        controls = np.require(check_candidates(controls, self.model.symbolic.nu), float, "A")
        b = self._prepare(*controls.shape[:2])
        self._begin(b, state, begin)
        b.bind(controls)
        if self._kernel.native:
            first, *others = b.calls
            running = [self._pool.submit(call) for call in others]
            first()
            for other in running:
                other.result()
        else:
            self._interpret(b, controls)
        return _Rollout(b, ~diverged(b.memory[:, -1, self.model.homes])[None])

    def _prepare(self, n: int, horizon: int) -> _Buffers:
        key = (n, horizon)
        if key not in self._buffers:
            if len(self._buffers) >= 8:
                self._buffers.pop(next(iter(self._buffers)))
            self._buffers[key] = _Buffers(self.model, self._kernel, self.threads, n, horizon)
        return self._buffers[key]

    def _begin(self, b: _Buffers, state: State, x: np.ndarray) -> None:
        """Puts all candidates at `state`, and writes what no motion changes."""
        model = self.model
        b.memory[:, 0] = 0.0
        b.memory[:, 0, : len(state.y)] = state.y
        b.memory[:, 0, model.homes] = x
        told = np.append(state.y[model.constant], state.time).tobytes()
        if b.filled != told:  # it is the same throughout the iterations of a plan
            self._fill(b.memory, state)
            b.filled = told

    def _fill(self, memory: np.ndarray, state: State) -> None:
        """Writes the readings after `state` that are no function of the motion."""
        times = self._times(state, memory.shape[1] - 1)
        for entry in self.model.constant:
            memory[:, 1:, entry] = state.y[entry]
        for entry in self.model.clocks:
            memory[:, 1:, entry] = times

    def _times(self, state: State, steps: int) -> np.ndarray:
        """Of the states after each step (steps,) [s], summed up as a plant does."""
        return np.cumsum(np.append(state.time, np.full(steps, self.dt)))[1:]

    def _interpret(self, b: _Buffers, controls: np.ndarray) -> None:
        """The rollout by CasADi's interpreter, all candidates a step."""
        model = self.model
        x = b.memory[:, 0, model.homes]
        for k in range(b.horizon):
            found = self._kernel(x, controls[:, k])
            x = _first(found)
            b.memory[:, k + 1, model.homes] = x
            if model.derived:
                b.memory[:, k + 1, model.derived] = found[1]

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The predicted state after `controls` (k, nu).

        Raises:
            SimulationError: the prediction diverged.
            ValueError: `state` has no `x`, or `controls` another shape.
        """
        packed = self.model.packed(state)
        x = packed[: self.model.symbolic.nx]
        for u in check_candidates(controls[None], self.model.symbolic.nu)[0]:
            x = _first(self._kernel(x, u))
        if diverged(x):
            raise SimulationError("the prediction diverged")
        packed = np.concatenate((x, packed[len(x) :]))
        after = self.model.state(float(self._times(state, len(controls))[-1]), packed)
        after.y[self.model.constant] = state.y[self.model.constant]
        return after

    # Derivatives -----------------------------------------------------------------------------------------------------

    def coordinates(self, state: State) -> np.ndarray:
        """The (q, v) of a full state, (nx,).

        Raises:
            ValueError: the state has no `x`, or one of another robot.
        """
        return self.model.unpack(state)

    def place(self, state: State, x: np.ndarray) -> State:
        """The full state that is as `state`, but at (q, v) = `x` (nx,)."""
        return self.model.state(state.time, np.concatenate((x, self.model.packed(state)[len(x) :])))

    def displace(self, x: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """The states (..., nx) to which tangent vectors `dx` (..., n) lead from `x` (..., nx)."""
        return displaced(self.model.symbolic, x, dx)

    def difference(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The tangent vectors (..., n) that lead from `other` (..., nx) to `x` (..., nx)."""
        return difference(self.model.symbolic, x, other)

    def linearize(self, x: np.ndarray, u: np.ndarray) -> Linearization:
        """The linear model along states `x` (H+1, nx) and controls `u` (H, nu); gaps between steps are allowed.

        Raises:
            ValueError: arrays of other shapes.
        """
        if len(x) != len(u) + 1:
            raise ValueError(f"{len(x)} states and {len(u)} controls: there must be one state more")
        x, u = np.asarray(x, float), np.asarray(u, float)
        a, b = self.model.linear(x[:-1], u)
        (c,) = self.model.observes(x)
        return Linearization(a, b, c)

    def curvature(self, x: np.ndarray, u: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Second derivatives (H, n + nu, n + nu) of p' (the next state), by tangent vectors of x and by u.

        Args:
            x: states (H, nx).
            u: controls (H, nu).
            p: tangent covectors (H, n) at each step's end.

        Raises:
            ValueError: arrays of other shapes.
        """
        (second,) = self.model.curved(*(np.asarray(a, float) for a in (x, u, p)))
        return second

    def policy_rollout(
        self,
        state: State,
        x: np.ndarray,
        u: np.ndarray,
        feedforward: np.ndarray,
        feedback: np.ndarray,
        steps: np.ndarray,
        limits: np.ndarray,
    ) -> Trajectories:
        """Rolls out N policies about a reference, see `Differentiable.policy_rollout`.

        Raises:
            ValueError: `state` has no `x`, or arrays do not fit each other.
        """
        s, (n, horizon) = self.model.symbolic, (len(steps), len(u))
        wanted = {
            "x": (np.shape(x), (horizon + 1, s.nx)),
            "u": (np.shape(u), (horizon, s.nu)),
            "feedforward": (np.shape(feedforward), (horizon, s.nu)),
            "feedback": (np.shape(feedback), (horizon, s.nu, s.tangent)),
            "steps": (np.shape(steps), (n,)),
            "limits": (np.shape(limits), (2, s.nu)),
        }
        for name, (given, fit) in wanted.items():
            if given != fit:
                raise ValueError(f"{name} has shape {given}, not {fit}")
        a, b, c, d, e = (np.require(given, float, "A") for given in (x, u, feedforward, feedback, limits))
        return Follower(self, a, b, c, d, e, n).run(state, steps)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()


def _first(found: Any) -> np.ndarray:
    return found[0] if isinstance(found, tuple) else found


def _memory(candidates: int, steps: int, slots: int) -> np.ndarray:
    """Zeros (candidates, steps, slots); from one candidate to the next it is an odd number of a cache's lines.

    With a power of two, what the lanes write to together would meet in one place of the cache.
    """
    room = (-(-steps * slots // LANES) | 1) * LANES
    return np.zeros((candidates, room))[:, : steps * slots].reshape(candidates, steps, slots)
