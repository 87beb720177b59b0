"""Ensembles as dynamics: conformance, the law of what they predict, and planning on them."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from trimtab import robots, sim
from trimtab.controllers.cem import CEM
from trimtab.controllers.ilqr import ILQR
from trimtab.controllers.problem import Problem
from trimtab.learners import checkpoint, ensemble_dynamics
from trimtab.learners.encoding import Encoding
from trimtab.learners.ensemble import Ensemble, EnsembleSettings
from trimtab.learners.ensemble_dynamics import EnsembleDynamics
from trimtab.learners.exploration import InformationGain, Optimism, information_gain
from trimtab.learners.learned_model import LearnedModel
from trimtab.learners.replay import Replay
from trimtab.robots.plugins import UnknownName
from trimtab.sim import State
from trimtab.sim.branching import Branching, branching
from trimtab.sim.conformance import DynamicsConformance

TASK = robots.load("cartpole-swingup")
PROPAGATIONS = ("ts1", "tsinf", "moments", "mean")
SMALL = EnsembleSettings(members=4, elites=2, hidden=(32, 32), batch=128, epochs=60)


@functools.cache
def recorded(name="cartpole-swingup", episodes=12, steps=60):
    """Random controls, each held for some steps."""
    task = robots.load(name)
    plant, store, rng = sim.make("mujoco", task), Replay(task.robot), np.random.default_rng(0)
    low, high = task.robot.control_limits
    for episode in range(episodes):
        state = plant.reset(episode)
        for k in range(steps):
            if k % 4 == 0:
                u = rng.uniform(low, high)
            after = plant.step(u)
            store.append(state.y, u, float(task.reward(after.y, u)), after.y, truncated=k == steps - 1)
            state = after
    return store


@functools.cache
def learned():
    rng = np.random.default_rng(0)
    model = LearnedModel.of_ensemble(TASK.robot, rng, SMALL)
    fit = model.fit(recorded(), rng)
    return model, fit


def start(seed=1):
    return sim.make("mujoco", TASK).reset(seed)


class _Learned(DynamicsConformance):
    simulator, task = "mujoco", "cartpole-swingup"
    stochastic, tolerance, needs_x = True, None, False
    members = 4
    propagation = "ts1"

    def make_dynamics(self):
        return EnsembleDynamics(TASK, learned()[0], self.propagation, 4)


class TestTS1(_Learned):
    pass


class TestTSInfinity(_Learned):
    propagation = "tsinf"


class TestMomentMatching(_Learned):
    propagation = "moments"


class TestMeans(_Learned):
    propagation = "mean"
    members = 2


def plainly(model, state, controls, propagation, particles, rng):
    """The same rollout by one step, particle and candidate at a time."""
    encoding, ensemble = model.encoding, model.regressor
    horizon = controls.shape[1]
    noise = rng.standard_normal((horizon, particles, 1, encoding.outputs))
    order = np.tile(np.arange(particles), (horizon, 1))
    if propagation == "ts1":
        order = rng.permuted(order, axis=1)
    y = np.empty((particles, len(controls), horizon + 1, encoding.ny))
    y[:, :, 0] = state.y
    for k, slot, n in np.ndindex(horizon, particles, len(controls)):
        p = order[k, slot]
        mean, variance = ensemble.predict(encoding.tell(y[p, n, k], controls[n, k])[None])
        e = ensemble.elites[slot * len(ensemble.elites) // particles]
        change = mean[e, 0] + np.sqrt(variance[e, 0]) * noise[k, slot, 0]
        y[p, n, k + 1] = encoding.advance(y[p, n, k], change)
    return y


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_sampled_trajectories_are_those_of_a_plain_loop(propagation):
    model = learned()[0]
    controls = np.random.default_rng(1).uniform(-1, 1, (3, 4, 1))
    y = EnsembleDynamics(TASK, model, propagation, 6).rollout(start(), controls, np.random.default_rng(2)).y
    expected = plainly(model, start(), controls, propagation, 6, np.random.default_rng(2))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_means_follow_one_elite_each_without_noise():
    model = learned()[0]
    controls = np.random.default_rng(1).uniform(-1, 1, (2, 5, 1))
    found = EnsembleDynamics(TASK, model, "mean").rollout(start(), controls, np.random.default_rng(2)).y
    for e, member in zip(model.regressor.elites, found):
        y = np.tile(start().y, (2, 1))
        for k in range(5):
            mean, _ = model.regressor.predict(model.encoding.tell(y, controls[:, k]))
            y = model.encoding.advance(y, mean[e])
            np.testing.assert_allclose(member[:, k + 1], y, rtol=1e-4, atol=1e-5)


def test_a_step_has_the_mixtures_moments():
    model = learned()[0]
    controls = np.full((1, 1, 1), 0.5)
    y = EnsembleDynamics(TASK, model, "ts1", 20_000).rollout(start(), controls, np.random.default_rng(0)).y[:, 0, 1]
    mean, variance = model.regressor.predict(model.encoding.tell(start().y, controls[0, 0])[None])
    mean, variance = mean[model.regressor.elites, 0], variance[model.regressor.elites, 0]
    total = variance.mean(axis=0) + mean.var(axis=0)  # the law of total variance
    assert (abs(y.mean(axis=0) - start().y - mean.mean(axis=0)) < 5 * np.sqrt(total / 20_000)).all()
    np.testing.assert_allclose(y.var(axis=0), total, rtol=0.06)


def opposed(far=1.0, *, endless=True):
    """Two members without noise: one moves the cart by `far` each step, the other by -`far`."""
    settings = EnsembleSettings(members=2, elites=2, hidden=(4,), probabilistic=False)
    encoding = Encoding.of(TASK.robot)
    if endless:
        encoding = replace(encoding, bounded=(), low=(), high=())
    model = LearnedModel.of_ensemble(TASK.robot, np.random.default_rng(0), settings, encoding=encoding)
    network = model.regressor.members.network
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
        network.biases[-1][:, 0, 0] = torch.tensor([far, -far])
    return model


def test_ts1_draws_a_member_for_each_step_and_tsinf_one_for_all():
    controls = np.zeros((2, 16, 1))
    cart = {
        kind: EnsembleDynamics(TASK, opposed(), kind, 2000).rollout(start(), controls, np.random.default_rng(0)).y
        for kind in ("ts1", "tsinf")
    }
    moved = {kind: np.round(y[..., -1, 0] - start().y[0]) for kind, y in cart.items()}
    np.testing.assert_array_equal(np.unique(moved["tsinf"]), [-16, 16])
    assert moved["tsinf"].mean() == 0
    walk = moved["ts1"][:, 0]  # binomial: variance 16
    assert walk.mean() == pytest.approx(0.0, abs=0.01)  # in every step as many go one way as the other
    assert walk.var() == pytest.approx(16.0, rel=0.15)
    for y in cart.values():
        np.testing.assert_array_equal(y[:, 0], y[:, 1])  # the same controls meet the same draws


def test_rollouts_do_not_depend_on_how_they_are_cut(monkeypatch):
    dynamics = EnsembleDynamics(TASK, learned()[0], "ts1", 4)
    controls = np.random.default_rng(1).uniform(-1, 1, (9, 5, 1))
    whole = dynamics.rollout(start(), controls, np.random.default_rng(0)).y
    monkeypatch.setattr("trimtab.learners.ensemble_dynamics._ROWS", 8)
    parts = dynamics.rollout(start(), controls, np.random.default_rng(0)).y
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_it_predicts_better_than_a_linear_model():
    """A swinging pendulum, eight steps ahead, from where it was not trained; the linear model is of least squares."""
    task, rng = robots.load("pendulum-swingup"), np.random.default_rng(0)
    store = recorded("pendulum-swingup")
    model = LearnedModel.of_ensemble(task.robot, rng, replace(SMALL, learning_rate=3e-3))
    fit = model.fit(store, rng)
    assert fit.rows + fit.held_out == len(store) == 720
    data = store.all()
    design = np.column_stack([data.y, data.u, np.ones(len(data))])
    linear = np.linalg.lstsq(design, data.y_next, rcond=None)[0]
    plant, dynamics = sim.make("mujoco", task), EnsembleDynamics(task, model, "mean")
    errors = {"learned": [], "linear": []}
    for seed in range(100, 120):
        state, controls = plant.reset(seed), rng.uniform(-1, 1, (8, 1))
        y = state.y
        for u in controls:
            y = np.concatenate([y, u, [1.0]]) @ linear
            truth = plant.step(u).y
        errors["linear"].append(y - truth)
        errors["learned"].append(dynamics.advance(state, controls).y - truth)
    rms = {kind: np.sqrt(np.mean(np.square(found), axis=0)) for kind, found in errors.items()}
    assert (rms["learned"] < 0.2 * rms["linear"]).all()


def test_advance_follows_the_mixtures_mean():
    opposite = EnsembleDynamics(TASK, opposed(), "ts1", 2)
    end = opposite.advance(replace(start(), x=None), np.zeros((3, 1)))
    np.testing.assert_allclose(end.y, start().y, atol=1e-6)
    assert end.time == pytest.approx(0.03)
    assert end.x is None


def test_tree_search_branches_on_it():
    model = learned()[0]
    for propagation in ("ts1", "tsinf", "mean"):
        dynamics = EnsembleDynamics(TASK, model, propagation, 4)
        assert isinstance(dynamics, Branching)
        assert branching(dynamics, TASK) is dynamics
        rows = np.stack([dynamics.root(start(seed)) for seed in range(3)])
        controls = np.random.default_rng(0).uniform(-1, 1, (3, 4, 1))
        found = dynamics.branch(rows, controls, 2, np.random.default_rng(0))
        assert found.y.shape == (3, 4, 4)
        assert found.valid.all()
        np.testing.assert_array_equal(found.rows, found.y[:, 1])
    moved = EnsembleDynamics(TASK, opposed(), "tsinf", 2).branch(
        np.zeros((400, 4)), np.zeros((400, 5, 1)), 5, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(np.unique(moved.rows[:, 0]), [-5, 5])
    assert abs(moved.rows[:, 0].mean()) < 0.7
    walk = EnsembleDynamics(TASK, opposed(), "ts1", 2).branch(
        np.zeros((400, 4)), np.zeros((400, 5, 1)), 5, np.random.default_rng(0)
    )
    assert walk.rows[:, 0].var() == pytest.approx(5.0, rel=0.3)


def test_planners_search_it_with_risk_over_its_particles():
    dynamics = EnsembleDynamics(TASK, learned()[0], "tsinf", 4)
    controls = np.random.default_rng(0).uniform(-1, 1, (5, 6, 1))
    costs = {}
    for risk in ("mean", "worst"):
        problem = Problem(dynamics, TASK, start(), 6, np.random.default_rng(1), risk=risk)
        costs[risk] = problem.cost(controls)
    y = dynamics.rollout(start(), controls, np.random.default_rng(1)).y
    times = start().time + 0.01 * np.arange(1, 7)
    u = np.broadcast_to(controls, (4, *controls.shape))
    each = TASK.cost(y[:, :, 1:], u, times).sum(axis=-1) + TASK.terminal_cost(y[:, :, -1], u[:, :, -1], times[-1])
    np.testing.assert_allclose(costs["mean"], each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(costs["worst"], each.max(axis=0), rtol=1e-6)
    problem = Problem(dynamics, TASK, start(), 12, np.random.default_rng(1))
    plan = CEM(horizon=12, samples=32).plan(problem, None, np.random.default_rng(0))
    still = problem.cost(np.zeros((1, 12, 1)))
    assert plan.cost < still[0]


def test_a_saved_model_predicts_and_trains_as_the_one_saved(tmp_path):
    rng = np.random.default_rng(0)
    model = LearnedModel.of_ensemble(
        TASK.robot, rng, replace(SMALL, epochs=3), encoding=Encoding.of(TASK.robot, untold=["cart"])
    )
    model.save(tmp_path / "model.safetensors")
    loaded = LearnedModel.load(tmp_path / "model.safetensors", TASK.robot)
    assert loaded.encoding == model.encoding
    for one in (model, loaded):
        one.fit(recorded(), np.random.default_rng(1))
    controls = np.ones((1, 5, 1))
    one, other = (
        EnsembleDynamics(TASK, m, "ts1", 4).rollout(start(), controls, np.random.default_rng(2)).y
        for m in (model, loaded)
    )
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="is of another robot: cartpole; expected: pendulum"):
        LearnedModel.load(tmp_path / "model.safetensors", robots.load("pendulum-swingup").robot)
    checkpoint.save(tmp_path / "ensemble.safetensors", "ensemble", model.regressor.state_dict())
    with pytest.raises(ValueError, match="of kind 'ensemble', not 'learned model'"):
        LearnedModel.load(tmp_path / "ensemble.safetensors", TASK.robot)


def test_what_does_not_fit_is_refused():
    model = learned()[0]
    with pytest.raises(ValueError, match="5 particles are not a multiple of the 2 elites"):
        EnsembleDynamics(TASK, model, "ts1", 5)
    with pytest.raises(UnknownName, match="did you mean 'tsinf'"):
        EnsembleDynamics(TASK, model, "tsinfinity")
    with pytest.raises(ValueError, match="the model is of another robot"):
        EnsembleDynamics(robots.load("pendulum-swingup"), model)
    with pytest.raises(ValueError, match="the replay store is of another robot"):
        model.fit(Replay(robots.load("pendulum-swingup").robot), np.random.default_rng(0))


def test_a_regressor_of_another_shape_is_refused():
    encoding, rng = Encoding.of(TASK.robot), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"the regressor is of \(5, 4\) inputs and outputs; the encoding has \(6, 4\)"):
        LearnedModel(TASK.robot, encoding, Ensemble(5, 4, rng, SMALL))


def test_predictions_that_break_down_are_marked():
    model = opposed()
    with torch.no_grad():
        model.regressor.members.network.biases[-1][0, 0, 1] = torch.inf
    rollout = EnsembleDynamics(TASK, model, "tsinf", 4).rollout(
        State(0.0, np.zeros(4)), np.zeros((3, 2, 1)), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(rollout.valid, np.repeat([[False], [False], [True], [True]], 3, axis=1))


def test_fused_networks_predict_what_the_members_do():
    model, _ = learned()
    x = np.random.default_rng(0).standard_normal((7, model.encoding.inputs))
    means, variances = model.regressor.predict(x)
    elites = model.regressor.elites
    fused = model.regressor.elite_members()
    given = torch.as_tensor(x, dtype=torch.float32).expand(len(elites), -1, -1)
    for found, expected in zip(fused(given), (means, variances)):
        np.testing.assert_allclose(found.numpy(), expected[elites], rtol=2e-4, atol=1e-6)


def test_moment_matching_keeps_mean_and_covariance():
    model, _ = learned()
    sampled = EnsembleDynamics(TASK, model, "tsinf", 4000)
    matched = EnsembleDynamics(TASK, model, "moments", 4000)
    u = np.full((1, 1, 1), 0.7)
    one, other = (d.rollout(start(), u, np.random.default_rng(1)).y[:, 0, 1] for d in (sampled, matched))
    spread = np.sqrt(np.diag(np.cov(one.T)))
    assert (np.abs(other.mean(axis=0) - one.mean(axis=0)) < 0.1 * spread + 1e-7).all()
    scale = spread[:, None] * spread
    assert (np.abs(np.cov(other.T) - np.cov(one.T)) < 0.15 * scale + 1e-12).all()


def test_linear_models_are_those_of_finite_differences():
    model, _ = learned()
    dynamics = EnsembleDynamics(TASK, model)
    rng = np.random.default_rng(0)
    x = start().y + 0.1 * rng.standard_normal((4, model.encoding.ny))
    u = rng.uniform(-1, 1, (3, 1))
    found = dynamics.linearize(x, u)
    h = 1e-3
    for k in range(3):
        for matrix, point, which in ((found.A[k], x[k], 0), (found.B[k], u[k], 1)):
            for i in range(len(point)):
                ends = []
                for sign in (1, -1):
                    args = [x[k : k + 1].copy(), u[k : k + 1].copy()]
                    args[which][0, i] += sign * h
                    ends.append(model.expected(*args)[0])
                np.testing.assert_allclose(matrix[:, i], (ends[0] - ends[1]) / (2 * h), rtol=2e-2, atol=2e-3)


def test_ilqr_plans_on_it_and_holds_the_plan_by_gains():
    dynamics = EnsembleDynamics(TASK, learned()[0])
    state = State(0.0, start().y)  # readings alone
    problem = Problem(dynamics, TASK, state, 20, np.random.default_rng(0))
    plan = ILQR(horizon=20, iterations=5, knots=5).plan(problem, None, np.random.default_rng(0))
    rest = dynamics.policy_rollout(
        state,
        np.tile(state.y, (21, 1)),
        np.zeros((20, 1)),
        np.zeros((20, 1)),
        np.zeros((20, 1, len(state.y))),
        np.ones(1),
        np.array([[-1.0], [1.0]]),
    )
    still = float(TASK.cost(rest.y[:, 1:], rest.u, problem.times).sum())
    still += float(TASK.terminal_cost(rest.y[0, -1], rest.u[0, -1], problem.times[-1]))
    assert plan.cost < still
    free = int(np.flatnonzero(plan.feedback.gains.any(axis=(1, 2)))[0])  # not at a limit
    time, y = 0.01 * free, plan.feedback.x[free]
    assert plan.control(time, State(time, y)) == pytest.approx(plan.feedback.u[free])
    assert plan.control(time, State(time, y + 0.01)) != plan.control(time, State(time, y))


def test_bonuses_are_taken_off_the_cost():
    model, _ = learned()
    controls = np.random.default_rng(0).uniform(-1, 1, (6, 8, 1))
    costs = {}
    for name, bonus in (("none", None), ("hope", Optimism(2.0)), ("learn", InformationGain(0.5))):
        dynamics = EnsembleDynamics(TASK, model, "tsinf", 4, bonus)
        rollout = dynamics.rollout(start(), controls, np.random.default_rng(1))
        costs[name] = rollout.costs(TASK, controls, 0.01 * np.arange(1, 9))
        if name == "learn":
            gains = rollout.gains.numpy()
    np.testing.assert_allclose(costs["hope"], costs["none"] - 2.0 * costs["none"].std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(costs["learn"], costs["none"] - 0.5 * gains, rtol=1e-4)
    assert (gains > 0).all()


def test_information_gain_is_the_mutual_information_of_normal_numbers():
    # A mean of variance s^2 seen through noise of variance v: 1/2 log(1 + s^2 / v).
    means = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])
    variances = torch.full((2, 1, 2), 0.5)
    found = information_gain(means, variances, torch.zeros(2))
    np.testing.assert_allclose(found.numpy(), [0.5 * np.log(1 + 1.0 / 0.5)], rtol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_graphs_on_a_gpu_predict_what_the_cpu_does(propagation, tmp_path):
    model, _ = learned()
    model.save(tmp_path / "model.safetensors")
    there = LearnedModel.load(tmp_path / "model.safetensors", TASK.robot, "cuda")
    controls = np.random.default_rng(0).uniform(-1, 1, (6, 8, 1))
    dynamics = EnsembleDynamics(TASK, there, propagation, 4)

    def predicted(model):
        """What the graph predicts from some starts, which is what `model` on the CPU does."""
        plain, found, graphs = EnsembleDynamics(TASK, model, propagation, 4), [], set()
        for seed in range(3):  # the first is captured, the others replayed
            one, other = (
                d.rollout(start(seed), controls, np.random.default_rng(seed)).y.copy() for d in (plain, dynamics)
            )
            np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)
            found.append(other)
            graphs.update(dynamics._graphs.values())
        assert len(graphs) == 1
        return np.array(found), graphs

    before, recorded_before = predicted(model)
    there.fit(recorded(episodes=6), np.random.default_rng(1))
    there.save(tmp_path / "later.safetensors")
    after, recorded_after = predicted(LearnedModel.load(tmp_path / "later.safetensors", TASK.robot))
    assert not recorded_before & recorded_after
    assert np.abs(after - before).max() > 1e-3


def test_graphs_are_recorded_anew_once_the_model_has_changed(monkeypatch):
    monkeypatch.setattr(ensemble_dynamics, "Graph", lambda work, given: object())
    rng = np.random.default_rng(0)
    dynamics = EnsembleDynamics(TASK, LearnedModel.of_ensemble(TASK.robot, rng, replace(SMALL, epochs=1)), "tsinf", 4)
    first, longer = dynamics._graph((6, 8, 1)), dynamics._graph((6, 9, 1))
    assert dynamics._graph((6, 8, 1)) is first is not longer
    dynamics.model.fit(recorded(), rng)
    second = dynamics._graph((6, 8, 1))
    assert second is not first
    assert dynamics._graph((6, 8, 1)) is second
    assert dynamics._graph((6, 9, 1)) is not longer
    dynamics.model = LearnedModel.of_ensemble(TASK.robot, rng, SMALL)
    assert dynamics._graph((6, 8, 1)) is not second


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_joints_do_not_go_beyond_their_limits(propagation):
    low, high = TASK.robot.model.jnt_range[0]  # the slider's
    give = 0.05 * (high - low)
    dynamics = EnsembleDynamics(TASK, opposed(5.0, endless=False), propagation, 8)
    cart = dynamics.rollout(start(), np.zeros((3, 6, 1)), np.random.default_rng(0)).y[..., 0]
    assert cart.min() == pytest.approx(low - give, rel=1e-6)
    assert cart.max() == pytest.approx(high + give, rel=1e-6)


def test_joints_are_not_expected_beyond_their_limits():
    model = opposed(endless=False)
    with torch.no_grad():
        model.regressor.members.network.biases[-1][:, 0, 0] = 1.0
    low, high = TASK.robot.model.jnt_range[0]
    found = model.expected(np.array([[high, 0.0, 0.0, 0.0]]), np.zeros((1, 1)))[0, 0]
    assert found == pytest.approx(high + 0.05 * (high - low), rel=1e-6)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_quaternions_stay_of_length_1(propagation):
    task, rng = robots.load("fish-swim"), np.random.default_rng(0)
    model = LearnedModel.of_ensemble(task.robot, rng, replace(SMALL, probabilistic=propagation != "mean"))
    dynamics = EnsembleDynamics(task, model, propagation, 4)
    state = sim.make("mujoco", task).reset(0)
    controls = rng.uniform(-1, 1, (3, 5, task.robot.nu))
    turns = task.robot.layout(dynamics.rollout(state, controls, rng).y).orientation
    assert turns.std(axis=0)[..., 1:, :].min() > 1e-6  # the particles differ
    np.testing.assert_allclose(np.linalg.norm(turns, axis=-1), 1.0, atol=1e-6)


def test_a_reading_that_hardly_varies_says_nothing():
    rng = np.random.default_rng(0)
    for width in (1e-7, 1e-3):
        x = np.c_[1.0 + width * rng.standard_normal(400), rng.standard_normal((400, 2))]
        ensemble = Ensemble(3, 1, rng, replace(SMALL, epochs=5))
        ensemble.fit(x, x[:, 1:2], rng)
        means, _ = ensemble.predict(x)
        given = torch.as_tensor(x, dtype=torch.float32).expand(len(ensemble.elites), -1, -1)
        np.testing.assert_allclose(ensemble.elite_members().means(given).numpy(), means[ensemble.elites], atol=5e-3)
