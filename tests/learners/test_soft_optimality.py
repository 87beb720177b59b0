"""What soft actor-critic converges to, where that is known."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from trimtab.learners.actor_critic import ActorCriticSettings, Batches, DiscreteSoftActorCritic, SoftActorCritic
from trimtab.learners.perceptrons import NetworkSettings

NETWORK = NetworkSettings(hidden=(32, 32))


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def learn(sac, draw, updates):
    """Updates from what `draw(rows)` gives, fifty at a time; what the last came to."""
    found = {}
    for _ in range(updates // 50):
        rows = 50 * sac.settings.batch
        parts = [tensor(part).reshape(50, sac.settings.batch, *np.shape(part)[1:]) for part in draw(rows)]
        found = sac.update(Batches(*parts))
    return found


def test_with_nothing_to_gain_every_action_is_as_likely():
    rng = np.random.default_rng(0)
    settings = ActorCriticSettings(
        network=NETWORK, batch=64, discount=0.5, learned=False, temperature=0.5, learning_rate=3e-3, averaging=0.05
    )
    sac = SoftActorCritic(2, 1, settings, rng)

    def draw(n):
        return (
            rng.normal(size=(n, 2)),
            rng.uniform(-1, 1, (n, 1)),
            np.zeros(n),
            rng.normal(size=(n, 2)),
            np.full(n, 0.5),
        )

    found = learn(sac, draw, 800)
    assert found["entropy"] == pytest.approx(math.log(2.0), abs=0.03)  # no squashed normal is uniform
    # The soft value of it: each step to come is worth its entropy.
    value = sac.value(tensor(rng.normal(size=(200, 2)))).numpy()
    np.testing.assert_allclose(value, 0.5 * 0.5 * math.log(2.0) / (1.0 - 0.5), atol=0.05)


@pytest.mark.parametrize("target", [-1.5, -0.5])
def test_the_temperature_finds_its_entropy(target):
    rng = np.random.default_rng(0)
    settings = ActorCriticSettings(
        network=NETWORK, batch=128, discount=0.0, target_entropy=target, learning_rate=3e-3, temperature=0.05
    )
    sac = SoftActorCritic(2, 1, settings, rng)

    def draw(n):
        seen, action = rng.normal(size=(n, 2)), rng.uniform(-1, 1, (n, 1))
        return seen, action, -((action[:, 0] - 0.3 * np.tanh(seen[:, 0])) ** 2), seen, np.zeros(n)

    found = learn(sac, draw, 1500)
    assert found["entropy"] == pytest.approx(target, abs=0.1)
    # Of exp(-a^2 / alpha): normal, of variance alpha / 2, as long as that is far from the limits.
    if target < -1.0:
        assert found["temperature"] == pytest.approx(2.0 * math.exp(2.0 * target) / (2.0 * math.pi * math.e), rel=0.3)


def test_the_mean_action_is_that_of_linear_quadratic_regulation():
    a, b = np.array([[0.9, 0.2], [0.0, 0.8]]), np.array([[0.0], [0.5]])
    q, r, discount = np.diag([1.0, 0.1]), np.array([[1.0]]), 0.9
    root = math.sqrt(discount)
    p = scipy.linalg.solve_discrete_are(root * a, root * b, q, r)
    gain = np.linalg.solve(r + discount * b.T @ p @ b, discount * b.T @ p @ a)
    rng = np.random.default_rng(1)
    settings = ActorCriticSettings(
        network=NetworkSettings(hidden=(64, 64)),
        batch=128,
        discount=discount,
        learned=False,
        temperature=0.1,
        learning_rate=2e-3,
        averaging=0.02,
        critics=1,
        subset=1,
    )
    sac = SoftActorCritic(2, 1, settings, rng)

    def draw(n):
        x, u = rng.uniform(-1.2, 1.2, (n, 2)), rng.uniform(-1, 1, (n, 1))
        reward = -np.einsum("ni,ij,nj->n", x, q, x) - np.einsum("ni,ij,nj->n", u, r, u)
        return x, u, reward, x @ a.T + u @ b.T, np.full(n, discount)

    learn(sac, draw, 2000)
    x = rng.uniform(-0.8, 0.8, (500, 2))
    found = sac.policy()(x.astype(np.float32))
    fitted = np.linalg.lstsq(np.column_stack([-x, np.ones(len(x))]), found, rcond=None)[0].T
    np.testing.assert_allclose(fitted, np.column_stack([gain, [[0.0]]]), atol=0.05)
    # Noise in linear dynamics moves the mean nowhere, and costs the same everywhere.
    worth, expected = sac.value(tensor(x)).numpy(), -np.einsum("ni,ij,nj->n", x, p, x)
    np.testing.assert_allclose(worth - worth.mean(), expected - expected.mean(), atol=0.2)


def test_values_of_a_small_problem_are_those_of_soft_value_iteration():
    rng = np.random.default_rng(2)
    states, choices, discount, alpha = 5, 3, 0.8, 0.3
    after = rng.integers(states, size=(states, choices))
    reward = rng.uniform(0.0, 1.0, (states, choices))
    ends = rng.random((states, choices)) < 0.2
    q = np.zeros((states, choices))
    for _ in range(500):
        v = alpha * scipy.special.logsumexp(q / alpha, axis=1)
        q = reward + discount * np.where(ends, 0.0, v[after])
    settings = ActorCriticSettings(
        network=NETWORK,
        batch=64,
        discount=discount,
        learned=False,
        temperature=alpha,
        learning_rate=2e-3,
        averaging=0.05,
    )
    sac = DiscreteSoftActorCritic(states, choices, settings, rng)
    one_hot = np.eye(states)

    def draw(n):
        s, a = rng.integers(states, size=n), rng.integers(choices, size=n)
        return one_hot[s], a[:, None], reward[s, a], one_hot[after[s, a]], np.where(ends[s, a], 0.0, discount)

    learn(sac, draw, 3000)
    found = sac.critics.forward(tensor(one_hot)).mean(0).numpy()
    np.testing.assert_allclose(found, q, atol=0.05)
    pi = sac.actor.forward(tensor(one_hot))[0].softmax(-1).numpy()
    np.testing.assert_allclose(pi, scipy.special.softmax(q / alpha, axis=1), atol=0.05)
