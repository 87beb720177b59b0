"""MuJoCo's derivatives against central differences of the plant, and policies against the plant itself."""

import dataclasses

import numpy as np
import pytest
from trimtab import robots
from trimtab.sim.interface import State
from trimtab.sim.linearization import Differentiable
from trimtab.sim.mujoco_dynamics import MujocoDynamics
from trimtab.sim.mujoco_simulator import MujocoSimulator

# RK4; several physics steps and sensors; a floating body; activations, contacts and a floating body; parameters.
NAMES = ["cartpole-swingup", "walker-walk", "fish-swim", "quadruped-walk", "reacher-hard"]
STEPS = 8


def driven(name, threads=1):
    """Dynamics, and states (H+1,) along random controls (H, nu)."""
    task = robots.load(name)
    plant = MujocoSimulator(task)
    states = [plant.reset(3)]
    controls = np.random.default_rng(0).uniform(-0.9, 0.9, (STEPS, task.robot.nu))
    for u in controls:
        states.append(plant.step(u))
    return task, MujocoDynamics(task, threads), states, controls


def reference(dynamics, states, controls):
    x = np.stack([s.x for s in states])
    n, nu = dynamics.tangent, controls.shape[1]
    return x, np.zeros((len(controls), nu)), np.zeros((len(controls), nu, n))


@pytest.mark.parametrize("name", NAMES)
def test_jacobians_are_central_differences(name):
    task, dynamics, states, controls = driven(name)
    assert isinstance(dynamics, Differentiable)
    x, *_ = reference(dynamics, states, controls)
    linear = dynamics.linearize(x, controls)
    n, nu, h, k = dynamics.tangent, task.robot.nu, 1e-5, 4
    assert linear.A.shape == (STEPS, n, n)
    assert linear.B.shape == (STEPS, n, nu)
    assert linear.C.shape == (STEPS + 1, task.robot.layout.size, n)

    def moved(dx, du):
        at = dynamics.place(states[k], dynamics.displace(x[k], dx))
        return at.y, dynamics.advance(at, (controls[k] + du)[None]).x

    A, B, C = np.empty((n, n)), np.empty((n, nu)), np.empty((task.robot.layout.size, n))
    for j, e in enumerate(np.eye(n)):
        (y, after), (z, before) = moved(h * e, 0.0), moved(-h * e, 0.0)
        A[:, j], C[:, j] = dynamics.difference(after, before) / (2 * h), (y - z) / (2 * h)
    for j, e in enumerate(np.eye(nu)):
        B[:, j] = dynamics.difference(moved(np.zeros(n), h * e)[1], moved(np.zeros(n), -h * e)[1]) / (2 * h)
    # One-sided differences of contacts, whose forces bend sharply, are good to a percent.
    tolerance = 2e-2 if name.startswith("quadruped") else 1e-4
    for found, expected in ((linear.A[k], A), (linear.B[k], B), (linear.C[k], C)):
        np.testing.assert_allclose(found, expected, atol=tolerance * (1.0 + np.abs(expected).max()))


def test_readings_of_the_last_state_are_differentiated_too():
    _, dynamics, states, controls = driven("walker-walk")
    x, *_ = reference(dynamics, states, controls)
    last = dynamics.linearize(x, controls).C[-1]
    first = dynamics.linearize(np.stack((x[-1], x[-1])), controls[-1:]).C[0]
    np.testing.assert_allclose(last, first, atol=1e-9)
    assert np.abs(last[-3:]).max() > 0.1  # of a sensor


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_about_its_own_trajectory_is_the_plant(name):
    task, dynamics, states, controls = driven(name)
    x, nothing, gains = reference(dynamics, states, controls)
    limits = np.array([[-1.0], [1.0]]) * np.ones(task.robot.nu)
    found = dynamics.policy_rollout(states[0], x, controls, nothing, gains + 0.3, np.zeros(2), limits)
    assert found.valid.all()
    np.testing.assert_allclose(found.x[1], x, atol=1e-9)  # a quaternion's difference to itself is not quite zero
    np.testing.assert_allclose(found.u[1], controls, atol=1e-12)
    np.testing.assert_allclose(found.y[1], [s.y for s in states], atol=1e-9)


