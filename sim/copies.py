"""Plants of one kind stepped together: where learners without a model gather experience.

A plugin whose plants can be stepped in batch says so by a static method `copies(task, count, threads) -> Copies`
(`mujoco` does); all others are single simulators in a loop. Either way a copy goes exactly where a single simulator
would under the same seed and controls, to the last bit, whatever the others do and however many threads there are.
"""

from typing import Any, Protocol

import numpy as np

from ..robots import plugins
from ..robots.task import Task
from .interface import SimulationError, Simulator, State

MOST = 256
"""Copies that there can be."""


class Copies(Protocol):
    """Plants stepped together. A copy is stepped only once an episode has begun in it, by `reset` or `restore`.

    Attributes:
        count: n of them.
        dt: control period [s].
    """

    count: int
    dt: float

    def reset(self, index: int, seed: int) -> np.ndarray:
        """Begins the episode that `seed` draws in the copy `index`; its readings (ny,).

        Raises:
            SimulationError: it can not begin.
        """
        ...

    def step(self, u: np.ndarray, repeat: int = 1) -> tuple[np.ndarray, dict[int, str]]:
        """Advances every copy by `repeat` control steps, its control held.

        A plant that diverges stays so until another episode begins in its copy, and is told of in each step.

        Args:
            u: a control for each copy (n, nu), applied as given.
            repeat: number of control steps.

        Returns:
            Readings after each control step (n, repeat, ny), fresh, NaN from the one on in which a plant failed; and
            which failed, with the reason that `SimulationError` would give.

        Raises:
            ValueError: controls of another shape, or not finite; `repeat` below 1; a copy without an episode.
        """
        ...

    def states(self) -> list[State]:
        """Where all copies are; what `restore` takes. The `x` are these copies' own: no simulator need know them.

        Raises:
            ValueError: a plant has failed or not begun, or can be neither saved nor brought there again.
        """
        ...

    def restore(self, states: list[State]) -> None:
        """Puts every copy where it was when `states` gave this; stepping goes on to the last bit.

        Raises:
            SimulationError: a state that no plant can be at.
            ValueError: states of another number or kind.
        """
        ...

    def close(self) -> None:
        """Frees what the copies hold."""
        ...


def copies(name: str, task: Task, count: int, threads: int | None = None) -> Copies:
    """`count` plants of `task` by the simulator plugin `name`.

    Args:
        name: of the plugin (`mujoco`, `gymnasium`, ...).
        task: whose robots are stepped.
        count: 1 to 256.
        threads: that step them, where the plugin steps in batch; by default one for each core of this process.

    Raises:
        UnknownName: there is no such simulator.
        PluginError: it fails to import.
        ValueError: it can not simulate this task; a count out of range; fewer than one thread.
    """
    if not 1 <= count <= MOST:
        raise ValueError(f"{count} copies; there can be 1 to {MOST}")
    if threads is not None and threads < 1:
        raise ValueError(f"{threads} threads; there must be at least one")
    plugin = plugins.find("simulators", name)
    batched = getattr(plugin, "copies", None)
    return SingleCopies(plugin, task, count) if batched is None else batched(task, count, threads)


class SingleCopies:
    """Single simulators stepped one after another.

    A simulator may have `advance(u) -> y`, which is `step` without the state, and `state()`: they are used then, for
    taking a snapshot of an environment can cost many times a step. Plants whose states have no `x` are brought back to
    where they were by the controls since their episode began, which costs as many steps, and is right for every plant
    that a seed and controls determine. Their saved `x` is the seed followed by the controls.

    Args:
        plugin: makes a simulator of `task`.
        task: what they simulate.
        count: n of them.

    Raises:
        ValueError: the plugin can not simulate this task.
    """

    def __init__(self, plugin: Any, task: Task, count: int) -> None:
        self.task, self.count, self.dt = task, count, task.robot.dt
        self._plants = [_Plant(plugin(task)) for _ in range(count)]

    def reset(self, index: int, seed: int) -> np.ndarray:
        """See `Copies.reset`."""
        return self._plants[index].reset(seed)

    def step(self, u: np.ndarray, repeat: int = 1) -> tuple[np.ndarray, dict[int, str]]:
        """See `Copies.step`."""
        u = check_controls(u, self.count, self.task.robot.nu, repeat)
        for i, plant in enumerate(self._plants):
            if plant.y is None:
                raise ValueError(not_begun(i))
        y = np.full((self.count, repeat, self.task.robot.layout.size), np.nan)
        for i, plant in enumerate(self._plants):
            plant.step(u[i], y[i])
        return y, {i: plant.fault for i, plant in enumerate(self._plants) if plant.fault}

    def states(self) -> list[State]:
        """See `Copies.states`."""
        for i, plant in enumerate(self._plants):
            if plant.y is None or plant.fault:
                raise ValueError(f"copy {i} has failed: {plant.fault}" if plant.fault else not_begun(i))
        return [plant.state(i) for i, plant in enumerate(self._plants)]

    def restore(self, states: list[State]) -> None:
        """See `Copies.restore`."""
        check_states(states, self.count)
        for plant, state in zip(self._plants, states, strict=True):
            plant.restore(state, self.task.robot.nu)

    def close(self) -> None:
        """Closes the simulators."""
        for plant in self._plants:
            plant.simulator.close()


