"""Regulators against other ways to the same numbers."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are
from trimtab import robots, sim
from trimtab.controllers import MPC, lqr
from trimtab.controllers.lqr import LQR
from trimtab.controllers.problem import Problem
from trimtab.sim.interface import State


def positive(rng, *shape):
    root = rng.standard_normal(shape)
    return root @ root.mT + 0.1 * np.eye(shape[-1])


def system(seed, horizon, n, nu):
    """A time-varying, affine problem with cross terms."""
    rng = np.random.default_rng(seed)
    whole = positive(rng, horizon, n + nu, n + nu)
    return {
        "A": rng.standard_normal((horizon, n, n)) / np.sqrt(n),
        "B": rng.standard_normal((horizon, n, nu)),
        "Q": np.concatenate((whole[:, :n, :n], positive(rng, 1, n, n))),
        "R": whole[:, n:, n:],
        "N": whole[:, n:, :n],
        "c": rng.standard_normal((horizon, n)),
        "q": rng.standard_normal((horizon + 1, n)),
        "r": rng.standard_normal((horizon, nu)),
    }


def cost(m, x, us, disturbances):
    """The cost of controls (H, nu, samples) from x (n,), and the states' last."""
    total, x = 0.0, np.broadcast_to(x[:, None], (len(x), us.shape[-1]))
    for k, u in enumerate(us):
        total = total + 0.5 * (x * (m["Q"][k] @ x)).sum(0) + m["q"][k] @ x
        total = total + 0.5 * (u * (m["R"][k] @ u)).sum(0) + m["r"][k] @ u + (u * (m["N"][k] @ x)).sum(0)
        x = m["A"][k] @ x + m["B"][k] @ u + m["c"][k][:, None] + disturbances[k]
    return total + 0.5 * (x * (m["Q"][-1] @ x)).sum(0) + m["q"][-1] @ x


def follow(m, regulator, x, disturbances):
    """Controls (H, nu, samples) of the regulator from x (n,)."""
    us, x = [], np.broadcast_to(x[:, None], (len(x), disturbances.shape[-1]))
    for k in range(len(regulator.k)):
        us.append(regulator.K[k] @ x + regulator.k[k][:, None])
        x = m["A"][k] @ x + m["B"][k] @ us[-1] + m["c"][k][:, None] + disturbances[k]
    return np.array(us)


