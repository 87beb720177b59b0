"""Gaussian processes: the textbook's posterior and likelihood, calibration, what is held out, resuming, planning."""

import functools

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from trimtab import robots, sim
from trimtab.controllers.cem import CEM
from trimtab.controllers.problem import Problem
from trimtab.learners import checkpoint
from trimtab.learners.encoding import Encoding
from trimtab.learners.ensemble_dynamics import EnsembleDynamics
from trimtab.learners.gaussian_process import GaussianProcess, GaussianProcessSettings, _kernel, _spread, _unlikelihood
from trimtab.learners.learned_model import LearnedModel
from trimtab.learners.replay import Replay
from trimtab.robots.plugins import UnknownName
from trimtab.sim.conformance import DynamicsConformance

TASK = robots.load("pendulum-swingup")


def waves(n, seed=0, noise=0.1):
    """Inputs (n, 3), the last of which says nothing, and outputs (n, 2) with noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2.0, 2.0, (n, 3))
    clean = np.column_stack([np.sin(2.0 * x[:, 0]) + 3.0, 100.0 * x[:, 0] * x[:, 1]])
    return x, clean + noise * rng.standard_normal((n, 2)) * [1.0, 100.0]


def fitted(n=120, noise=0.1, **settings):
    process = GaussianProcess(3, 2, np.random.default_rng(0), GaussianProcessSettings(**settings))
    return process, process.fit(*waves(n, noise=noise), np.random.default_rng(0))


def correlation(kernel, r):
    """By distance (in length scales); the Matern family by its Bessel function (Rasmussen and Williams, 4.14)."""
    if kernel == "squared_exponential":
        return np.exp(-0.5 * r**2)
    nu, z = 2.5, np.sqrt(5.0) * np.maximum(r, 1e-9)
    return 2.0 ** (1.0 - nu) / scipy.special.gamma(nu) * z**nu * scipy.special.kv(nu, z)


def covariance(kernel, x, other, lengths, signal):
    r = np.linalg.norm((x[:, None] - other) / lengths, axis=-1)
    return signal**2 * correlation(kernel, r)


@pytest.mark.parametrize("kernel", ["squared_exponential", "matern52"])
def test_predictions_are_those_of_the_joint_normal_distribution(kernel):
    process, _ = fitted(40, kernel=kernel, holdout=0.0)
    x, t = waves(40)
    new = np.random.default_rng(1).uniform(-3.0, 3.0, (7, 3))
    means, variances = process.predict(new)
    assert means.shape == variances.shape == (1, 7, 2)
    shift, scale = x.mean(axis=0), x.std(axis=0)
    z, z_new = (x - shift) / scale, (new - shift) / scale
    for k in range(2):
        p = process.posterior
        lengths, signal, noise = (part[k].numpy() for part in (p.lengths, p.signal, p.noise))
        K = covariance(kernel, z, z, lengths, signal) + noise**2 * np.eye(40)
        cross = covariance(kernel, z_new, z, lengths, signal)
        own = covariance(kernel, z_new, z_new, lengths, signal) + noise**2 * np.eye(7)
        normalised = (t[:, k] - t[:, k].mean()) / t[:, k].std()
        mean = cross @ np.linalg.solve(K, normalised)
        variance = np.diag(own - cross @ np.linalg.solve(K, cross.T))
        np.testing.assert_allclose(means[0, :, k], t[:, k].mean() + t[:, k].std() * mean, rtol=1e-7)
        np.testing.assert_allclose(variances[0, :, k], t[:, k].var() * variance, rtol=1e-6)


@pytest.mark.parametrize("kernel", ["squared_exponential", "matern52"])
def test_the_likelihood_is_the_normal_distributions_and_its_gradient_that_of_differences(kernel):
    x, t = waves(30)
    sizes = np.array([0.7, 1.3, 2.0, 1.1, 0.3])
    value, gradient = _unlikelihood(kernel, torch.as_tensor(x), torch.as_tensor(t[:, 0]), np.log(sizes))
    K = covariance(kernel, x, x, sizes[:3], sizes[3]) + sizes[4] ** 2 * np.eye(30)
    assert value == pytest.approx(-scipy.stats.multivariate_normal.logpdf(t[:, 0], cov=K) / 30, rel=1e-9)
    differences = scipy.optimize.approx_fprime(
        np.log(sizes), lambda p: _unlikelihood(kernel, torch.as_tensor(x), torch.as_tensor(t[:, 0]), p)[0], 1e-6
    )
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["squared_exponential", "matern52"])
def test_it_learns_functions_and_their_noise_and_is_calibrated(kernel):
    process, fit = fitted(300, kernel=kernel)
    x, t = waves(500, seed=1)
    means, variances = process.predict(x)
    np.testing.assert_allclose(np.sqrt(variances.mean(axis=1))[0], [0.1, 10.0], rtol=0.3)
    score = (t - means[0]) / np.sqrt(variances[0])
    assert (score**2).mean() == pytest.approx(1.0, abs=0.2)
    assert (abs(score) < 1.645).mean() == pytest.approx(0.9, abs=0.04)
    assert fit.rows + fit.held_out == 300
    assert fit.calibration.error < 0.12
    lengths = process.posterior.lengths
    assert (lengths[:, 2] > 10.0 * lengths[:, 0]).all()  # the input that says nothing


def test_far_from_the_data_it_knows_what_it_knew_before():
    process, _ = fitted()
    _, t = waves(120)
    means, variances = process.predict(np.full((1, 3), 1e6))
    p, rows = process.posterior, ~process.held_out(120)
    np.testing.assert_allclose(means[0, 0], t[rows].mean(axis=0), rtol=1e-9)
    prior = t[rows].var(axis=0) * (p.signal**2 + p.noise**2).numpy()
    np.testing.assert_allclose(variances[0, 0], prior, rtol=1e-9)
    unseen = GaussianProcess(3, 2, np.random.default_rng(0))
    means, variances = unseen.predict(np.zeros((4, 3)))
    assert not means.any()
    np.testing.assert_allclose(variances, 1.01)


def test_leaving_one_out_is_what_learning_without_it_would_be():
    process, fit = fitted(25, holdout=0.0)
    x, t = waves(25)
    means, variances = process._left_out(t)
    p = process.posterior
    z, u = ((v - v.mean(axis=0)) / v.std(axis=0) for v in (x, t))
    lengths, signal, noise = (part[1].numpy() for part in (p.lengths, p.signal, p.noise))
    K = covariance("squared_exponential", z, z, lengths, signal) + noise**2 * np.eye(25)
    others = np.arange(25) != 7
    cross = K[7, others]
    mean = cross @ np.linalg.solve(K[np.ix_(others, others)], u[others, 1])
    variance = K[7, 7] - cross @ np.linalg.solve(K[np.ix_(others, others)], cross)
    assert means[0, 7, 1] == pytest.approx(t[:, 1].mean() + t[:, 1].std() * mean, rel=1e-7)
    assert variances[0, 7, 1] == pytest.approx(t[:, 1].var() * variance, rel=1e-7)
    assert (fit.rows, fit.held_out) == (25, 0)


def test_where_all_rows_would_be_held_out_none_is():
    process, fit = fitted(5, holdout=0.9999)
    assert process.held_out(5).all()
    assert (fit.rows, fit.held_out) == (5, 0)
    assert np.isfinite(fit.holdout).all()


def test_what_is_held_out_follows_from_a_rows_number():
    process = GaussianProcess(3, 2, np.random.default_rng(0), GaussianProcessSettings(holdout=0.3))
    whole = process.held_out(1000)
    np.testing.assert_array_equal(process.held_out(400, first=600), whole[600:])
    assert whole.mean() == pytest.approx(0.3, abs=0.05)
    x, t = waves(100)
    held = process.held_out(100)
    process.fit(x, np.where(held[:, None], 1e6, t), np.random.default_rng(0))
    assert (abs(process.predict(x[held])[0]) < 1e3).all()  # it has not seen them


def test_of_many_rows_those_are_kept_that_lie_far_from_each_other():
    x = np.concatenate([np.zeros((50, 2)), [[1.0, 0.0], [0.0, 3.0], [5.0, 5.0]]])
    assert set(_spread(x, 4)) >= {50, 51, 52}
    np.testing.assert_array_equal(_spread(x, 100), np.arange(53))
    process, fit = fitted(300, most_rows=60)
    assert fit.rows == len(process.posterior.rows) == 60
    again, _ = fitted(300, most_rows=60)
    torch.testing.assert_close(again.posterior.rows, process.posterior.rows, rtol=0.0, atol=0.0)


def test_constants_and_repeated_rows_do_no_harm():
    x, _ = waves(60)
    x[:, 2], t = 7.0, np.column_stack([np.full(60, 5.0), np.sin(x[:, 0])])
    x, t = np.concatenate([x, x]), np.concatenate([t, t])
    process = GaussianProcess(3, 2, np.random.default_rng(0))
    process.fit(x, t, np.random.default_rng(0))
    means, variances = process.predict(x)
    np.testing.assert_allclose(means[0], t, atol=0.02)
    assert np.isfinite(variances).all()
    assert (variances > 0.0).all()


def test_torch_differentiates_it():
    process, _ = fitted(60)
    x = torch.as_tensor(waves(5, seed=2)[0])

    def mean(row):
        return process.posterior(row[None, None])[0][0, 0]

    slopes = torch.func.vmap(torch.func.jacrev(mean))(x).numpy()
    for k in range(3):
        step = 1e-4 * np.eye(3)[k]
        up, down = (process.predict(x.numpy() + s)[0][0] for s in (step, -step))
        np.testing.assert_allclose(slopes[:, :, k], (up - down) / 2e-4, rtol=1e-4, atol=1e-4)  # of 100
    at_data = torch.as_tensor(waves(60)[0][:3])
    assert torch.func.vmap(torch.func.jacrev(mean))(at_data).isfinite().all()
    means, variances = process.posterior(x.float()[None])
    assert means.dtype == variances.dtype == torch.float32
    torch.testing.assert_close(process.posterior.means(x.float()[None]), means, rtol=0.0, atol=0.0)


def test_a_loaded_process_predicts_and_trains_as_the_one_saved(tmp_path):
    process, _ = fitted(60)
    checkpoint.save(tmp_path / "one.safetensors", "test", process.state_dict())
    loaded = GaussianProcess.from_state_dict(checkpoint.load(tmp_path / "one.safetensors", "test"))
    new = waves(9, seed=3)[0]
    for _ in range(2):
        for one, other in zip(process.predict(new), loaded.predict(new)):
            np.testing.assert_array_equal(one, other)
        before = process.version, loaded.version
        for one in (process, loaded):
            one.fit(*waves(90), np.random.default_rng(0))
        assert (process.version, loaded.version) == (before[0] + 1, before[1] + 1)
    with pytest.raises(ValueError, match="most_rows of the gaussian_process saved is 400, of this one 50"):
        GaussianProcess(3, 2, np.random.default_rng(0), GaussianProcessSettings(most_rows=50)).load_state_dict(
            process.state_dict()
        )


def test_what_does_not_fit_is_refused():
    for wrong, message in (
        ({"most_rows": 1}, "most_rows is 1, less than 2"),
        ({"iterations": 0}, "iterations is 0, less than 1"),
        ({"least_noise": 0.0}, "least_noise is 0.0, not within"),
        ({"holdout": 1.0}, "holdout is 1.0, not within"),
    ):
        with pytest.raises(ValueError, match=message):
            GaussianProcessSettings(**wrong)
    with pytest.raises(UnknownName, match="did you mean 'matern52'"):
        GaussianProcessSettings(kernel="matern")
    process, rng = GaussianProcess(3, 2, np.random.default_rng(0)), np.random.default_rng(0)
    x, t = waves(10)
    with pytest.raises(ValueError, match=r"not \(n, 3\) and \(n, 2\)"):
        process.fit(x[:, :2], t, rng)
    with pytest.raises(ValueError, match="no rows"):
        process.fit(x[:0], t[:0], rng)
    x[4, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 10 rows hold numbers that are not finite, the first of them row 4"):
        process.fit(x, t, rng)
    assert process.version == 0
    with pytest.raises(ValueError, match=r"not \(n, 3\)"):
        process.predict(x[:, :2])


@functools.cache
def learned():
    """The pendulum from 200 steps of random controls."""
    plant, store, rng = sim.make("mujoco", TASK), Replay(TASK.robot), np.random.default_rng(0)
    for episode in range(2):
        state = plant.reset(episode)
        for k in range(100):
            if k % 4 == 0:
                u = rng.uniform(-1.0, 1.0, 1)
            after = plant.step(u)
            store.append(state.y, u, 0.0, after.y, truncated=k == 99)
            state = after
    encoding = Encoding.of(TASK.robot)
    process = GaussianProcess(encoding.inputs, encoding.outputs, rng)
    model = LearnedModel(TASK.robot, encoding, process)
    return model, model.fit(store, rng)


class TestLearned(DynamicsConformance):
    simulator, task = "mujoco", "pendulum-swingup"
    stochastic, tolerance, needs_x = True, 0.02, False
    members = 4

    def make_dynamics(self):
        return EnsembleDynamics(TASK, learned()[0], "tsinf", 4)


def test_a_pendulum_is_learned_from_two_hundred_steps():
    plant, dynamics, rng = (
        sim.make("mujoco", TASK),
        EnsembleDynamics(TASK, learned()[0], "mean"),
        np.random.default_rng(1),
    )
    errors = []
    for seed in range(100, 110):
        state, controls = plant.reset(seed), rng.uniform(-1.0, 1.0, (25, 1))
        predicted = dynamics.advance(state, controls).y
        for u in controls:
            truth = plant.step(u).y
        errors.append(predicted - truth)
    assert (np.sqrt(np.mean(np.square(errors), axis=0)) < 0.01).all()  # of [rad] and [rad/s], half a second ahead


def test_planners_search_it_and_its_derivatives_are_the_plants():
    model, _ = learned()
    dynamics = EnsembleDynamics(TASK, model, "tsinf", 4)
    state = sim.make("mujoco", TASK).reset(3)
    problem = Problem(dynamics, TASK, state, 12, np.random.default_rng(1))
    plan = CEM(horizon=12, samples=32).plan(problem, None, np.random.default_rng(0))
    assert plan.cost < problem.cost(np.zeros((1, 12, 1)))[0]
    x, u = np.stack([state.y, state.y]), np.full((1, 1), 0.3)
    found, true = dynamics.linearize(x, u), sim.dynamics("casadi", TASK).linearize(x, u)
    np.testing.assert_allclose(found.A, true.A, atol=2e-3)
    np.testing.assert_allclose(found.B, true.B, atol=2e-3)


def test_a_saved_model_is_loaded_with_its_process(tmp_path):
    model, _ = learned()
    model.save(tmp_path / "model.safetensors")
    loaded = LearnedModel.load(tmp_path / "model.safetensors", TASK.robot)
    assert isinstance(loaded.regressor, GaussianProcess)
    y, u = np.array([[0.3, -1.0]]), np.array([[0.5]])
    np.testing.assert_array_equal(loaded.expected(y, u), model.expected(y, u))


def test_kernels_are_one_at_no_distance():
    for kernel in ("squared_exponential", "matern52"):
        assert float(_kernel(kernel, torch.zeros(1, dtype=torch.float64), 2.0)) == 4.0
