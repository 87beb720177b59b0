"""Learned values and policies in plans: against Riccati, sums written out, and the policy followed step by step."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import scipy.linalg
from trimtab import robots, sim
from trimtab.controllers import MPC, Problem
from trimtab.controllers import guide as guides
from trimtab.controllers.cem import CEM
from trimtab.controllers.cmaes import CMAES
from trimtab.controllers.guide import Guide, ValuedReturn, followed
from trimtab.controllers.mcts import MCTS
from trimtab.controllers.mppi import MPPI
from trimtab.controllers.predictive_sampling import PredictiveSampling
from trimtab.controllers.random_shooting import RandomShooting
from trimtab.robots import Reading, Robot, Start, Task, plugins
from trimtab.robots.finite import Finite
from trimtab.sim import Rollout, SimulationError, State
from trimtab.sim.finite import FiniteDynamics

SAMPLING = (RandomShooting, PredictiveSampling, CEM, MPPI, CMAES)
DT, G = 0.25, 0.9
A, B = np.array([[1.0, DT], [0.0, 1.0]]), np.array([[0.5 * DT**2], [DT]])
Q, R = np.diag([1.0, 0.1]), np.array([[0.05]])
ROBOT = Robot("cart", None, (Reading("position", 1), Reading("velocity", 1)), DT, limits=np.array([[-10.0], [10.0]]))
TASK = Task(
    "cart-regulate",
    ROBOT,
    score=lambda y, u: -(y.position**2 + 0.1 * y.velocity**2 + 0.05 * u[..., 0] ** 2),
    terms=(),
    start=lambda seed: Start(np.zeros(1), np.zeros(1)),
    duration=5.0,
)


class Linear:
    """y' = A y + B u, of as many members as there are factors of B."""

    dt = DT

    def __init__(self, factors=(1.0,), breaks_beyond=np.inf):
        self.factors, self.breaks_beyond = factors, breaks_beyond
        self.advanced = 0

    def rollout(self, state, controls, rng):
        n, horizon = controls.shape[:2]
        y = np.empty((len(self.factors), n, horizon + 1, 2))
        y[:, :, 0] = state.y
        for k in range(horizon):
            for e, factor in enumerate(self.factors):
                y[e, :, k + 1] = y[e, :, k] @ A.T + factor * controls[:, k] @ B.T
        valid = (np.abs(y) < self.breaks_beyond).all(axis=(2, 3))
        y[~valid] = np.nan
        return Rollout(y, valid)

    def advance(self, state, controls):
        self.advanced += 1
        y = state.y
        for u in controls:
            y = A @ y + B @ u
            if (np.abs(y) >= self.breaks_beyond).any():
                raise SimulationError("the prediction diverged")
        return State(state.time + DT * len(controls), y)

    def close(self):
        pass


class Quadratic:
    """V(y) = -y' P y and u = -K y."""

    discount, period, dt = G, DT, DT

    def __init__(self, P=None, K=None, **about):
        self.P, self.K = np.zeros((2, 2)) if P is None else P, np.zeros((1, 2)) if K is None else K
        vars(self).update(about)

    def value(self, y):
        return -np.einsum("...i,ij,...j", y, self.P, y)

    def action(self, y):
        return np.clip(-y @ self.K.T, -10.0, 10.0)


@pytest.fixture(scope="module")
def optimal():
    """The exact value function and policy of the discounted regulator, by its Riccati equation."""
    # With M = Q + g P:  P = A'MA - A'MB (R + B'MB)^-1 B'MA.
    M = scipy.linalg.solve_discrete_are(np.sqrt(G) * A, np.sqrt(G) * B, Q, G * R)
    K = np.linalg.solve(R + B.T @ M @ B, B.T @ M @ A)
    return Quadratic((M - Q) / G, K)


def problem(state=(1.0, -0.5), horizon=5, value=None, policy=None, dynamics=None, task=TASK, **risk):
    valued = None if value is None else ValuedReturn(value, task)
    start = State(0.0, np.array(state))
    rng = np.random.default_rng(0)
    return Problem(dynamics or Linear(), task, start, horizon, rng, value=valued, policy=policy, **risk)


def written_out(task, y, u, g, w, value):
    """The sum for readings (H+1, ny) under controls (H, nu), a step at a time."""
    total, weight = 0.0, 1.0
    for k in range(len(u)):
        total += weight * w * float(task.reward(y[k + 1], u[k]))
        weight *= g
        if task.terminated(y[k + 1]):
            return -total
    return -total - weight * float(value(y[-1]))


