"""Nonlinear MPC against LQR, against iterates of its own dynamics, and round an obstacle."""

import dataclasses

import numpy as np
import pytest
from scipy.linalg import solve_discrete_are
from trimtab import robots, sim
from trimtab.controllers.nmpc import NMPC
from trimtab.controllers.problem import Problem
from trimtab.controllers.tracing import Untraceable, traced
from trimtab.robots import Constraint, Reading, Robot, Start, Task, Term
from trimtab.robots.symbolic import Symbolic
from trimtab.robots.task import quadratic
from trimtab.sim.casadi_dynamics import CasadiDynamics

DT = 0.1
SOLVERS = ("ipopt", "fatrop", "sqp")


def mass(limit=100.0, constraints=(), weight=0.1, target=0.0):
    """A point mass in the plane, whose controls are its accelerations."""

    def derivative(x, u, h):
        import casadi as ca

        return ca.vertcat(x[2:], u)

    robot = Robot(
        name="mass",
        build=None,
        readings=(Reading.qpos("place", 0, 1), Reading.qvel("velocity", 0, 1)),
        dt=DT,
        limits=np.array([[-limit] * 2, [limit] * 2]),
        symbolic=lambda: Symbolic(2, 2, 2, derivative, timestep=DT),
    )
    return Task(
        name="mass-rest",
        robot=robot,
        score=lambda y, u: -y.place[..., 0],
        terms=(
            Term("place", lambda y, u, t: y.place - target, quadratic),
            Term("velocity", lambda y, u, t: y.velocity, quadratic, weight=0.5),
            Term("control", lambda y, u, t: u, quadratic, weight=weight),
        ),
        start=lambda seed: Start(np.zeros(2), np.zeros(2)),
        duration=1.0,
        constraints=constraints,
    )


def problem(task, x, horizon, time=0.0):
    dynamics = CasadiDynamics(task)
    x = np.asarray(x, float)
    return Problem(dynamics, task, sim.State(time, x.copy(), x), horizon, np.random.default_rng(0))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_linear_quadratic_problem_has_lqrs_control(solver):
    task = mass()
    a = np.block([[np.eye(2), DT * np.eye(2)], [np.zeros((2, 2)), np.eye(2)]])
    b = np.concatenate([DT**2 * np.eye(2), DT * np.eye(2)])
    # The cost of a step sees the state after it: x_{k+1}'Q x_{k+1} + u'Ru, with x_{k+1} = Ax + Bu.
    q, r = np.diag([1.0, 1.0, 0.5, 0.5]), 0.1 * np.eye(2)
    s = solve_discrete_are(a, b, a.T @ q @ a, r + b.T @ q @ b, s=a.T @ q @ b)
    gain = np.linalg.solve(r + b.T @ (q + s) @ b, b.T @ (q + s) @ a)
    x = np.array([1.0, -0.5, 0.3, 0.2])
    plan = NMPC(horizon=150, solver=solver, tolerance=1e-8).plan(problem(task, x, 150), None, None)
    np.testing.assert_allclose(plan.controls[0], -gain @ x, rtol=1e-4, atol=1e-5)
    assert plan.stats["violation"] < 1e-6


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_limits_hold_and_the_plan_is_what_the_dynamics_do(solver):
    task = mass(limit=1.0)
    p = problem(task, [2.0, 0.0, 0.0, 0.0], 40)
    plan = NMPC(horizon=40, solver=solver, tolerance=1e-8).plan(p, None, None)
    assert plan.stats["converged"] == 1.0
    assert np.abs(plan.controls).max() <= 1.0
    assert np.abs(plan.controls[:, 0]).max() > 0.99
    y = p.dynamics.rollout(p.state, plan.controls[None], None).y[0, 0]
    np.testing.assert_allclose(plan.prediction[0], y, atol=1e-6)
    assert plan.cost == pytest.approx(p.cost(plan.controls[None])[0], rel=1e-6)


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_constraints_hold_and_bind(solver):
    """A disc of radius 0.5 lies between the mass and its goal."""

    def inside(y, u, t):
        x, z = y.place[..., :1] if y.place.ndim > 1 else y.place[0:1], y.place[1:2]
        return 0.25 - (x - 1.0) * (x - 1.0) - (z - 0.05) * (z - 0.05)

    free, task = mass(), mass(constraints=(Constraint("disc", inside),))
    x = [2.0, 0.0, 0.0, 0.0]
    planner = NMPC(horizon=60, solver=solver, tolerance=1e-6)
    straight = planner.plan(problem(free, x, 60), None, None)
    round_ = planner.plan(problem(task, x, 60), None, None)

    def nearest(plan):
        return np.linalg.norm(plan.prediction[0, :, :2] - [1.0, 0.05], axis=1).min()

    assert nearest(straight) < 0.2
    assert nearest(round_) == pytest.approx(0.5, abs=1e-3)
    assert round_.stats["violation"] < 1e-4
    assert round_.cost > straight.cost


