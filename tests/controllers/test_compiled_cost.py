"""Compiled costs against NumPy's, on every task; and what stays with NumPy."""

import copy
import sys

import casadi as ca
import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.controllers import compiled_cost as module
from trimtab.controllers.cem import CEM
from trimtab.controllers.compiled_cost import compiled_cost, summed
from trimtab.controllers.problem import Problem
from trimtab.robots.arrays import entry
from trimtab.robots.layout import Reading
from trimtab.robots.shaping import column
from trimtab.robots.task import Robot, Start, Task, Term, quadratic
from trimtab.sim import native
from trimtab.sim.interface import Rollout, State


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv(native.ENVIRONMENT, str(tmp_path_factory.getbasetemp() / "kernels"))


def drawn(task, members, n, horizon):
    """Random readings (E, N, H+1, ny), near the goal and far from it, controls (N, H, nu) and times (H,)."""
    rng = np.random.default_rng(1)
    y = rng.standard_normal((members, n, horizon + 1, task.robot.layout.size))
    y *= np.geomspace(0.03, 10.0, n)[:, None, None]
    return y, rng.uniform(-1.5, 1.5, (n, horizon, task.robot.nu)), 3.0 + 0.1 * np.arange(1, horizon + 1)


def made(*terms, size=3, nu=2):
    robot = Robot("fake", None, (Reading("y", size),), 0.1, limits=np.array([[-1.0], [1.0]]) * np.ones(nu))
    return Task("fake-go", robot, lambda y, u: 0.0 * u[..., 0], terms, lambda seed: Start(*np.zeros((2, 1))), 1.0)


@pytest.mark.parametrize("name", robots.names())
def test_every_tasks_cost_is_numpys(name):
    task = robots.load(name)
    compiled = compiled_cost(task)
    assert compiled is not None
    for members, n, horizon in [(1, 33, 12), (3, 5, 1), (1, 1, 20)]:
        y, u, times = drawn(task, members, n, horizon)
        found = compiled(Rollout(y, np.ones((members, n), bool)), u, times)
        np.testing.assert_allclose(found, summed(task, y, u, times), rtol=1e-9)


def test_terminal_terms_times_and_any_strides():
    task = made(
        Term("clock", lambda y, u, t: u * u, lambda r: r.sum(-1), weight=0.5, terminal_weight=2.0),
        Term("late", lambda y, u, t: entry(y.y, slice(0, 1)), lambda r: quadratic(r), weight=2.0),
        Term("end", lambda y, u, t: column(t * entry(y.y, 1)), quadratic, weight=0.0, terminal_weight=3.0),
        Term("path", lambda y, u, t: column(entry(y.y, 2) - np.sin(t)), quadratic),
    )
    compiled = compiled_cost(task)
    assert compiled is not None
    y, u, times = drawn(task, 2, 7, 5)
    valid = np.ones((2, 7), bool)
    by_hand = ((y[:, :, 1:, 2] - np.sin(times)) ** 2 / 2 + y[:, :, 1:, 0] ** 2 + 0.5 * (u**2).sum(-1)).sum(-1)
    by_hand += 1.5 * (times[-1] * y[:, :, -1, 1]) ** 2 + 2.0 * (u[:, -1] ** 2).sum(-1)
    np.testing.assert_allclose(summed(task, y, u, times), by_hand, rtol=1e-12)
    for order in ((0, 1, 2, 3), (3, 0, 2, 1), (0, 1, 3, 2), (2, 3, 1, 0)):
        strided = np.ascontiguousarray(y.transpose(order)).transpose(np.argsort(order))
        found = compiled(Rollout(strided, valid), np.asfortranarray(u), times)
        np.testing.assert_allclose(found, by_hand, rtol=1e-12)
    single = y.astype(np.float32), u.astype(np.float32)
    exact = summed(task, *(a.astype(float) for a in single), times + 1.0)
    np.testing.assert_allclose(compiled(Rollout(single[0], valid), single[1], times + 1.0), exact, rtol=1e-12)