@pytest.mark.parametrize("name", ["cartpole-swingup", "fish-swim"])
def test_policies_feed_back_and_keep_limits(name):
    task, dynamics, states, controls = driven(name)
    x, feedforward, gains = reference(dynamics, states, controls)
    rng = np.random.default_rng(1)
    gains += rng.standard_normal(gains.shape)
    feedforward += rng.standard_normal(feedforward.shape)
    limits = np.array([[-0.7], [0.5]]) * np.ones(task.robot.nu)
    sizes = np.array([1.0, 0.25, 0.0])
    found = dynamics.policy_rollout(states[1], x, controls, feedforward, gains, sizes, limits)
    for trajectory, us, size in zip(found.x, found.u, sizes):
        state = states[1]
        for k in range(STEPS):
            away = dynamics.difference(trajectory[k], x[k])
            u = np.clip(controls[k] + size * feedforward[k] + gains[k] @ away, *limits)
            np.testing.assert_allclose(us[k], u, rtol=0, atol=1e-9)
            np.testing.assert_allclose(trajectory[k], state.x, atol=1e-9)
            state = dynamics.advance(state, us[k : k + 1])


def test_threads_change_nothing():
    task, dynamics, states, controls = driven("cartpole-swingup")
    x, nothing, gains = reference(dynamics, states, controls)
    other = MujocoDynamics(task, 3)
    a, b = dynamics.linearize(x, controls), other.linearize(x, controls)
    for f in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name))
    sizes = np.linspace(0.0, 1.0, 7)
    args = states[0], x, controls, nothing + 0.2, gains + 0.1, sizes, np.array([[-1.0], [1.0]])
    np.testing.assert_array_equal(dynamics.policy_rollout(*args).x, other.policy_rollout(*args).x)


@pytest.mark.parametrize("name", ["cartpole-swingup", "fish-swim"])
def test_displace_undoes_difference(name):
    _, dynamics, states, _ = driven(name)
    x = np.stack([s.x for s in states[:3]])
    dx = 0.4 * np.random.default_rng(0).standard_normal((3, dynamics.tangent))
    np.testing.assert_allclose(dynamics.difference(dynamics.displace(x, dx), x), dx, atol=1e-12)


def test_a_trajectory_that_diverges_is_not_valid():
    _, dynamics, states, controls = driven("cartpole-swingup")
    x, nothing, gains = reference(dynamics, states, controls)
    args = x, controls, nothing, gains, np.zeros(2), np.array([[-1.0], [1.0]])
    fast = states[0].x.copy()
    fast[3] = 1e12  # a velocity at which MuJoCo would begin anew, at time 0 as this state is
    assert not dynamics.policy_rollout(State(0.0, states[0].y, fast), *args).valid.any()
    assert dynamics.policy_rollout(states[0], *args).valid.all()


def test_controls_at_a_limit_still_count():
    _, dynamics, states, controls = driven("cartpole-swingup")
    x, *_ = reference(dynamics, states, controls)
    inside, at = dynamics.linearize(x[:2], np.array([[0.99]])), dynamics.linearize(x[:2], np.array([[1.0]]))
    np.testing.assert_allclose(at.B, inside.B, rtol=1e-3)


def test_readings_alone_are_no_state():
    _, dynamics, states, controls = driven("cartpole-swingup")
    x, nothing, gains = reference(dynamics, states, controls)
    with pytest.raises(ValueError, match="readings only"):
        dynamics.policy_rollout(State(0.0, states[0].y), x, controls, nothing, gains, np.zeros(1), np.zeros((2, 1)))
