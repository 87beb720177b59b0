"""iLQR's iterations from one trajectory on: one source, run as native code (numba) or by Python.

Where all that an iteration computes is compiled functions, iterations are native as a whole: for small robots, a line
of Python takes longer than the numbers do. `Work` is what they need then; for other dynamics, `interpreted` runs the
same lines on an object with methods `about`, `solve`, `follow`, `keep` and `accept`.
"""

import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..sim.closed_form import LARGEST
from ..sim.jit import compiled, inline
from ..sim.products import call
from .convex import add_convex
from .riccati import sweep

ARMIJO = 1e-4
"""Share c of the promised reduction that a step must reach."""

SATISFIED = 0.1
"""The same share above which no shorter steps are tried than those that run at once."""

GROWTH = 2.0
"""Factor by which the regularisation's factor grows."""

LEAST, MOST = 1e-6, 1e10
"""Regularisation below the one counts as none; above the other the search gives up."""

SPENT, SETTLED, STUCK, UNDEFINED, INDEFINITE = range(5)
"""Why iterations ended: as many as allowed; no more reduction; no step that reduces; no model; no convex model."""


class Work(NamedTuple):
    """What native iterations compute with: arrays, and calls of compiled code as rows (address, counts, table).

    Attributes:
        models, rollouts, costs, residuals: calls (.., 4): the local model's; the policies'; their costs'; their
            constraints' residuals'.
        x, y, u: the trajectory (H+1, nx), (H+1, ny), (H, nu).
        violations: its constraints' residuals (H, k).
        F, g, W: the local model, see `riccati.Recursion`.
        smooth: the part of W (H, ..) that needs no eigenvalues; of no size where all of it does not.
        blocks, rows: of all steps but the last, if that has its own, see `convex.add_convex`.
        last_blocks, last_rows: of the last.
        products: native code for the recursion.
        euler: see `riccati.Recursion`.
        low, high, feedforward, feedback, v, P, numbers: the recursion's, see there.
        limits: of controls (2, nu).
        sizes: of all steps, longest first.
        tried: those of the rollouts (N,).
        memory: of the rollouts (N, H+1, slots), readings first.
        homes: where the states are in there (nx,).
        controls: of the rollouts (N, H, nu).
        total, terminal: their costs (N,), of all steps, and what comes in addition at the last.
        found: their constraints' residuals (N, H, k).
        multipliers: (H, k).
        penalty: rho (1,).
        kept_x, kept_y, kept_u, kept_violations: the best that was tried.
        outcome: (cost of the best of the last rollouts; that of the kept; of the trajectory).
    """

    models: np.ndarray
    rollouts: np.ndarray
    costs: np.ndarray
    residuals: np.ndarray
    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    violations: np.ndarray
    F: np.ndarray
    g: np.ndarray
    W: np.ndarray
    smooth: np.ndarray
    blocks: np.ndarray
    rows: np.ndarray
    last_blocks: np.ndarray
    last_rows: np.ndarray
    products: np.ndarray
    euler: float
    low: np.ndarray
    high: np.ndarray
    feedforward: np.ndarray
    feedback: np.ndarray
    v: np.ndarray
    P: np.ndarray
    numbers: np.ndarray
    limits: np.ndarray
    sizes: np.ndarray
    tried: np.ndarray
    memory: np.ndarray
    homes: np.ndarray
    controls: np.ndarray
    total: np.ndarray
    terminal: np.ndarray
    found: np.ndarray
    multipliers: np.ndarray
    penalty: np.ndarray
    kept_x: np.ndarray
    kept_y: np.ndarray
    kept_u: np.ndarray
    kept_violations: np.ndarray
    outcome: np.ndarray


@inline
def _run(calls):  # type: ignore[no-untyped-def]
    for i in range(calls.shape[0]):
        call(calls[i, 0], calls[i, 1], calls[i, 2], calls[i, 3])


@inline
def _copy(target, source):  # type: ignore[no-untyped-def]
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@inline
def about(work):  # type: ignore[no-untyped-def]
    """Computes the local model about the trajectory."""
    _run(work.models)
    if work.smooth.size:
        own = work.last_blocks.shape[1]
        for k in range(work.W.shape[0]):
            _copy(work.W[k], work.smooth[k])
        end = work.W.shape[0] - own
        for b in range(work.blocks.shape[0]):
            add_convex(work.blocks[b], work.rows[b], work.W[:end])
        for b in range(work.last_blocks.shape[0]):
            add_convex(work.last_blocks[b], work.last_rows[b], work.W[end:])


@inline
def solve(work, mu):  # type: ignore[no-untyped-def]
    """The best policy on the model: the step at which there is none or -1, slope, curvature and gradient."""
    for k in range(work.u.shape[0]):
        for i in range(work.u.shape[1]):
            work.low[k, i] = work.limits[0, i] - work.u[k, i]
            work.high[k, i] = work.limits[1, i] - work.u[k, i]
    work.v[:] = 0.0
    work.P[:] = 0.0
    work.numbers[:] = 0.0
    none = np.zeros((0, 0, 0))
    failed = sweep(
        work.products[0], work.products[1], work.products[2], work.products[3], work.products[4], work.euler,
        work.F, work.g, work.W, False, work.low, work.low, work.high, none, mu,
        work.feedforward, work.feedback, work.v, work.P, work.numbers,
    )  # fmt: skip
    return failed, work.numbers[0], work.numbers[1], work.numbers[2]


