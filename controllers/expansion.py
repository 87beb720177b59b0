"""A task's cost and constraints to second order along a trajectory, by tracing its terms with CasADi.

The cost of a step is a function l(y, u, t) of readings and control, and so are constraints c(y, u, t) <= 0. With C the
readings' Jacobian, J = [C 0; 0 I] and z = (x, u),

    g = J' l_z,    W = J' (sum_i w_i r_i' r_i + [sum of the other terms' Hessians]_+) J

where r_i are the Jacobians of residuals under a quadratic norm (Gauss-Newton), and [.]_+ is what other terms' Hessian
becomes when its negative eigenvalues are set to zero: each model is convex, and its curvature no less than that of the
cost in any direction in which the cost curves upwards. The second derivatives of readings by states are left out.

Constraints are an augmented Lagrangian's: with multipliers m and penalty rho,

    l + sum (max(0, m + rho c)^2 - m^2) / (2 rho)

Sources: Giftthaler et al., A Family of Iterative Gauss-Newton Shooting Methods for Nonlinear Optimal Control, 2018;
Nocedal and Wright, Numerical Optimization, 2nd ed., chapter 17.4.
"""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..robots.task import Task, Term, quadratic
from ..sim import codegen
from ..sim.closed_form import ClosedForm
from ..sim.integrators import lifted
from ..sim.interface import Rollout
from ..sim.varying import Varying
from .compiled_cost import compiled_cost, summed
from .tracing import array_mode


@dataclass(frozen=True, eq=False)
class Expansion:
    """Second-order models of H steps' costs, in (x_{k+1}, u_k).

    Attributes:
        gradient: (H, n + nu).
        hessian: (H, n + nu, n + nu), positive semi-definite.
    """

    gradient: np.ndarray
    hessian: np.ndarray


