"""What searches leave to one another, what is not a number, and what threads and copies share."""

import copy
import dataclasses
import threading

import numpy as np
import pytest
from trimtab import robots
from trimtab.controllers.ilqr import ILQR, Status
from trimtab.controllers.local import Local, local
from trimtab.controllers.problem import Problem
from trimtab.robots.arrays import namespace, vector
from trimtab.robots.shaping import capped, column
from trimtab.robots.task import Term, quadratic, total
from trimtab.sim import codegen
from trimtab.sim.casadi_dynamics import CasadiDynamics

H = 20
CARTPOLE = robots.load("cartpole-swingup")


def rng():
    return np.random.default_rng(0)


def dynamics_and_state(task, x=(0.3, 3.0, 0.0, 0.0)):
    d = CasadiDynamics(task)
    return d, d.model.state(0.0, np.array(x, float))


def problem(d, task, state, horizon=H):
    return Problem(d, task, state, horizon, rng())


@pytest.mark.parametrize("general", [False, True])
def test_one_stuck_plan_does_not_freeze_those_after_it(general):
    norm = lambda r: namespace(r).sqrt(total(r * r))  # noqa: E731 - its slope at 0 is not a number
    terms = (
        Term("cart", lambda y, u, t: vector(y.cart, y.cart_velocity), norm, 1.0, 0.0),
        Term("u", lambda y, u, t: u, quadratic, 1e-3, 0.0),
    )
    task = dataclasses.replace(CARTPOLE, terms=terms)
    d, at_goal = dynamics_and_state(task, (0, 0, 0, 0))
    planner = ILQR(horizon=30, first_samples=0)
    if general:
        planner._kept.locals[id(d), id(task), 30] = Local(d, task, 30, 8)
    stuck = planner.plan(problem(d, task, at_goal, 30), None, rng())
    assert stuck.memory.status == Status.STUCK
    pushed = d.model.state(0.0, np.array([0.5, 0.0, 0.0, 0.0]))
    fresh = planner.plan(problem(d, task, pushed, 30), None, rng())
    plan = stuck
    for _ in range(10):
        plan = planner.plan(problem(d, task, pushed, 30), plan, rng())
    assert plan.cost == pytest.approx(fresh.cost, rel=1e-2)


def inside():
    bound = robots.Constraint("inside", lambda y, u, t: 0.5 - namespace(u).sqrt(0.5 - u * u))
    terms = (Term("cart", lambda y, u, t: column(y.cart - 5.0), quadratic, 1.0, 0.0),)
    task = dataclasses.replace(CARTPOLE, terms=terms, constraints=(bound,))
    return task, *dynamics_and_state(task)


def test_a_trajectory_whose_constraint_is_not_a_number_is_not_accepted():
    task, d, s = inside()
    plan = ILQR(horizon=12, knots=4, first_samples=0, first_iterations=100).plan(problem(d, task, s, 12), None, rng())
    assert plan.stats["violation"] < 1e-3


@pytest.mark.parametrize("kind", [Local, local])
def test_of_a_group_the_best_that_is_a_number_is_chosen(kind):
    task, d, s = inside()
    one = kind(d, task, 12, 4)
    one.begin(problem(d, task, s, 12), False)
    one.multipliers, one.penalty = np.zeros((12, 1)), 10.0
    x, u = np.tile(d.coordinates(s), (13, 1)), np.zeros((12, 1))
    _, merit = one.rollout((x, u), (np.full((12, 1), 1.0), np.zeros((12, 1, 4))), np.array([1.0, 0.5, 0.25, 0.125]))
    assert np.isfinite(merit)


@pytest.mark.parametrize("general", [False, True])
def test_a_cost_that_is_not_a_number_is_no_least_one(general):
    """Above a rate of 1, where the least of the term and 0 is no number, and all else would lead."""
    terms = (
        Term("rate", lambda y, u, t: column(y.cart_velocity - 5.0), quadratic, 1.0, 0.0),
        Term("root", lambda y, u, t: capped(column(namespace(u).sqrt(1.0 - y.cart_velocity)), 0.0, 0.1), total, 1.0),
    )
    task = dataclasses.replace(CARTPOLE, terms=terms)
    d, s = dynamics_and_state(task)
    planner = ILQR(horizon=H, knots=4, iterations=3, steps=4)
    planner._kept.locals[id(d), id(task), H] = one = (Local if general else local)(d, task, H, 4)
    assert (type(one) is Local) == general
    plan, beyond = None, 0
    for _ in range(4):
        plan = planner.plan(problem(d, task, s), plan, rng())
        fast = (task.robot.layout(plan.candidates).cart_velocity[:, 1:] > 1.0).any(1)
        np.testing.assert_array_equal(plan.candidate_costs == np.inf, fast)
        beyond += fast.sum()
        y, times = plan.prediction[0, 1:], task.robot.dt * np.arange(1, H + 1)
        assert plan.cost == pytest.approx(float(task.cost(y, plan.controls, times).sum()))
    assert beyond


def test_threads_that_share_a_planner_find_what_one_finds():
    d, s = dynamics_and_state(CARTPOLE)
    planner = ILQR(horizon=40)

    def loop():
        state, warm, costs = s, None, []
        for _ in range(30):
            warm = planner.plan(problem(d, CARTPOLE, state, 40), warm, rng())
            costs.append(warm.cost)
            state = d.advance(state, warm.controls[:1])
        return costs

    alone, found = loop(), {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: loop()})) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {0: alone, 1: alone}


@pytest.mark.parametrize("take", [copy.deepcopy, dataclasses.asdict])
def test_a_planner_that_has_planned_can_be_copied(take):
    d, s = dynamics_and_state(CARTPOLE)
    planner = ILQR(horizon=H)
    take(planner)
    planner.plan(problem(d, CARTPOLE, s), None, rng())
    take(planner)


def test_a_state_whose_numbers_changed_is_read_again():
    d, s = dynamics_and_state(CARTPOLE)
    planner = ILQR(horizon=H, first_samples=0)
    planner.plan(problem(d, CARTPOLE, s), None, rng())
    other = d.model.state(0.0, np.array([0.3, 0.1, 0.0, 0.0]))
    s.x[:], s.y[:] = other.x, other.y
    expected = ILQR(horizon=H, first_samples=0).plan(problem(d, CARTPOLE, other), None, rng()).cost
    assert planner.plan(problem(d, CARTPOLE, s), None, rng()).cost == pytest.approx(expected)


def test_a_constraint_that_does_not_compile_is_left_to_python(monkeypatch):
    made = codegen._assembly
    monkeypatch.setattr(codegen, "_assembly", lambda f, *a: None if f.name() == "constraints" else made(f, *a))
    bound = robots.Constraint("bound", lambda y, u, t: column(y.cart - 1.0))
    task = dataclasses.replace(CARTPOLE, constraints=(bound,))
    d, s = dynamics_and_state(task)
    ILQR(horizon=H).plan(problem(d, task, s), None, rng())