# The objective -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 2, 7])
def test_with_the_exact_value_all_horizons_agree(optimal, horizon):
    p = problem(horizon=horizon, value=optimal, policy=optimal)
    best = p.proposed()
    y = p.state.y
    assert p.cost(best[None])[0] == pytest.approx(y @ optimal.P @ y, rel=1e-9)
    others = best + 0.1 * np.random.default_rng(1).standard_normal((50, horizon, 1))
    assert (p.cost(others) > p.cost(best[None])[0]).all()


@pytest.mark.parametrize("state", [(1.0, -0.5), (-0.3, 0.8)])
def test_one_step_ahead_of_the_exact_value_is_lqr(optimal, state):
    planner = CMAES(horizon=1, knots=1, samples=12, first_iterations=40)
    plan = MPC(planner, Linear(), TASK, value=optimal).plan(State(0.0, np.array(state)))
    np.testing.assert_allclose(plan.controls[0], -optimal.K @ np.array(state), atol=1e-4)
    without = MPC(planner, Linear(), TASK, value=Quadratic()).plan(State(0.0, np.array(state)))
    assert abs(without.controls[0, 0] + (optimal.K @ np.array(state))[0]) > 0.1


def test_a_horizon_of_one_with_the_value_is_a_long_one_without(optimal):
    state = State(0.0, np.array([0.6, 0.2]))
    p = problem(state.y, horizon=120, value=Quadratic())
    far = followed(optimal, Linear(), state, 120, ROBOT.bounded_limits)
    np.testing.assert_allclose(p.cost(far[None])[0], state.y @ optimal.P @ state.y, rtol=1e-6)


@pytest.mark.parametrize("period", [DT, 2 * DT, DT / 2])
@pytest.mark.parametrize("dt", [DT, DT / 2])
@pytest.mark.parametrize("end", [None, 0.9])
@pytest.mark.parametrize("traces", [True, False])
def test_the_sum_is_as_written_out(period, dt, end, traces):
    task = TASK if end is None else replace(TASK, end=lambda y: y.position < end)
    if not traces:
        task = replace(task, score=lambda y, u: np.asarray(-(y.position**2)) + np.tanh(u[..., 0]).astype(float))
    value = Quadratic(np.array([[2.0, 0.3], [0.3, 0.5]]), period=period, dt=dt)
    p = problem(value=value, task=task, dynamics=Linear((1.0, 0.5)))
    controls = np.random.default_rng(0).uniform(-3.0, 3.0, (20, 5, 1))
    y = p.dynamics.rollout(p.state, controls, p.rng).y
    g, w = G ** (DT / period), DT / dt
    expected = [[written_out(task, y[e, n], controls[n], g, w, value.value) for n in range(20)] for e in range(2)]
    np.testing.assert_allclose(p.cost(controls), np.mean(expected, axis=0), rtol=1e-9)
    if end is not None:
        over = y[:, :, 1:, 0] < end
        assert over.any(axis=2).sum() not in (0, over.any(axis=2).size)  # both kinds are among them


def test_risk_is_taken_of_returns_and_what_breaks_down_is_worst():
    value = Quadratic(np.eye(2))
    controls = np.random.default_rng(0).uniform(-3.0, 3.0, (20, 5, 1))
    each = [problem(value=value, dynamics=Linear((f,))).cost(controls) for f in (1.0, 0.3)]
    both = problem(value=value, dynamics=Linear((1.0, 0.3)), risk="worst").cost(controls)
    np.testing.assert_allclose(both, np.maximum(*each), rtol=1e-12)
    broken = problem(value=value, dynamics=Linear(breaks_beyond=1.3)).cost(controls)
    np.testing.assert_array_equal(np.isinf(broken), ~Linear(breaks_beyond=1.3).rollout(
        State(0.0, np.array([1.0, -0.5])), controls, None).valid[0])  # fmt: skip
    assert 0 < np.isinf(broken).sum() < 20