def test_a_plan_begins_from_the_one_before():
    task = robots.load("pendulum-swingup")
    dynamics = CasadiDynamics(task)
    state = sim.make("mujoco", task).reset(100)
    planner = NMPC(horizon=30)
    rng = np.random.default_rng(0)
    first = planner.plan(Problem(dynamics, task, state, 30, rng), None, rng)
    assert first.memory.status == "Solve_Succeeded"
    after = dynamics.advance(state, first.controls[:1])
    second = planner.plan(Problem(dynamics, task, after, 30, rng), first, rng)
    cold = planner.plan(Problem(dynamics, task, after, 30, rng), None, rng)
    assert second.stats["iterations"] < cold.stats["iterations"]
    assert second.cost == pytest.approx(cold.cost, rel=1e-3)


def test_an_infeasible_problem_says_so_and_still_has_controls():
    below = Constraint("floor", lambda y, u, t: 5.0 - y.place[0:1])
    task = mass(limit=0.1, constraints=(below,))
    plan = NMPC(horizon=5).plan(problem(task, np.zeros(4), 5), None, None)
    assert plan.stats["converged"] == 0.0
    assert plan.controls.shape == (5, 2)
    assert np.isfinite(plan.controls).all()
    assert np.abs(plan.controls).max() <= 0.1
    assert plan.memory is None or "Infeasible" in plan.memory.status


def test_a_cost_that_is_not_finite_is_told_by_the_plan_alone(capfd):
    task = dataclasses.replace(mass(), terms=(Term("root", lambda y, u, t: np.sqrt(y.place[0:1] - 10.0)),))
    plan = NMPC(horizon=5).plan(problem(task, np.zeros(4), 5), None, None)
    assert plan.stats["converged"] == 0.0
    assert plan.cost == np.inf
    assert plan.memory is None
    assert np.isfinite(plan.controls).all()
    assert capfd.readouterr() == ("", "")


def test_what_is_wrong_is_named():
    task = robots.load("cartpole-swingup")
    dynamics = sim.dynamics("mujoco", task)
    state = sim.make("mujoco", task).reset(0)
    with pytest.raises(ValueError, match="closed form: use the dynamics casadi or pinocchio"):
        NMPC(horizon=5).plan(Problem(dynamics, task, state, 5, None), None, None)
    with pytest.raises(ValueError, match=r"(?s)unknown solver 'ipop'.*ipopt"):
        NMPC(solver="ipop")
    with pytest.raises(ValueError, match="tolerance is -1"):
        NMPC(tolerance=-1.0)
    opaque = dataclasses.replace(mass(), terms=(Term("opaque", lambda y, u, t: np.asarray(y.place, float)),))
    with pytest.raises(Untraceable, match="mass-rest's terms do not run on symbols"):
        traced(opaque, opaque.cost)
