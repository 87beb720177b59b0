import threading

import numpy as np
import pytest
from trimtab.controllers.interface import Controller, PlanningController
from trimtab.controllers.mpc import MPC
from trimtab.controllers.plan import Plan
from trimtab.controllers.predictive_sampling import PredictiveSampling
from trimtab.robots.layout import Reading
from trimtab.robots.task import Robot, Start, Task, Term
from trimtab.sim.interface import Rollout, State

DT = 0.1
ROBOT = Robot("mass", None, (Reading("position", 1),), DT, limits=np.array([[-1.0], [1.0]]))
TASK = Task(
    "mass-go",
    ROBOT,
    score=lambda y, u: -abs(y.position),
    terms=(Term("distance", lambda y, u, t: (y.position[..., None] - 1.0) ** 2),),
    start=lambda seed: Start(np.zeros(1), np.zeros(1)),
    duration=1.0,
)


class Integrator:
    """y' = y + dt u."""

    dt = DT

    def rollout(self, state, controls, rng):
        y = state.y + DT * np.concatenate([np.zeros_like(controls[:, :1]), controls], axis=1).cumsum(1)
        return Rollout(y[None], np.ones((1, len(controls)), bool))

    def advance(self, state, controls):
        return State(state.time + DT * len(controls), state.y + DT * controls.sum(0))

    def close(self):
        pass


class Counting:
    """A planner whose plans count up; it records what it was asked."""

    def __init__(self, horizon=6, replan=3):
        self.horizon, self.replan = horizon, replan
        self.asked = []

    def plan(self, problem, warm, rng):
        self.asked.append((problem, warm, rng.random()))
        number = 100.0 * len(self.asked)
        controls = number + np.arange(self.horizon, dtype=float)[:, None]
        return Plan(problem.state.time, DT, controls)


def at(step):
    # A clock that sums up dt, with the rounding errors that brings.
    return State(sum([DT] * step), np.zeros(1))


def test_follows_a_plan_and_replans_when_due():
    mpc = MPC(Counting(replan=3), Integrator(), TASK)
    mpc.reset(0)
    controls = [mpc.control(at(k))[0] for k in range(8)]
    assert controls == [100, 101, 102, 200, 201, 202, 300, 301]


def test_a_plan_begins_from_the_one_before():
    planner = Counting(replan=1)
    mpc = MPC(planner, Integrator(), TASK)
    mpc.reset(0)
    first = mpc.plan(at(0))
    second = mpc.plan(at(1))
    assert [warm for _, warm, _ in planner.asked] == [None, first]
    assert mpc.latest is second
    problem = planner.asked[1][0]
    assert (problem.horizon, problem.state.time, problem.risk) == (6, DT, "mean")


def test_reset_forgets():
    planner = Counting()
    mpc = MPC(planner, Integrator(), TASK)
    mpc.reset(0)
    mpc.control(at(0))
    mpc.reset(0)
    assert mpc.latest is None
    mpc.control(at(0))
    assert planner.asked[1][1] is None


def test_time_that_runs_backwards_is_planned_for_anew():
    planner = Counting()
    mpc = MPC(planner, Integrator(), TASK)
    mpc.reset(0)
    mpc.control(at(5))
    mpc.control(at(2))
    assert len(planner.asked) == 2


def test_randomness_depends_on_the_seed_and_the_plan_count_alone():
    def draws(seed, times):
        planner = Counting()
        mpc = MPC(planner, Integrator(), TASK)
        mpc.reset(seed)
        for k in times:
            mpc.plan(at(k))
        return [draw for _, _, draw in planner.asked]

    assert draws(3, [0, 1, 2]) == draws(3, [0, 4, 9])
    assert len({*draws(3, [0, 1, 2]), *draws(4, [0, 1, 2])}) == 6


def test_the_planner_says_which_risk():
    planner = PredictiveSampling(horizon=5, knots=2, samples=4, risk="cvar", level=0.2)
    problem = MPC(planner, Integrator(), TASK).problem(at(0), np.random.default_rng(0))
    assert (problem.risk, problem.level, problem.horizon) == ("cvar", 0.2, 5)


def test_regulates_a_mass():
    mpc = MPC(PredictiveSampling(horizon=10, knots=3, replan=2), Integrator(), TASK)
    mpc.reset(0)
    dynamics, state = Integrator(), at(0)
    for _ in range(30):
        state = dynamics.advance(state, mpc.control(state)[None])
    assert state.y[0] == pytest.approx(1.0, abs=0.02)


def test_a_reader_in_another_thread_sees_whole_plans():
    mpc = MPC(Counting(), Integrator(), TASK)
    mpc.reset(0)
    mpc.plan(at(0))
    done, broken = threading.Event(), []

    def read():
        while not done.is_set():
            plan = mpc.latest
            if plan is None or plan.controls[-1, 0] - plan.controls[0, 0] != 5:
                broken.append(plan)

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(300):
        mpc.plan(at(k % 10))
    done.set()
    reader.join()
    assert not broken


def test_is_what_the_loop_asks_for():
    mpc = MPC(Counting(), Integrator(), TASK)
    assert isinstance(mpc, Controller)
    assert isinstance(mpc, PlanningController)


def test_periods_must_agree():
    dynamics = Integrator()
    dynamics.dt = 0.05
    with pytest.raises(ValueError, match=r"step by 0.05 s, but mass-go is controlled every 0.1 s"):
        MPC(Counting(), dynamics, TASK)
