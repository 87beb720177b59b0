"""A task's cost as native code: the terms are traced once to CasADi expressions, and summed over a plan in one call.

What does not trace, residuals that only NumPy can evaluate for one, stays with NumPy. Which of the two it is depends on
the task and on what is installed, never on the run, so that runs repeat to the last bit.
"""

import threading
import weakref
from collections.abc import Callable

import numpy as np

from ..robots.arrays import Array
from ..robots.task import Task
from ..sim import codegen, native
from ..sim.interface import Rollout
from .tracing import Untraceable, traced

LONGEST = 4000
"""Instructions of a cost beyond which compiling it would take over a second, and it stays with NumPy."""

PROBES = (16, 4)
"""Candidates and steps on which compiled costs must agree with NumPy's."""


class Bound:
    """Costs of readings and controls at certain places in memory.

    Attributes:
        times: when steps end (H,) [s], to be written to.
        costs, terminal: what the runs write (E, N), of all steps, and what comes in addition at the last.
        runs: compute them.
    """

    def __init__(
        self, steps: codegen.Kernel, last: codegen.Kernel | None, columns: np.ndarray, n: int, horizon: int
    ) -> None:
        self.columns = columns
        self.times = np.empty(horizon)
        self.costs, self.terminal = np.zeros((2, len(columns), n))
        times = codegen.rows(self.times, 1, None, 0)
        self.runs = []
        for column, costs, terminal in zip(columns, self.costs, self.terminal):
            table = np.concatenate((column, times, codegen.rows(costs, 1, 0, None)))
            self.runs.append(steps.bind(n, horizon, table))
            if last is not None:
                end = table + np.array([horizon - 1, 0, 0]) * table[:, 2:]
                end[-1, 0] = terminal.ctypes.data
                self.runs.append(last.bind(n, 1, end))


class CompiledCost:
    """The cost of a task's terms, summed over the horizon; made by `compiled_cost`."""

    def __init__(self, steps: codegen.Kernel, last: codegen.Kernel | None) -> None:
        self._steps, self._last = steps, last
        self._bound: dict[int, Bound] = {}

    def bind(self, columns: np.ndarray, n: int, horizon: int) -> Bound:
        """The costs of `n` candidates that lie where `columns` tells, see `Rollout.columns`."""
        return Bound(self._steps, self._last, columns, n, horizon)

    def __call__(self, rollout: Rollout, controls: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Costs (E, N) of `controls` (N, H, nu) that led to `rollout`, its steps ending at `times` (H,) [s]."""
        columns = rollout.columns(controls)
        bound = self._bound.get(id(columns))
        if bound is None or bound.columns is not columns:
            bound = self.bind(columns, *controls.shape[:2])
            if len(self._bound) >= 8:
                self._bound.clear()
            self._bound[id(columns)] = bound
        bound.times[:] = times
        for run in bound.runs:
            run()
        return bound.costs.copy() if self._last is None else bound.costs + bound.terminal


_lock = threading.Lock()
_known: dict[int, CompiledCost | None] = {}


def compiled_cost(task: Task) -> CompiledCost | None:
    """The compiled cost of `task`, made at the first call; None where it stays with NumPy."""
    with _lock:
        key = id(task)
        if key not in _known:
            _known[key] = _compile(task)
            weakref.finalize(task, _known.pop, key, None)
        return _known[key]


def _compile(task: Task) -> CompiledCost | None:
    if native.machine() is None:
        return None
    terminal = any(term.terminal_weight for term in task.terms)
    try:
        steps = _kernel(task, task.cost, total=True)
        last = _kernel(task, task.terminal_cost, total=False) if terminal else None
    except Untraceable:
        return None
    if steps is None or (terminal and last is None):
        return None
    cost = CompiledCost(steps, last)
    return cost if _agrees(task, cost) else None


def _kernel(task: Task, cost: Callable[[Array, Array, Array], Array], total: bool) -> codegen.Kernel | None:
    """None for a cost that is too long to compile, no single number, or not to be had as native code."""
    function = traced(task, cost)
    if function.numel_out(0) != 1 or function.n_instructions() > LONGEST:
        return None
    kernel = codegen.compile(function, total=total, nan="kept")
    return kernel if kernel.native else None


def _agrees(task: Task, cost: CompiledCost) -> bool:
    """Whether the compiled cost is NumPy's on random readings: a residual may do what tracing does not see."""
    rng, (n, horizon) = np.random.default_rng(0), PROBES
    sizes = np.geomspace(0.01, 10.0, n)[:, None, None]
    y = sizes * rng.standard_normal((1, n, horizon + 1, task.robot.layout.size))
    u = rng.uniform(-1.0, 1.0, (n, horizon, task.robot.nu))
    times = np.sort(rng.uniform(0.0, 10.0, horizon))
    try:
        with np.errstate(all="ignore"):
            expected = summed(task, y, u, times)
    except Exception:  # a residual is anyone's code: what it raises is for the plan to tell, on readings that occur
        return False
    found = cost(Rollout(y, np.ones((1, n), bool)), u, times)
    return np.allclose(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def summed(task: Task, y: np.ndarray, controls: np.ndarray, times: np.ndarray) -> np.ndarray:
    """NumPy's costs (E, N) of `controls` (N, H, nu) that led to readings `y` (E, N, H+1, ny) at `times` (H,) [s].

    Raises:
        ValueError: the task's terms do not give one number per step.
    """
    reached, u = y[:, :, 1:], controls[None]
    steps = task.cost(reached, u, times)
    if np.shape(steps) != reached.shape[:3]:
        raise ValueError(
            f"{task.name}'s terms cost {np.shape(steps)} for readings {reached.shape}: a residual must be (..., k)"
        )
    costs = steps.sum(-1)
    if any(term.terminal_weight for term in task.terms):
        costs += task.terminal_cost(reached[:, :, -1], u[:, :, -1], times[-1])
    return costs
