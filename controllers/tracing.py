"""Costs and constraints as CasADi expressions: a task's own array code, run once on symbols."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..robots.arrays import Array
from ..robots.task import Task

_lock = threading.Lock()  # CasADi's array mode is the whole process's


class Untraceable(ValueError):
    """What was traced is more than array code on readings, controls and time."""


@contextmanager
def array_mode() -> Iterator[Any]:
    """CasADi, in the mode in which its arrays take NumPy's functions; one thread at a time."""
    import casadi as ca

    with _lock:
        before = ca.GlobalOptions.getNumpyMode()
        ca.GlobalOptions.setNumpyMode(1)
        try:
            yield ca
        finally:
            ca.GlobalOptions.setNumpyMode(before)


def traced(task: Task, evaluate: Callable[[Array, Array, Array], Array]) -> Any:
    """The `casadi.Function` (y (ny,), u (nu,), t) -> `evaluate`'s result for one step, a number or a column.

    Args:
        task: whose readings and controls these are.
        evaluate: such as `task.cost`, on arrays of readings (ny,), controls (nu,) and a time [s].

    Raises:
        Untraceable: `evaluate` does not run on symbols; the message says what stopped it.
    """
    import casadi as ca

    sizes = (("y", task.robot.layout.size), ("u", task.robot.nu), ("t", 1))
    symbols = [ca.SX.sym(name, size) for name, size in sizes]
    with array_mode():
        try:
            y, u, t = (ca.ArrayInterfaceSX(symbol).reshape(symbol.numel()) for symbol in symbols)
            result = evaluate(y, u, t[0])
            expression = result.to_casadi()
        except Exception as error:  # a residual is anyone's code
            raise Untraceable(f"{task.name}'s terms do not run on symbols: {type(error).__name__}: {error}") from error
    return ca.Function("traced", symbols, [ca.vec(expression)], ["y", "u", "t"], ["r"], {"cse": True})
