"""Branches against rollouts and plants: many states at once are each state by itself."""

import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.sim.branching import Branching, ClosedFormBranching, SteppedBranching, branching

CASES = [
    ("mujoco", "mujoco", "cartpole-swingup", 1e-9),
    ("mujoco", "mujoco", "reacher-easy", 1e-9),  # a parameter drawn at the start
    ("mujoco", "mujoco", "quadruped-walk", 1e-6),  # contacts, which are solved from another warm start
    ("casadi", "casadi", "cartpole-swingup", 1e-9),
    ("casadi", "casadi", "quadrotor-waypoints", 1e-9),  # the clock among the readings
    ("casadi", "casadi", "continuous_cartpole-balance", 1e-9),
    ("finite", "finite", "maze-holes", 0.0),
    ("dm_control", "dm_control", "pendulum-swingup", 1e-9),
    ("gymnasium", "gymnasium", "gymnasium:CartPole-v1", 1e-9),
]


@pytest.mark.parametrize(("simulator", "dynamics", "name", "tolerance"), CASES)
def test_branches_are_rollouts(simulator, dynamics, name, tolerance):
    task = robots.load(name)
    plant, model = sim.make(simulator, task), sim.dynamics(dynamics, task)
    rng, state = np.random.default_rng(0), plant.reset(3)
    low, high = np.nan_to_num(task.robot.control_limits, posinf=1.0, neginf=-1.0)
    u = rng.uniform(low, high, (5, 6, task.robot.nu))
    expected = model.rollout(state, u, rng).y[0, :, 1:].copy()
    tree = branching(model, task)
    assert isinstance(tree, Branching)
    rows = np.repeat(tree.root(state)[None], 5, 0)
    found = tree.branch(rows, u, 2, rng)
    assert found.valid.all()
    np.testing.assert_allclose(found.y, expected, rtol=0, atol=tolerance)
    # From five different states at once, and from a part of them; and once more from there.
    middle = found.rows.copy()
    for some in (slice(None), slice(1, 4)):
        later = tree.branch(middle[some], u[some, 2:], 3, rng)
        np.testing.assert_allclose(later.y, expected[some, 2:], rtol=0, atol=tolerance)
    last = tree.branch(later.rows, u[1:4, 5:], 1, rng)
    np.testing.assert_allclose(last.y, expected[1:4, 5:], rtol=0, atol=tolerance)
    plant.close()
    model.close()


def test_each_dynamics_has_its_way():
    task = robots.load("pendulum-swingup")
    kinds = {"mujoco": "MujocoDynamics", "casadi": "ClosedFormBranching", "dm_control": "SteppedBranching"}
    for name, kind in kinds.items():
        dynamics = sim.dynamics(name, task)
        assert type(branching(dynamics, task)).__name__ == kind
        dynamics.close()


def test_without_native_code_the_numbers_are_the_same():
    task = robots.load("cartpole-swingup")
    dynamics, state = sim.dynamics("casadi", task), sim.make("casadi", task).reset(0)
    tree, u = ClosedFormBranching(dynamics), np.random.default_rng(0).uniform(-1, 1, (3, 4, 1))
    rows = np.repeat(tree.root(state)[None], 3, 0)
    native = tree.branch(rows, u, 2, np.random.default_rng(0))
    kernel = dynamics.model.moves
    if not kernel.native:
        pytest.skip("there is none here")
    kernel._entry, entry = None, kernel._entry
    try:
        if kernel._flat is None:
            pytest.skip("loaded from disk, without expressions")
        slow = tree.branch(rows, u, 2, np.random.default_rng(0))
    finally:
        kernel._entry = entry
    np.testing.assert_allclose(slow.y, native.y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slow.rows, native.rows, rtol=1e-12, atol=1e-12)


def test_predictions_that_break_down_are_told():
    task = robots.load("cartpole-swingup")
    for name in ("mujoco", "casadi"):
        dynamics, plant = sim.dynamics(name, task), sim.make(name, task)
        tree = branching(dynamics, task)
        rows = np.repeat(tree.root(plant.reset(0))[None], 3, 0)
        rows[1, -1] = 1e12 if name == "casadi" else 1e11  # a velocity
        valid = tree.branch(rows, np.zeros((3, 4, 1)), 2, np.random.default_rng(0)).valid
        assert valid[0].all()
        assert not valid[1].all()
        assert valid[2].all()
        dynamics.close()


def test_states_of_one_size_only():
    task = robots.load("gymnasium:CartPole-v1")
    dynamics, plant = sim.dynamics("gymnasium", task), sim.make("gymnasium", task)
    tree, state = SteppedBranching(dynamics, task), plant.reset(0)
    tree.root(state)
    tree._room = 1
    with pytest.raises(ValueError, match=r"grown from 8 to \d+ bytes"):
        tree._row(state)
    dynamics.close()
    plant.close()
