import threading

import numpy as np
import pytest
from trimtab.controllers.interface import Controller, PlanningController
from trimtab.controllers.mpc import MPC
from trimtab.controllers.plan import Feedback, Plan
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


# Between the grid points of a plan ----------------------------------------------------------------------------------


class Turning:
    """A model whose only state is an angle."""

    reads_only = False

    def coordinates(self, state):
        return np.array(state.y if state.x is None else state.x)

    def displace(self, x, dx):
        return x + dx

    def difference(self, x, other):
        return np.remainder(x - other + np.pi, 2.0 * np.pi) - np.pi


class Knowing(Turning):
    reads_only = True


def fed_back(model, x, u, gain):
    limits = np.array([[-1.0], [1.0]])
    gains = np.full((len(u), 1, 1), gain)
    return Plan(
        0.0,
        DT,
        np.array(u)[:, None],
        feedback=Feedback(np.array(x)[:, None], np.array(u)[:, None], gains, model, limits),
    )


def full(t, x):
    return State(t, np.array([np.nan]), np.array([x]))


def test_feedback_follows_the_reference_between_grid_points():
    """On y' = y + dt u the reference moves evenly: on it the control is the plan's, off it K times how far."""
    u = np.array([0.5, -0.25, 0.0])
    x = np.concatenate([[0.2], 0.2 + DT * u.cumsum()])
    plan = fed_back(Turning(), x, u, -2.0)
    for t in np.arange(0.0, 0.3, 0.025):
        k = int(t / DT + 1e-6)
        on = x[k] + u[k] * (t - k * DT)
        assert plan.control(t, full(t, on))[0] == pytest.approx(u[k], abs=1e-12)
        assert plan.control(t, full(t, on + 0.1))[0] == pytest.approx(u[k] - 0.2, abs=1e-12)
    assert plan.control(0.05, full(0.05, 9.0))[0] == plan.control(0.15, full(0.15, 0.21 - 2.0))[0] * -1.0 == -1.0


def test_feedback_on_a_finer_grid_than_the_plan_converges_as_computed():
    """A deviation e becomes (1 + dt K) e in every step of the loop, whatever the plan does meanwhile."""
    u, fine = np.array([0.5, -0.25, 0.1, 0.3]), DT / 4
    x = np.concatenate([[0.0], DT * u.cumsum()])
    plan = fed_back(Turning(), x, u, -2.0)
    y, off = 0.08, []
    for k in range(16):
        t = k * fine
        off.append(y - np.interp(t, DT * np.arange(5), x))
        y += fine * plan.control(t, full(t, y))[0]
    np.testing.assert_allclose(off, 0.08 * (1.0 - 2.0 * fine) ** np.arange(16), atol=1e-12)


def test_feedback_between_grid_points_goes_the_shorter_way_round():
    plan = fed_back(Turning(), [np.pi - 0.1, 0.1 - np.pi], [0.25], -1.0)
    assert plan.control(DT / 2, full(DT / 2, np.pi))[0] == pytest.approx(0.25)
    assert plan.control(DT / 2, full(DT / 2, 0.05 - np.pi))[0] == pytest.approx(0.2)


def test_feedback_needs_a_state_that_its_model_knows():
    for model, expected in ((Turning(), 0.25), (Knowing(), 0.15)):
        plan = fed_back(model, [0.0, 0.0], [0.25], -1.0)
        assert plan.control(0.0, State(0.0, np.array([0.1])))[0] == pytest.approx(expected)
        assert plan.control(0.0)[0] == 0.25
        assert plan.control(DT, State(DT, np.array([0.1])))[0] == 0.25  # beyond its end