@pytest.mark.parametrize(("n", "nu"), [(1, 1), (4, 1), (3, 3), (14, 7)])
def test_the_infinite_horizon_is_scipys(n, nu):
    rng = np.random.default_rng(n)
    A, B = rng.standard_normal((n, n)), rng.standard_normal((n, nu))
    whole = positive(rng, n + nu, n + nu)
    Q, R, N = whole[:n, :n], whole[n:, n:], whole[n:, :n]
    K, P = lqr.infinite(A, B, Q, R, N)
    expected = solve_discrete_are(A, B, Q, R, s=N.T)
    np.testing.assert_allclose(P, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    assert np.abs(np.linalg.eigvals(A + B @ K)).max() < 1.0


def test_a_long_horizon_is_an_infinite_one():
    rng = np.random.default_rng(0)
    A, B, Q, R = rng.standard_normal((3, 3)), rng.standard_normal((3, 2)), np.eye(3), np.eye(2)
    K, P = lqr.infinite(A, B, Q, R)
    long = lqr.finite(*(np.tile(a, (200, 1, 1)) for a in (A, B)), np.tile(Q, (201, 1, 1)), np.tile(R, (200, 1, 1)))
    np.testing.assert_allclose(long.K[0], K, atol=1e-8)
    np.testing.assert_allclose(long.P[0], P, atol=1e-8)


def test_the_finite_horizon_is_the_minimum_over_all_controls():
    horizon, n, nu = 6, 3, 2
    m, x = system(1, horizon, n, nu), np.array([0.5, -1.0, 2.0])
    regulator = lqr.finite(**m)
    still = np.zeros((horizon, n, 1))
    us = follow(m, regulator, x, still)
    least = cost(m, x, us, still)[0]
    value = 0.5 * x @ regulator.P[0] @ x + regulator.p[0] @ x + regulator.s[0]
    assert value == pytest.approx(least, rel=1e-10)
    h = 1e-4  # the cost is quadratic: central differences are exact
    for e in np.eye(horizon * nu).reshape(-1, horizon, nu, 1):
        more, less = cost(m, x, us + h * e, still)[0], cost(m, x, us - h * e, still)[0]
        assert abs(more - less) / (2 * h) < 1e-6 * (1.0 + abs(least))
        assert more > least


def test_noise_costs_what_is_said_and_changes_no_control():
    horizon, n, nu, samples = 5, 2, 1, 200_000
    m, x = system(2, horizon, n, nu), np.array([1.0, -0.5])
    rng = np.random.default_rng(3)
    sigma = 0.2 * positive(rng, horizon, n, n)
    calm, noisy = lqr.finite(**m), lqr.finite(**m, noise=sigma)
    np.testing.assert_array_equal(calm.K, noisy.K)
    np.testing.assert_array_equal(calm.k, noisy.k)
    disturbances = np.linalg.cholesky(sigma) @ rng.standard_normal((horizon, n, samples))
    costs = cost(m, x, follow(m, noisy, x, disturbances), disturbances)
    value = 0.5 * x @ noisy.P[0] @ x + noisy.p[0] @ x + noisy.s[0]
    assert abs(costs.mean() - value) < 4.0 * costs.std() / np.sqrt(samples)
    assert noisy.s[0] - calm.s[0] > 20.0 * costs.std() / np.sqrt(samples)


def test_what_can_not_be_regulated_is_told():
    A, B = np.diag([1.2, 0.5]), np.array([[0.0], [1.0]])
    with pytest.raises(ValueError, match=r"not stabilisable.*1\.2"):
        lqr.infinite(A, B, np.eye(2), np.eye(1))
    lqr.infinite(np.diag([0.9, 0.5]), B, np.eye(2), np.eye(1))  # what no control moves may decay by itself
    with pytest.raises(ValueError, match="does not see"):
        lqr.infinite(np.eye(1), np.eye(1), np.zeros((1, 1)), np.eye(1))
    with pytest.raises(ValueError, match="costs nothing"):
        lqr.infinite(np.eye(1), np.eye(1), np.eye(1), np.zeros((1, 1)))
    m = system(0, 3, 2, 1)
    with pytest.raises(ValueError, match=r"q has shape \(3, 2\), not \(4, 2\)"):
        lqr.finite(**(m | {"q": m["q"][1:]}))
    with pytest.raises(ValueError, match="step 2"):
        lqr.finite(**(m | {"R": -100.0 * m["R"]}))


def balancing(dynamics="mujoco", name="cartpole-balance"):
    task = robots.load(name)
    state = sim.make("mujoco", task).reset(100)
    return Problem(sim.dynamics(dynamics, task), task, state, 50, np.random.default_rng(0))


def test_the_cartpoles_equilibrium_is_upright_on_every_model():
    found = [lqr.equilibrium(balancing(dynamics)) for dynamics in ("mujoco", "casadi")]
    for at, q in zip(found, (slice(1, 5), slice(0, 4))):
        np.testing.assert_allclose(at.x[q], 0.0, atol=1e-5)
        np.testing.assert_allclose(at.u, 0.0, atol=1e-5)
    np.testing.assert_allclose(found[0].K, found[1].K, rtol=1e-3)


def test_the_region_of_attraction_is_attracted():
    problem = balancing()
    at = lqr.equilibrium(problem)
    level = lqr.region_of_attraction(problem, at, np.random.default_rng(0), 50.0)
    assert 0.1 < level < 50.0
    rng, model = np.random.default_rng(1), problem.dynamics
    root = np.linalg.inv(np.linalg.cholesky(at.P)).T
    horizon = 400
    x, u = np.tile(at.x, (horizon + 1, 1)), np.tile(at.u, (horizon, 1))

    def end(dx):
        begin = model.place(problem.state, model.displace(at.x, dx))
        gains = np.tile(at.K, (horizon, 1, 1))
        found = model.policy_rollout(begin, x, u, np.zeros_like(u), gains, np.zeros(1), problem.limits)
        return np.abs(model.difference(found.x[0, -1], at.x)).max()

    for _ in range(20):
        direction = rng.standard_normal(4)
        dx = root @ direction * np.sqrt(2.0 * 0.9 * level) / np.linalg.norm(direction)
        assert end(dx) < 1e-2
    assert end(np.array([0.0, np.pi, 0.0, 0.0])) > 1.0  # hanging is far outside


def test_gains_balance_between_plans():
    task = robots.load("cartpole-balance")
    plant, rng = sim.make("mujoco", task), np.random.default_rng(0)
    mpc = MPC(LQR(horizon=100, replan=100), sim.dynamics("mujoco", task), task)
    state = plant.reset(100)
    for k in range(100):
        u = mpc.control(state)
        push = rng.choice([-0.2, 0.2]) if k < 50 else 0.0  # which the plan knows nothing of
        state = plant.step(np.clip(u + push, -1.0, 1.0))
    assert mpc.latest.time == 0.0
    held = abs(state.y[1])
    state, rng = plant.reset(100), np.random.default_rng(0)
    for k in range(100):
        push = rng.choice([-0.2, 0.2]) if k < 50 else 0.0
        state = plant.step(np.clip(mpc.latest.control(state.time) + push, -1.0, 1.0))
    assert held < 0.02 < abs(state.y[1])


def test_no_equilibrium_is_told():
    with pytest.raises(ValueError, match="no equilibrium of cheetah-run"):
        lqr.equilibrium(balancing(name="cheetah-run"))


def test_dynamics_without_derivatives_are_refused():
    task = robots.load("cartpole-balance")
    with pytest.raises(ValueError, match=r"DmControlDynamics.*mujoco"):
        MPC(LQR(), sim.dynamics("dm_control", task), task)
    with pytest.raises(ValueError, match="horizon is 0"):
        LQR(horizon=0)
    mpc = MPC(LQR(), sim.dynamics("mujoco", task), task)
    with pytest.raises(ValueError, match="readings only"):
        mpc.plan(State(0.0, np.zeros(4)))
