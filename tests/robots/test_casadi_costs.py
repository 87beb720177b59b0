"""The same costs on CasADi arrays: their numbers and their derivatives."""

import casadi as ca
import numpy as np
import pytest
from trimtab import robots

NAMES = robots.names()


@pytest.fixture(autouse=True)
def _array_mode():
    before = ca.GlobalOptions.getNumpyMode()
    ca.GlobalOptions.setNumpyMode(1)
    yield
    ca.GlobalOptions.setNumpyMode(before)


def random_points(task, n=20):
    rng = np.random.default_rng(0)
    ny, nu = task.robot.layout.size, task.robot.nu
    scale = np.repeat([0.1, 1.0], n // 2)[:, None]  # near the goal, and far from it
    return scale * rng.standard_normal((n, ny)), rng.uniform(-1.5, 1.5, (n, nu))


def traced(task, what):
    """A function of a single state's readings and its control, as numbers."""
    y, u = ca.SX.sym("y", task.robot.layout.size), ca.SX.sym("u", task.robot.nu)
    a, b = (ca.ArrayInterfaceSX(x).reshape(x.numel()) for x in (y, u))
    result = task.cost(a, b, 0.0) if what == "cost" else task.reward(a, b)
    assert result.shape == ()
    return ca.Function("f", [y, u], [result.to_casadi()]), (y, u)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["cost", "reward"])
def test_casadi_gives_the_same_numbers(name, what):
    task = robots.load(name)
    f, _ = traced(task, what)
    y, u = random_points(task)
    expected = task.cost(y, u, np.zeros(len(y))) if what == "cost" else task.reward(y, u)
    found = [float(f(a, b)) for a, b in zip(y, u)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["acrobot-swingup", "cartpole-swingup", "pendulum-swingup", "reacher-hard"])
def test_casadi_derivatives_are_the_costs_slopes(name):
    task = robots.load(name)
    f, (y, u) = traced(task, "cost")
    gradient = ca.Function("g", [y, u], [ca.gradient(f(y, u), ca.vertcat(y, u))])
    for a, b in zip(*random_points(task, 8)):
        z, h = np.concatenate([a, b]), 1e-6
        slopes = [
            (task.cost(p[: len(a)], p[len(a) :], 0.0) - task.cost(m[: len(a)], m[len(a) :], 0.0)) / (2 * h)
            for p, m in ((z + h * e, z - h * e) for e in np.eye(len(z)))
        ]
        np.testing.assert_allclose(np.ravel(gradient(a, b).full()), slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_casadi_traces_a_horizon_at_once(name):
    task = robots.load(name)
    y, u = random_points(task)
    symbolic = ca.SX.sym("y", *y.shape), ca.SX.sym("u", *u.shape)
    cost = task.cost(*(ca.ArrayInterfaceSX(s) for s in symbolic), np.zeros(len(y)))
    assert cost.shape == (len(y),)
    f = ca.Function("f", list(symbolic), [cost.to_casadi()])
    np.testing.assert_allclose(np.ravel(f(y, u).full()), task.cost(y, u, np.zeros(len(y))), rtol=1e-12, atol=1e-12)
