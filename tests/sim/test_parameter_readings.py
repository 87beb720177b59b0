"""Readings that are numbers of the model: they follow the state's parameters, and no motion changes them."""

import dataclasses

import numpy as np
import pytest
from trimtab import robots
from trimtab.robots import Reading
from trimtab.sim.mujoco_dynamics import MujocoDynamics
from trimtab.sim.mujoco_simulator import MujocoSimulator


@pytest.fixture(scope="module")
def task():
    """Reacher with a second reading of its target, its entries in another order, before all others."""
    task = robots.load("reacher-easy")
    readings = (Reading.parameter("swapped", "geom_pos", "target", 1, 0), *task.robot.readings)
    return dataclasses.replace(task, robot=dataclasses.replace(task.robot, readings=readings))


def test_they_are_drawn_with_the_episode(task):
    plant = MujocoSimulator(task)
    targets = []
    for seed in (0, 1):
        start, state = task.start(seed), plant.reset(seed)
        view = task.robot.layout(state.y)
        np.testing.assert_array_equal(view.target, start.parameters[0][:2])
        np.testing.assert_array_equal(view.swapped, view.target[::-1])
        targets.append(view.target)
    assert not np.allclose(*targets)


def test_rollouts_have_those_of_the_state_that_they_begin_from(task):
    plant, dynamics = MujocoSimulator(task), MujocoDynamics(task, threads=1)
    controls = np.random.default_rng(0).uniform(-1.0, 1.0, (3, 5, 2))
    first, second = plant.reset(0), plant.reset(1)
    for state in (first, second, first):
        view = task.robot.layout(dynamics.rollout(state, controls).y)
        expected = task.robot.layout(state.y)
        np.testing.assert_array_equal(view.target, np.broadcast_to(expected.target, (1, 3, 6, 2)))
        np.testing.assert_array_equal(view.swapped, np.broadcast_to(expected.swapped, (1, 3, 6, 2)))
        # The rest is what the plant does.
        y = [plant.reset(0, state).y, *(plant.step(u).y for u in controls[1])]
        np.testing.assert_allclose(dynamics.rollout(state, controls).y[0, 1], y, rtol=0, atol=1e-12)
    dynamics.close()
