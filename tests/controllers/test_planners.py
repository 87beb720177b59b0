"""Every sampling planner on problems whose optimum is known."""

import dataclasses

import numpy as np
import pytest
from trimtab import robots
from trimtab.controllers import splines
from trimtab.controllers.cem import CEM
from trimtab.controllers.cmaes import CMAES
from trimtab.controllers.mppi import MPPI
from trimtab.controllers.plan import Plan
from trimtab.controllers.predictive_sampling import PredictiveSampling
from trimtab.controllers.problem import Problem
from trimtab.controllers.random_shooting import RandomShooting
from trimtab.controllers.risk import across_members
from trimtab.controllers.sampling import SHOWN
from trimtab.robots import plugins
from trimtab.robots.layout import Reading
from trimtab.robots.task import Robot, Start, Task, Term
from trimtab.sim.interface import Rollout, State
from trimtab.sim.mujoco_dynamics import MujocoDynamics
from trimtab.sim.mujoco_simulator import MujocoSimulator

PLANNERS = [RandomShooting, PredictiveSampling, CEM, MPPI, CMAES]
every_planner = pytest.mark.parametrize("planner", PLANNERS)


class Fake:
    """Dynamics y' = step(y, u, member), for several members; like the real ones, they reuse their array."""

    dt = 0.1

    def __init__(self, step, members=1, invalid=None):
        self.step, self.members = step, members
        self.invalid = invalid or (lambda controls: np.zeros(len(controls), bool))
        self.tried = []
        self.y = np.empty(0)

    def rollout(self, state, controls, rng):
        self.tried.append(controls.copy())
        self.y[...] = np.nan
        n, horizon, _ = controls.shape
        if self.y.shape[1:3] != (n, horizon + 1):
            self.y = np.empty((self.members, n, horizon + 1, len(state.y)))
        self.y[:, :, 0] = state.y
        for e in range(self.members):
            for k in range(horizon):
                self.y[e, :, k + 1] = self.step(self.y[e, :, k], controls[:, k], e)
        bad = self.invalid(controls)
        self.y[:, bad, 1:] = np.nan
        return Rollout(self.y, np.tile(~bad, (self.members, 1)))

    def advance(self, state, controls):
        y = state.y
        for u in controls:
            y = self.step(y[None], u[None], 0)[0]
        return State(state.time + self.dt * len(controls), y)

    def close(self):
        pass


def task(size, terms, limits):
    robot = Robot("fake", None, (Reading("y", size),), Fake.dt, limits=np.array(limits, float))
    return Task("fake-go", robot, lambda y, u: 0.0 * u[..., 0], terms, lambda rng: Start(np.zeros(1), np.zeros(1)), 1.0)


def column(view):
    """A single reading as a residual (..., 1)."""
    return view.y[..., None]


A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.005], [0.1]])
Q, R = np.diag([1.0, 0.1]), np.array([[0.05]])
double_integrator = Fake(lambda y, u, e: y @ A.T + u @ B.T)


def quadratic(weight):
    return lambda view, u, t: 0.5 * ((view.y @ weight) * view.y).sum(-1, keepdims=True)


REGULATE = task(
    2,
    (
        Term("state", quadratic(Q), terminal_weight=5.0),
        Term("control", lambda view, u, t: 0.5 * (u @ R * u).sum(-1, keepdims=True)),
    ),
    [[-10.0], [10.0]],
)


def problem(dynamics, task, y=(0.0,), horizon=20, time=0.0, **options):
    state = State(time, np.array(y, float))
    return Problem(dynamics, task, state, horizon, np.random.default_rng(0), **options)