def opaque(y, u, t):
    """Only NumPy can."""
    return np.vectorize(lambda a: float(a) ** 2)(y.y)


def impure(y, u, t):
    """Something else on every kind of array, which tracing does not see."""
    return y.y * float(y.y.size)


def long(y, u, t):
    r = y.y
    for _ in range(module.LONGEST):
        r = np.sin(r)
    return r


@pytest.mark.parametrize("residual", [opaque, impure, long, lambda y, u, t: y.y[..., 0], lambda y, u, t: 1 / 0])
def test_what_does_not_trace_stays_with_numpy(residual):
    before = ca.GlobalOptions.getNumpyMode()
    assert compiled_cost(made(Term("r", residual))) is None
    assert ca.GlobalOptions.getNumpyMode() == before


def test_without_llvmlite_costs_stay_with_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    native.machine.cache_clear()
    try:
        assert compiled_cost(made(Term("r", lambda y, u, t: y.y))) is None
    finally:
        native.machine.cache_clear()


class Still:
    """Dynamics that predict what they were made with."""

    dt = 0.1

    def __init__(self, y, valid):
        self.result = Rollout(y, valid)

    def rollout(self, state, controls, rng):
        return self.result


@pytest.mark.parametrize("residual", [lambda y, u, t: np.maximum(y.y, 0.0) + np.where(y.y > 0, 1.0, 0.0), opaque])
def test_broken_predictions_cost_infinitely(residual):
    task = made(Term("r", residual), Term("u", lambda y, u, t: u, quadratic))
    y, u, _ = drawn(task, 2, 6, 3)
    y[0, 1, 2, 0] = np.nan
    y[1, 2, 3, 1] = np.inf
    valid = np.ones((2, 6), bool)
    valid[0, 4] = False
    rng = np.random.default_rng(0)
    costs = Problem(Still(y, valid), task, State(0.0, y[0, 0, 0]), 3, rng, risk="worst").cost(u)
    np.testing.assert_array_equal(np.isinf(costs), [False, True, True, False, True, False])
    good = [0, 3, 5]
    np.testing.assert_allclose(costs[good], summed(task, y, u, np.arange(3.0)).max(0)[good], rtol=1e-12)


@pytest.mark.parametrize("name", ["cheetah-run", "reacher-easy", "quadruped-walk"])
def test_mujocos_readings_are_read_where_they_lie(name):
    task = robots.load(name)
    state, dynamics = sim.make("mujoco", task).reset(0), sim.dynamics("mujoco", task)
    compiled, rng = compiled_cost(task), np.random.default_rng(0)
    for n, horizon in [(9, 4), (3, 6), (9, 4), (9, 4)]:
        u = rng.uniform(-1, 1, (n, horizon, task.robot.nu))
        rollout = dynamics.rollout(state, u)
        times = state.time + task.robot.dt * np.arange(1, horizon + 1)
        found = compiled(rollout, u, times)
        some = rollout.of(slice(1, None, 2))
        np.testing.assert_allclose(found, summed(task, rollout.y, u, times), rtol=1e-9)
        np.testing.assert_array_equal(some, rollout.y[:, 1::2])
        assert not np.shares_memory(some, rollout.y)
    dynamics.close()


def test_plans_are_the_same_to_the_last_bit_and_nearly_numpys(monkeypatch):
    task = robots.load("cartpole-swingup")
    state, dynamics = sim.make("mujoco", task).reset(3), sim.dynamics("mujoco", task)

    def plan(of):
        planner, rng = CEM(horizon=30, samples=24, knots=6), np.random.default_rng(5)
        return planner.plan(Problem(dynamics, of, state, 30, rng), None, rng)

    one, other = plan(task), plan(copy.copy(task))
    np.testing.assert_array_equal(one.controls, other.controls)
    assert one.cost == other.cost
    monkeypatch.setattr(native, "machine", lambda: None)
    plain = plan(copy.copy(task))
    assert plain.cost == pytest.approx(one.cost, rel=1e-9)
    np.testing.assert_allclose(plain.controls, one.controls, rtol=1e-6, atol=1e-9)
    dynamics.close()
