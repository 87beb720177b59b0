"""Dynamics that continue from many states at once, each under controls of its own: what tree search needs of a model.

A node of a tree holds a *row* of numbers, opaque as a state's `x` is: all that these dynamics continue from. Whatever
is the same for a whole search (a robot's parameters, forces) they take from the state that the search began at.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ..robots.task import Task
from .casadi_dynamics import CasadiDynamics
from .closed_form import diverged
from .codegen import rows as places
from .interface import Dynamics, SimulationError, State, full_state


@dataclass(frozen=True, eq=False)
class Branches:
    """Where N rows led.

    Attributes:
        rows: at the step asked for (N, n).
        y: readings after each step (N, m, ny); copy what you keep.
        valid: (N, m) False from the step on in which the prediction broke down.
    """

    rows: np.ndarray
    y: np.ndarray
    valid: np.ndarray


@runtime_checkable
class Branching(Protocol):
    """Dynamics as a tree search takes them.

    Attributes:
        stochastic: whether the same row and controls may lead elsewhere: by noise, or by an ensemble of models, of
            which each call draws one for each row.
        choices: all controls that there are (K, nu), in the order in which to try them; None: they are continuous.
    """

    stochastic: bool
    choices: np.ndarray | None

    def root(self, state: State) -> np.ndarray:
        """The row (n,) of `state`, from which a search begins; later calls of `branch` continue from rows of its.

        Raises:
            ValueError: the state lacks what these dynamics continue from.
        """
        ...

    def branch(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """Continues from `rows` (N, n) under `controls` (N, m, nu); rows are told for the state after `at` steps."""
        ...


def branching(dynamics: Dynamics, task: Task) -> Branching:
    """`dynamics` as a tree search takes them: as they are where they branch, else by a wrapper.

    Any dynamics will do; those that neither branch nor are in closed form are advanced state by state.
    """
    if isinstance(dynamics, Branching):
        return dynamics
    if isinstance(dynamics, CasadiDynamics):
        return ClosedFormBranching(dynamics)
    return SteppedBranching(dynamics, task)


class ClosedFormBranching:
    """Closed forms, whose lanes need not begin at one state. A row is (q, v), and the time where that is a reading."""

    stochastic = False
    choices: np.ndarray | None = None

    def __init__(self, dynamics: CasadiDynamics) -> None:
        self.dynamics = dynamics
        self.model = dynamics.model
        self._state: State | None = None

    def root(self, state: State) -> np.ndarray:
        """See `Branching.root`."""
        row = self.model.unpack(state)
        self._state = state
        return np.append(row, state.time) if self.model.clocks else row

    def branch(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """See `Branching.branch`."""
        assert self._state is not None, "a search begins at a root"
        model, kernel = self.model, self.model.moves
        n, steps = controls.shape[:2]
        ny = model.robot.layout.size
        memory = np.zeros((n, steps + 1, model.slots))
        memory[:, 0, model.homes] = rows[:, : model.symbolic.nx]
        memory[:, 1:, model.constant] = self._state.y[model.constant]
        if model.clocks:
            times = rows[:, -1:] + self.dynamics.dt * np.arange(1, steps + 1)
            memory[:, 1:, model.clocks] = times[..., None]
        if kernel.native:
            u = np.ascontiguousarray(controls, float)
            before, after = places(memory[:, :-1], 2, 0, 1), places(memory[:, 1:], 2, 0, 1)
            kernel.call(
                n,
                steps,
                np.concatenate((before[model.homes], places(u, 2, 0, 1), after[[*model.homes, *model.derived]])),
            )
        else:
            x = memory[:, 0, model.homes]
            for k in range(steps):
                found = kernel(x, controls[:, k])
                x = found[0] if isinstance(found, tuple) else found
                memory[:, k + 1, model.homes] = x
                if model.derived:
                    memory[:, k + 1, model.derived] = found[1]
        states = memory[:, 1:, model.homes]
        valid = np.logical_and.accumulate(~diverged(states), axis=1)
        ends = states[:, at - 1]
        if model.clocks:
            ends = np.concatenate((ends, times[:, at - 1, None]), axis=1)
        return Branches(ends, memory[:, 1:, :ny], valid)


class SteppedBranching:
    """Any dynamics, each row advanced by itself: slow. A row is the time, the readings and the bytes of `x`.

    Where states have no `x`, as those of learned models, readings are continued from, and of several members one is
    drawn for each row.
    """

    def __init__(self, dynamics: Dynamics, task: Task) -> None:
        self.stochastic = bool(getattr(dynamics, "stochastic", False))
        self.choices: np.ndarray | None = None
        self.dynamics = dynamics
        self._ny, self._nu = task.robot.layout.size, task.robot.nu
        self._kind = np.dtype(float)
        self._size = 0
        self._room = 0
        if (choices := getattr(dynamics, "choices", None)) is not None:
            self.choices = np.asarray(choices, float)

    def root(self, state: State) -> np.ndarray:
        """See `Branching.root`."""
        if state.x is None:
            still = np.zeros((1, 1, self._nu))
            members = len(self.dynamics.rollout(state, still, np.random.default_rng(0)).valid)
            self.stochastic = self.stochastic or members > 1
            return np.concatenate(((state.time, 0.0), state.y))
        x = full_state(state)
        self._kind, self._size = x.dtype, len(x)
        room = -(-x.nbytes // 8)
        self._room = max(self._room, room)
        return self._row(state)

    def _row(self, state: State) -> np.ndarray:
        raw = np.ascontiguousarray(full_state(state)).view(np.uint8)
        if len(raw) > 8 * self._room:
            raise ValueError(
                f"states of {type(self.dynamics).__name__} have grown from {8 * self._room} to {len(raw)} bytes; "
                f"a tree holds states of one size"
            )
        row = np.zeros(2 + self._ny + self._room)
        row[0], row[1], row[2 : 2 + self._ny] = state.time, len(raw), state.y
        row[2 + self._ny :].view(np.uint8)[: len(raw)] = raw
        return row

    def _state(self, row: np.ndarray) -> State:
        x = np.ascontiguousarray(row[2 + self._ny :]).view(np.uint8)[: int(row[1])].view(self._kind)
        return State(float(row[0]), row[2 : 2 + self._ny].copy(), x.copy())

    def branch(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """See `Branching.branch`."""
        n, steps = controls.shape[:2]
        if rows.shape[1] == 2 + self._ny:
            return self._draw(rows, controls, at, rng)
        ends, y, valid = rows.copy(), np.zeros((n, steps, self._ny)), np.ones((n, steps), bool)
        for i in range(n):
            state = self._state(rows[i])
            try:
                end = self.dynamics.advance(state, controls[i, :at])
                if at > 1:
                    y[i, :at] = self.dynamics.rollout(state, controls[i : i + 1, :at], rng).y[0, 0, 1:]
                y[i, at - 1] = end.y
                ends[i] = self._row(end)
                if steps > at:
                    found = self.dynamics.rollout(end, controls[i : i + 1, at:], rng)
                    y[i, at:] = found.y[0, 0, 1:]
                    valid[i, at:] = found.valid[0, 0]
            except SimulationError:
                valid[i] = False
        y[~np.isfinite(y).all(-1)] = 0.0
        return Branches(ends, y, valid)

    def _draw(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """Continues from readings alone."""
        n, steps = controls.shape[:2]
        ends, y, valid = rows.copy(), np.zeros((n, steps, self._ny)), np.zeros((n, steps), bool)
        for i in range(n):
            state = State(float(rows[i, 0]), rows[i, 2:].copy())
            found = self.dynamics.rollout(state, controls[i : i + 1], rng)
            member = int(rng.integers(len(found.valid))) if len(found.valid) > 1 else 0
            y[i], valid[i] = found.y[member, 0, 1:], found.valid[member, 0]
        y[~np.isfinite(y).all(-1)] = 0.0
        ends[:, 0] += at * self.dynamics.dt
        ends[:, 2:] = y[:, at - 1]
        return Branches(ends, y, valid)