def quadratic_optimum(y, basis):
    """Least cost over knots, and its knots: the batch form of the linear-quadratic problem."""
    horizon = len(basis)
    powers = [np.linalg.matrix_power(A, k) for k in range(horizon + 1)]
    free = np.concatenate([powers[k + 1] @ y for k in range(horizon)])
    forced = np.zeros((2 * horizon, horizon))
    for k in range(horizon):
        for j in range(k + 1):
            forced[2 * k : 2 * k + 2, j] = (powers[k - j] @ B)[:, 0]
    forced = forced @ basis
    weights = np.kron(np.diag([1.0] * (horizon - 1) + [6.0]), Q)
    hessian = forced.T @ weights @ forced + R[0, 0] * basis.T @ basis
    gradient = forced.T @ weights @ free
    knots = -np.linalg.solve(hessian, gradient)
    return 0.5 * free @ weights @ free + gradient @ knots + 0.5 * knots @ hessian @ knots, knots


def test_the_oracle_agrees_with_riccati():
    y, horizon = np.array([1.0, -0.5]), 20
    value = np.zeros((2, 2))
    for k in range(horizon):
        stage = value + Q * (6.0 if k == 0 else 1.0)
        gain = np.linalg.solve(R + B.T @ stage @ B, B.T @ stage @ A)
        value = A.T @ stage @ (A - B @ gain)
    assert quadratic_optimum(y, np.eye(horizon))[0] == pytest.approx(0.5 * y @ value @ y)


@every_planner
@pytest.mark.parametrize("spline", ["zero", "linear", "cubic"])
def test_finds_the_linear_quadratic_optimum(planner, spline):
    y = np.array([1.0, 0.0])
    noise = 0.4 if planner is RandomShooting else 0.1
    search = planner(horizon=20, knots=3, spline=spline, samples=200, first_iterations=20, noise=noise)
    plan = search.plan(problem(double_integrator, REGULATE, y), None, np.random.default_rng(0))
    optimum, _ = quadratic_optimum(y, splines.basis(20, 3, spline))
    tolerance = 1.1 if planner is RandomShooting else 1.03  # which never narrows down
    assert optimum - 1e-9 <= plan.cost <= tolerance * optimum


@every_planner
def test_warm_starts_go_on_improving(planner):
    y = np.array([1.0, 0.0])
    search = planner(horizon=20, knots=4, samples=50, iterations=2, first_iterations=1, noise=0.2)
    optimum, _ = quadratic_optimum(y, splines.basis(20, 4, "linear"))
    costs, plan = [], None
    for k in range(12):
        plan = search.plan(problem(double_integrator, REGULATE, y), plan, np.random.default_rng(k))
        costs.append(plan.cost)
    assert (np.diff(costs) <= 1e-12).all()
    assert costs[-1] - optimum < 0.5 * (costs[0] - optimum)


@every_planner
def test_finds_the_deeper_of_two_wells(planner):
    still = Fake(lambda y, u, e: u)
    wells = task(1, (Term("wells", lambda v, u, t: (column(v) ** 2 - 0.25) ** 2 + 0.1 * column(v)),), [[-1.0], [1.0]])
    grid = np.linspace(-1.0, 1.0, 20001)
    values = (grid**2 - 0.25) ** 2 + 0.1 * grid
    shallow = values[grid > 0].min()
    uphill = Plan(0.0, Fake.dt, np.array([[grid[grid > 0][values[grid > 0].argmin()]]]), shallow)
    search = planner(horizon=1, knots=1, samples=64, iterations=6)
    for warm in (None, uphill):
        plan = search.plan(problem(still, wells, horizon=1), warm, np.random.default_rng(0))
        assert plan.controls[0, 0] < 0.0
        assert plan.cost == pytest.approx(values.min(), abs=2e-3)


@every_planner
def test_finds_an_optimum_at_the_limits(planner):
    mass = Fake(lambda y, u, e: y + Fake.dt * u)
    away = task(2, (Term("away", lambda v, u, t: v.y[..., :1] - v.y[..., 1:]),), [[-2.0, 0.5], [1.0, 3.0]])
    search = planner(horizon=10, knots=2, spline="zero", samples=100, first_iterations=12)
    plan = search.plan(problem(mass, away, (0.0, 0.0), horizon=10), None, np.random.default_rng(0))
    optimum = -(2.0 + 3.0) * Fake.dt * np.arange(1, 11).sum()
    assert optimum - 1e-9 <= plan.cost <= (0.9 if planner is RandomShooting else 0.95) * optimum
    assert (plan.controls >= [-2.0, 0.5]).all()
    assert (plan.controls <= [1.0, 3.0]).all()


