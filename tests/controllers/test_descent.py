"""Iterations in native code against those in Python, and the compiled local model against derivatives by readings."""

import dataclasses
import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab import robots
from trimtab.controllers import expansion
from trimtab.controllers.convex import add_convex
from trimtab.controllers.expansion import Composed, composed, objective
from trimtab.controllers.ilqr import ILQR
from trimtab.controllers.local import Local, local
from trimtab.controllers.problem import Problem
from trimtab.controllers.riccati import Recursion
from trimtab.robots import plugins
from trimtab.robots.shaping import column
from trimtab.sim.casadi_dynamics import CasadiDynamics
from trimtab.sim.casadi_simulator import CasadiSimulator
from trimtab.sim.pinocchio_dynamics import PinocchioDynamics, PinocchioSimulator

HORIZON = 12
TASKS = {
    "acrobot-swingup": (CasadiDynamics, CasadiSimulator),  # a Hessian's block of four
    "car-parking": (CasadiDynamics, CasadiSimulator),  # constraints
    "cartpole-swingup": (CasadiDynamics, CasadiSimulator),
    "pendulum-swingup": (CasadiDynamics, CasadiSimulator),
    "quadrotor-waypoints": (CasadiDynamics, CasadiSimulator),  # a quaternion, and readings that starts draw
    "reacher-easy": (PinocchioDynamics, PinocchioSimulator),
}


def case(name):
    """A task, its dynamics, and a problem at its start."""
    robot, task = name.split("-")
    made = plugins.find("robots", robot)[task]()
    dynamics, plant = (kind(made) for kind in TASKS[name])
    state = plant.reset(3)
    return made, dynamics, Problem(dynamics, made, state, HORIZON, np.random.default_rng(0))


@pytest.mark.parametrize("name", TASKS)
def test_the_compiled_model_is_that_by_readings(name):
    task, dynamics, problem = case(name)
    rng, goal = np.random.default_rng(1), objective(task)
    both = [local(dynamics, task, HORIZON, 4), Local(dynamics, task, HORIZON, 4)]
    assert type(both[0]) is not Local
    u = np.clip(0.3 * rng.standard_normal((HORIZON, task.robot.nu)), *problem.limits)
    multipliers = rng.random((HORIZON, goal.constrained))
    for one in both:
        one.begin(problem, False)
        x = np.tile(dynamics.coordinates(problem.state), (HORIZON + 1, 1))
        best, _ = one.rollout(
            (x, u), (np.zeros_like(u), np.zeros((HORIZON, u.shape[1], dynamics.tangent))), np.zeros(1)
        )
        one.at, one.multipliers, one.penalty = one.taken(best), multipliers, 3.0
        one.about()
    for attribute in ("F", "gradient", "hessian"):
        own, other = (getattr(one.recursion, attribute) for one in both)
        np.testing.assert_allclose(own, other, rtol=1e-8, atol=1e-8 * max(1.0, abs(other).max()), err_msg=attribute)
    np.testing.assert_allclose(both[0].at.y, both[1].at.y, rtol=1e-12, atol=1e-12)
    assert both[0].at.cost == pytest.approx(both[1].at.cost, rel=1e-10)