def test_a_reward_after_the_end_that_is_no_number_does_not_count():
    with np.errstate(all="ignore"):
        task = replace(TASK, score=lambda y, u: y.position**0.5 + 0.0 * u[..., 0], end=lambda y: y.position <= 0.05)
        p = problem((0.3, -0.5), value=Quadratic(np.eye(2)), task=task)
        still = np.zeros((1, 5, 1))
        y = p.dynamics.rollout(p.state, still, p.rng).y[0, 0]
        assert np.isnan(task.reward(y[1:], still[0])).any()
        end = int(np.argmax(y[1:, 0] <= 0.05))
        assert (y[1 : end + 2, 0] >= 0.0).all()
        assert p.cost(still)[0] == pytest.approx(-sum(G**k * y[k + 1, 0] ** 0.5 for k in range(end + 1)))


@pytest.mark.parametrize(("name", "dynamics"), [("hopper-stand", "mujoco"), ("cartpole-swingup", "casadi")])
def test_on_real_dynamics_it_is_the_tasks_reward(name, dynamics):
    task = robots.load(name)
    value = Quadratic(period=2 * task.robot.dt, dt=task.robot.dt)
    value.value = lambda y: np.sin(y).sum(-1)
    state, model = sim.make("mujoco", task).reset(0), sim.dynamics(dynamics, task)
    p = problem(value=value, task=task, dynamics=model)
    p.state = state
    low, high = task.robot.bounded_limits
    controls = np.random.default_rng(0).uniform(low, high, (6, 5, task.robot.nu))
    found = p.cost(controls)
    y = p.predicted(slice(None))[0]
    expected = [written_out(task, y[n], controls[n], G**0.5, 1.0, value.value) for n in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# The policy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [1, 2, 3])
def test_the_policy_is_followed_as_it_would_decide(optimal, held):
    policy = Quadratic(K=optimal.K, period=held * DT)
    found = followed(policy, Linear(), State(0.0, np.array([1.0, 0.5])), 7, ROBOT.bounded_limits)
    y = np.array([1.0, 0.5])
    for k in range(7):
        if k % held == 0:
            u = -optimal.K @ y
        np.testing.assert_allclose(found[k], u, rtol=1e-12)
        y = A @ y + B @ u


def test_where_the_model_breaks_down_the_last_control_is_held(optimal):
    policy = Quadratic(K=np.array([[-9.0, 0.0]]))
    found = followed(policy, Linear(breaks_beyond=2.0), State(0.0, np.array([1.0, 0.0])), 6, ROBOT.bounded_limits)
    assert found[0] == 9.0
    assert np.isfinite(found).all()
    assert (found[-2:] == found[-1]).all()
    policy.action = lambda y: np.full(1, np.nan)
    assert followed(policy, Linear(), State(0.0, np.zeros(2)), 6, ROBOT.bounded_limits) is None


def test_the_policy_stays_within_limits():
    policy = Quadratic()
    policy.action = lambda y: np.array([99.0])
    found = followed(policy, Linear(), State(0.0, np.zeros(2)), 3, ROBOT.bounded_limits)
    np.testing.assert_array_equal(found, np.full((3, 1), 10.0))


@pytest.mark.parametrize("kind", SAMPLING)
@pytest.mark.parametrize("samples", [6, 16])
def test_no_plan_is_worse_than_the_policy(kind, samples, optimal):
    # Of 12 control steps few random candidates are as good as the optimal policy's, at any plan.
    planner = kind(horizon=12, samples=samples, knots=4, iterations=2, **({"keep": 2} if kind is CEM else {}))
    controller = MPC(planner, Linear(), TASK, policy=optimal, value=optimal)
    for k, y in enumerate([(2.0, 1.0), (-1.0, 0.5), (0.3, -2.0)]):  # not where the plan before led
        state = State(DT * k, np.array(y))
        plan = controller.plan(state)
        p = controller.problem(state, np.random.default_rng(0))
        assert plan.cost <= p.cost(p.proposed()[None])[0] + 1e-9
        np.testing.assert_allclose(plan.controls, -np.array(plan.prediction[0, :-1] @ optimal.K.T), atol=1e-6)


@pytest.mark.parametrize("kind", SAMPLING)
def test_the_first_plan_begins_with_the_policy(kind, optimal):
    planner = kind(horizon=6, samples=8, knots=2, **({"keep": 2} if kind is CEM else {}))
    first = planner.begin(problem(horizon=6, policy=optimal), None, np.random.default_rng(0))
    np.testing.assert_allclose(first.mean, problem(horizon=6, policy=optimal).proposed())
    assert first.proposal is None
    plan = planner.plan(problem(horizon=6, value=optimal), None, np.random.default_rng(0))
    p = problem(horizon=6, policy=optimal, value=optimal)
    later = planner.begin(p, plan, np.random.default_rng(0))
    planner.sample(later)
    same = [np.allclose(candidate, p.proposed()) for candidate in later.controls]
    assert sum(same) == 1
    np.testing.assert_array_equal(later.controls[0], later.mean)


def test_two_candidates_are_the_mean_and_the_policy(optimal):
    planner = PredictiveSampling(horizon=6, samples=2, knots=2)
    plan = planner.plan(problem(horizon=6), None, np.random.default_rng(0))
    p = problem(horizon=6, policy=optimal)
    search = planner.begin(p, plan, np.random.default_rng(0))
    planner.sample(search)
    np.testing.assert_array_equal(search.controls[1], p.proposed())


def test_without_a_policy_nothing_is_advanced():
    dynamics = Linear()
    MPC(CEM(horizon=4, knots=2, samples=8), dynamics, TASK, value=Quadratic()).plan(State(0.0, np.ones(2)))
    assert problem().proposed() is None
    assert dynamics.advanced == 0


# Tree search ---------------------------------------------------------------------------------------------------------


def chain(seed, states=8, controls=3):
    """A finite problem drawn at random, deterministic, with ends; its task; and its values as a guide."""
    rng = np.random.default_rng(seed)
    shape = (states, controls, 1)
    ends = rng.random(shape) < 0.15
    model = Finite(np.arange(float(states))[:, None], rng.integers(0, states, shape), np.ones(shape),
                   rng.uniform(-1.0, 1.0, shape), ends)  # fmt: skip
    readings = (Reading("number", 1), Reading("reward", 1), Reading("terminated", 1))
    robot = Robot("numbers", None, readings, 1.0, limits=model.limits, finite=lambda: model)
    task = Task("numbers", robot, lambda y, u: y.reward, (), lambda seed: Start(np.zeros(1), np.zeros(0)), 20.0,
                end=lambda y: y.terminated > 0.5)  # fmt: skip
    v = np.zeros(states)
    for _ in range(500):
        q = model.reward[:, :, 0] + G * np.where(ends, 0.0, v[model.next])[:, :, 0]
        v = q.max(1)
    known = Quadratic(period=1.0, dt=1.0)
    known.value = lambda y: v[np.rint(y[..., 0]).astype(int)]
    known.action = lambda y: q.argmax(1)[np.rint(y[..., 0]).astype(int)][..., None].astype(float)
    return model, task, known, q


def searched(planner, dynamics, task, state, value=None, policy=None, seed=0):
    """The plan, and what the tree says of the root's controls in their order: the mean returns."""
    plan = MPC(planner, dynamics, task, value=value, policy=policy).plan(state)
    tree, width = plan.memory.tree, plan.memory.rule.width
    root = tree.edges[:width][: int(tree.nodes[0]["width"])]
    return plan, tree.actions[: len(root)], root["sum"] / np.maximum(root["count"], 1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("leaf", ["auto", "rollout", "both"])
def test_one_edge_deep_with_exact_values_it_is_optimal(seed, leaf):
    _, task, known, q = chain(seed)
    dynamics = FiniteDynamics(task)
    planner = MCTS(horizon=1, segment=1, simulations=12, batch=2, leaf=leaf, reuse=False, execute="value")
    for s in range(len(q)):
        state = State(0.0, np.array([s, 0.0, 0.0]), np.array([s, 0.0, 0.0, 0.0]))
        plan, actions, means = searched(planner, dynamics, task, state, value=known)
        np.testing.assert_allclose(means, q[s][np.rint(actions[:, 0]).astype(int)], atol=1e-9)
        assert round(plan.controls[0, 0]) == q[s].argmax()
        assert plan.cost == pytest.approx(-q[s].max())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("leaf", ["rollout", "both", "value"])
def test_rollouts_of_the_policy_that_end_in_its_values_are_exact(seed, leaf):
    _, task, known, q = chain(seed)
    dynamics = FiniteDynamics(task)
    planner = MCTS(horizon=4, segment=1, simulations=3, batch=1, leaf=leaf, reuse=False)
    for s in range(len(q)):
        state = State(0.0, np.array([s, 0.0, 0.0]), np.array([s, 0.0, 0.0, 0.0]))
        plan, actions, means = searched(planner, dynamics, task, state, value=known, policy=known)
        np.testing.assert_allclose(means, q[s][np.rint(actions[:, 0]).astype(int)], atol=1e-9)
        assert round(plan.controls[0, 0]) == q[s].argmax()


@pytest.mark.parametrize("seed", range(4))
def test_rollouts_of_rest_end_in_the_value(seed):
    model, task, known, q = chain(seed)
    dynamics, horizon = FiniteDynamics(task), 4
    planner = MCTS(horizon=horizon, segment=1, simulations=3, batch=1, leaf="rollout", policy="rest", reuse=False)
    for s in range(len(q)):
        state = State(0.0, np.array([s, 0.0, 0.0]), np.array([s, 0.0, 0.0, 0.0]))
        _, actions, means = searched(planner, dynamics, task, state, value=known)
        for action, mean in zip(np.rint(actions[:, 0]).astype(int), means):
            at, expected, over = s, 0.0, False
            for k in range(horizon):
                a = action if k == 0 else 0
                expected += 0.0 if over else G**k * model.reward[at, a, 0]
                over = over or bool(model.ends[at, a, 0])
                at = model.next[at, a, 0]
            expected += 0.0 if over else G**horizon * q[at].max()
            assert mean == pytest.approx(expected, abs=1e-9)


def test_rewards_of_longer_steps_count_for_more():
    _, task, known, q = chain(0)
    known.dt = 0.5
    _, actions, means = searched(
        MCTS(horizon=1, segment=1, simulations=6, reuse=False), FiniteDynamics(task), task,
        State(0.0, np.zeros(3), np.zeros(4)), value=known,
    )  # fmt: skip
    model = task.robot.finite()
    a = np.rint(actions[:, 0]).astype(int)
    beyond = q[0] - model.reward[0, :, 0]
    np.testing.assert_allclose(means, (2.0 * model.reward[0, :, 0] + beyond)[a], atol=1e-9)


@pytest.mark.parametrize("simulations", [1, 40])
def test_continuous_trees_try_the_policy_first(optimal, simulations):
    state = State(0.0, np.array([1.0, -0.5]))
    planner = MCTS(horizon=4, segment=1, simulations=simulations, batch=1, local_width=0.02, reuse=False)
    plan, actions, _ = searched(planner, Linear(), TASK, state, value=optimal, policy=optimal)
    np.testing.assert_allclose(actions[0], -optimal.K @ state.y, rtol=1e-12)
    if simulations == 1:
        np.testing.assert_allclose(plan.controls, followed(optimal, Linear(), state, 4, ROBOT.bounded_limits))
        assert plan.cost == pytest.approx(state.y @ optimal.P @ state.y)


# By name -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """Plugins of guides: `trained`, as the toy, and `other`."""
    entries = {name: EntryPoint(name, "toy_guide:guide", "trimtab.guides") for name in ("trained", "other")}
    for name in list(plugins._table("guides")):
        monkeypatch.delitem(plugins._table("guides"), name)
    for name, entry in entries.items():
        monkeypatch.setitem(plugins._table("guides"), name, entry)


def test_folders_become_guides_once(table, tmp_path, monkeypatch):
    loaded = []
    load = guides.load
    monkeypatch.setattr(guides, "load", lambda name, task: loaded.append(name) or load(name, task))
    task = robots.load("cartpole-balance")
    for planner in (CEM(horizon=4, knots=2), MCTS(horizon=4)):
        one = replace(planner, value=str(tmp_path), policy=str(tmp_path))
        controller = MPC(one, sim.dynamics("mujoco", task), task)
        assert controller.policy is controller.value.guide
        assert loaded == [str(tmp_path)]
        assert isinstance(controller.policy, Guide)
        loaded.clear()
        controller = MPC(replace(planner, value=f"other:{tmp_path}"), sim.dynamics("mujoco", task), task)
        assert controller.policy is None
        assert controller.value is not None
        loaded.clear()
        MPC(planner, sim.dynamics("mujoco", task), task)
        assert loaded == []


def test_folders_that_are_none_are_refused(table):
    task = robots.load("cartpole-balance")
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        MPC(CEM(value="nowhere"), sim.dynamics("mujoco", task), task)
    with pytest.raises(ValueError, match="unknown policy 'plam'; did you mean 'plan'"):
        MPC(MCTS(policy="plam"), sim.dynamics("mujoco", task), task)