def pendulum(y, u, e):
    velocity = y[:, 1:] + Fake.dt * (9.0 * np.sin(y[:, :1]) + 4.0 * u)
    return np.concatenate([y[:, :1] + Fake.dt * velocity, velocity], axis=1)


SWING = task(2, (Term("down", lambda v, u, t: 1.0 - np.cos(v.y[..., :1]) + 0.01 * u**2),), [[-1.0], [1.0]])


@every_planner
def test_a_new_plan_is_never_worse_than_keeping_the_old(planner):
    # So few samples that chance rarely helps.
    search = planner(horizon=15, knots=5, samples=6, replan=2, **({"keep": 1} if planner is CEM else {}))
    dynamics, state, plan = Fake(pendulum), State(0.0, np.array([np.pi, 0.0])), None
    for k in range(15):
        asked = Problem(dynamics, SWING, state, 15, np.random.default_rng(0))
        if plan is not None:
            kept = Problem(dynamics, SWING, state, 15, np.random.default_rng(0)).cost(
                plan.shifted(state.time, 15)[None]
            )
        plan, old = search.plan(asked, plan, np.random.default_rng(k)), plan
        assert plan.cost == asked.cost(plan.controls[None])[0]
        if old is not None:
            assert plan.cost <= kept[0]
        state = dynamics.advance(state, plan.controls[:2])


def test_a_weighted_mean_that_is_worse_is_not_executed():
    # Equal weights put the mean on the hill between two wells; the plan before lies in one of them.
    still = Fake(lambda y, u, e: u)
    wells = task(1, (Term("wells", lambda v, u, t: (column(v) ** 2 - 0.25) ** 2),), [[-1.0], [1.0]])
    search = MPPI(horizon=1, knots=1, samples=64, temperature=1e6, noise=2.0)
    warm = Plan(0.0, Fake.dt, np.array([[0.49]]))
    plan = search.plan(problem(still, wells, horizon=1), warm, np.random.default_rng(0))
    assert plan.cost <= (0.49**2 - 0.25) ** 2