@inline
def follow(work, first):  # type: ignore[no-untyped-def]
    """Rolls the policy out for a group of step sizes from `first` on: the best's merit, size, and number."""
    count = work.tried.size
    for i in range(count):
        work.tried[i] = work.sizes[first + i]
    _run(work.rollouts)
    _run(work.costs)
    _run(work.residuals)
    best, least = 0, np.inf
    rho = work.penalty[0]
    end = work.memory.shape[1] - 1
    for i in range(count):
        merit = work.total[i] + work.terminal[i]
        for j in range(work.homes.size):
            if not abs(work.memory[i, end, work.homes[j]]) < LARGEST:
                merit = np.inf
        for k in range(work.found.shape[1]):
            for j in range(work.found.shape[2]):
                pushed = max(0.0, work.multipliers[k, j] + rho * work.found[i, k, j])
                if not abs(work.found[i, k, j]) < np.inf:
                    pushed = np.inf
                merit += (pushed * pushed - work.multipliers[k, j] ** 2) / (2.0 * rho)
        if merit < least:
            best, least = i, merit
    work.outcome[0] = work.total[best] + work.terminal[best]
    return least, work.tried[best], best


@inline
def keep(work, best):  # type: ignore[no-untyped-def]
    """Keeps one of the trajectories of the last rollouts."""
    for k in range(work.kept_x.shape[0]):
        for i in range(work.kept_x.shape[1]):
            work.kept_x[k, i] = work.memory[best, k, work.homes[i]]
        for i in range(work.kept_y.shape[1]):
            work.kept_y[k, i] = work.memory[best, k, i]
    _copy(work.kept_u, work.controls[best])
    _copy(work.kept_violations, work.found[best])
    work.outcome[1] = work.outcome[0]


@inline
def accept(work):  # type: ignore[no-untyped-def]
    """Goes on from the kept trajectory."""
    _copy(work.x, work.kept_x)
    _copy(work.y, work.kept_y)
    _copy(work.u, work.kept_u)
    _copy(work.violations, work.kept_violations)
    work.outcome[2] = work.outcome[1]


def _descend(work, count, together, most, tolerance, mu, growth, merit):  # type: ignore[no-untyped-def]
    """Iterations from a trajectory of a certain merit on.

    Args:
        work: what they compute with.
        count: number of step sizes.
        together: how many of them are tried at once.
        most: iterations.
        tolerance: see `ILQR`.
        mu: regularisation.
        growth: the factor by which it changed last.
        merit: of the trajectory: its cost, and what constraints add.

    Returns:
        Why they ended, the step at which the model was not convex or -1, the number of iterations and of groups of
        rollouts, regularisation and factor to go on with, merit, and the gradient that was left.
    """
    iterations, groups, gradient, known = 0, 0, np.nan, False
    steady, stuck = mu, False  # the regularisation before steps failed; whether they have since one was accepted
    while iterations < most:
        iterations += 1
        if not known:
            about(work)
            known = True
        failed, slope, curvature, steepest = solve(work, mu)
        while failed >= 0 or not math.isfinite(slope + curvature):
            if failed < 0:
                return UNDEFINED, failed, iterations, groups, mu, growth, merit, gradient
            growth = max(GROWTH, growth * GROWTH)
            mu = max(LEAST, mu * growth)
            if mu > MOST:
                return INDEFINITE, failed, iterations, groups, steady, 1.0, merit, gradient
            failed, slope, curvature, steepest = solve(work, mu)
        gradient = steepest
        small = tolerance * (1.0 + abs(merit))
        # After a step that failed, it is the regularisation that makes the promise small.
        nothing = -(slope + 0.5 * curvature) <= small
        if nothing and not stuck:
            return SETTLED, -1, iterations, groups, mu, growth, merit, gradient
        better, enough = np.inf, False
        for first in range(0, 0 if nothing else count, together):
            groups += 1
            least, size, best = follow(work, first)
            if not least < better:
                continue
            keep(work, best)
            promise = max(-size * (slope + 0.5 * size * curvature), 0.0)
            better, enough = least, merit - least > ARMIJO * promise
            if merit - least > SATISFIED * promise:
                break
        if not enough:
            stuck = True
            growth = max(GROWTH, growth * GROWTH)
            mu = max(LEAST, mu * growth)
            if nothing or mu > MOST:
                failed = solve(work, steady)[0]  # gains as they would be without
                return STUCK, failed, iterations, groups, steady, 1.0, merit, gradient
            continue
        accept(work)
        known = False
        growth = min(1.0 / GROWTH, growth / GROWTH)
        mu = mu * growth if mu * growth > LEAST else 0.0
        steady, stuck = mu, False
        change, merit = merit - better, better
        if change <= small:
            return SETTLED, -1, iterations, groups, mu, growth, merit, gradient
    return SPENT, -1, iterations, groups, mu, growth, merit, gradient


native: Callable[..., Any] = compiled()(_descend)
"""`_descend` on a `Work`."""


@compiled()
def modelled(work):  # type: ignore[no-untyped-def]
    """`about`, for Python to call."""
    about(work)


def interpreted(kind: type) -> Callable[..., Any]:
    """`_descend` on an object of a class with methods of the same names as what a `Work` is worked on with."""
    methods = {name: getattr(kind, name) for name in ("about", "solve", "follow", "keep", "accept")}
    return types.FunctionType(_descend.__code__, {**globals(), **methods})