@pytest.mark.parametrize("name", TASKS)
def test_native_iterations_are_those_in_python(name):
    task, dynamics, problem = case(name)
    together = local(dynamics, task, HORIZON, 4).together
    plans = []
    for general in (False, True):
        planner = ILQR(horizon=HORIZON, knots=4, iterations=3, first_iterations=9, first_samples=0, steps=2 * together)
        if general:
            planner._kept.locals[id(dynamics), id(task), HORIZON] = made = Local(dynamics, task, HORIZON, 2 * together)
            made.together = together
        begun = dataclasses.replace(problem)  # which counts anew
        first = planner.plan(begun, None, np.random.default_rng(0))
        later = dataclasses.replace(problem, state=dynamics.advance(problem.state, first.controls[:1]))
        plans.append((first, planner.plan(later, first, np.random.default_rng(0))))
    for own, other in zip(*plans):
        assert own.cost == pytest.approx(other.cost, rel=1e-6)
        np.testing.assert_allclose(own.controls, other.controls, rtol=1e-4, atol=1e-4)
        assert own.memory.status == other.memory.status
        assert own.stats["iterations"] == other.stats["iterations"]
        assert own.stats["evaluations"] == other.stats["evaluations"]


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_semi_implicit_steps_give_the_same_policy(gaps, mu):
    rng, horizon, n, nu, h = np.random.default_rng(0), 30, 14, 5, 0.02
    velocity = 0.3 * rng.standard_normal((horizon, n // 2, n + nu))
    F = np.concatenate((h * velocity, velocity), 1)
    F[:, : n // 2, : n // 2] += np.eye(n // 2)
    gradient, J = rng.standard_normal((horizon, n + nu)), rng.standard_normal((horizon, n + nu, n + nu))
    found = []
    for euler in (0.0, h):
        recursion = Recursion(horizon, n, nu, euler)
        assert recursion.euler == euler
        recursion.F[:], recursion.gradient[:], recursion.hessian[:] = F, gradient, J.mT @ J
        d = np.random.default_rng(1).standard_normal((horizon, n)) if gaps else None
        found.append(recursion.solve(np.full((horizon, nu), -0.2), np.full((horizon, nu), 0.3), mu, d))
    own, other = found
    assert own.failed == other.failed == -1
    for name in ("feedforward", "feedback", "slope", "curvature"):
        a, b = np.array(getattr(own, name)), np.array(getattr(other, name))
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10 * abs(b).max(), err_msg=name)


def test_a_long_model_is_left_to_python(monkeypatch):
    task, dynamics, _ = case("pendulum-swingup")
    monkeypatch.setattr("trimtab.controllers.expansion.LONGEST", 10)
    with pytest.raises(ValueError, match="instructions"):
        Composed(task, dynamics.model)
    assert type(local(dynamics, task, HORIZON, 4)) is Local


def test_a_model_is_composed_once_for_a_task_on_its_dynamics(monkeypatch):
    made = []
    monkeypatch.setattr(Composed, "__init__", lambda self, task, model: made.append((task, model)))
    task, dynamics, _ = case("pendulum-swingup")
    other, beside = dataclasses.replace(task), CasadiDynamics(task)
    pairs = [(task, dynamics.model), (other, dynamics.model), (task, beside.model)]
    found = [composed(*pair) for pair in pairs]
    assert [composed(*pair) for pair in pairs] == found
    assert len(set(map(id, found))) == len(made) == 3
    known = set(expansion._composed_before)
    keys = {(id(task), id(model)) for task, model in made}
    assert keys <= known
    made.clear()
    del other, beside, pairs
    gc.collect()
    assert set(expansion._composed_before) & keys == {(id(task), id(dynamics.model))}


def test_without_native_code_iterations_are_in_python(monkeypatch):
    task, dynamics, _ = case("pendulum-swingup")
    monkeypatch.setattr("trimtab.controllers.local.machine", lambda: None)
    assert type(local(dynamics, task, HORIZON, 4)) is Local


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**32 - 1), st.sampled_from(["full", "zero", "diagonal"]))
def test_negative_eigenvalues_are_taken_away(size, width, seed, kind):
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((3, size, size)) * 10.0 ** rng.integers(-6, 7)
    h = h + h.mT
    if kind != "full":
        h *= np.eye(size) if kind == "diagonal" else 0.0
    rows, hessian = rng.standard_normal((3, size, width)), rng.standard_normal((3, width, width))
    values, vectors = np.linalg.eigh(h)
    wanted = hessian + rows.mT @ (vectors * np.maximum(values, 0.0)[:, None] @ vectors.mT) @ rows
    add_convex(h, rows, hessian)
    np.testing.assert_allclose(hessian, wanted, rtol=1e-9, atol=1e-12 * (1.0 + abs(h).max()))


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_not_finite_stays_so(entry):
    hessian = np.zeros((1, 2, 2))
    add_convex(np.array([[[1.0, entry], [entry, 2.0]]]), np.eye(2)[None], hessian)
    assert not np.isfinite(hessian).all()


def test_native_iterations_keep_to_constraints():
    task, dynamics, problem = case("pendulum-swingup")
    planner = ILQR(horizon=HORIZON, knots=4, first_iterations=200, first_samples=0)
    free = planner.plan(problem, None, np.random.default_rng(0)).prediction[0]
    at = task.robot.layout["pole_velocity"].start
    most = 0.9 * abs(free[:, at]).max()
    limit = robots.Constraint("slow", lambda y, u, t: column(y.pole_velocity * y.pole_velocity - most * most))
    held = dataclasses.replace(task, constraints=(limit,))
    dynamics = CasadiDynamics(held)
    problem = dataclasses.replace(problem, task=held, dynamics=dynamics)
    plan = planner.plan(problem, None, np.random.default_rng(0))
    assert type(planner._kept.locals[id(dynamics), id(held), HORIZON]) is not Local
    assert plan.stats["violation"] <= planner.feasibility
    assert abs(plan.prediction[0, :, at]).max() < most + 1e-3