@every_planner
def test_the_first_candidate_is_the_plan_before_shifted_in_time(planner):
    dynamics = Fake(pendulum)
    warm = Plan(0.0, Fake.dt, np.random.default_rng(0).uniform(-1, 1, (15, 1)))
    planner(horizon=15, knots=5).plan(
        problem(dynamics, SWING, (3.0, 0.0), 15, time=0.3), warm, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(dynamics.tried[0][0], np.concatenate([warm.controls[3:], warm.controls[[-1] * 3]]))


@every_planner
def test_candidates_keep_the_limits_and_differ(planner):
    dynamics = Fake(pendulum)
    planner(horizon=15, knots=5, noise=1.5).plan(
        problem(dynamics, SWING, (3.0, 0.0), 15), None, np.random.default_rng(0)
    )
    tried = np.concatenate(dynamics.tried)
    assert np.abs(tried).max() == 1.0
    assert len(np.unique(dynamics.tried[0], axis=0)) >= len(dynamics.tried[0]) - 1  # the mean and rest are one at first


@every_planner
def test_the_first_plan_starts_from_rest(planner):
    dynamics = Fake(lambda y, u, e: y)
    limits = [[-1.0, 1.0, -np.inf], [1.0, 3.0, np.inf]]  # zero is within the first and the last
    flat = task(1, (Term("flat", lambda v, u, t: 0.0 * column(v)),), limits)
    planner(horizon=4, knots=2, noise=2.0).plan(problem(dynamics, flat, horizon=4), None, np.random.default_rng(0))
    np.testing.assert_array_equal(dynamics.tried[0][0], np.tile([0.0, 2.0, 0.0], (4, 1)))
    assert np.abs(dynamics.tried[0][..., 2]).max() == 1.0  # without limits, controls are tried between -1 and 1


@every_planner
def test_a_plan_carries_what_it_says(planner):
    dynamics = Fake(pendulum, members=2)
    search = planner(horizon=15, knots=5, samples=40, iterations=3, first_iterations=2)
    asked = problem(dynamics, SWING, (3.0, 0.0), 15, time=0.7)
    plan = search.plan(asked, None, np.random.default_rng(0))
    extra = 1 if planner is MPPI else 0
    assert plan.stats["evaluations"] == asked.evaluations == 2 * 40 + extra
    assert plan.stats["iterations"] == 2
    assert plan.stats["invalid"] == 0
    assert (plan.time, plan.dt, plan.controls.shape) == (0.7, Fake.dt, (15, 1))
    last = dynamics.tried[1]
    replayed = dynamics.rollout(asked.state, last, None).y.copy()
    costs = asked.cost(last)
    assert plan.stats["best"] == costs.min()
    assert plan.stats["mean"] == pytest.approx(costs.mean())
    assert 2 <= len(plan.candidates) <= SHOWN
    stride = -(-40 // SHOWN)
    np.testing.assert_array_equal(plan.candidates, replayed[0, ::stride])
    np.testing.assert_array_equal(plan.candidate_costs, costs[::stride])
    assert plan.cost == asked.cost(plan.controls[None])[0]
    np.testing.assert_array_equal(plan.prediction, dynamics.rollout(asked.state, plan.controls[None], None).y[:, 0])
    again = search.plan(asked, plan, np.random.default_rng(1))
    assert again.stats["evaluations"] == 3 * 40 + extra


@every_planner
def test_the_first_plan_takes_more_rounds(planner):
    def rounds(warm, **settings):
        search = planner(horizon=5, knots=2, samples=8, **settings)
        return search.plan(problem(Fake(pendulum), SWING, (3.0, 0.0), 5), warm, np.random.default_rng(0)).stats[
            "iterations"
        ]

    warm = Plan(0.0, Fake.dt, np.zeros((5, 1)))
    assert [rounds(None), rounds(None, iterations=6), rounds(None, first_iterations=1), rounds(warm)] == [4, 6, 1, 2]


@every_planner
def test_invalid_predictions_never_win(planner):
    # The cost falls with u, but predictions break down wherever u > 0.2.
    dynamics = Fake(lambda y, u, e: u, invalid=lambda controls: controls.max((1, 2)) > 0.2)
    up = task(1, (Term("up", lambda v, u, t: -column(v)),), [[-1.0], [1.0]])
    plan = planner(horizon=3, knots=1, first_iterations=6).plan(
        problem(dynamics, up, horizon=3), None, np.random.default_rng(0)
    )
    assert 0.1 < plan.controls.max() <= 0.2
    assert 0 < plan.stats["invalid"] < plan.stats["evaluations"]
    assert np.isfinite([plan.stats["mean"], plan.stats["best"], plan.cost]).all()
    assert np.isfinite(plan.prediction).all()


@every_planner
def test_without_one_valid_prediction_the_plan_before_is_kept(planner):
    dynamics = Fake(pendulum, invalid=lambda controls: np.ones(len(controls), bool))
    warm = Plan(0.0, Fake.dt, np.random.default_rng(0).uniform(-1, 1, (15, 1)))
    for before in (None, warm):
        asked = problem(dynamics, SWING, (3.0, 0.0), 15, time=0.2)
        plan = planner(horizon=15, knots=5).plan(asked, before, np.random.default_rng(0))
        np.testing.assert_array_equal(plan.controls, np.zeros((15, 1)) if before is None else warm.shifted(0.2, 15))
        assert plan.cost == plan.stats["mean"] == np.inf
        assert plan.stats["invalid"] >= planner().samples * plan.stats["iterations"]
        assert plan.prediction is None


def test_a_residual_without_its_last_axis_is_refused():
    flat = task(1, (Term("flat", lambda v, u, t: v.y),), [[-1.0], [1.0]])
    with pytest.raises(ValueError, match=r"residual must be \(..., k\)"):
        problem(Fake(lambda y, u, e: u), flat, horizon=3).cost(np.zeros((4, 3, 1)))


def test_a_cost_that_is_not_a_number_is_infinite():
    log = task(1, (Term("log", lambda v, u, t: np.log(column(v))),), [[-1.0], [1.0]])
    with np.errstate(invalid="ignore", divide="ignore"):
        costs = problem(Fake(lambda y, u, e: u), log, horizon=1).cost(np.array([[[-1.0]], [[0.0]], [[0.5]]]))
    np.testing.assert_array_equal(costs, [np.inf, np.inf, np.log(0.5)])


@every_planner
@pytest.mark.parametrize(
    ("risk", "level"), [("mean", 0.5), ("worst", 0.5), ("cvar", 0.5), ("cvar", 0.8), ("exponential", 3.0)]
)
def test_risk_changes_the_choice_as_theory_says(planner, risk, level):
    # Members want u = 0, 0 and 0.9: the mean is for 0.3, the worst case for 0.45, the others lie between.
    wanted = np.array([0.0, 0.0, 0.9])
    dynamics = Fake(lambda y, u, e: u - wanted[e], members=3)
    reach = task(1, (Term("miss", lambda v, u, t: column(v) ** 2),), [[-1.0], [1.0]])
    sharp = {"temperature": 0.003} if planner is MPPI else {}
    search = planner(horizon=1, knots=1, samples=200, first_iterations=8, risk=risk, level=level, **sharp)
    asked = problem(dynamics, reach, horizon=1, risk=risk, level=level)
    plan = search.plan(asked, None, np.random.default_rng(0))
    grid = np.linspace(0.0, 0.9, 9001)
    best = grid[across_members((grid - wanted[:, None]) ** 2, risk, level).argmin()]
    assert plan.controls[0, 0] == pytest.approx(best, abs=0.02)
    if risk in ("mean", "worst"):
        assert best == pytest.approx({"mean": 0.3, "worst": 0.45}[risk], abs=1e-3)
    assert plan.prediction.shape == (3, 2, 1)


@every_planner
def test_same_seed_same_bits_whatever_the_threads(planner):
    swingup = robots.load("cartpole-swingup")
    simulator = MujocoSimulator(swingup)
    state = simulator.reset(0)
    plans = []
    for threads in (1, 2):
        dynamics = MujocoDynamics(swingup, threads=threads)
        search, plan, plant_state = planner(horizon=12, knots=4, samples=24), None, state
        for k in range(3):
            asked = Problem(dynamics, swingup, plant_state, 12, np.random.default_rng(0))
            plan = search.plan(asked, plan, np.random.default_rng(k))
            plant_state = dynamics.advance(plant_state, plan.controls[:1])
        plans.append(plan)
        dynamics.close()
    np.testing.assert_array_equal(plans[0].controls, plans[1].controls)
    np.testing.assert_array_equal(plans[0].candidates, plans[1].candidates)
    assert plans[0].cost == plans[1].cost
    other = search.plan(problem(Fake(pendulum), SWING, (3.0, 0.0), 12), None, np.random.default_rng(1))
    same = search.plan(problem(Fake(pendulum), SWING, (3.0, 0.0), 12), None, np.random.default_rng(2))
    assert (other.controls != same.controls).any()


# -- one planner each ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"colour": 2.0}, {"decay": 1.5}, {"execute": "mean"}, {"keep": 0}, {"momentum": 0.5}],
    ids=lambda s: next(iter(s)),
)
def test_cem_finds_the_optimum_however_it_is_set(settings):
    y = np.array([1.0, 0.0])
    search = CEM(horizon=20, knots=4, samples=300, first_iterations=15, noise=0.2, **settings)
    plan = search.plan(problem(double_integrator, REGULATE, y), None, np.random.default_rng(0))
    assert plan.cost <= 1.03 * quadratic_optimum(y, splines.basis(20, 4, "linear"))[0]


def test_cem_decays_its_samples_down_to_twice_the_elites():
    dynamics = Fake(pendulum)
    search = CEM(horizon=10, knots=3, samples=64, elites=0.125, decay=2.0, first_iterations=4)
    search.plan(problem(dynamics, SWING, (3.0, 0.0), 10), None, np.random.default_rng(0))
    assert [len(tried) for tried in dynamics.tried] == [64, 32, 16, 16]


def test_cem_tries_the_kept_elites_again_shifted_in_time():
    dynamics = Fake(pendulum)
    search = CEM(horizon=10, knots=3, samples=32, iterations=2, first_iterations=1, keep=3)
    asked = problem(dynamics, SWING, (3.0, 0.0), 10)
    plan = search.plan(asked, None, np.random.default_rng(0))
    (first,) = dynamics.tried
    kept = first[asked.cost(first).argsort()[:3]]
    dynamics.tried.clear()
    later = problem(dynamics, SWING, (2.9, 0.1), 10, time=0.2)
    search.plan(later, plan, np.random.default_rng(1))
    np.testing.assert_array_equal(dynamics.tried[0][-3:], kept[:, [2, 3, 4, 5, 6, 7, 8, 9, 9, 9]])
    best_of_first = dynamics.tried[0][later.cost(dynamics.tried[0]).argsort()[:3]]
    np.testing.assert_array_equal(dynamics.tried[1][-3:], best_of_first)


def test_cem_starts_from_another_planners_plan():
    asked = problem(Fake(pendulum), SWING, (3.0, 0.0), 15)
    warm = dataclasses.replace(MPPI(horizon=15, knots=5).plan(asked, None, np.random.default_rng(0)), memory="theirs")
    plan = CEM(horizon=15, knots=5).plan(asked, warm, np.random.default_rng(0))
    assert plan.cost <= warm.cost


def test_cem_keeps_its_noise_above_the_floor():
    # On a flat cost's single elite-sized choice the spread would shrink to nothing.
    dynamics = Fake(lambda y, u, e: u)
    square = task(1, (Term("square", lambda v, u, t: column(v) ** 2),), [[-1.0], [3.0]])
    search = CEM(horizon=1, knots=1, samples=200, first_iterations=12, noise_floor=0.05, keep=0)
    search.plan(problem(dynamics, square, horizon=1), None, np.random.default_rng(0))
    assert dynamics.tried[-1].std() == pytest.approx(0.05 * 2.0, rel=0.15)


def test_mppi_weights():
    costs = np.array([3.0, 1.0, 2.0, np.inf, 1.5])
    weights = MPPI(temperature=0.7).weights(costs)
    scale = 0.7 * np.std([3.0, 1.0, 2.0, 1.5])
    expected = np.exp(-costs / scale) / np.exp(-costs / scale).sum()
    np.testing.assert_allclose(weights, expected)
    np.testing.assert_allclose(MPPI(temperature=0.7).weights(50.0 + 1000.0 * costs), expected)
    np.testing.assert_allclose(MPPI(temperature=1e-6).weights(costs), [0, 1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(MPPI(temperature=1e9).weights(costs), [0.25, 0.25, 0.25, 0, 0.25], atol=1e-8)
    np.testing.assert_array_equal(MPPI().weights(np.full(4, 2.0)), np.full(4, 0.25))


def test_mppi_mixture_searches_finely_too():
    def distances(mixture):
        dynamics = Fake(lambda y, u, e: u)
        square = task(1, (Term("square", lambda v, u, t: column(v) ** 2),), [[-9.0], [9.0]])
        search = MPPI(horizon=1, knots=1, samples=4000, first_iterations=1, noise=0.1, mixture=mixture)
        search.plan(problem(dynamics, square, horizon=1), None, np.random.default_rng(0))
        return np.abs(dynamics.tried[0][2:, 0, 0])

    assert np.median(distances(2.0)) < 0.2 * np.median(distances(0.0))
    assert distances(2.0).max() > 0.4 * distances(0.0).max()


def test_cmaes_with_a_diagonal_covariance():
    y = np.array([1.0, 0.0])
    search = CMAES(horizon=20, knots=4, samples=300, first_iterations=25, noise=0.2, separable_above=0)
    plan = search.plan(problem(double_integrator, REGULATE, y), None, np.random.default_rng(0))
    assert plan.cost <= 1.03 * quadratic_optimum(y, splines.basis(20, 4, "linear"))[0]


def test_random_shooting_draws_uniformly_over_the_range():
    dynamics = Fake(lambda y, u, e: u)
    flat = task(1, (Term("flat", lambda v, u, t: 0.0 * column(v)),), [[-1.0], [3.0]])
    warm = Plan(0.0, Fake.dt, np.array([[2.5]]))
    search = RandomShooting(horizon=1, knots=1, samples=20_002, iterations=1)
    search.plan(problem(dynamics, flat, horizon=1), warm, np.random.default_rng(0))
    drawn = np.sort(dynamics.tried[0][2:, 0, 0])
    np.testing.assert_allclose(drawn, np.linspace(-1.0, 3.0, 20_000), atol=0.05)


# -- settings ------------------------------------------------------------------------------------------------------


@every_planner
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "horizon is 0; it must be at least 1"),
        ({"replan": 0}, "replan is 0"),
        ({"samples": 1}, "samples is 1"),
        ({"iterations": 0}, "iterations is 0"),
        ({"first_iterations": -1}, "first_iterations is -1"),
        ({"knots": 51, "horizon": 50}, "knots is 51; it must lie between 1 and the horizon of 50"),
        ({"knots": 0}, "knots is 0"),
        ({"spline": "quadratic"}, "unknown spline 'quadratic'; known: zero, linear, cubic"),
        ({"noise": 0.0}, "noise is 0.0; it must be above 0"),
        ({"noise": np.nan}, "noise is nan"),
        ({"risk": "none"}, "unknown risk 'none'; known: mean"),
        ({"risk": "cvar", "level": 2.0}, "level in"),
    ],
)
def test_wrong_settings(planner, settings, message):
    with pytest.raises(ValueError, match=message):
        planner(**settings)