class _Plant:
    """One simulator, and what it takes to bring it back to where it is."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator: Any = simulator
        self.y: np.ndarray | None = None
        self.fault = ""
        self._frugal = hasattr(simulator, "advance") and hasattr(simulator, "state")
        self._last: State | None = None
        self._replayed: bool | None = None  # whether states have no x; not known before the first
        self._seed = 0
        self._controls: list[np.ndarray] = []

    def reset(self, seed: int) -> np.ndarray:
        self.y, self.fault = None, ""
        first = self.simulator.reset(seed)
        self._seed, self._controls = seed, []
        self._replayed = first.x is None
        self._last, self.y = first, first.y
        return first.y.copy()

    def step(self, u: np.ndarray, y: np.ndarray) -> None:
        """Steps for as long as `y` (repeat, ny), which takes the readings, as no fault occurs."""
        if self.fault:
            return
        try:
            for row in y:
                if self._frugal:
                    self.y = row[:] = self.simulator.advance(u)
                else:
                    self._last = self.simulator.step(u)
                    self.y = row[:] = self._last.y
                if self._replayed:
                    self._controls.append(u.copy())
        except SimulationError as error:
            self.fault = str(error)

    def state(self, index: int) -> State:
        now = self.simulator.state() if self._frugal or self._last is None else self._last
        if self._replayed:
            x = np.concatenate([[float(self._seed)], *self._controls])
            return State(now.time, now.y.copy(), x)
        if now.x is None:
            raise ValueError(f"copy {index} can no longer be saved, as it could when its episode began")
        return now

    def restore(self, state: State, nu: int) -> None:
        if state.x is None:
            raise ValueError("this state has readings only; continuing from it needs one that `Copies.states` gave")
        if self._replayed is None:
            self.reset(0)
        if not self._replayed:
            self.y, self.fault = None, ""
            self._last = self.simulator.reset(0, state)
            self.y = self._last.y
            return
        if state.x.dtype != float or state.x.ndim != 1 or state.x.size % nu != 1 % nu or not state.x.size:
            raise ValueError(f"a seed and controls ({nu},) lead to a state; {state.x.dtype} {state.x.shape} do not")
        self.reset(int(state.x[0]))
        controls = state.x[1:].reshape(-1, nu).copy()
        for u in controls:
            self.step(u, np.empty((1, len(state.y))))
        if self.fault:
            raise SimulationError(f"the plant does not go on as it did when this state was saved: {self.fault}")
        if self.y is None or not np.array_equal(self.y, state.y):
            raise ValueError("the plant does not go on as it did when this state was saved: other readings follow")


def check_controls(u: np.ndarray, count: int, nu: int, repeat: int) -> np.ndarray:
    """`u` as a float64 array (count, nu), contiguous.

    Raises:
        ValueError: another shape, or an entry that is not a finite number; `repeat` below 1.
    """
    controls = np.ascontiguousarray(u, dtype=float)
    if controls.shape != (count, nu):
        raise ValueError(f"controls have shape {controls.shape}; these copies take ({count}, {nu})")
    if not np.isfinite(controls).all():
        worst = int(np.flatnonzero(~np.isfinite(controls).all(axis=1))[0])
        raise ValueError(f"control {controls[worst]} of copy {worst} is not finite")
    if repeat < 1:
        raise ValueError(f"{repeat} control steps; there must be at least one")
    return controls


def check_states(states: list[State], count: int) -> None:
    """Raises a ValueError unless there are `count` of them."""
    if len(states) != count:
        raise ValueError(f"{len(states)} states for {count} copies")


def not_begun(index: int) -> str:
    """What is wrong with stepping the copy `index`."""
    return f"no episode has begun in copy {index}: reset it first"