class Objective:
    """What planners with derivatives minimise: a task's cost and its derivatives, compiled; made by `objective`.

    Attributes:
        constrained: number of constraint residuals.
    """

    def __init__(self, task: Task) -> None:
        self._layout, self._nu = task.robot.layout, task.robot.nu
        self._cost = compiled_cost(task)
        self._steps = _Model(task, [(term, term.weight) for term in task.terms if term.weight])
        both = [(term, term.weight + term.terminal_weight) for term in task.terms]
        ends = any(term.terminal_weight for term in task.terms)
        self._last = _Model(task, [(term, weight) for term, weight in both if weight]) if ends else None
        self._constraints = _Constraints(task) if task.constraints else None
        self.constrained = self._constraints.count if self._constraints else 0
        self._task = weakref.ref(task)

    def costs(self, y: np.ndarray, u: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Costs (N,) of readings `y` (N, H+1, ny) under `u` (N, H, nu), its steps ending at `times` (H,) [s]."""
        if self._cost is not None:
            return self._cost(Rollout(y[None], np.ones((1, len(y)), bool)), u, times)[0]
        task = self._task()
        assert task is not None  # whoever asks for its costs holds it
        return summed(task, y[None], u, times)[0]

    def violations(self, y: np.ndarray, u: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The constraints' residuals (..., H, k), at most 0 where they hold; `y` (..., H+1, ny), `u` (..., H, nu)."""
        if self._constraints is None:
            return np.zeros((*u.shape[:-1], 0))
        return self._constraints.residuals(y[..., 1:, :], u, times)

    @property
    def native(self) -> bool:
        """Whether constraints, if there are, are compiled."""
        return self._constraints is None or self._constraints.values.native

    def bind(self, y: np.ndarray, u: np.ndarray, times: np.ndarray, out: np.ndarray) -> Callable[[], None]:
        """What writes the constraints' residuals to `out` (N, H, k) at each call, from where the arguments lie then.

        Args:
            y: readings (N, H+1, ny).
            u: controls (N, H, nu).
            times: when steps end (H, 1) [s].
            out: of float64, as the others.
        """
        assert self._constraints is not None
        table = [codegen.rows(a, 2, 0, 1) for a in (y[:, 1:], u)]
        table += [codegen.rows(times, 1, None, 0), codegen.rows(out, 2, 0, 1)]
        return self._constraints.values.bind(u.shape[0], u.shape[1], np.concatenate(table))

    def expansion(
        self,
        y: np.ndarray,
        u: np.ndarray,
        times: np.ndarray,
        C: np.ndarray,
        multipliers: np.ndarray | None = None,
        penalty: float = 0.0,
    ) -> Expansion:
        """The model of the cost about readings `y` (H+1, ny) and controls `u` (H, nu).

        Args:
            y: readings.
            u: controls.
            times: when the steps end (H,) [s].
            C: the readings' Jacobians (H+1, ny, n).
            multipliers: of the constraints (H, k); none leaves constraints out.
            penalty: rho.
        """
        reached, rows = y[1:], C[1:]
        (horizon, nu), n = u.shape, C.shape[2]
        gradient, hessian = np.zeros((horizon, n + nu)), np.zeros((horizon, n + nu, n + nu))
        before = slice(0, horizon if self._last is None else horizon - 1)
        for model, at in ((self._steps, before), (self._last, slice(before.stop, horizon))):
            if model is not None and at.stop > at.start:
                model.add(reached[at], u[at], times[at], rows[at], gradient[at], hessian[at])
        if self._constraints is not None and multipliers is not None:
            self._constraints.add(reached, u, times, rows, multipliers, penalty, gradient, hessian)
        return Expansion(gradient, hessian)


def penalised(violations: np.ndarray, multipliers: np.ndarray, penalty: float) -> np.ndarray:
    """What the augmented Lagrangian adds (N,) for constraints' residuals (N, H, k) with `multipliers` (H, k)."""
    pushed = np.maximum(0.0, multipliers + penalty * violations)
    return ((pushed * pushed - multipliers * multipliers) / (2.0 * penalty)).sum((-2, -1))


_known: dict[int, Objective] = {}


def objective(task: Task) -> Objective:
    """The objective of `task`, compiled at the first call.

    Raises:
        ValueError: a term or a constraint does not trace; the message names it.
    """
    key = id(task)
    if key not in _known:
        made = Objective(task)
        _known[key] = made
        weakref.finalize(task, _known.pop, key, None)
    return _known[key]


class Composed:
    """The model of a task's cost, and of its constraints, as compiled functions of a robot's states in closed form.

    They have (x (nx,), y (ny,), u (nu,), t, multipliers (k,), rho) as inputs, of which the readings only serve where
    they are no functions of x, and give the gradient (n + nu, 1), the Hessian (n + nu, n + nu), and then for each block
    of the cost's own Hessian that is not yet in there its entries h (b, b) and the rows (b, n + nu) through which it
    comes in as rows' [h]_+ rows.

    Attributes:
        steps: of a step's cost.
        last: of the last step's, where that has terms of its own; else None.

    Raises:
        TooLong: compiling would take too long.
    """

    def __init__(self, task: Task, model: ClosedForm) -> None:
        running = [(term, term.weight) for term in task.terms if term.weight]
        self.steps = Varying(lambda: _composed(task, model, running))
        self.last = None
        if any(term.terminal_weight for term in task.terms):
            both = [(term, term.weight + term.terminal_weight) for term in task.terms]
            self.last = Varying(lambda: _composed(task, model, [(t, weight) for t, weight in both if weight]))


_lock = threading.Lock()
_composed_before: dict[tuple[int, int], Composed | None] = {}


def composed(task: Task, model: ClosedForm) -> Composed | None:
    """The composed model of `task` on a robot's states, made at the first call; None where that would take too long.

    Raises:
        ValueError: a term or a constraint does not trace; the message names it.
    """
    with _lock:
        key = id(task), id(model)
        if key not in _composed_before:
            try:
                _composed_before[key] = Composed(task, model)
            except TooLong:
                _composed_before[key] = None
            for part in (task, model):
                weakref.finalize(part, _composed_before.pop, key, None)
        return _composed_before[key]


class TooLong(ValueError):
    """A model that is better computed step by step than by one compiled function."""


LONGEST = 20000
"""Instructions of a composed model at most."""


def _composed(task: Task, model: ClosedForm, weighted: list[tuple[Term, float]]) -> Any:
    """The `casadi.Function` of `Composed` for a sum of terms."""
    import casadi as ca

    s, ny, nu = model.symbolic, task.robot.layout.size, task.robot.nu
    with array_mode():
        traced = _Traced(ca, task)
        squares, cost = _sorted_terms(ca, traced, weighted)
        held = [ca.vec(traced.residual("constraint", c).to_casadi()) for c in task.constraints]
    residuals, constraints = ca.vertcat(ca.SX(0, 1), *squares), ca.vertcat(ca.SX(0, 1), *held)
    slope, blocks = _curvatures(ca, cost, traced.z)
    of_readings = ca.Function(
        "terms", [traced.y, traced.u, traced.t], [residuals, constraints, slope, *(h for _, h in blocks)]
    )
    x, y, u, t = ca.SX.sym("x", s.nx), ca.SX.sym("y", ny), ca.SX.sym("u", nu), ca.SX.sym("t")
    m, rho = ca.SX.sym("m", constraints.numel()), ca.SX.sym("rho")
    moving = set(model.homes.tolist()) | set(model.derived)
    found = model.readings(x)
    seen = ca.vertcat(*(found[i] if i in moving else y[i] for i in range(ny)))
    r, c, slope, *hessians = of_readings(seen, u, t)

    def by_change(expression: Any) -> Any:
        """The Jacobian by small changes of x, and by u."""
        return ca.horzcat(ca.mtimes(ca.jacobian(expression, x), lifted(s, x)), ca.jacobian(expression, u))

    z = ca.vertcat(seen, u)
    rows = by_change(r)
    gradient, hessian = ca.mtimes(rows.T, r), ca.mtimes(rows.T, rows)
    active = _support(ca, cost, traced.z)
    left: list[Any] = []
    if active:
        rows = by_change(z[active])
        gradient += ca.mtimes(rows.T, slope[active])
        for (block, _), h in zip(blocks, hessians):
            part = rows[[active.index(i) for i in block], :]
            if len(block) == 1:
                hessian += ca.mtimes(part.T, ca.fmax(h, 0.0) * part)
            else:
                left += [h, part]
    if constraints.numel():
        rows = by_change(c)
        pushed = ca.fmax(0.0, m + rho * c)
        gradient += ca.mtimes(rows.T, pushed)
        hessian += ca.mtimes(rows.T, ca.mtimes(ca.diag(rho * (pushed > 0.0)), rows))
    hessian = ca.triu2symm(ca.triu(hessian))  # both halves are one expression
    function = ca.Function("composed", [x, y, u, t, m, rho], [gradient, hessian, *left], {"cse": True})
    if function.n_instructions() > LONGEST:
        raise TooLong(f"{task.name}'s composed model has {function.n_instructions()} instructions")
    return function


def _sorted_terms(ca: Any, traced: "_Traced", weighted: list[tuple[Term, float]]) -> tuple[list[Any], Any]:
    """The residuals whose squares' halves are costs, and the sum of all other costs; in CasADi's array mode."""
    squares, cost = [], ca.SX(0.0)
    for term, weight in weighted:
        residual = traced.residual("term", term)
        if term.norm is quadratic and weight > 0.0:
            squares.append(np.sqrt(weight) * ca.vec(residual.to_casadi()))
            continue
        try:
            cost += weight * ca.SX(term.norm(residual).to_casadi())
        except Exception as error:
            raise traced.failed("term", term, error) from error
    return squares, cost


def _curvatures(ca: Any, cost: Any, z: Any) -> tuple[Any, list[tuple[list[int], Any]]]:
    """The gradient of `cost` by `z`, and the blocks of its Hessian: the entries of z, and a matrix of each."""
    hessian, slope = ca.hessian(cost, z)
    pattern = np.array(ca.DM(hessian.sparsity(), 1).full(), bool)
    return ca.densify(slope), [(block, hessian[block, block]) for block in _components(pattern)]


class _Traced:
    """Readings, control and time as CasADi symbols, and residuals as expressions of them."""

    def __init__(self, ca: Any, task: Task) -> None:
        self.ca, self.task = ca, task
        sizes = (("y", task.robot.layout.size), ("u", task.robot.nu), ("t", 1))
        self.y, self.u, self.t = (ca.SX.sym(name, size) for name, size in sizes)
        self.z = ca.vertcat(self.y, self.u)
        a, b, c = (ca.ArrayInterfaceSX(s).reshape(s.numel()) for s in (self.y, self.u, self.t))
        self.view, self.control, self.time = task.robot.layout(a), b, c[0]

    def residual(self, kind: str, of: Any) -> Any:
        """The residual of a term or a constraint, (k,)."""
        try:
            found = of.residual(self.view, self.control, self.time)
            if len(found.shape) != 1:
                raise ValueError(f"its residual has shape {found.shape} for a single state, not (k,)")
            return found
        except Exception as error:  # a residual is anyone's code
            raise self.failed(kind, of, error) from error

    def failed(self, kind: str, of: Any, error: Exception) -> ValueError:
        return ValueError(
            f"{self.task.name}'s {kind} {of.name!r} does not trace with CasADi, which planning with derivatives takes "
            f"({type(error).__name__}: {error}); sampling planners such as cem do without"
        )


def _support(ca: Any, expression: Any, z: Any) -> list[int]:
    """Which entries of `z` an expression depends on."""
    return [i for i, depends in enumerate(ca.which_depends(expression, z, 1, False)) if depends]


class _Sparse:
    """A matrix of which only the structural non-zeros are computed: compiled code takes long for each of its outputs.

    Attributes:
        entries: the non-zeros as an expression (k,).
    """

    def __init__(self, matrix: Any) -> None:
        self._shape = matrix.shape
        self._at = tuple(np.array(index, int) for index in matrix.sparsity().get_triplet())
        self.entries = matrix.nz[:]

    def dense(self, entries: np.ndarray) -> np.ndarray:
        """The matrices (H, r, c) with these non-zeros (H, k)."""
        found = np.zeros((len(entries), *self._shape))
        found[:, self._at[0], self._at[1]] = entries.reshape(len(entries), -1)
        return found


class _Model:
    """Gradient and Hessian of a weighted sum of terms, by the entries of (y, u) that they depend on."""

    def __init__(self, task: Task, weighted: list[tuple[Term, float]]) -> None:
        with array_mode() as ca:
            traced = _Traced(ca, task)
            squares, cost = _sorted_terms(ca, traced, weighted)
        residuals = ca.vertcat(*squares)
        self.active = _support(ca, ca.vertcat(residuals, cost), traced.z)
        if not self.active:
            return
        at = traced.z[self.active]
        other, slope = ca.hessian(cost, at)
        self._blocks = _components(np.array(ca.DM(other.sparsity(), 1).full(), bool))
        self._halves = [_Sparse(ca.tril(other[block, block])) for block in self._blocks]
        outputs = [slope, *(half.entries for half in self._halves)]
        self._squares = residuals.numel()
        if self._squares:
            # Multiplied numerically: as expressions, the products would be many times longer than the Jacobian.
            self._slopes = _Sparse(ca.jacobian(residuals, at))
            outputs += [residuals, self._slopes.entries]
        self._kernel = codegen.compile(ca.Function("model", [traced.y, traced.u, traced.t], outputs))
        self._ny = traced.y.numel()

    def add(
        self,
        y: np.ndarray,
        u: np.ndarray,
        times: np.ndarray,
        C: np.ndarray,
        gradient: np.ndarray,
        hessian: np.ndarray,
    ) -> None:
        """Adds the sum's model at readings (H, ny) with Jacobians `C` (H, ny, n) to what is there."""
        if not self.active:
            return
        found = self._kernel(y, u, times[:, None])
        slope, *rest = found if isinstance(found, tuple) else (found,)
        size, horizon = len(self.active), len(u)
        gradient += _through(slope.reshape(horizon, 1, size), self.active, self._ny, C, u)[:, 0]
        for block, half, entries in zip(self._blocks, self._halves, rest):
            lower = half.dense(entries)
            rows = np.broadcast_to(np.eye(size)[block], (horizon, len(block), size))
            rows = _through(rows, self.active, self._ny, C, u)
            hessian += rows.mT @ (_convex(lower + np.tril(lower, -1).mT) @ rows)
        if self._squares:
            residuals, slopes = rest[-2:]
            slopes = _through(self._slopes.dense(slopes), self.active, self._ny, C, u)
            gradient += (residuals.reshape(horizon, 1, self._squares) @ slopes)[:, 0]
            hessian += slopes.mT @ slopes


class _Constraints:
    """The residuals of all constraints, and their Jacobian by the entries of (y, u) that they depend on."""

    def __init__(self, task: Task) -> None:
        with array_mode() as ca:
            traced = _Traced(ca, task)
            residuals = [ca.vec(traced.residual("constraint", c).to_casadi()) for c in task.constraints]
        residual = ca.vertcat(*residuals)
        self.count = residual.numel()
        self.active = _support(ca, residual, traced.z) or [0]
        self._slopes = _Sparse(ca.jacobian(residual, traced.z[self.active]))
        given = [traced.y, traced.u, traced.t]
        self.values = codegen.compile(ca.Function("constraints", given, [residual]), nan="kept")
        self._kernel = codegen.compile(ca.Function("constraints", given, [residual, self._slopes.entries]))
        self._ny = traced.y.numel()

    def residuals(self, y: np.ndarray, u: np.ndarray, times: np.ndarray) -> np.ndarray:
        """(..., H, k) at `y` (..., H, ny)."""
        return self.values(y, u, times[:, None]).reshape(*u.shape[:-1], self.count)

    def add(
        self,
        y: np.ndarray,
        u: np.ndarray,
        times: np.ndarray,
        C: np.ndarray,
        multipliers: np.ndarray,
        penalty: float,
        gradient: np.ndarray,
        hessian: np.ndarray,
    ) -> None:
        """Adds the augmented Lagrangian's model to what is there; its Hessian is Gauss-Newton's."""
        residual, slopes = self._kernel(y, u, times[:, None])
        horizon = len(u)
        slopes = _through(self._slopes.dense(slopes), self.active, self._ny, C, u)
        pushed = np.maximum(0.0, multipliers + penalty * residual.reshape(horizon, self.count))
        slopes *= (pushed > 0.0)[:, :, None]
        gradient += (pushed[:, None] @ slopes)[:, 0]
        hessian += penalty * slopes.mT @ slopes


def _through(slopes: np.ndarray, active: list[int], ny: int, C: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Jacobians (H, k, n + nu) by (x, u), from those by the entries `active` of (y, u), (H, k, len(active)).

    The readings' own, `C` (H, ny, n), come in between.
    """
    n = C.shape[2]
    readings = [i for i in active if i < ny]
    found = np.zeros((*slopes.shape[:2], n + u.shape[1]))
    np.matmul(slopes[:, :, : len(readings)], C[:, readings], out=found[:, :, :n])
    found[:, :, [n + i - ny for i in active[len(readings) :]]] = slopes[:, :, len(readings) :]
    return found


def _convex(hessians: np.ndarray) -> np.ndarray:
    """Symmetric matrices (H, k, k) with negative eigenvalues set to zero."""
    if hessians.shape[1] == 1:
        return np.maximum(hessians, 0.0)
    values, vectors = np.linalg.eigh(hessians)
    return (vectors * np.maximum(values, 0.0)[:, None]) @ vectors.mT


def _components(pattern: np.ndarray) -> list[list[int]]:
    """The blocks, as lists of indices, that a symmetric matrix with these non-zeros (k, k) falls into."""
    from scipy.sparse.csgraph import connected_components

    count, labels = connected_components(pattern, directed=False)
    blocks = [np.flatnonzero(labels == label).tolist() for label in range(count)]
    return [block for block in blocks if pattern[np.ix_(block, block)].any()]