@pytest.mark.parametrize(
    ("planner", "settings", "message"),
    [
        (CEM, {"elites": 0.0}, "elites is 0"),
        (CEM, {"elites": 1.5}, r"elites is 1.5; it must lie in"),
        (CEM, {"keep": -1}, "keep is -1"),
        (CEM, {"keep": 63, "samples": 64}, "keep is 63; of 64 samples at most 62"),
        (CEM, {"momentum": 1.0}, r"momentum is 1.0; it must lie in \[0, 1\)"),
        (CEM, {"noise_floor": -0.1}, "noise_floor is -0.1"),
        (CEM, {"colour": -1.0}, "colour is -1.0"),
        (CEM, {"decay": 0.5}, "decay is 0.5; it must be at least 1"),
        (CEM, {"execute": "first"}, "unknown execute 'first'; known: best, mean"),
        (MPPI, {"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        (MPPI, {"mixture": -1.0}, "mixture is -1.0"),
        (CMAES, {"samples": 5}, "samples is 5; it must be at least 6"),
    ],
)
def test_wrong_settings_of_one_planner(planner, settings, message):
    with pytest.raises(ValueError, match=message):
        planner(**settings)


def test_all_are_found_by_name():
    names = ["random_shooting", "predictive_sampling", "cem", "mppi", "cmaes"]
    assert [plugins.find("planners", name) for name in names] == PLANNERS


def test_a_planner_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CEM().samples = 3


# -- plans ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_queried_and_shifted_by_time():
    plan = Plan(1.0, 0.1, np.arange(4.0)[:, None])
    assert plan.end == pytest.approx(1.4)
    assert [plan.control(t)[0] for t in (0.5, 1.0, 1.05, 1.1, 1.3999, 1.4, 9.0)] == [0, 0, 0, 1, 3, 3, 3]
    clock = 1.0
    for k in range(4):
        assert plan.control(clock)[0] == k
        clock += 0.1  # adds up rounding errors
    np.testing.assert_array_equal(plan.shifted(1.2, 5)[:, 0], [2, 3, 3, 3, 3])
    np.testing.assert_array_equal(plan.shifted(0.9, 2)[:, 0], [0, 1])
    plan.control(1.0)[:] = 9.0
    assert plan.controls[0, 0] == 0.0
